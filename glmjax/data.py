"""`Data`: the rows a model is fitted to, and `make_data`, the one door they come in by."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .distributions import Family
from .inputs import check_finite, checked_features, float_dtype, is_traced, largest, per_row, read_array, to_float
from .meshes import device_any

_ENCODE = "encode labels to 0..K-1 with np.unique(labels, return_inverse=True)[1], or make the column numeric"

_FAMILIES = (
    "normal, bernoulli, binomial, quasi_binomial, categorical, poisson, quasi_poisson, negative_binomial, "
    "negative_binomial1, gamma, inverse_gaussian, tweedie"
)


class Data(NamedTuple):
    """Rows of a problem, all in x's dtype: n observations of d features.

    `x` (n, d); `y` (n,), or (n, k) for several outputs; `weight` (n,) or None, how many copies of each row there
    are; `offset` (n,) or None, added to the linear predictor; `precision` (n,) or None, prior (analytic) weights.
    Make it with `make_data`, which checks; `data._replace(y=...)` then swaps a part, under `vmap` too.
    """

    x: Array
    y: Array
    weight: Array | None = None
    offset: Array | None = None
    precision: Array | None = None


def make_data(
    x: Any,
    y: Any,
    *,
    family: Family | None = None,
    weight: Any = None,
    precision: Any = None,
    offset: Any = None,
) -> Data:
    """Check inputs on the host and return them as `Data`; NumPy, JAX, pandas, polars, Arrow or lists.

    Rows are matched by position (an index is ignored). Everything takes x's dtype: float32 for 16- and 32-bit
    floats, else float64, or float32 where x64 is off (float64 NumPy input then gets a warning). A row of weight 0
    is inert whatever it holds. Under `jit` and `vmap` shapes are checked, and values where they and the weights are
    known.

    Args:
        x: features, (n, d).
        y: targets, (n,): numbers, counts, 0/1 or class labels 0..K-1; (n, k) for k outputs.
        family: where given, y is held against its shape and support.
        weight: copies of each row, (n,), 0 or more: weight k is k rows everywhere.
        precision: R's prior (analytic) weights, (n,), above 0: the row's variance is dispersion / precision.
        offset: added to the linear predictor, (n,); the log of the exposure for a rate.

    Returns:
        `Data`.

    Raises:
        ValueError: NaN or infinity, x so large that its square overflows, a shape that does not fit, no rows, a target
            outside the family's support, weights that are negative or all 0; the message names the argument, the place
            and the remedy.
        TypeError: strings, categories, dates, complex numbers, sparse matrices, other objects.
    """
    chosen = not isinstance(x, list | tuple)  # whoever passes an array or a frame chose its dtype
    if family is not None:
        check_family(family)
    x, labels = read_array(x, "x", "one-hot encode categories and drop other columns")
    if x.ndim != 2:
        hint = "use x[:, None] for one feature" if x.ndim == 1 else "for a batch of data sets vmap over the first axis"
        raise ValueError(f"x must be 2-d (n, d), got shape {x.shape}; {hint}")
    if x.shape[0] == 0:
        raise ValueError("x has 0 rows; nothing can be fitted to no data")
    n, dtype = x.shape[0], float_dtype(x.dtype)
    if chosen and dtype == np.float32 and x.dtype.kind == "f" and x.dtype.itemsize > 4:
        warnings.warn(
            f"x is {x.dtype} but JAX runs in float32, about 7 digits; cast x to float32 to say that is fine, "
            'or call jax.config.update("jax_enable_x64", True) first',
            stacklevel=2,
        )

    y, _ = read_array(y, "y", _ENCODE)
    _check_target_shape(y, n, family)
    weight, precision, offset = (
        _column(value, name, n) for value, name in ((weight, "weight"), (precision, "precision"), (offset, "offset"))
    )
    if weight is not None and not is_traced(weight):
        check_finite(weight, "weight")
        _check_positive(weight, "weight", zero=True)
        inert = np.asarray(weight) == 0
        if inert.all():
            raise ValueError("weight is 0 in every row; at least one row must count")
        # What such rows hold: zeros, the target of a row that counts, a precision of 1.
        counted = int(np.argmin(inert))
        x, y, offset, precision = (
            _replace(value, inert, filler)
            for value, filler in ((x, 0), (y, None if is_traced(y) else y[counted]), (offset, 0), (precision, 1))
        )
    known = not is_traced(weight)  # any row may be inert where the weights are not known
    features = (checked_features if known and not is_traced(x) else to_float)(x, "x", dtype, labels)
    if known:
        _check_values(y, precision, offset, family)

    def cast(value: Any, name: str) -> Any:
        return None if value is None else to_float(value, name, dtype)

    data = Data(
        x=features,
        y=cast(y, "y"),
        weight=cast(weight, "weight"),
        offset=cast(offset, "offset"),
        precision=cast(precision, "precision"),
    )
    if not is_traced(y) and dtype == np.float32 and _rounded(np.asarray(y)):
        warnings.warn("y has whole numbers above 16777216, which float32 rounds; enable x64", stacklevel=2)
    return data


def check_family(family: Any) -> None:
    """Raise unless `family` is a `Family`."""
    if not isinstance(family, Family):
        raise TypeError(f"family must be a Family, such as gj.poisson(), got {family!r}; the families are {_FAMILIES}")


def _column(value: Any, name: str, n: int) -> Any:
    if value is None:
        return None
    value, _ = read_array(value, name)
    if value.shape != (n,):
        raise ValueError(f"{name} must be ({n},), one number a row of x, got shape {value.shape}")
    return value


def _replace(value: Any, rows: np.ndarray, filler: Any) -> Any:
    """A copy of `value` that holds `filler` in the given rows; None and traced values as they are."""
    if value is None or is_traced(value) or not rows.any():
        return value
    value = np.array(value)
    value[rows] = filler
    return value


def _check_values(y: Any, precision: Any, offset: Any, family: Family | None) -> None:
    if not is_traced(y):
        check_finite(y, "y")
        if family is not None:
            _check_support(y, family)
    if precision is not None and not is_traced(precision):
        check_finite(precision, "precision")
        _check_positive(precision, "precision", zero=False)
    if offset is not None and not is_traced(offset):
        check_finite(offset, "offset", remedy="-inf is the log of an exposure of 0, NaN of one below 0: drop the row")


def _rounded(y: np.ndarray) -> bool:
    """Whether y holds whole numbers that float32 cannot hold."""
    return y.dtype.itemsize > 2 and y.dtype != np.float32 and np.abs(y).max() > 2**24 and bool((y // 1 == y).all())


def _check_target_shape(y: Any, n: int, family: Family | None) -> None:
    if y.ndim == 0 or y.shape[0] != n:
        raise ValueError(f"x has {n} rows, y has {'no rows' if y.ndim == 0 else y.shape[0]}; give one target a row")
    if y.ndim == 2 and y.shape[1] == 1:
        raise ValueError(f"y must be ({n},), got ({n}, 1); use y[:, 0]")
    if y.ndim > 2:
        raise ValueError(f"y must be (n,) or (n, k), got shape {y.shape}")
    if family is not None:
        check_target(y, family)


def check_target(y: Any, family: Family) -> None:
    """Raise unless y, (n, ...), has the shape that the family's targets have."""
    expected = (y.shape[0], *family.target_shape)
    if y.shape != expected:
        hint = "; normal(n_outputs=k) takes k targets a row" if family.name == "normal" else ""
        if family.target_shape == (2,) and family.name.endswith("binomial"):
            hint = "; give counts of successes and of failures, np.stack([successes, trials - successes], axis=1)"
        hint = "; turn one-hot rows into labels by y.argmax(axis=1)" if family.n_classes else hint
        raise ValueError(f"y must have shape {expected} for the {family.name} family, got {y.shape}{hint}")


def _check_positive(value: Any, name: str, *, zero: bool) -> None:
    value = np.asarray(value)
    bad = value < 0 if zero else value <= 0
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"{name}[{i}] = {value[i]}; it must be {'0 or more' if zero else 'above 0'}")


def _check_support(y: Any, family: Family) -> None:
    y = np.asarray(y, np.float64)
    bad = ~np.asarray(family.support(y))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(map(str, index))
        classes = f" (n_classes={family.n_classes})" if family.n_classes else ""
        raise ValueError(
            f"y[{where}] = {y[index]} is not a target of the {family.name} family{classes}; each must be "
            f"{family.distribution.domain}"
        )


def clean(data: Data) -> Data:
    """All parts in x's dtype, and rows of x that cannot be computed with (NaN, infinite, or their square overflows)
    turned into zeros with a NaN target and weight: inert at weight 0, and if not, seen in the loss.

    Decided from x alone: a mask by weight would make x differ between the lanes of a `vmap` over weights, and the
    one matrix product they share would be gone. Without weights no row is inert, and x passes as it is.
    """
    data = jax.tree.map(lambda part: jnp.asarray(part).astype(data.x.dtype), data)
    if data.weight is None:
        return data
    usable = _usable(data.x)
    x = jnp.where(usable[:, None], data.x, 0)
    weight = jnp.where(usable | (data.weight == 0), data.weight, jnp.nan)  # a label cannot be NaN
    return data._replace(x=x, y=jnp.where(per_row(usable, data.y), data.y, jnp.nan), weight=weight)


def cleaned(data: Data) -> Data:
    """The same rows, cleaned once, for passes over them: what they weigh is their precision, and there is no weight
    that may hide what `clean` would have to look for each time. Costs a copy of x.
    """
    data = clean(data)
    return data._replace(weight=None, precision=row_weight(data))


def _usable(x: Array) -> Array:
    """Which rows of x can be computed with, (n,): numbers whose squares do not overflow."""
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=1, initial=0)
    return size < largest(x.dtype)  # not so for NaN


def valid_rows(data: Data) -> Array:
    """Whether x, weight, offset and precision are in range, and some row counts; a row of weight 0 may hold anything.

    What `make_data` checks on the host, for the lanes that it could not see.
    """
    rows = _usable(data.x)
    if data.offset is not None:
        rows &= jnp.isfinite(data.offset)
    if data.precision is not None:
        rows &= (data.precision > 0) & jnp.isfinite(data.precision)
    if data.weight is None:
        return ~device_any(jnp.any(~rows))
    rows = (rows | (data.weight == 0)) & (data.weight >= 0) & jnp.isfinite(data.weight)
    return ~device_any(jnp.any(~rows)) & device_any(jnp.any(data.weight > 0))


def row_weight(data: Data) -> Array | None:
    """What each row counts in the objective, (n,): weight * precision; None where every row counts 1."""
    if data.weight is None or data.precision is None:
        return data.precision if data.weight is None else data.weight
    inert = (data.weight == 0) & ~jnp.isfinite(data.precision)
    return data.weight * jnp.where(inert, 0, data.precision)
