"""Triangular factors of the rows, by QR a chunk at a time: where the information would lose half of the digits."""

from functools import partial

import jax.numpy as jnp
from jax import Array

from .columns import Columns, standardize
from .data import Data, clean, row_weight
from .meshes import device_merge
from .models import Model
from .passes import Point, derivatives
from .rows import chunk_rows, row_fold

RESTING = 1e-4  # of the largest change of any eta: rows that change by less are at rest


def factor_pass(model: Model, columns: Columns, data: Data, point: Point, chunk: int | None = None) -> Array:
    """An upper triangular R, (p k, p k), with R'R the information, by QR of the rows: it keeps twice the digits."""
    p, k = point.theta.shape

    def update(r: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        h = derivatives(model, rows, new, z @ point.theta, point.start).h
        return stacked_qr(r, (square_root(h)[:, :, None] * z[:, None, :, None]).reshape(-1, p * k))

    none, size = jnp.zeros((p * k, p * k), data.x.dtype), chunk or chunk_rows(4 * p * k * k)
    return row_fold(update, none, data, size, collect=partial(device_merge, stacked_qr))


def square_root(h: Array) -> Array:
    """s with s's = h, (n, k, k), or where h is not positive semidefinite the part of it that is."""
    if h.shape[1] == 1:
        return jnp.sqrt(jnp.maximum(h, 0))
    values, vectors = jnp.linalg.eigh(h)
    return jnp.sqrt(jnp.maximum(values, 0))[:, :, None] * jnp.swapaxes(vectors, 1, 2)


def stacked_qr(r: Array, rows: Array) -> Array:
    """The triangular factor of `r` with `rows` under it."""
    return jnp.linalg.qr(jnp.concatenate([r, rows]), mode="r")


def contrasts(model: Model, y: Array) -> Array:
    """The linear forms of eta that a row's loss depends on, (n, c, k): eta itself, or for classes own minus other."""
    family, n = model.family, y.shape[0]
    k = family.n_outputs or 1
    if not family.n_classes:
        return jnp.broadcast_to(jnp.eye(k, dtype=y.dtype), (n, k, k))
    logits = jnp.eye(family.n_classes, dtype=y.dtype)
    if family.reference is not None:
        logits = jnp.delete(logits, family.reference, axis=1)
    own = jnp.clip(y, 0, family.n_classes - 1).astype(jnp.int32)
    return logits[own][:, None] - logits[None]


def resting_factor(model: Model, columns: Columns, data: Data, point: Point, limit: Array) -> Array:
    """R of the rows, each counted once, that the direction moves by at most `limit`, contrast by contrast."""
    p, k = point.theta.shape

    def update(r: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        forms = contrasts(model, rows.y)
        rest = jnp.abs(jnp.einsum("nck,nk->nc", forms, z @ point.direction)) <= limit
        weight = row_weight(rows)
        rest &= (new if weight is None else new & (weight > 0))[:, None]
        forms = jnp.where(rest[:, :, None], forms, 0)
        return stacked_qr(r, (forms[:, :, None] * z[:, None, :, None]).reshape(-1, p * k))

    none, size = jnp.zeros((p * k, p * k), data.x.dtype), chunk_rows(4 * p * k * k)
    return row_fold(update, none, data, size, collect=partial(device_merge, stacked_qr))
