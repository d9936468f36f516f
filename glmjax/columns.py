"""Standardized columns: solvers work in `z = (x - center) / scale`, so that the answer does not depend on units.

theta holds the coefficients of z, (p, k): the bias first where the model has one, then a row a column. Nothing of x
is copied: passes standardize a chunk at a time.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from .data import Data, clean
from .inputs import largest
from .lanes import any_lane
from .meshes import device_count, device_merge
from .predictors import Dense
from .rows import row_fold


class Columns(NamedTuple):
    """How columns are standardized: center and scale, (d,), and for a model without a bias `constant`, (d,): 1 / its
    value for the column of x that is constant and so stands in for the bias, all 0 if none is; None with a bias.
    """

    center: Array
    scale: Array
    constant: Array | None


def standardize(columns: Columns, x: Array) -> Array:
    """z, (n, p): a column of ones for the bias where there is one, then the standardized columns."""
    z = (x - columns.center[None]) / columns.scale[None]
    if columns.constant is not None:
        return z
    return jnp.concatenate([jnp.ones((x.shape[0], 1), x.dtype), z], axis=1)


class Extent(NamedTuple):
    """Of so many rows: the share of them that count, (); of those the sum of x / rows, the least and largest, (d,)."""

    share: Array
    mean: Array
    low: Array
    high: Array


def measure(data: Data, bias: bool, penalized: Array) -> Columns:
    """Centers (means) and scales (largest deviations) of the columns of x, in rows that count in any lane.

    The weights of a lane do not enter: standardized columns that differ between the lanes of a `vmap` could not share
    one matrix product.

    Any center and scale will do, as those of a sample of the rows; but a column that stands in for a bias must be
    constant in every row. Without a bias centering needs such a column to take it up, and one that is not penalized.
    """
    return columns_of_extent(extent_of(data), data.weight is not None, bias, penalized)


def merge_extents(one: Extent, other: Extent) -> Extent:
    """The extent of both, of as many rows each."""
    low, high = jnp.minimum(one.low, other.low), jnp.maximum(one.high, other.high)
    return Extent(one.share + other.share, one.mean + other.mean, low, high)


def extent_of(data: Data) -> Extent:
    """What `measure` has to know of the rows: extents of chunks can be merged."""
    n, d = len(data.x) * device_count(), data.x.shape[1]
    used = None if data.weight is None else any_lane(data.weight > 0).astype(data.x.dtype)

    def update(total: Extent, rows: Data, new: Array) -> Extent:
        x, low, high = clean(rows).x, total.low, total.high
        if rows.weight is None:  # rows that are taken twice change no least and no largest value
            low, high = jnp.minimum(low, x.min(axis=0)), jnp.maximum(high, x.max(axis=0))
        else:
            new = new & (rows.weight > 0)
            low = jnp.minimum(low, jnp.where(new[:, None], x, jnp.inf).min(axis=0))
            high = jnp.maximum(high, jnp.where(new[:, None], x, -jnp.inf).max(axis=0))
        share = jnp.sum(new.astype(x.dtype)) / n
        return Extent(total.share + share, total.mean + jnp.sum(jnp.where(new[:, None], x / n, 0), axis=0), low, high)

    zero, infinity = jnp.zeros(d, data.x.dtype), jnp.full(d, jnp.inf, data.x.dtype)
    start = Extent(jnp.zeros((), data.x.dtype), zero, infinity, -infinity)
    return row_fold(update, start, data._replace(weight=used), collect=partial(device_merge, merge_extents))


def columns_of_extent(extent: Extent, weighted: bool, bias: bool, penalized: Array) -> Columns:
    """The columns from their extent; where rows are `weighted`, or chunks were merged, their share is not 1."""
    share, mean, low, high = extent
    if weighted:
        mean = mean / jnp.where(share > 0, share, 1)
        low, high = jnp.where(share > 0, low, 0), jnp.where(share > 0, high, 0)
    fixed = (low == high) & (low != 0)
    if bias:
        scale = jnp.maximum(high - mean, mean - low)
        flat = jnp.abs(scale) <= 8 * jnp.finfo(scale.dtype).eps * jnp.abs(mean)  # constant up to the mean's rounding
        return Columns(mean, jnp.where(flat, 1, scale), None)
    pivot = (jnp.arange(fixed.size) == jnp.argmax(fixed)) & jnp.any(fixed) & ~penalized
    center = jnp.where(jnp.any(pivot) & ~pivot, mean, 0)
    scale = jnp.maximum(jnp.abs(high - center), jnp.abs(low - center))
    scale = jnp.where(pivot, low, scale)  # with its sign: z is 1 there
    flat = (jnp.abs(scale) <= 8 * jnp.finfo(scale.dtype).eps * jnp.abs(mean)) & ~pivot
    return Columns(center, jnp.where(flat | (scale == 0), 1, scale), jnp.where(pivot, 1 / jnp.where(pivot, low, 1), 0))


def in_range(columns: Columns) -> Array:
    """Whether the columns can be computed with: numbers whose squares do not overflow."""
    size = jnp.maximum(jnp.abs(columns.center), jnp.abs(columns.scale))
    return jnp.all(size < largest(size.dtype))  # not so for NaN


def as_matrix(w: Array) -> Array:
    """Weights (d,) or (d, k) as (d, k)."""
    return w[:, None] if w.ndim == 1 else w


def to_params(columns: Columns, theta: Array, like: Dense) -> Dense:
    """The model's parameters, shaped like `like`, from coefficients of z."""
    bias = columns.constant is None
    w = theta[bias:] / columns.scale[:, None]
    shift = columns.center @ w
    if columns.constant is not None:
        w = w - columns.constant[:, None] * shift[None]
        return Dense(w.reshape(like.w.shape), None)
    return Dense(w.reshape(like.w.shape), (theta[0] - shift).reshape(like.w.shape[1:]))


def to_theta(columns: Columns, params: Dense) -> Array:
    """Coefficients of z, (p, k), from the model's parameters."""
    w = as_matrix(params.w)
    shift = columns.center @ w
    if columns.constant is not None:
        w = w + columns.constant[:, None] * shift[None]
    gamma = w * columns.scale[:, None]
    return gamma if params.b is None else jnp.concatenate([(params.b.reshape(-1) + shift)[None], gamma])


def raw_gradient(columns: Columns, gradient: Array) -> Array:
    """The derivative with respect to the parameters, (p, k), from that with respect to theta."""
    if columns.constant is None:
        total, rest = gradient[:1], gradient[1:]
        return jnp.concatenate([total, columns.scale[:, None] * rest + columns.center[:, None] * total])
    total = (columns.constant != 0).astype(gradient.dtype) @ gradient
    return columns.scale[:, None] * gradient + columns.center[:, None] * total[None]


def marked(columns: Columns, marks: Any, like: Dense) -> Dense:
    """Booleans about theta, (p, k), as booleans shaped like the parameters."""
    bias = columns.constant is None
    return Dense(marks[bias:].reshape(like.w.shape), marks[0].reshape(like.w.shape[1:]) if bias else None)


def bias_marks(columns: Columns, theta: Array) -> Array:
    """Which of theta, (p, k), is the bias, or the constant column that stands in for it."""
    if columns.constant is None:
        return (jnp.arange(theta.shape[0]) == 0)[:, None] & jnp.ones(theta.shape, bool)
    return (columns.constant != 0)[:, None] & jnp.ones(theta.shape, bool)


def to_theta_marks(marks: Dense) -> Array:
    """Booleans shaped like the parameters as booleans about theta, (p, k)."""
    w = as_matrix(marks.w)
    return w if marks.b is None else jnp.concatenate([marks.b.reshape(1, -1), w])
