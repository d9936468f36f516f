"""The rows of a source in random order: its parts in random order, through a buffer that rows are drawn from."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from .chunking import Pages, chunks_of, parts_of
from .data import Data
from .distributions import Family
from .minibatches import permutation

RUNS = 256  # of a chunk

_order = jax.jit(permutation, static_argnums=1)


class Shuffle(NamedTuple):
    """How a source is shuffled: `rows` at a time through a buffer of `size`, whole chunks of them."""

    source: Iterable[Data]
    rows: int
    size: int
    pages: Pages


def in_random_order(shuffle: Shuffle, family: Family | None, key: Array) -> Iterator[Data]:
    """All rows once, in an order that the key sets: one pass. Where a family is given the values are checked by it.

    Rows that the buffer has room for are in the order that memory's epoch of this key has. Of others, each chunk that
    is read takes the place of as many rows of the buffer, drawn at random, which go out in random order.
    """
    source, rows, size, pages = shuffle
    parts = getattr(source, "parts", ())
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    if sum(part.rows for part in parts) > size:
        visited = [parts[i] for i in generator.permutation(len(parts))]
        source = chain.from_iterable(part.read() for part in visited)
    held: Any = None
    filled, overflowed = 0, False
    for chunk, count in chunks_of(parts_of(source, family, features=False), rows, pages):
        if held is None:
            held = jax.tree.map(lambda leaf: np.empty((size, *leaf.shape[1:]), leaf.dtype), chunk)
        if filled < size:
            for room, new in zip(jax.tree.leaves(held), jax.tree.leaves(chunk), strict=True):
                room[filled : filled + count] = new[:count]
            filled += count
        else:
            overflowed = True
            yield _exchange(held, chunk, count, generator, pages)
    if not filled:
        return
    order: Any = generator.permutation(filled) if overflowed else np.asarray(_order(key, filled))
    for start in range(0, filled, rows):
        yield _taken(held, order[start : start + rows], pages)


def _exchange(held: Data, chunk: Data, count: int, generator: np.random.Generator, pages: Pages) -> Data:
    """As many rows of those held as the chunk has, in random order; the chunk's are in their places after it.

    The places of a whole chunk are runs of some rows: all over the buffer they would be a cache miss each. Both sides
    are put in random order within the chunk, so that rows of a run have no more in common than those of a chunk.
    """
    rows = len(chunk.x)
    run = max(r for r in range(1, rows // RUNS + 2) if r == 1 or rows % r == 0) if count == rows else 1
    starts = run * np.sort(generator.choice(len(held.x) // run, count // run, replace=False, shuffle=False))
    places = (starts[:, None] + np.arange(run)).ravel()
    out = _taken(held, places, pages)
    new = _taken(chunk, generator.permutation(count), pages)
    for room, leaf in zip(jax.tree.leaves(held), jax.tree.leaves(new), strict=True):
        room[places] = leaf
    return _taken(out, generator.permutation(count), pages)


def _taken(held: Data, places: np.ndarray, pages: Pages) -> Data:
    def take(leaf: np.ndarray) -> np.ndarray:
        out = pages.array((len(places), *leaf.shape[1:]), leaf.dtype)
        return np.take(leaf, places, axis=0, out=out, mode="clip")  # by mode="raise" it would make a copy of `out`

    return jax.tree.map(take, held)


def one_that_counts(source: Iterable[Data], family: Family) -> Data | None:
    """The first row of a source whose weight is not 0, (1, ...) each, in x's dtype; None where there is none."""
    for chunk, count in chunks_of(parts_of(source, family), 1, Pages()):
        if count and chunk.weight[0] > 0:  # type: ignore[index]
            return chunk
    return None


def check_rows(source: Iterable[Data], family: Family) -> None:
    """Raise for the first row that `make_data` refuses, in words that name its chunk."""
    for _ in parts_of(source, family):
        pass
