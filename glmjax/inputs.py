"""Input: whatever people hold (NumPy, JAX, pandas, polars, Arrow, lists) as one checked numeric array.

Checks run on the host, in NumPy, before JAX sees a value: with x64 off JAX itself would wrap a large integer and
turn 1e39 into infinity without a word. Traced arrays pass with their shapes checked only.
"""

import hashlib
import math
import numbers
import operator
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

_BLOCK = 1 << 17  # numbers that are copied and then looked at, in cache still
_CODED = ("category", "categorical", "enum", "dictionary")  # how pandas, polars and Arrow call coded columns


def is_traced(*values: Any) -> bool:
    """Whether any leaf of `values` is a tracer, so that only its shape can be checked."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def digest(value: Any, name: str = "") -> str:
    """What tells a value of this name from others: its structure and what its arrays hold, as 32 hexadecimal digits."""
    leaves, tree = jax.tree.flatten(value)
    words = re.sub(r" at 0x[0-9a-f]+", "", f"{name} {tree}")  # functions in descriptions lie anywhere in memory
    seen = hashlib.blake2b(words.encode(), digest_size=16)
    for leaf in leaves:
        key = isinstance(leaf, Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        seen.update(f"{array.shape} {array.dtype}".encode())
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()


def float_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype to compute in: float32 for 16- and 32-bit floats; else float64, or float32 where x64 is off."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize <= 4
    return np.dtype(np.float32 if narrow else jax.dtypes.canonicalize_dtype(np.float64))


def columns_of(frame: Any) -> Iterable[tuple[Any, Any]] | None:
    """(label, column) pairs of an Arrow, polars or pandas frame; None for anything else."""
    if hasattr(frame, "column_names"):  # Arrow
        return zip(frame.column_names, frame.columns, strict=True)
    if hasattr(frame, "iter_columns"):  # polars
        return ((column.name, column) for column in frame.iter_columns())
    if hasattr(frame, "items") and hasattr(frame, "columns"):  # pandas
        return frame.items()
    return None


def _numeric(value: Any, name: str, remedy: str) -> np.ndarray:
    """One array-like as a numeric NumPy array; `remedy` ends the message for what is not numeric."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ValueError(f"{name} has masked values, which are not supported; use .filled(value) or drop the rows")
        value = value.data
    if hasattr(value, "tocsr") and hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse matrix, but only dense arrays are supported; use {name}.toarray()")
    coded = str(getattr(value, "dtype", getattr(value, "type", ""))).lower()
    if coded.startswith(_CODED):
        raise TypeError(f"{name} is categorical ({coded.split('(')[0]}), not numeric; {remedy}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array of numbers: {error}") from None
    if array.dtype.kind == "O":
        array = _from_objects(array, name, remedy)
    _check_real(array.dtype, name, remedy)
    return array


def _check_real(dtype: np.dtype, name: str, remedy: str) -> None:
    if not (dtype.kind in "biuf" or jnp.issubdtype(dtype, jnp.floating)):  # bfloat16's kind is "V"
        raise TypeError(f"{name} must be numeric and real, got dtype {dtype}; {remedy}")


def _from_objects(array: np.ndarray, name: str, remedy: str) -> np.ndarray:
    """An object array as floats. One rule: real numbers are cast, None and NA count as NaN, all else is an error."""
    out = np.empty(array.shape, np.float64)
    for index, value in np.ndenumerate(array):
        if isinstance(value, numbers.Real | np.bool_):
            out[index] = value
        elif value is None or type(value).__name__ in ("NAType", "NaTType"):
            out[index] = np.nan
        else:
            where = ", ".join(map(str, index))
            raise TypeError(f"{name} must be numeric, got {type(value).__name__} {value!r} at index {where}; {remedy}")
    return out


def read_array(value: Any, name: str, remedy: str = "pass numbers") -> tuple[np.ndarray | Array, list[str] | None]:
    """Any array-like or frame as a numeric array, and the column labels where it has them.

    JAX arrays, traced or not, are returned as they are. Raises `TypeError` for what is not real numbers.
    """
    if isinstance(value, Array):
        _check_real(value.dtype, name, remedy)
        return value, None
    columns = columns_of(value)
    if columns is None:
        return _numeric(value, name, remedy), None
    pairs = [(str(label), _numeric(column, f"column {label!r} of {name}", remedy)) for label, column in columns]
    if not pairs:
        return np.empty((len(value), 0)), []
    return np.column_stack([column for _, column in pairs]), [label for label, _ in pairs]


def _place(index: tuple[int, ...], labels: list[str] | None) -> str:
    if len(index) == 1:
        return f"index {index[0]}"
    column = f"{index[1]}" if labels is None else f"{index[1]} ({labels[index[1]]!r})"
    return f"row {index[0]}, column {column}"


def largest(dtype: DTypeLike) -> float:
    """The size that features stay below, so that their squares do not overflow."""
    return math.sqrt(float(jnp.finfo(dtype).max))


def check_finite(
    array: Any,
    name: str,
    labels: list[str] | None = None,
    remedy: str = "drop or impute",
    squared: DTypeLike | None = None,
) -> None:
    """Raise a `ValueError` that names the first NaN or infinity of a concrete array, and where `squared` is given the
    first number whose square overflows that dtype.
    """
    if array.dtype.kind in "biu" or array.size == 0:
        return
    # The extremes tell all, and need no array of booleans.
    if isinstance(array, Array) and any(device.platform != "cpu" for device in array.devices()):
        with jax.ensure_compile_time_eval():  # on its device, and now, also inside a `jit`
            low, high = np.asarray(jnp.min(array)), np.asarray(jnp.max(array))
    else:
        array = np.asarray(array)
        with np.errstate(all="ignore"):
            low, high = array.min(), array.max()
    finite = np.isfinite(low) and np.isfinite(high)
    if finite and (squared is None or max(-float(low), float(high)) < largest(squared)):
        return
    array = np.asarray(array)
    bad = ~np.isfinite(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        found = "NaN" if np.isnan(array[index]) else str(array[index])
        raise ValueError(f"{name} contains {found} at {_place(index, labels)} ({bad.sum()} in total); {remedy}")
    assert squared is not None
    index = tuple(int(i) for i in np.argwhere(np.abs(array) >= largest(squared))[0])
    raise _too_large(array[index], name, squared, _place(index, labels))


def _too_large(value: Any, name: str, dtype: DTypeLike, place: str) -> ValueError:
    how = "overflows" if abs(value) > jnp.finfo(dtype).max else "is too large: its square overflows"
    wider = " or enable x64" if np.dtype(dtype) == np.float32 else ""
    return ValueError(f"{name} = {value} at {place} {how} {np.dtype(dtype)}; rescale{wider}")


def to_float(array: Any, name: str, dtype: DTypeLike, labels: list[str] | None = None) -> Array:
    """A checked array as a JAX array of `dtype`; a `ValueError` where a finite value would overflow it."""
    if is_traced(array) or (isinstance(array, Array) and array.dtype.itemsize <= np.dtype(dtype).itemsize):
        return array.astype(dtype)
    array, dtype = np.asarray(array), np.dtype(dtype)
    copy, low, high = _copied(array, dtype)
    if dtype.itemsize < array.dtype.itemsize and not (np.isfinite(low) and np.isfinite(high)):
        overflow = np.isinf(copy) & np.isfinite(array)
        if overflow.any():
            index = tuple(int(i) for i in np.argwhere(overflow)[0])
            raise _too_large(array[index], name, dtype, _place(index, labels))
    return jax.device_put(copy)


def checked_features(array: Any, name: str, dtype: DTypeLike, labels: list[str] | None = None) -> Array:
    """`check_finite` with squares, and `to_float`; of an array in the host's memory in one pass."""
    if not isinstance(array, np.ndarray):
        check_finite(array, name, labels, squared=dtype)
        return to_float(array, name, dtype, labels)
    copy, low, high = _copied(array, np.dtype(dtype))
    if not (-largest(dtype) < low and high < largest(dtype)):
        check_finite(array, name, labels, squared=dtype)
    return jax.device_put(copy)


def _copied(array: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float, float]:
    """A copy in `dtype`, and its lowest and highest number, NaN where there is one; by all cores where it is large."""
    copy = _aligned(array.shape, dtype)
    if array.size == 0:
        return copy, 0.0, 0.0
    rows = max(1, _BLOCK * len(array) // array.size)
    starts = range(0, len(array), rows)
    extremes = np.empty((len(starts), 2))
    cores = min(8, os.cpu_count() or 1, 1 + len(starts) // 8)

    def part(core: int) -> None:
        for i in range(core, len(starts), cores):
            block = copy[starts[i] : starts[i] + rows]
            with np.errstate(all="ignore"):
                np.copyto(block, array[starts[i] : starts[i] + rows], casting="unsafe")
                extremes[i] = block.min(), block.max()

    with ThreadPoolExecutor(cores) as pool:  # NumPy lets go of Python's lock; threads start when they are first needed
        others = [pool.submit(part, core) for core in range(1, cores)]
        part(0)
        for other in others:
            other.result()
    return copy, float(extremes.min()), float(extremes.max())


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array where JAX's CPU backend can use it in place: its own copy of a large one takes 5 times as long."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def check_number(value: Any, name: str, *, above: float | None = None, at_least: float | None = None) -> None:
    """Raise unless `value` is one finite number in range; traced values pass, and a fit gives their lane a status."""
    if is_traced(value):
        return
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be one number, got shape {np.shape(value)}; to run several, jax.vmap over it")
    if isinstance(value, str | bytes | complex) or value is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    value = np.asarray(value)  # so that a JAX number is compared here and not by a compiled program
    if above is not None and not (value > above and np.isfinite(value)):
        raise ValueError(f"{name} must be a finite number above {above}, got {value}")
    if at_least is not None and not (value >= at_least and np.isfinite(value)):
        raise ValueError(f"{name} must be a finite number, {at_least} or more, got {value}")


def check_level(level: Any) -> None:
    """Raise unless `level` is one number above 0 and below 1."""
    check_number(level, "level")
    if not is_traced(level) and not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}; 0.95 is 95%")


def check_count(value: Any, name: str, at_least: int = 1) -> int:
    """`value` as a Python integer; raises for other types and for values below `at_least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if count < at_least:
        raise ValueError(f"{name} must be {at_least} or more, got {count}")
    return count


def check_key(key: Any) -> None:
    """Raise unless `key` is one JAX random key, typed or of the old uint32 style; None passes."""
    if key is None:
        return
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if (typed and shape == ()) or (dtype == np.uint32 and shape is not None and len(shape) == 1):
        return
    found = repr(key) if shape is None else f"shape {shape} of {dtype}"
    raise TypeError(f"key must be one JAX random key, such as jax.random.key(0), got {found}; for many, jax.vmap")


def per_row(values: Array, like: Array) -> Array:
    """(n,) values with axes of length 1 added, to go with `like`, (n, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
