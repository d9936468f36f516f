"""One pass over the rows: a function of row chunks, added up. The only place that reads all of x.

Sums are a monoid, so it does not matter where a chunk comes from; here they come from memory, by a `lax.scan`, and
from the devices of a mesh, by `device_sum`.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .data import Data
from .meshes import ROWS, device_sum, mesh_of
from .programs import quick_jit

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
    collect: Callable[[Total], Total] = device_sum,
) -> Total:
    """`total = update(total, rows, new)` over chunks of the rows; each row is read once a pass.

    Where the rows don't divide, the last chunk starts earlier, and `new` (chunk,) is false for the rows of it that
    have been taken already: nothing is padded or copied, and the update is compiled once. With `every`, traced or not,
    only every so manieth chunk is taken: a sample. On a mesh `total` is what no rows come to, and `collect` brings the
    totals of its devices together.
    """
    n = jax.tree.leaves(data)[0].shape[0]
    chunk = min(chunk, n)
    if chunk == n:
        return collect(update(total, data, jnp.ones(n, bool)))

    def body(i: Array, total: Total) -> Total:
        start = i * every * chunk
        first = jnp.minimum(start, n - chunk)
        return update(total, _rows(data, first, chunk), first + jnp.arange(chunk) >= start)

    chunks = -(-n // chunk)
    return collect(jax.lax.fori_loop(0, -(-chunks // every), body, total))


def row_sums(sums: Callable[[Data], Total], data: Data, chunk: int = CHUNK) -> Total:
    """Add `sums(rows)`, any tree of arrays, over chunks of the rows, and over the devices of a mesh."""
    n = data.x.shape[0]
    if n <= chunk:
        return device_sum(sums(data))

    # Reverse mode computes a chunk again instead of keeping what it computed, which would be a copy of x and more.
    @partial(jax.checkpoint, static_argnums=1)
    def part(start: Array, size: int) -> Total:
        return sums(_rows(data, start, size))

    def add(total: Total, start: Array) -> tuple[Total, None]:
        return jax.tree.map(jnp.add, total, part(start, chunk)), None

    starts = jnp.arange(0, n - n % chunk, chunk)
    first, starts = (part(n - n % chunk, n % chunk), starts) if n % chunk else (part(starts[0], chunk), starts[1:])
    return device_sum(jax.lax.scan(add, first, starts)[0])


def is_data(node: Any) -> bool:
    """Whether a node of a tree is rows, all of it."""
    return isinstance(node, Data)


def filled_up(data: Data, n: int) -> Data:
    """So many rows, those beyond the data's own of weight 0, and of the last one's values."""
    more = n - len(data.x)
    weight = jnp.ones_like(data.y, shape=data.y.shape[:1]) if data.weight is None else data.weight
    data = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], more, axis=0)]), data)
    return data._replace(weight=jnp.concatenate([weight, jnp.zeros(more, weight.dtype)]))


def by_rows(function: Callable[..., Total], static_argnums: tuple[int, ...] = ()) -> Callable[..., Total]:
    """The function, run by each device on its own rows where the first `Data` among its arguments are spread over a
    mesh; others are spread as they are, and all other arguments, and what it returns, every device has alike.
    """

    @partial(quick_jit, static_argnums=(0, *(i + 1 for i in static_argnums)))
    def spread(mesh: Any, *args: Any) -> Total:
        def run(given: dict[int, Any]) -> Total:
            return function(*(given.get(i, arg) for i, arg in enumerate(args)))

        def divided(node: Any) -> Any:
            more = -len(node.x) % mesh.shape[ROWS] if is_data(node) else 0
            return filled_up(node, len(node.x) + more) if more else node

        def spec(node: Any) -> PartitionSpec:
            return PartitionSpec(ROWS) if is_data(node) else PartitionSpec()

        moving = (i for i in range(len(args)) if i not in static_argnums)
        given = {i: jax.tree.map(divided, args[i], is_leaf=is_data) for i in moving}
        specs = jax.tree.map(spec, given, is_leaf=is_data)
        # Without the check of what varies between devices: chunks are added up in loops that start from zeros.
        over = jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=PartitionSpec(), check_vma=False)
        return over(given)

    @wraps(function)
    def call(*args: Any) -> Total:
        # By the first `Data` alone: validation data that are spread are no reason to fill up the rows of a fit.
        mesh = mesh_of([node for node in jax.tree.leaves(args, is_leaf=is_data) if is_data(node)][:1])
        return function(*args) if mesh is None else spread(mesh, *args)

    return call
