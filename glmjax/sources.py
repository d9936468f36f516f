"""Sources of rows beyond memory: what can be iterated again and again and yields `Data` of NumPy arrays, of any number
of rows each. A list of `Data` is one, and what `array_source` and `parquet_source` return.

A pass wants them as chunks of one shape, on the device, read while the chunk before is computed with.
"""

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from .data import Data, make_data
from .distributions import Family
from .inputs import aligned_array, check_count, columns_of, float_dtype

ROWS = 65536  # of a chunk: some ms of work, and 10 MB of 20 columns
AHEAD = 2  # chunks that are read ahead


@dataclass(frozen=True)
class Source:
    """Rows that `read()` starts to yield anew each time, so that a generator function makes a source:
    `Source(partial(read_my_file, path))`.
    """

    read: Callable[[], Iterator[Data]]

    def __iter__(self) -> Iterator[Data]:
        return self.read()


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
    parts = Data(*(part if part is None or hasattr(part, "shape") else np.asarray(part)
                   for part in (x, y, weight, offset, precision)))  # fmt: skip
    lengths = {name: part.shape[0] for name, part in parts._asdict().items() if part is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays must have one entry a row, got lengths {lengths}")
    return Source(partial(_slices, parts, check_count(rows, "rows")))


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


def parquet_source(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    x: Sequence[str],
    y: str | Sequence[str],
    *,
    weight: str | None = None,
    offset: str | None = None,
    exposure: str | None = None,
    precision: str | None = None,
    rows: int = ROWS,
) -> Source:
    """Columns of one Parquet file or of many, by name; no others are read. Needs the extra `frames`.

    Args:
        paths: a file, or files in the order of their rows.
        x: the columns of x.
        y: the targets' column; several for targets of several numbers.
        weight, offset, precision: columns, as `make_data` has them.
        exposure: a column whose logarithm is the offset.
        rows: read at a time, within a row group.

    Returns:
        A source; an error while it is read names file and row group.

    Raises:
        ValueError: no files, columns that a file lacks, both offset and exposure.
        TypeError: columns that are not numbers.
        ImportError: pyarrow is not installed.
    """
    if isinstance(x, str):
        raise TypeError(f"x must be a sequence of columns, got {x!r}; write [{x!r}]")
    if offset is not None and exposure is not None:
        raise ValueError("give the offset or the exposure, whose logarithm is the offset; not both")
    files = [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]
    if not files:
        raise ValueError("paths is empty; give at least one Parquet file")
    names = _Names(tuple(x), y if isinstance(y, str) else tuple(y), weight, offset, exposure, precision)
    dtypes = [_check_schema(path, names) for path in files]
    return Source(partial(_groups, files, names, np.result_type(*dtypes), check_count(rows, "rows")))


class _Names(NamedTuple):
    """Which column is what."""

    x: tuple[str, ...]
    y: str | tuple[str, ...]
    weight: str | None
    offset: str | None
    exposure: str | None
    precision: str | None

    def all(self) -> list[str]:
        y = (self.y,) if isinstance(self.y, str) else self.y
        return list(dict.fromkeys([*self.x, *y, *filter(None, self[2:])]))


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet files are read by pyarrow: pip install 'glmjax[frames]'") from error
    return parquet


def _check_schema(path: str, names: _Names) -> np.dtype:
    """The dtype of x in a file; raises where a column is missing or holds no numbers."""
    from pyarrow import types

    schema = _parquet().read_schema(path)
    for name in names.all():
        if name not in schema.names:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(f"column {name!r} of {path} holds {kind}, not numbers; encode it, or choose other columns")
    small = all(types.is_float32(schema.field(name).type) for name in names.x)
    return np.dtype(np.float32 if small and names.x else np.float64)


def _groups(files: list[str], names: _Names, dtype: np.dtype, rows: int) -> Iterator[Data]:
    parquet = _parquet()
    for path in files:
        group = "its footer"
        try:
            with parquet.ParquetFile(path) as file:
                for i in range(file.num_row_groups):
                    group = f"row group {i} of {file.num_row_groups}"
                    for batch in file.iter_batches(rows, row_groups=[i], columns=names.all()):
                        yield _as_data(batch, names, dtype)
        except Exception as error:
            raise OSError(f"{path}, {group}, could not be read: {error}") from error


def _as_data(batch: Any, names: _Names, dtype: np.dtype) -> Data:
    held = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names.all()}

    def column(name: str | None) -> Any:
        return None if name is None else np.asarray(held[name], dtype)

    x = np.empty((len(batch), len(names.x)), dtype)
    for j, name in enumerate(names.x):
        x[:, j] = held[name]
    y = column(names.y) if isinstance(names.y, str) else np.stack([column(name) for name in names.y], axis=1)
    offset = column(names.offset)
    if names.exposure is not None:
        with np.errstate(all="ignore"):  # what is not a number is found where all rows are checked
            offset = np.log(column(names.exposure))
    return Data(x, y, column(names.weight), offset, column(names.precision))


def check_source(source: Any) -> None:
    """Raise unless `source` can be iterated, and again."""
    if isinstance(source, Data):
        raise TypeError("source must yield Data chunk by chunk; for one in memory use [data], or glmjax.fit_newton")
    if not isinstance(source, Iterable):
        raise TypeError(f"source must be iterable and yield Data, got {type(source).__name__}")
    if iter(source) is source:
        raise TypeError(
            f"source is a {type(source).__name__}, which can be read once only, and a fit reads it several times; pass "
            "Source(function), whose function starts it anew"
        )


def parts_of(source: Iterable[Data], family: Family | None) -> Iterator[Data]:
    """The parts of a source that have rows, as NumPy; where a family is given their values are checked by it.

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
                make_data(part.x, part.y, family=family, **{name: getattr(part, name) for name in Data._fields[2:]})
            except (TypeError, ValueError) as error:
                raise type(error)(f"chunk {i} of the source: {error}") from None
        yield part


def _check_alike(part: Data, first: Data, i: int) -> None:
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


def chunks_of(parts: Iterator[Data], rows: int) -> Iterator[tuple[Data, int]]:
    """The rows in chunks of one shape, all parts in x's dtype, and how many rows of each are the source's: the last is
    filled up with rows of weight 0, and there is always a weight. A source of less than one chunk is one of its size.
    """
    held, filled, whole = None, 0, False
    for part in parts:
        dtype, start = float_dtype(part.x.dtype), 0
        if part.weight is None:
            part = part._replace(weight=np.broadcast_to(np.ones((), dtype), len(part.x)))
        while start < len(part.x):
            if held is None:
                held, filled = _room(part, rows, dtype), 0
            take = min(rows - filled, len(part.x) - start)
            for room, rest in zip(jax.tree.leaves(held), jax.tree.leaves(part), strict=True):
                np.copyto(room[filled : filled + take], rest[start : start + take], casting="unsafe")
            start, filled = start + take, filled + take
            if filled == rows:
                yield held, rows
                held, whole = None, True
    if held is not None and whole:
        for name, room in held._asdict().items():
            if room is not None:  # a target that is one of the family's
                room[filled:] = 0 if name in ("x", "weight", "offset") else room[filled - 1]
        yield held, filled
    elif held is not None:
        yield jax.tree.map(lambda room: room[:filled], held), filled


def _room(part: Data, rows: int, dtype: np.dtype) -> Data:
    return jax.tree.map(lambda leaf: aligned_array((rows, *leaf.shape[1:]), dtype), part)


def read_ahead(chunks: Iterator[Any]) -> Iterator[Any]:
    """The same, read by a thread up to `AHEAD` chunks ahead; its errors arrive in their place."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, chunks, None) for _ in range(AHEAD))
        while (chunk := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, chunks, None))
            yield chunk


def device_chunks(source: Iterable[Data], rows: int, family: Family | None = None) -> Iterator[tuple[Data, int]]:
    """The rows of a source in chunks of one shape on the device, read ahead: what a pass is over."""
    chunks = chunks_of(parts_of(source, family), rows)
    return read_ahead((jax.device_put(chunk), count) for chunk, count in chunks)
