"""Passes over a source: its chunks, which are checked and counted, and what comes of them added up."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .batches import show_line
from .chunking import Pages, device_chunks, mesh_of_source, parts_of
from .data import Data, row_weight
from .distributions import Family
from .inputs import check_count, float_dtype
from .sources import AGAIN, check_source

Total = TypeVar("Total")
EMPTY = "the source is empty: it yields no rows; nothing can be fitted to no data"
FIRST = 8  # chunks that are kept, as the sample that a fit starts from
IN_FLIGHT = 4  # chunks that the device may be behind by: each keeps its rows in memory


@dataclass
class Reader:
    """A source and what its passes have in common; the host's own state: how many passes there were, and from the
    first of them the number of rows, the first chunks, whether rows have weights, and the counts of `spread_chunks`.
    """

    source: Iterable[Data]
    rows: int
    progress: bool
    family: Family | None
    passes: int = 0
    count: int = 0
    first: tuple[Data, ...] = ()
    weighted: bool = False
    counts: list[tuple[int, int]] = field(default_factory=list)
    pages: Pages = field(default_factory=Pages)

    def chunks(self) -> Iterator[Data]:
        """A pass: its chunks on the device. The first one checks the values; the others that the rows are as many."""
        return (chunk for chunk, _ in self.counted())

    def counted(self) -> Iterator[tuple[Data, int]]:
        """The same, and how many rows of each are the source's."""
        parts = self._noted(parts_of(self.source, None if self.passes else self.family, features=False))
        self.first = self.first if self.passes else ()
        self.passes += 1
        count, began, shown, counts = 0, time.monotonic(), 0.0, list(self.counts)
        for chunk, rows in device_chunks(parts, self.rows, self.pages, mesh_of_source(self.source), counts):
            count += rows
            if self.passes == 1 and len(self.first) < FIRST:
                self.first += (chunk,)
            yield chunk, rows
            now = time.monotonic()
            if self.progress and sys.stderr.isatty() and now - shown > 1:
                shown = self._show(count, now - began)
        self.counts = counts
        if self.passes == 1:
            self.count = count
        if count == 0 and self.count == 0:
            raise ValueError(EMPTY)
        if count != self.count:
            raise ValueError(
                f"the source yields {self.count} rows the first time and {count} in pass {self.passes}; {AGAIN}"
            )
        if self.progress:
            self._show(count, time.monotonic() - began)

    def peek(self) -> None:
        """Look at the first chunks, which a pass takes again: as many as the first pass keeps."""
        parts = self._noted(parts_of(self.source, self.family, features=False))
        chunks = device_chunks(parts, self.rows, self.pages, mesh_of_source(self.source), [])
        self.first = tuple(chunk for chunk, _ in islice(chunks, FIRST))
        if not self.first:
            raise ValueError(EMPTY)

    def _noted(self, parts: Iterator[Data]) -> Iterator[Data]:
        for part in parts:
            self.weighted = part.weight is not None
            yield part

    def bare(self, chunk: Data) -> Data:
        """The chunk with what a row counts as its precision, so that no weight hides rows that want cleaning first."""
        return chunk if self.weighted else chunk._replace(weight=None, precision=row_weight(chunk))

    def blame(self) -> None:
        """Raise for the first value of x that cannot be computed with."""
        for _ in parts_of(self.source, self.family):
            pass
        raise ValueError("x of the source is not finite, or was not when it was read first")

    def _show(self, count: int, seconds: float) -> float:
        of = "" if count == self.count else f" of {self.count}" if self.passes > 1 else " so far"
        show_line(f"pass {self.passes}: {count} rows{of}, {count / max(seconds, 1e-9):.3g} rows a second")
        return time.monotonic()


def open_reader(source: Any, family: Family, rows: int, progress: bool) -> Reader:
    """The reader of a source, checked."""
    check_source(source)
    return Reader(source, check_count(rows, "rows"), progress, family)


def fold(
    chunks: Iterable[Any], part: Callable[[Any], Total], combine: Callable[[Total, Total], Total], in_turn: bool = False
) -> Total:
    """`part` of each chunk, combined: sums are a monoid, and this is the way of adding them that disk has.

    A CPU's cores take a chunk each, since one is too small to be shared, unless they have to be taken `in_turn`; they
    are added up in their order.
    """
    total: Any = None
    waiting: deque[Future[Any]] = deque()
    behind: deque[Any] = deque()
    wide = float_dtype(np.float64) == np.float64  # which a thread has its own mind about

    def run(chunk: Any) -> Total:
        with jax.enable_x64(wide):
            return jax.block_until_ready(part(chunk))

    def merged(total: Any, new: Any) -> Any:
        return new if total is None else combine(total, new)

    with ThreadPoolExecutor(cores()) as pool:
        for chunk in chunks:
            arrays = [leaf for leaf in jax.tree.leaves(chunk) if isinstance(leaf, Array)]
            # The first one compiles. Devices that share a chunk wait for each other, and take the next together.
            if in_turn or total is None or any(len(array.sharding.device_set) > 1 for array in arrays):
                total = merged(total, part(chunk))
                behind.append(total)
                if len(behind) > IN_FLIGHT:
                    jax.block_until_ready(behind.popleft())
                continue
            waiting.append(pool.submit(run, chunk))
            if len(waiting) > IN_FLIGHT:
                total = merged(total, waiting.popleft().result())
        while waiting:
            total = merged(total, waiting.popleft().result())
    return total


def cores() -> int:
    """How many of a CPU's cores there are to take chunks; an accelerator takes them one by one."""
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@jax.jit
def add(one: Total, other: Total) -> Total:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, one, other)


def end(reader: Reader, value: Any) -> Any:
    """The value; after what was shown of the passes the terminal goes on in a new line."""
    if reader.progress and sys.stderr.isatty():
        print(file=sys.stderr)
    return value
