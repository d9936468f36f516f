"""Sources of rows beyond memory: what can be iterated again and again and yields `Data` of NumPy arrays, of any number
of rows each. A list of `Data` is one, and so is what `array_source` and `parquet_source` return.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from .data import Data
from .inputs import check_count, columns_of

ROWS = 65536  # of a chunk: some ms of work, and 10 MB of 20 columns


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
    given = (x, y, weight, offset, precision)
    arrays: Any = [part if part is None or hasattr(part, "shape") else np.asarray(part) for part in given]
    parts = Data(*arrays)
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

    x: Any = np.empty((len(batch), len(names.x)), dtype)
    for j, name in enumerate(names.x):
        x[:, j] = held[name]
    y: Any = column(names.y) if isinstance(names.y, str) else np.stack([column(name) for name in names.y], axis=1)
    offset = column(names.offset)
    if names.exposure is not None:
        with np.errstate(all="ignore"):  # what is not a number is found where all rows are checked
            offset = np.log(column(names.exposure))
    return Data(x, y, column(names.weight), offset, column(names.precision))
