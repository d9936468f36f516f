"""A source's rows in chunks of one shape on the device, read ahead."""

import math
import mmap
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from .data import Data, make_data
from .distributions import Family
from .inputs import check_count, float_dtype
from .sharding import agreed_counts, own_devices, spread_chunks
from .sources import ROWS, Source, check_source

AHEAD = 2  # chunks that are read ahead


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
    parts: Iterator[Data], rows: int, pages: Pages, mesh: Mesh | None, counts: list[tuple[int, int]]
) -> Iterator[tuple[Data, int]]:
    """The rows in chunks of one shape on the device, or spread over a mesh, read ahead: what a pass is over. `counts`
    are for `spread_chunks`.
    """
    if mesh is not None:
        own = own_devices(mesh)
        rows += -rows % own
        first = next(parts, None)  # as it is: a chunk has a weight in any case
        agreed_counts(first, rows // own)
        parts = chain([] if first is None else [first], parts)
        return spread_chunks(read_ahead(chunks_of(parts, rows, pages, whole=True)), mesh, counts)
    return ((jax.device_put(chunk), count) for chunk, count in read_ahead(chunks_of(parts, rows, pages)))


def mesh_of_source(source: Any) -> Mesh | None:
    """The mesh that a source's chunks are spread over, if any."""
    return source.mesh if isinstance(source, Source) else None


def count_rows(source: Iterable[Data], *, rows: int = ROWS) -> int:
    """Read a source as a pass does, with no model behind it: how many rows it has, and how fast they arrive."""
    check_source(source)
    return sum(count for _, count in device_chunks(parts_of(source), check_count(rows, "rows"), Pages(), None, []))
