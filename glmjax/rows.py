"""One pass over the rows: a function of row chunks, added up. The only place that reads all of x.

Sums are a monoid, so it does not matter where a chunk comes from; here they come from memory, by a `lax.scan`.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from .data import Data

CHUNK = 4096  # rows; a chunk and what is computed from it should stay in a core's cache

Total = TypeVar("Total")
Rows = TypeVar("Rows")  # `Data`, or any tree of arrays whose first axis is the rows


def chunk_rows(width: int) -> int:
    """Rows a chunk where `width` numbers are computed a row: a power of 2 that keeps them in a core's cache."""
    rows = max(1, 400_000 // max(width, 1))
    return min(max(2 ** (rows.bit_length() - 1), 256), 8192)


def _rows(data: Rows, start: Array | int, size: int) -> Rows:
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), data)


def row_fold(
    update: Callable[[Total, Rows, Array], Total],
    total: Total,
    data: Rows,
    chunk: int = CHUNK,
    every: Array | int = 1,
) -> Total:
    """`total = update(total, rows, new)` over chunks of the rows; each row is read once a pass.

    Where the rows don't divide, the last chunk starts earlier, and `new` (chunk,) is false for the rows of it that
    have been taken already: nothing is padded or copied, and the update is compiled once. With `every`, traced or not,
    only every so manieth chunk is taken: a sample.
    """
    n = jax.tree.leaves(data)[0].shape[0]
    chunk = min(chunk, n)
    if chunk == n:
        return update(total, data, jnp.ones(n, bool))

    def body(i: Array, total: Total) -> Total:
        start = i * every * chunk
        first = jnp.minimum(start, n - chunk)
        return update(total, _rows(data, first, chunk), first + jnp.arange(chunk) >= start)

    chunks = -(-n // chunk)
    return jax.lax.fori_loop(0, -(-chunks // every), body, total)


def row_sums(sums: Callable[[Data], Total], data: Data, chunk: int = CHUNK) -> Total:
    """Add `sums(rows)`, any tree of arrays, over chunks of the rows."""
    n = data.x.shape[0]
    if n <= chunk:
        return sums(data)

    # Reverse mode computes a chunk again instead of keeping what it computed, which would be a copy of x and more.
    @partial(jax.checkpoint, static_argnums=1)
    def part(start: Array, size: int) -> Total:
        return sums(_rows(data, start, size))

    def add(total: Total, start: Array) -> tuple[Total, None]:
        return jax.tree.map(jnp.add, total, part(start, chunk)), None

    starts = jnp.arange(0, n - n % chunk, chunk)
    first, starts = (part(n - n % chunk, n % chunk), starts) if n % chunk else (part(starts[0], chunk), starts[1:])
    return jax.lax.scan(add, first, starts)[0]
