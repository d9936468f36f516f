"""Sources of rows beyond memory: what can be iterated again and again and yields `Data` of NumPy arrays, of any number
of rows each. A list of `Data` is one, and so is what `array_source` and `parquet_source` return.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from .data import Data
from .inputs import check_count, columns_of

ROWS = 65536  # of a chunk: some ms of work, and 10 MB of 20 columns

AGAIN = (
    "it must yield the same rows each time: a generator or an open file can be read once only; pass Source(function), "
    "whose function starts it anew"
)


class Part(NamedTuple):
    """A run of so many rows of a source, which `read()` yields."""

    rows: int
    read: Callable[[], Iterator[Data]]


@dataclass(frozen=True)
class Source:
    """Rows that `read()` starts to yield anew each time, so that a generator function makes a source:
    `Source(partial(read_my_file, path))`.

    `parts`, if there are any, are the same rows in runs that can be read one by one, in any order. `columns` are the
    names of x's, where they have some. `mesh` is what `shard_source` spreads the chunks over.
    """

    read: Callable[[], Iterator[Data]]
    parts: tuple[Part, ...] = ()
    columns: tuple[str, ...] = ()
    mesh: Mesh | None = None

    def __iter__(self) -> Iterator[Data]:
        return self.read()


def check_source(source: Any) -> None:
    """Raise unless `source` can be iterated, and again."""
    if isinstance(source, Data):
        raise TypeError("source must yield Data chunk by chunk; for one in memory use [data], or glmjax.fit_newton")
    if not isinstance(source, Iterable):
        raise TypeError(f"source must be iterable and yield Data, got {type(source).__name__}")
    if isinstance(source, Iterator):
        raise TypeError(
            f"source is a {type(source).__name__}, which can be read once only, and a fit reads it several times; pass "
            "Source(function), whose function starts it anew"
        )


def array_source(
    x: Any, y: Any, *, weight: Any = None, offset: Any = None, precision: Any = None, rows: int = ROWS
) -> Source:
    """Slices of arrays, such as `np.load("x.npy", mmap_mode="r")`: nothing is read whole, and what was read is let go.

    Args:
        x: (n, d); y, weight, offset, precision: as `make_data` has them.
        rows: of a slice.

    Returns:
        A source.

    Raises:
        ValueError: arrays of different lengths.
    """
    if columns_of(x) is not None:
        raise TypeError(f"x must be an array, got {type(x).__name__}; use x.to_numpy(), or parquet_source for a file")
    given = (x, y, weight, offset, precision)
    arrays: Any = [part if part is None or hasattr(part, "shape") else np.asarray(part) for part in given]
    parts = Data(*arrays)
    lengths = {name: part.shape[0] for name, part in parts._asdict().items() if part is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays must have one entry a row, got lengths {lengths}")
    rows, n = check_count(rows, "rows"), parts.x.shape[0]

    def run(start: int) -> Part:
        part = jax.tree.map(lambda array: array[start : start + rows], parts)
        return Part(len(part.x), partial(_slices, part, rows))

    return Source(partial(_slices, parts, rows), tuple(map(run, range(0, n, rows))))


def _slices(parts: Data, rows: int) -> Iterator[Data]:
    maps = [found for part in jax.tree.leaves(parts) if (found := _mapped(part)) is not None]
    for start in range(0, parts.x.shape[0], rows):
        yield jax.tree.map(lambda part: part[start : start + rows], parts)  # noqa: B023
        for mapped in maps:
            mapped.madvise(mmap.MADV_DONTNEED)  # what was read of the file stays the process's memory otherwise


def _mapped(array: Any) -> mmap.mmap | None:
    """The map of a file that an array is in; None for others, and where the array may differ from its file."""
    if not isinstance(array, np.memmap) or array.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
