"""Row groups of Parquet files: which files, what their footers say, whose groups are whose, batches of them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .inputs import check_count


class Names(NamedTuple):
    """Which column is what."""

    x: tuple[str, ...]
    y: str | tuple[str, ...]
    weight: str | None
    offset: str | None
    exposure: str | None
    precision: str | None

    def all(self) -> list[str]:
        """Each column once."""
        y = (self.y,) if isinstance(self.y, str) else self.y
        return list(dict.fromkeys([*self.x, *y, *filter(None, self[2:])]))


class File(NamedTuple):
    """A path, and where it is: None is this machine."""

    path: str
    system: Any


class Group(NamedTuple):
    """A row group: number `place`, from 0, of `among` in its file."""

    file: File
    place: int
    among: int
    rows: int

    def __str__(self) -> str:
        return f"{self.file.path}, row group {self.place} of {self.among}"


class Footer(NamedTuple):
    """What is needed of a file's footer: which columns of x are categories, the dtype of the others."""

    groups: list[Group]
    categories: set[str]
    dtype: np.dtype


def files_of(paths: Any) -> list[File]:
    """The files of a path, a folder, several paths, or an Arrow dataset."""
    if hasattr(paths, "files") and hasattr(paths, "filesystem"):
        kind = getattr(paths.format, "default_extname", "parquet")
        if kind != "parquet":
            raise TypeError(f"paths is a dataset of {kind} files; parquet_source reads Parquet")
        files = [File(path, paths.filesystem) for path in paths.files]
    elif isinstance(paths, str | os.PathLike):
        path = Path(paths)
        inside = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path} is a folder without *.parquet files")
        files = [File(os.fspath(one), None) for one in inside]
    elif isinstance(paths, Iterable):
        files = [File(os.fspath(path), None) for path in paths]
    else:
        raise TypeError(f"paths must be a file, a folder, files or a dataset, got {type(paths).__name__}")
    if not files:
        raise ValueError("paths is empty; give at least one Parquet file")
    return files


def _opened(file: File, **options: Any) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet files are read by pyarrow: pip install 'glmjax[frames]'") from error
    try:
        return parquet.ParquetFile(file.path, filesystem=file.system, **options)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise OSError(f"{file.path}, its footer, could not be read: {error}") from error


def footer_of(file: File, names: Names, given: Mapping[str, Any]) -> Footer:
    """The footer; raises where a column is missing, or holds neither numbers nor what makes a category."""
    with _opened(file) as opened:
        schema, meta = opened.schema_arrow, opened.metadata
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    from pyarrow import types

    categories, small = set(given), True
    for name in names.all():
        if name not in schema.names:
            raise ValueError(f"{file.path} has no column {name!r}; it has {', '.join(schema.names)}")
        kind = schema.field(name).type
        if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            small &= types.is_float32(kind) or name not in names.x or name in given
        elif types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind):
            categories.add(name)
        else:
            raise TypeError(
                f"column {name!r} of {file.path} holds {kind}, not numbers; encode it, or choose other columns"
            )
    others = categories - set(names.x)
    others |= categories & {name for name in names._replace(x=()).all()}
    if others:
        name = min(others)
        raise TypeError(
            f"column {name!r} of {file.path} holds {schema.field(name).type}, not numbers; only columns of x may be "
            "categories: encode it, or choose other columns"
        )
    numbers = set(names.x) - categories
    groups = [Group(file, i, len(sizes), size) for i, size in enumerate(sizes) if size]
    return Footer(groups, categories, np.dtype(np.float32 if small and numbers else np.float64))


def run_of(groups: list[Group], part: tuple[int, int]) -> list[Group]:
    """The i-th of m runs of row groups: each ends with the group whose end is nearest to its share of the rows."""
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise TypeError(f"part must be (i, m), the i-th of m runs of row groups, got {part!r}")
    i, m = part
    m = check_count(m, "part[1]")
    i = check_count(i, "part[0]", at_least=0)
    if i >= m:
        raise ValueError(f"part={part}; the parts of {m} are 0 to {m - 1}")
    if m == 1:
        return groups
    if len(groups) < m:
        raise ValueError(f"part={part}, but there are {len(groups)} row groups in all; write files with smaller ones")
    ends = np.cumsum([group.rows for group in groups])
    cuts = [0]
    for k in range(1, m):
        nearest = int(np.argmin(np.abs(ends - ends[-1] * k / m))) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), len(groups) - (m - k)))
    cuts.append(len(groups))
    return groups[cuts[i] : cuts[i + 1]]


def batches(groups: Sequence[Group], columns: list[str], coded: Sequence[str], rows: int) -> Iterator[Any]:
    """(row group, Arrow batch) pairs; an error names the row group."""
    opened: Any = None
    try:
        for i, group in enumerate(groups):
            if opened is None or groups[i - 1].file is not group.file:
                if opened is not None:
                    opened.close()
                # Not by `pre_buffer`, which holds a whole row group, as it is in the file, before its first row comes.
                opened = _opened(group.file, read_dictionary=coded, pre_buffer=False, buffer_size=1 << 20)
            read = opened.iter_batches(rows, row_groups=[group.place], columns=columns)
            while (batch := _next(read, group)) is not None:
                yield group, batch
    finally:
        if opened is not None:
            opened.close()


def _next(batches: Iterator[Any], group: Group) -> Any:
    try:
        return next(batches, None)
    except Exception as error:
        raise OSError(f"{group}, could not be read: {error}") from error
