"""`parquet_source`: columns of Parquet files as rows of `Data`, text and dictionaries as one column a level."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .data import Data
from .inputs import check_count
from .reading import Pages
from .sources import ROWS, Part, Source

MOST = 1000  # levels that are found; more of them are an identifier rather than a category


def parquet_source(
    paths: Any,
    x: Sequence[str],
    y: str | Sequence[str],
    *,
    weight: str | None = None,
    offset: str | None = None,
    exposure: str | None = None,
    precision: str | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
    part: tuple[int, int] = (0, 1),
    rows: int = ROWS,
) -> Source:
    """Columns of one Parquet file or of many, by name; no others are read. Needs the extra `frames`.

    A column of x that holds text or a dictionary is a category: it becomes a column of 0 and 1 for each level but the
    first, the reference, named as in `frames`, "region[T.North]". What is read of it are codes. `source.columns` are
    the names of all columns of x, in order.

    Args:
        paths: a file, a folder (its `*.parquet`, sorted), files in the order of their rows, or a Parquet
            `pyarrow.dataset.Dataset`, of which the files are taken and no filter.
        x: the columns of x.
        y: the targets' column; several for targets of several numbers.
        weight, offset, precision: columns, as `make_data` has them.
        exposure: a column whose logarithm is the offset.
        levels: of categories, such as `{"region": ("North", "South")}`, in order; a column of numbers that is named
            here is one too. Those not given are found by reading these columns of all files once, and sorted.
        part: (i, m) is the i-th of m runs of row groups, from 0, as even in rows as whole groups allow: so process i
            of m reads its own rows. `part=(jax.process_index(), jax.process_count())`.
        rows: read at a time, within a row group.

    Returns:
        A source; an error while it is read names file and row group, and of a category column and level.

    Raises:
        ValueError: no files, columns that a file lacks, both offset and exposure; levels that are fewer than 2, or
            more than 1000 and not given; fewer row groups than parts.
        TypeError: columns that are not numbers.
        OSError: a file that is not there, or not Parquet.
        ImportError: pyarrow is not installed.
    """
    if isinstance(x, str):
        raise TypeError(f"x must be a sequence of columns, got {x!r}; write [{x!r}]")
    if offset is not None and exposure is not None:
        raise ValueError("give the offset or the exposure, whose logarithm is the offset; not both")
    names = Names(tuple(x), y if isinstance(y, str) else tuple(y), weight, offset, exposure, precision)
    given = {name: tuple(values) for name, values in (levels or {}).items()}
    strange = [name for name in given if name not in names.x]
    if strange:
        raise ValueError(f"levels has {strange[0]!r}, which is no column of x; those are {', '.join(names.x)}")
    rows = check_count(rows, "rows")
    files = files_of(paths)
    footers = [_footer(file, names, given) for file in files]
    categories = footers[0].categories
    for file, footer in zip(files, footers, strict=True):
        if footer.categories != categories:
            name = min(footer.categories ^ categories)
            raise TypeError(f"column {name!r} holds text in some files and numbers in others, such as {file.path}")
    groups = [group for footer in footers for group in footer.groups]
    read = Read(names, {}, np.result_type(*(footer.dtype for footer in footers)), rows, Pages())
    missing = [name for name in names.x if name in categories and name not in given]
    given |= _found_levels(read, groups, missing) if missing else {}
    coded = {name: _checked_levels(name, given[name]) for name in names.x if name in categories}
    read = read._replace(levels=coded)
    chosen = _run_of(groups, part)
    return Source(
        partial(_rows_of, read, chosen),
        tuple(Part(group.rows, partial(_rows_of, read, [group])) for group in chosen),
        tuple(name for column in names.x for name in _columns(column, coded)),
    )


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
    """A row group: the `index`-th of `count` in its file."""

    file: File
    index: int
    count: int
    rows: int

    def __str__(self) -> str:
        return f"{self.file.path}, row group {self.index} of {self.count}"


class Footer(NamedTuple):
    """What is needed of a file's footer: which columns of x are categories, the dtype of the others."""

    groups: list[Group]
    categories: set[str]
    dtype: np.dtype


class Read(NamedTuple):
    """How rows are read: columns, the code of each level of a category, x's dtype, rows at a time."""

    names: Names
    levels: dict[str, dict[Any, int]]
    dtype: np.dtype
    rows: int
    pages: Pages


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
    else:
        files = [File(os.fspath(path), None) for path in paths]
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


def _footer(file: File, names: Names, given: Mapping[str, Any]) -> Footer:
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


def _run_of(groups: list[Group], part: tuple[int, int]) -> list[Group]:
    """The i-th of m runs of row groups: each ends with the group whose end is nearest to its share of the rows."""
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


# Reading --------------------------------------------------------------------------------------------------------------


def _batches(groups: Sequence[Group], columns: list[str], coded: Sequence[str], rows: int) -> Iterator[Any]:
    """(row group, Arrow batch) pairs; an error names the row group."""
    opened: Any = None
    try:
        for i, group in enumerate(groups):
            if opened is None or groups[i - 1].file is not group.file:
                if opened is not None:
                    opened.close()
                # Not by `pre_buffer`, which holds a whole row group, as it is in the file, before its first row comes.
                opened = _opened(group.file, read_dictionary=coded, pre_buffer=False, buffer_size=1 << 20)
            batches = opened.iter_batches(rows, row_groups=[group.index], columns=columns)
            while (batch := _next(batches, group)) is not None:
                yield group, batch
    finally:
        if opened is not None:
            opened.close()


def _next(batches: Iterator[Any], group: Group) -> Any:
    try:
        return next(batches, None)
    except Exception as error:
        raise OSError(f"{group}, could not be read: {error}") from error


def _rows_of(read: Read, groups: Sequence[Group]) -> Iterator[Data]:
    names = read.names
    for group, batch in _batches(groups, names.all(), list(read.levels), read.rows):
        held = {name: batch.column(name) for name in names.all()}

        def column(name: str) -> Any:
            return np.asarray(held[name].to_numpy(zero_copy_only=False), read.dtype)  # noqa: B023

        def maybe(name: str | None) -> Any:
            return None if name is None else column(name)  # noqa: B023

        # Column after column, as they are in the file: turned when they are copied to their chunk, which costs least.
        width = sum(len(_columns(name, read.levels)) for name in names.x)
        x, j = read.pages.array((width, len(batch)), read.dtype), 0
        for name in names.x:
            if name in read.levels:
                codes = _codes(held[name], read.levels[name], group, name)
                stop = j + len(read.levels[name]) - 1
                x[j:stop] = 0
                (at,) = np.nonzero(codes)
                x[j - 1 + codes[at], at] = 1
                j = stop
            else:
                x[j] = held[name].to_numpy(zero_copy_only=False)
                j += 1
        y: Any = column(names.y) if isinstance(names.y, str) else np.stack([column(name) for name in names.y], axis=1)
        shift = maybe(names.offset)
        if names.exposure is not None:
            with np.errstate(all="ignore"):  # what is not a number is found where all rows are checked
                shift = np.log(column(names.exposure))
        yield Data(x.T, y, maybe(names.weight), shift, maybe(names.precision))


# Categories -----------------------------------------------------------------------------------------------------------


def _columns(name: str, levels: Mapping[str, Any]) -> list[str]:
    """The columns of x that a column of the file becomes."""
    return [f"{name}[T.{level}]" for level in list(levels[name])[1:]] if name in levels else [name]


def _coded(column: Any) -> tuple[list[Any], np.ndarray | None]:
    """The dictionary of a column and the rows' places in it, None where some rows have no value."""
    column = column if hasattr(column, "indices") else column.dictionary_encode()
    if column.null_count:
        return column.dictionary.to_pylist(), None
    return column.dictionary.to_pylist(), column.indices.to_numpy(zero_copy_only=False)


def _codes(column: Any, levels: dict[Any, int], group: Group, name: str) -> np.ndarray:
    """The rows' levels by number, 0 for the reference."""
    values, places = _coded(column)
    if places is None:
        raise ValueError(f"{group}: column {name!r} has rows without a level (null); drop them, or make it a level")
    codes = np.array([levels.get(value, -1) for value in values], np.int32)[places]
    if len(codes) and codes.min() < 0:
        level = values[places[np.argmin(codes)]]
        raise ValueError(
            f"{group}: column {name!r} has level {level!r}, which is none of its levels {_listed(levels)}; add it to "
            "levels, or drop those rows"
        )
    return codes


def _found_levels(read: Read, groups: list[Group], names: list[str]) -> dict[str, tuple[Any, ...]]:
    """The levels of categories, sorted: a pass over these columns alone."""
    found: dict[str, set[Any]] = {name: set() for name in names}
    for group, batch in _batches(groups, names, names, read.rows):
        for name in names:
            values, places = _coded(batch.column(name))
            if places is None:
                _codes(batch.column(name), {}, group, name)  # raises
            found[name].update(values[place] for place in np.unique(places))  # type: ignore[arg-type]
            if len(found[name]) > MOST:
                raise ValueError(
                    f"column {name!r} has more than {MOST} levels, such as {_listed(found[name])}: each would be a "
                    "column of x; give levels if that is meant, or leave it out"
                )
    return {name: tuple(sorted(values)) for name, values in found.items()}


def _checked_levels(name: str, values: tuple[Any, ...]) -> dict[Any, int]:
    """The code of each level."""
    coded = {value: i for i, value in enumerate(values)}
    if len(coded) < 2 or len(coded) < len(values):
        raise ValueError(f"levels of column {name!r} must be 2 or more different ones, got {_listed(values)}")
    return coded


def _listed(values: Any) -> str:
    some = list(map(repr, list(values)[:5]))
    return ", ".join(some) + (f", ... ({len(values)})" if len(values) > 5 else "")
