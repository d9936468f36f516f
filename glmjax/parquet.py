"""`parquet_source`: columns of Parquet files as rows of `Data`, text and dictionaries as one column a level."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .chunking import Pages
from .data import Data
from .inputs import check_count
from .rowgroups import Group, Names, batches, files_of, footer_of, run_of
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
    if not names.y:
        raise ValueError("y is empty; name the targets' column, or several")
    if levels is not None and not isinstance(levels, Mapping):
        raise TypeError(f'levels must be such as {{"region": ("North", "South")}}, got {type(levels).__name__}')
    given = {name: tuple(values) for name, values in (levels or {}).items()}
    strange = [name for name in given if name not in names.x]
    if strange:
        raise ValueError(f"levels has {strange[0]!r}, which is no column of x; those are {', '.join(names.x)}")
    rows = check_count(rows, "rows")
    files = files_of(paths)
    footers = [footer_of(file, names, given) for file in files]
    categories = footers[0].categories
    for file, footer in zip(files, footers, strict=True):
        if footer.categories != categories:
            name = min(footer.categories ^ categories)
            raise TypeError(f"column {name!r} holds text in some files and numbers in others, such as {file.path}")
    groups = [group for footer in footers for group in footer.groups]
    if not groups:
        raise ValueError(f"{files[0].path} has no rows; nothing can be fitted to no data")
    read = Read(names, {}, np.result_type(*(footer.dtype for footer in footers)), rows, Pages())
    missing = [name for name in names.x if name in categories and name not in given]
    given |= _found_levels(read, groups, missing) if missing else {}
    coded = {name: _checked_levels(name, given[name]) for name in names.x if name in categories}
    read = read._replace(levels=coded)
    chosen = run_of(groups, part)
    return Source(
        partial(_rows_of, read, chosen),
        tuple(Part(group.rows, partial(_rows_of, read, [group])) for group in chosen),
        tuple(name for column in names.x for name in _columns(column, coded)),
    )


class Read(NamedTuple):
    """How rows are read: columns, the code of each level of a category, x's dtype, rows at a time."""

    names: Names
    levels: dict[str, dict[Any, int]]
    dtype: np.dtype
    rows: int
    pages: Pages


def _rows_of(read: Read, groups: Sequence[Group]) -> Iterator[Data]:
    names = read.names
    for group, batch in batches(groups, names.all(), list(read.levels), read.rows):
        held = {name: batch.column(name) for name in names.all()}

        def column(name: str) -> Any:
            return np.asarray(held[name].to_numpy(zero_copy_only=False), read.dtype)  # noqa: B023

        def maybe(name: str | None) -> Any:
            return None if name is None else column(name)

        # Column after column, as they are in the file: turned when they are copied to their chunk, which costs least.
        width = sum(len(_columns(name, read.levels)) for name in names.x)
        x: Any = read.pages.array((width, len(batch)), read.dtype)
        j = 0
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
    for group, batch in batches(groups, names, names, read.rows):
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
