"""Minibatches: the rows of an epoch in random order, cut into batches of one shape; the pass that SGD makes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data
from .inputs import is_traced, per_row
from .meshes import ROWS, device_count, is_spread


def permutation(key: Array, n: int) -> Array:
    """A random order of 0..n-1, (n,) int32.

    Sorts integers whose high bits are random and whose low bits are the row: one operand, no comparison function,
    and so several times faster on a CPU than `jax.random.permutation`, which can cost more than the epoch it feeds.
    Rows that draw the same bits keep their order; the sort is repeated until that concerns one row in 256 at most.
    """
    low = max(n - 1, 1).bit_length()
    rounds = -(-(low + 8) // (32 - low))
    index = jnp.arange(n, dtype=jnp.uint32)
    order = index
    for bits in jax.random.bits(key, (rounds, n), jnp.uint32):
        order = order[jnp.sort((bits << low) | index) & jnp.uint32((1 << low) - 1)]
    return order.astype(jnp.int32)


def shuffled(key: Array, n: int, batch_size: int) -> Array:
    """All rows in random order as minibatches, (steps, batch_size) row numbers; -1 fills up the last."""
    steps = -(-n // batch_size)
    rows = permutation(key, n)
    return jnp.pad(rows, (0, steps * batch_size - n), constant_values=-1).reshape(steps, batch_size)


def in_epochs(order: Array, n: int, epochs: int) -> Array:
    """A user's minibatches, (steps, batch_size), by epoch: each goes through them all, unless they are the whole run's.

    Returns (parts, steps a part, batch_size) with parts = `epochs` or 1: epoch e takes part e modulo parts.
    """
    whole_run = order.shape[0] == epochs * -(-n // order.shape[1])
    return order.reshape(epochs if whole_run else 1, -1, order.shape[1])


def take(data: Data, rows: Array, ragged: bool) -> Data:
    """The minibatch of the given rows; where `ragged`, numbers that are no row's may be among them, and weigh 0.

    On a mesh it is this device's share of the minibatch.
    """
    if is_spread():
        return dealt(data, rows)
    batch = jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), data)
    if not ragged:
        return batch
    present = ((rows >= 0) & (rows < data.x.shape[0])).astype(data.x.dtype)
    return batch._replace(weight=present if batch.weight is None else batch.weight * present)


def dealt(data: Data, rows: Array) -> Data:
    """A device's share of the minibatch: each device gives the rows that it has, and gets as many as any other."""
    n = len(data.x)
    rows = jnp.pad(rows, (0, -len(rows) % device_count()), constant_values=-1)
    own = rows - (jax.lax.axis_index(ROWS) * n).astype(rows.dtype)
    here = (rows >= 0) & (own >= 0) & (own < n)
    weight = jnp.ones_like(data.y, shape=(n,)) if data.weight is None else data.weight

    def deal(a: Array) -> Array:
        given = jnp.where(per_row(here, a), jnp.take(a, own, axis=0, mode="clip"), 0)
        return jax.lax.psum_scatter(given, ROWS, tiled=True)

    return jax.tree.map(deal, data._replace(weight=weight))


def check_order(order: Any, n: int) -> Array:
    """A user's minibatches as an array; raises unless they are (steps, batch_size) row numbers or -1."""
    if np.ndim(order) != 2 or 0 in np.shape(order):
        raise ValueError(f"order must be (steps, batch_size) row numbers, got shape {np.shape(order)}")
    if not jnp.issubdtype(jnp.result_type(order), jnp.integer):
        raise TypeError(f"order must hold whole numbers, got dtype {jnp.result_type(order)}")
    if not is_traced(order):
        rows = np.asarray(order)
        outside = rows[(rows < -1) | (rows >= n)]
        if outside.size:
            raise ValueError(f"order has row {outside[0]}, outside 0..{n - 1} (-1 is no row)")
    return jnp.asarray(order)
