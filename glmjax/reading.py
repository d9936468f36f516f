"""Passes over a source: its rows in chunks of one shape on the device, read ahead, and what comes of them added up."""

import math
import mmap
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .batches import show_line
from .data import Data, make_data, row_weight
from .distributions import Family
from .inputs import check_count, float_dtype
from .sharding import agreed_counts, own_devices, spread_chunks
from .sources import ROWS, Source, check_source

Total = TypeVar("Total")
EMPTY = "the source is empty: it yields no rows; nothing can be fitted to no data"
AHEAD = 2  # chunks that are read ahead
FIRST = 8  # chunks that are kept, as the sample that a fit starts from
IN_FLIGHT = 4  # chunks that the device may be behind by: each keeps its rows in memory


class Pages:
    """Memory of chunks, which is used again when nothing holds its array any more, JAX included: pages that are new to
    a process cost it more time than reading does.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[mmap.mmap]] = {}

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of whatever was there; JAX's CPU backend can use it in place."""
        count = math.prod(shape)
        size = max(count * dtype.itemsize, 1)
        free = self.free.setdefault(size, [])
        pages = free.pop() if free else mmap.mmap(-1, size)
        owner = np.frombuffer(pages, dtype, count)
        weakref.finalize(owner, free.append, pages).atexit = False
        return owner.reshape(shape)


def parts_of(source: Iterable[Data], family: Family | None = None, features: bool = True) -> Iterator[Data]:
    """The parts of a source that have rows, as NumPy; where a family is given their values are checked by it, those of
    x if `features`.

    Raises:
        TypeError, ValueError: what is no `Data`, parts that disagree with the first, bad values; naming the chunk.
    """
    first = None
    for i, part in enumerate(source):
        if not isinstance(part, Data):
            raise TypeError(f"chunk {i} of the source is a {type(part).__name__}, not a Data(x, y, ...)")
        part = jax.tree.map(np.asarray, part)
        if part.x.ndim != 2:
            raise ValueError(f"chunk {i} of the source has x of shape {part.x.shape}; it must be (n, d)")
        first = part if first is None else first
        _check_alike(part, first, i)
        if len(part.x) == 0:
            continue
        if family is not None and not (part.weight is not None and np.all(part.weight == 0)):
            try:
                make_data(
                    part.x if features else part.x[:, :0],
                    part.y,
                    family=family,
                    **{name: getattr(part, name) for name in Data._fields[2:]},
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"chunk {i} of the source: {error}") from None
        yield part


def _check_alike(part: Data, first: Data, i: int) -> None:
    one: Any
    other: Any
    for name, one, other in zip(Data._fields, part, first, strict=True):
        if (one is None) != (other is None):
            has, lacks = (0, i) if one is None else (i, 0)
            raise ValueError(f"chunk {has} of the source has {name} and chunk {lacks} has not; give it to all or none")
        if one is None:
            continue
        if one.ndim == 0 or len(one) != len(part.x):
            raise ValueError(f"chunk {i} of the source has {len(part.x)} rows of x, but {name} of shape {one.shape}")
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"{name} of chunk {i} of the source is {one.shape}, of chunk 0 {other.shape}; only rows may differ"
            )
        if name == "x" and one.dtype != other.dtype:
            raise TypeError(f"x of chunk {i} of the source is {one.dtype}, of chunk 0 {other.dtype}; cast it")


def chunks_of(parts: Iterator[Data], rows: int, pages: Pages, whole: bool = False) -> Iterator[tuple[Data, int]]:
    """The rows in chunks of one shape, all parts in x's dtype, and how many rows of each are the source's: the last is
    filled up with rows of weight 0, and there is always a weight. A source of less than one chunk is one of its size,
    unless it is to be a `whole` one.
    """
    held, filled = None, 0

    def room_for(part: Data) -> Data:
        return jax.tree.map(lambda leaf: pages.array((rows, *leaf.shape[1:]), float_dtype(part.x.dtype)), part)

    for part in parts:
        dtype, start = float_dtype(part.x.dtype), 0
        if part.weight is None:
            ones: Any = np.broadcast_to(np.ones((), dtype), len(part.x))
            part = part._replace(weight=ones)
        while start < len(part.x):
            if held is None:
                held, filled = room_for(part), 0
            take = min(rows - filled, len(part.x) - start)
            for room, rest in zip(jax.tree.leaves(held), jax.tree.leaves(part), strict=True):
                np.copyto(room[filled : filled + take], rest[start : start + take], casting="unsafe")
            start, filled = start + take, filled + take
            if filled == rows:
                yield held, rows
                held, whole = None, True
    if held is not None and whole:
        for name, room in held._asdict().items():
            if room is not None:  # as the last row is, so that all of it is in range, and in x's extent
                room[filled:] = 0 if name == "weight" else room[filled - 1]
        yield held, filled
    elif held is not None:
        yield jax.tree.map(lambda room: room[:filled], held), filled


def read_ahead(chunks: Iterator[Any]) -> Iterator[Any]:
    """The same, read by a thread up to `AHEAD` chunks ahead; its errors arrive in their place."""
    wide = float_dtype(np.float64) == np.float64  # which a thread has its own mind about

    def read() -> Any:
        with jax.enable_x64(wide):
            return next(chunks, None)

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(read) for _ in range(AHEAD))
        while (chunk := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(read))
            yield chunk


def device_chunks(
    parts: Iterator[Data], rows: int, pages: Pages, mesh: Mesh | None = None
) -> Iterator[tuple[Data, int]]:
    """The rows in chunks of one shape on the device, or spread over a mesh, read ahead: what a pass is over."""
    if mesh is not None:
        own = own_devices(mesh)
        rows += -rows % own
        first = next(parts, None)  # as it is: a chunk has a weight in any case
        agreed_counts(first, rows // own)
        parts = chain([] if first is None else [first], parts)
        return spread_chunks(read_ahead(chunks_of(parts, rows, pages, whole=True)), mesh)
    return ((jax.device_put(chunk), count) for chunk, count in read_ahead(chunks_of(parts, rows, pages)))


def mesh_of_source(source: Any) -> Mesh | None:
    """The mesh that a source's chunks are spread over, if any."""
    return source.mesh if isinstance(source, Source) else None


def count_rows(source: Iterable[Data], *, rows: int = ROWS) -> int:
    """Read a source as a pass does, with no model behind it: how many rows it has, and how fast they arrive."""
    check_source(source)
    return sum(count for _, count in device_chunks(parts_of(source), check_count(rows, "rows"), Pages()))


@dataclass
class Reader:
    """A source and what its passes have in common; the host's own state: how many passes there were, and from the
    first of them the number of rows, the first chunks, and whether rows have weights.
    """

    source: Iterable[Data]
    rows: int
    progress: bool
    family: Family | None
    passes: int = 0
    count: int = 0
    first: tuple[Data, ...] = ()
    weighted: bool = False
    pages: Pages = field(default_factory=Pages)

    def chunks(self) -> Iterator[Data]:
        """A pass: its chunks on the device. The first one checks the values; the others that the rows are as many."""
        return (chunk for chunk, _ in self.counted())

    def counted(self) -> Iterator[tuple[Data, int]]:
        """The same, and how many rows of each are the source's."""
        parts = self._noted(parts_of(self.source, None if self.passes else self.family, features=False))
        self.first = self.first if self.passes else ()
        self.passes += 1
        count, began, shown = 0, time.monotonic(), 0.0
        for chunk, rows in device_chunks(parts, self.rows, self.pages, mesh_of_source(self.source)):
            count += rows
            if self.passes == 1 and len(self.first) < FIRST:
                self.first += (chunk,)
            yield chunk, rows
            now = time.monotonic()
            if self.progress and sys.stderr.isatty() and now - shown > 1:
                shown = self._show(count, now - began)
        if self.passes == 1:
            self.count = count
        if count == 0 and self.count == 0:
            raise ValueError(EMPTY)
        if count != self.count:
            raise ValueError(
                f"the source yields {self.count} rows the first time and {count} in pass {self.passes}; it must yield "
                "the same rows each time: a generator or an open file can be read once only; pass Source(function), "
                "whose function starts it anew"
            )
        if self.progress:
            self._show(count, time.monotonic() - began)

    def peek(self) -> None:
        """Look at the first chunks, which a pass takes again: as many as the first pass keeps."""
        parts = self._noted(parts_of(self.source, self.family, features=False))
        chunks = device_chunks(parts, self.rows, self.pages, mesh_of_source(self.source))
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


def fold(chunks: Iterable[Any], part: Callable[[Any], Total], combine: Callable[[Total, Total], Total]) -> Total:
    """`part` of each chunk, combined: sums are a monoid, and this is the way of adding them that disk has."""
    total: Any = None
    waiting: deque[Any] = deque()
    for chunk in chunks:
        new = part(chunk)
        total = new if total is None else combine(total, new)
        waiting.append(total)
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.popleft())  # long done where reading is what takes the time
    return total


@jax.jit
def add(one: Total, other: Total) -> Total:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, one, other)


def end(reader: Reader, value: Any) -> Any:
    """The value; after what was shown of the passes the terminal goes on in a new line."""
    if reader.progress and sys.stderr.isatty():
        print(file=sys.stderr)
    return value
