"""Rows in buckets: data of nearly the same size share their compiled programs, filled up with rows that weigh 0.

Columns are as they are, since one of zeros has no estimate; but where each has a penalty it is 0 there, and a program
that takes ten seconds to compile may be shared so.
"""

from typing import NamedTuple

import numpy as np

from .data import Data, make_data
from .distributions import Family

LEAST, NARROW = 128, 16  # rows, and columns of few rows: so few cost little
FEW = 4096  # rows


class Rows(NamedTuple):
    """Rows as NumPy has them: x (n, d), y (n,), weight (n,), offset (n,) or None."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    offset: np.ndarray | None = None


def bucket(n: int, least: int = LEAST) -> int:
    """How many rows n are filled up to: n with all but its three leading binary digits rounded up, or `least`.

    Four sizes an octave, so at most a quarter more than n, and an eighth on average.
    """
    step = 1 << max(0, n.bit_length() - 3)
    return max(least, -(-n // step) * step)


def filled(column: np.ndarray, least: int = LEAST) -> np.ndarray:
    """A column, or columns, with zeros up to the bucket's size."""
    missing = bucket(len(column), least) - len(column)
    return np.concatenate([column, np.zeros((missing, *column.shape[1:]), column.dtype)])


def bucket_data(rows: Rows, family: Family, least: int = LEAST) -> Data:
    """`make_data` of rows, filled up to their bucket; raises as that."""
    y = filled(rows.y, least)
    y[len(rows.y) :] = rows.y[np.argmax(rows.weight != 0)]  # a target like any other
    offset = None if rows.offset is None else filled(rows.offset, least)
    return make_data(filled(rows.x, least), y, family=family, weight=filled(rows.weight, least), offset=offset)


def widened(x: np.ndarray) -> np.ndarray:
    """Columns of zeros up to sixteen where there are few rows; for penalized fits, whose coefficients there are 0."""
    missing = NARROW - x.shape[1] if len(x) <= FEW else 0
    return x if missing <= 0 else np.concatenate([x, np.zeros((len(x), missing))], axis=1)
