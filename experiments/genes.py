"""How overdispersed the counts of single cells are: one negative binomial regression a gene.

Single-cell RNA sequencing counts molecules, gene by gene and cell by cell. How many are caught of a cell, its depth,
differs by more than ten times between cells and says nothing of its genes, so that the log of the depth is an offset:
the mean count is depth x rate. If a gene had one rate in all cells, its counts would be Poisson, with variance mean;
rates that differ from cell to cell make it mean + alpha mean^2, and alpha is the squared coefficient of variation of
the rate. The 914 genes and 283 cells are those that the R package sctransform brings along (peripheral blood
mononuclear cells of 10x Genomics; Hafemeister and Satija, 2019); the depth is the sum of a cell's counts over them.

Three regressions a gene, each one `jax.vmap` over genes that share x: Poisson; negative binomial, with alpha estimated
by maximum likelihood together with the rate; and, each lane's alpha held there, with the log depth as a covariate beside
the offset. Its coefficient is 0 if counts grow in proportion to the depth (Lause, Berens and Kobak, 2021, say that they
do; but large kinds of cells have a great depth, and the genes that mark them a positive slope).
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array
from matplotlib.figure import Figure
from rich.table import Table
from statsmodels.discrete.discrete_model import NegativeBinomial

import glmjax as gj

from .report import (
    Timed,
    add_results_argument,
    console,
    count,
    data_file,
    environment,
    open_results,
    save_figure,
    save_json,
    say,
    say_endings,
    say_times,
    timed,
)

FILE = Path("pbmc") / "pbmc_sctransform.npz"
TOLERANCE = 1e-6  # of the log-likelihood, against statsmodels


class Counts(NamedTuple):
    """Molecules, (genes, cells), and the names of the genes."""

    counts: np.ndarray
    names: np.ndarray


class Lanes(NamedTuple):
    """The fits of all genes, their log-likelihoods, and the mean and the mean squared mean of their cells."""

    fit: gj.Fit
    log_likelihood: Array
    mean: Array
    square: Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--repeats", type=count, default=3, help="timed calls after the first")
    parser.add_argument("--top", type=count, default=12, help="genes in the table")
    parser.add_argument("--oracle", type=count, default=8, help="genes that statsmodels fits too")
    add_results_argument(parser, "genes")


def imagine(genes: int = 60, cells: int = 120) -> Counts:
    """Counts drawn to resemble the file's; every third gene is Poisson."""
    rng = np.random.default_rng(0)
    depth, mean = np.exp(rng.normal(0, 0.6, cells)), np.exp(rng.normal(0, 1.5, genes))
    alpha = np.where(np.arange(genes) % 3 == 0, 1e-9, np.exp(rng.normal(-0.5, 1, genes)))[:, None]
    counts = rng.poisson(rng.gamma(1 / alpha, alpha, (genes, cells)) * np.outer(mean, depth))
    return Counts(counts, np.array([f"gene {i + 1}" for i in range(genes)]))


def load() -> tuple[Counts, bool]:
    """The file's counts where it is, else drawn ones; and whether they are real."""
    path = data_file(FILE, "counts", "pbmc of the R package sctransform, as arrays counts (genes, cells) and genes,")
    if path is None:
        return imagine(), False
    with np.load(path) as file:
        return Counts(file["counts"], file["genes"]), True


def fit_gene(family: gj.Family, data: gj.Data, y: Array) -> Lanes:
    """One gene; what all genes share is in `data`."""
    model = gj.glm(family)
    data = data._replace(y=y)
    fit = gj.fit_newton(model, data)
    mean = gj.predict(model, fit.params, data.x, data.offset)
    return Lanes(fit, gj.log_likelihood(fit.model, fit.params, data), jnp.mean(mean), jnp.mean(mean**2))


fit_genes = jax.jit(jax.vmap(fit_gene, in_axes=(None, None, 0)))


@jax.jit
def fit_slopes(alphas: Array, data: gj.Data, ys: Array) -> Lanes:
    """All genes at once, each with its own alpha, which is not estimated anew."""
    return jax.vmap(lambda alpha, y: fit_gene(gj.negative_binomial(alpha), data, y))(alphas, ys)


def check(counts: np.ndarray, offset: np.ndarray, lanes: Lanes, some: np.ndarray) -> dict[str, float]:
    """The same genes by statsmodels, one after the other: the largest differences, and the time a gene takes it."""
    likelihood = bias = alpha = 0.0
    start = time.perf_counter()
    for gene in some:
        rate = counts[gene].sum() / np.exp(offset).sum()
        mean = rate * np.exp(offset)
        moments = np.log(rate), max(np.sum((counts[gene] - mean) ** 2 - mean) / np.sum(mean**2), 0.01)
        own = float(lanes.fit.params.b[gene]), float(lanes.fit.model.family.alpha[gene])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of steps that it takes back
            other = NegativeBinomial(counts[gene], np.ones((len(offset), 1)), offset=offset)
            near = other.fit(moments, method="bfgs", disp=0, maxiter=500)  # Newton's method diverges from afar
            found = other.fit(near.params, method="newton", disp=0)
        likelihood = max(likelihood, abs(found.llf - float(lanes.log_likelihood[gene])))
        bias = max(bias, abs(found.params[0] - own[0]))
        alpha = max(alpha, abs(found.params[1] / own[1] - 1))
    spent = (time.perf_counter() - start) / len(some)
    return {"genes": len(some), "log-likelihood": likelihood, "bias": bias, "alpha, relative": alpha,
            "s a gene": spent}  # fmt: skip


def table_of(records: list[dict[str, Any]]) -> Table:
    """The most overdispersed genes, a row each."""
    table = Table(title="the most overdispersed genes", title_justify="left")
    table.add_column("gene", no_wrap=True)
    for column in ("mean count", "alpha", "2 log ratio to Poisson", "depth slope", "ended"):
        table.add_column(column, justify="right")
    for r in records:
        table.add_row(r["gene"], f"{r['mean']:.3f}", f"{r['alpha']:.3f}", f"{r['ratio to Poisson']:.1f}",
                      f"{r['depth slope']:+.2f}", r["status"])  # fmt: skip
    return table


def draw(genes: Counts, lanes: Lanes, slope: np.ndarray, ratio: np.ndarray, spread: np.ndarray) -> Figure:
    """Alpha, the variance left, and the slope on depth, each against the mean count of the gene."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    mean, alpha = genes.counts.mean(1), np.asarray(lanes.fit.model.family.alpha)
    status = np.asarray(lanes.fit.status)
    over, bound = status == gj.Status.CONVERGED, status == gj.Status.BOUNDARY
    sure = over & (ratio > scipy.stats.chi2.isf(2 * 0.05 / len(mean), 1))  # half the probability is at alpha = 0
    floor = alpha[over].min() / 3
    dots = {"s": 9, "linewidth": 0}
    left.scatter(mean[sure], alpha[sure], color="C0", label=f"{sure.sum()} surely overdispersed", **dots)
    left.scatter(
        mean[over & ~sure], alpha[over & ~sure], color="C1", label=f"{(over & ~sure).sum()} not surely so", **dots
    )
    left.scatter(mean[bound], np.full(bound.sum(), floor), marker="|", color="0.4", linewidth=0.7, s=40,
                 label=f"{bound.sum()} BOUNDARY: alpha = 0, Poisson")  # fmt: skip
    places: list[np.ndarray] = []
    for gene in np.argsort(-ratio)[:20]:
        place = np.log10([mean[gene], alpha[gene]])
        if all(np.abs(place - other).max() > 0.4 for other in places) and len(places) < 6:
            places.append(place)
            left.annotate(genes.names[gene], 10**place, (4, 3), textcoords="offset points", fontsize=7)
    left.set(xscale="log", yscale="log", ylabel="alpha, squared variation of the rate")
    left.set(xlim=(None, 6 * mean.max()), ylim=(floor / 2, 30 * alpha[over].max()))
    left.legend(frameon=False, fontsize=8, loc="upper right")
    left.set_title("overdispersion", fontsize=10)

    middle.scatter(mean[over], spread[over], color="C0", label="negative binomial", **dots)
    middle.scatter(mean[bound], spread[bound], color="0.4", label="BOUNDARY", **dots)
    line = np.geomspace(mean.min(), mean.max(), 50)
    typical = np.median(alpha[over])
    square = float(np.median(np.asarray(lanes.square) / np.asarray(lanes.mean) ** 2))  # as depths differ
    middle.plot(line, line, color="C3", linewidth=1, label="Poisson: variance = mean")
    middle.plot(line, line + typical * square * line**2, "--", color="k", linewidth=1,
                label=f"alpha = {typical:.2f}, the median")  # fmt: skip
    middle.set(xscale="log", yscale="log", ylabel="variance about the fitted means")
    middle.legend(frameon=False, fontsize=8, loc="upper left")
    middle.set_title("variance against mean", fontsize=10)

    right.axhline(0, color="C3", linewidth=1)
    right.scatter(mean, np.clip(slope, -4, 4), color="C0", **dots)
    right.set(xscale="log", ylim=(-4.2, 4.2), ylabel="coefficient of log depth beside the offset (cut at ± 4)")
    right.set_title("counts in proportion to the depth have 0", fontsize=10)
    for axis in (left, middle, right):
        axis.set_xlabel("mean count")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def run(options: argparse.Namespace) -> int:
    """Fit, check, show a table, save a picture and a JSON; 1 if statsmodels does not agree."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return fit_and_show(options, folder)


def fit_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    genes, real = load()
    n_genes, n_cells = genes.counts.shape
    depth = genes.counts.sum(0)
    say(f"{n_genes} genes, {n_cells} cells of {depth.min():,} to {depth.max():,} molecules, "
        f"{100 * np.mean(genes.counts == 0):.0f} % of the counts are 0")  # fmt: skip
    ys, log_depth = jnp.asarray(genes.counts, float), np.log(depth)
    centered = (log_depth - log_depth.mean())[:, None]
    bare = gj.make_data(np.empty((n_cells, 0)), genes.counts[0], family=gj.poisson(), offset=log_depth)
    covariate = gj.make_data(centered, genes.counts[0], family=gj.poisson(), offset=log_depth)

    runs: dict[str, Timed] = {}
    ends: dict[str, dict[str, int]] = {}

    def batch(name: str, call: Callable[[], Lanes]) -> Lanes:
        runs[name] = timed(call, options.repeats)
        say_times(f"{name}, {n_genes} genes", runs[name], n_genes)
        ends[name] = say_endings(name, runs[name].result.fit.status)
        return runs[name].result

    poisson = batch("Poisson", partial(fit_genes, gj.poisson(), bare, ys))
    lanes = batch("negative binomial", partial(fit_genes, gj.negative_binomial(), bare, ys))
    alpha = np.asarray(lanes.fit.model.family.alpha)
    sloped = batch("with depth slope", partial(fit_slopes, alpha, covariate, ys))
    slope = np.asarray(sloped.fit.params.w[:, 0])
    ratio = 2 * np.asarray(lanes.log_likelihood - poisson.log_likelihood)
    gain = 2 * np.asarray(sloped.log_likelihood - lanes.log_likelihood)
    fitted = np.exp(np.asarray(lanes.fit.params.b))[:, None] * depth
    spread = np.mean((genes.counts - fitted) ** 2, 1)

    records: list[dict[str, Any]] = [
        {"gene": str(genes.names[i]), "mean": genes.counts[i].mean(), "alpha": alpha[i], "ratio to Poisson": ratio[i],
         "depth slope": slope[i], "status": gj.Status(int(lanes.fit.status[i])).name}
        for i in np.argsort(-ratio)
    ]  # fmt: skip
    console.print(table_of(records[: options.top]))
    better = gain > scipy.stats.chi2.isf(0.05, 1)
    say(f"depth slope: median {np.median(slope):+.2f}; not 0 at the 5 % level for {better.sum()} genes, where "
        f"{0.05 * n_genes:.0f} would be by chance")  # fmt: skip

    over = np.flatnonzero(np.asarray(lanes.fit.status) == gj.Status.CONVERGED)
    some = over[np.argsort(alpha[over])][np.linspace(len(over) // 10, len(over) - 1, options.oracle).astype(int)]
    oracle = check(genes.counts, log_depth, lanes, some)
    agree = oracle["log-likelihood"] <= TOLERANCE
    say(f"statsmodels on {len(some)} of them, from alpha {alpha[some[0]]:.2g} to {alpha[some[-1]]:.2g}: largest "
        f"difference of the log-likelihood {oracle['log-likelihood']:.0e}, of the bias {oracle['bias']:.0e}, of alpha "
        f"(relative) {oracle['alpha, relative']:.0e}" + ("" if agree else ": FAILS"))  # fmt: skip
    say(f"it takes {1e3 * oracle['s a gene']:.1f} ms a gene, one after the other")
    save_figure(folder / "genes.png", draw(genes, lanes, slope, ratio, spread))
    times = {name: {"first call, s": one.first, "later calls, s": one.later} for name, one in runs.items()}
    figures = {"real": real, "cells": n_cells, "ended": ends, "times": times, "oracle": oracle, "genes": records}
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **figures})
    say(f"picture and figures are in {folder}")
    return 0 if agree else 1
