"""One pass over the rows: sums of a function of row chunks. The only place that reads all of x.

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


def row_sums(sums: Callable[[Data], Total], data: Data, chunk: int = CHUNK) -> Total:
    """Add `sums(rows)`, any tree of arrays, over chunks of the rows; each row is read once a pass.

    The last, shorter chunk is summed on its own, so nothing is padded or copied.
    """
    n = data.x.shape[0]
    if n <= chunk:
        return sums(data)

    # Reverse mode computes a chunk again instead of keeping what it computed, which would be a copy of x and more.
    @partial(jax.checkpoint, static_argnums=1)
    def part(start: Array, size: int) -> Total:
        return sums(jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), data))

    def add(total: Total, start: Array) -> tuple[Total, None]:
        return jax.tree.map(jnp.add, total, part(start, chunk)), None

    starts = jnp.arange(0, n - n % chunk, chunk)
    first, starts = (part(n - n % chunk, n % chunk), starts) if n % chunk else (part(starts[0], chunk), starts[1:])
    return jax.lax.scan(add, first, starts)[0]
