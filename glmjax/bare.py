"""Prediction with NumPy alone, from layers to means. `export_numpy` writes this file into its own as it is: nothing
else may be imported here.
"""

import math

import numpy as np


def _sigmoid(eta):
    return np.exp(np.minimum(eta, 0)) / (1 + np.exp(-np.abs(eta)))  # neither exponential can overflow


def _normal_cdf(eta):
    halves = (0.5 * math.erfc(-z) for z in (math.sqrt(0.5) * eta.astype(float)).ravel().tolist())
    return np.fromiter(halves, float, eta.size).reshape(eta.shape).astype(eta.dtype)


def _cloglog_mean(eta):
    return -np.expm1(-np.exp(eta))


def _softmax(eta):
    odds = np.exp(eta - np.max(eta, axis=-1, keepdims=True))
    return odds / np.sum(odds, axis=-1, keepdims=True)


MEANS = {
    "identity": lambda eta: eta,
    "log": np.exp,
    "logit": _sigmoid,
    "probit": _normal_cdf,
    "cloglog": _cloglog_mean,
    "inverse": lambda eta: 1 / eta,
    "inverse_squared": lambda eta: 1 / np.sqrt(eta),
    "sqrt": np.square,
    "softmax": _softmax,
}
ACTIVATIONS = {
    "identity": lambda x: x,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}


def eta_of(layers, activation, single, x, offset=None):
    """Linear predictor of rows x (n, d) by layers (w, b), w (..., d, k) and b (..., k) or None; offset (n,) or None.

    Returns (..., n, k), or (..., n) where `single` says that there is one output.
    """
    w = layers[0][0]
    x = _numbers(x, "x")
    if x.ndim != 2:
        raise ValueError(f"x must be 2-d (n, d), got shape {x.shape}" + ("; use x[None] for one row" * (x.ndim == 1)))
    if x.shape[1] != w.shape[-2]:
        raise ValueError(f"the parameters are for {w.shape[-2]} features, got x with {x.shape[1]}")
    _check_finite(x, "x")
    if offset is not None:
        offset = _numbers(offset, "offset")
        if offset.shape != x.shape[:1]:
            raise ValueError(f"offset must be ({len(x)},), got shape {offset.shape}")
        _check_finite(offset, "offset")
        offset = offset.astype(w.dtype)
    with np.errstate(all="ignore"):  # what leaves the range of numbers is infinite or NaN, as it is in JAX
        eta = x.astype(w.dtype)
        for i, (w, b) in enumerate(layers):
            eta = (eta if i == 0 else ACTIVATIONS[activation](eta)) @ w
            eta = eta if b is None else eta + b[..., None, :]
        eta = eta[..., 0] if single else eta
        return eta if offset is None else eta + (offset if single else offset[:, None])


def mean_of(eta, link, reference=None):
    """Mean at linear predictor eta; where there is a reference class, eta is without its logit, which is 0."""
    if reference is not None:
        eta = np.insert(eta, reference, 0, axis=-1)
    with np.errstate(all="ignore"):
        return MEANS[link](eta)


def _numbers(value, name):
    value = np.asarray(value)
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric and real, got dtype {value.dtype}; pass numbers")
    return value


def _check_finite(value, name):
    bad = ~np.isfinite(value)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name} contains {value[at]} at index {at} ({bad.sum()} in total); drop or impute")
