"""Columns of data frames (pandas, polars, Arrow, dicts) as numbers and text, and what is wrong with them in words."""

import csv
import re
from collections.abc import Mapping
from decimal import Decimal
from io import BytesIO, StringIO
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_atomic


def imported() -> Any:
    """narwhals, with formulaic beside it; or a sentence that says how to get them."""
    try:
        import formulaic  # noqa: F401
        import narwhals
    except ImportError as error:
        raise ImportError("formulas and data frames need formulaic: pip install 'glmjax[frames]'") from error
    return narwhals


def columns_in(frame: Any) -> list[str]:
    """The names of a frame's columns."""
    names = list(frame) if isinstance(frame, Mapping) else _wide(frame).columns
    twice = [name for i, name in enumerate(map(str, names)) if name in map(str, names[:i])]
    if twice:
        raise ValueError(f"the frame has more than one column {twice[0]!r}; rename them")
    return [str(name) for name in names]


def _wide(frame: Any) -> Any:
    """A frame as narwhals has it."""
    try:
        return imported().from_native(frame, eager_only=True)
    except TypeError:
        raise TypeError(
            f"frame must be a pandas, polars or Arrow data frame, or a dict of columns, got {type(frame).__name__}"
        ) from None
    except ValueError as error:  # a name that is there twice
        raise ValueError(f"the frame cannot be read: {' '.join(str(error).split())}") from None


def read_columns(frame: Any, names: list[str]) -> Any:
    """Those columns of a frame as a pandas frame of numbers, text and categories; missing values are None or NaN."""
    import pandas as pd

    if isinstance(frame, Mapping):
        frame = pd.DataFrame(_columns_of({str(name): value for name, value in frame.items()}, names))
    wide = _wide(frame)
    if len(wide) == 0:
        raise ValueError("the frame has 0 rows; nothing can be done with no data")
    keys = {str(key): key for key in wide.columns}  # pandas may have numbers for names
    read = {}
    for name in names:
        column = wide.get_column(keys[name])
        whole = column.dtype.is_integer() and column.null_count() > 0  # which pandas may have made floats of
        read[name] = _readable(column.to_pandas().astype("Int64") if whole else column.to_pandas(), name)
    return pd.DataFrame(read, index=range(len(wide)))


def _columns_of(frame: Mapping, names: list[str]) -> dict[str, Any]:
    """The columns of a dict, (n,) each."""
    import pandas as pd

    for name in names:
        if np.ndim(frame[name]) != 1:
            raise ValueError(f"column {name!r} of the dict must be (n,), got shape {np.shape(frame[name])}")
    lengths = {name: len(frame[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns are of different lengths: {lengths}")
    # NumPy would make text of a list's numbers and missing values, and forget the order of categories.
    kept = (pd.Series, pd.Categorical, list, tuple)
    read = {name: frame[name] if isinstance(frame[name], kept) else np.asarray(frame[name]) for name in names}
    return {name: pd.Series(value).reset_index(drop=True) for name, value in read.items()}


def _readable(column: Any, name: str) -> Any:
    """A pandas column of float64, int64 (Int64 while it misses some), bool, or categories, which text is made."""
    import pandas as pd

    column = column.reset_index(drop=True)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if "dictionary" in str(column.dtype):
        column, kind = column.astype("category"), "categorical"
    if kind in ("string", "categorical"):
        column = column.astype("category").cat.remove_unused_categories()
        return column.cat.rename_categories([_level(level) for level in column.cat.categories])
    if kind in ("boolean", "integer", "floating", "mixed-integer-float", "decimal", "empty"):
        if kind == "integer" and column.dtype != np.uint64:
            return column.astype("Int64" if column.isna().any() else np.int64)
        return column if column.dtype == bool else pd.Series(column.to_numpy(np.float64, na_value=np.nan))
    if not kind.startswith("mixed"):
        remedy = "text must be UTF-8" if kind == "bytes" else "make numbers of it"
        raise TypeError(f"column {name!r} holds {kind}, which is neither number nor text; {remedy}")
    held = column.dropna()
    text = held.map(lambda value: isinstance(value, str))
    other = held[~text & ~held.map(lambda value: isinstance(value, Real | Decimal))]
    strange = other if len(other) else held[text if 2 * text.sum() <= len(held) else ~text]
    raise TypeError(
        f"column {name!r} holds {strange.iloc[0]!r} in row {strange.index[0]}, of type "
        f"{type(strange.iloc[0]).__name__}, among others; it must be all numbers or all text"
    )


def _level(level: Any) -> Any:
    """A category as a file can hold it: intervals and dates are text."""
    level = level.item() if isinstance(level, np.generic) else level
    return level if isinstance(level, str | bool | int | float) else str(level)


def check_text(column: Any, name: str) -> None:
    """Raise where a column of text is mostly numbers: one bad entry makes a file's column text."""
    if kind_of(column) != "text":
        return
    levels = [level for level in column.cat.categories if isinstance(level, str)]
    strange = [level for level in levels if not _is_number(level)]
    commas = [level for level in levels if re.fullmatch(r"[-+]?\d+(,\d+)+(\.\d*)?", level)]
    if len(commas) > len(levels) / 2:
        raise TypeError(f"column {name!r} is text, such as {commas[0]!r}; write numbers with a point and no comma")
    if 0 < len(strange) <= len(levels) / 2:
        row = int(np.argmax((column == strange[0]).to_numpy()))
        raise TypeError(
            f"column {name!r} is text, for row {row} has {strange[0]!r} where others are numbers; correct it, or write "
            f"C({name}) if it is a category"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def missing_rows(table: Any) -> np.ndarray:
    """Which rows miss a value, (n,)."""
    return np.any(table.isna().to_numpy(), axis=1)


def rows_kept(table: Any, kept: np.ndarray) -> Any:
    """Some rows of a table; levels that none of them has are none, as in R."""
    part = table[kept].reset_index(drop=True)
    part = part.astype({name: np.int64 for name in part.columns if part[name].dtype == "Int64"})
    return part.apply(lambda column: column.cat.remove_unused_categories() if kind_of(column) == "text" else column)


def first_missing(table: Any) -> str:
    """Where the first missing value is, and how many rows have one, in words."""
    gone = table.isna().to_numpy()
    rows = np.any(gone, axis=1)
    row = int(np.argmax(rows))
    name = table.columns[int(np.argmax(gone[row]))]
    return f"column {name!r} has no value in row {row}, one of {rows.sum()} rows of {len(rows)} that miss some"


def kind_of(column: Any) -> str:
    """What a column that was read holds: "numbers", or "text", of which categories are made."""
    return "text" if column.dtype.name == "category" else "numbers"


# Files ----------------------------------------------------------------------------------------------------------------


def read_file(path: Path, mentions: list[str]) -> Any:
    """The columns of a CSV or Parquet file that are mentioned, as an Arrow table."""
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("files are read by pyarrow: pip install 'glmjax[frames]'") from error
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no plain file, such as can be read twice; save it to one"
        raise ValueError(f"is {kind}" if path.exists() else "there is no such file")
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    kinds = [suffix.lower() for suffix in path.suffixes]
    is_parquet = kinds[-1:] in ([".parquet"], [".pq"])
    try:
        if is_parquet:
            names = parquet.read_schema(path).names
            wanted = [name for name in names if any(name in text for text in mentions)]
            everything = any(re.search(r"~.*(?<![\w.)])\.(?![\w.])", text) for text in mentions)  # y ~ .
            return parquet.read_table(path, columns=None if everything else wanted)
        table = arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(delimiter="\t" if ".tsv" in kinds else ","),
            convert_options=arrow_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if is_parquet else "CSV"
        raise ValueError(
            f"cannot be read as {kind}, which its name says it is: {str(error).splitlines()[0]}"
        ) from error
    other = [mark for mark in (";", "\t", "|") if len(table.column_names) == 1 and mark in table.column_names[0]]
    if other:
        raise ValueError(f"its columns are separated by {other[0]!r}; save it with commas, or tabs as .tsv")
    return table


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Columns as a Parquet file, or as CSV; written whole or not at all."""
    if path.suffix.lower() not in (".parquet", ".pq", ".csv", ".txt", ""):
        raise ValueError(f"{path} is neither .csv nor .parquet, and these are what can be written")
    if path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        from pyarrow import parquet

        whole = BytesIO()
        parquet.write_table(pa.table(columns), whole)
        write_atomic(path, lambda file: file.write(whole.getvalue()))
    else:
        write_atomic(path, lambda file: file.write(csv_text(columns).encode()))


def csv_text(columns: dict[str, np.ndarray]) -> str:
    """Columns as CSV, in digits that give the same numbers back; NaN is left empty."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        writer.writerow(["" if value != value else value for value in row])
    return text.getvalue()
