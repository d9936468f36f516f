"""Benchmarks: each races glmjax against its peers in one run, and reports medians and ratios."""
