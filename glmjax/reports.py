"""Tables as people read them."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from .inferences import Inference
from .inputs import check_count
from .tails import two_sided_tail


def summary(
    table: Inference, *, adjust: Callable[[Array], Array] | None = None, stars: bool = False, rows: int = 60
) -> str:
    """What R's `summary` prints of a fit, as text; of a batch a row for each lane and coefficient.

    Args:
        table: from `inference`, of one fit or of lanes along one axis.
        adjust: `holm` or `benjamini_hochberg`: p-values of lanes, adjusted for each coefficient over the lanes.
        stars: whether to mark p-values below 0.05, 0.01 and 0.001 by one to three stars.
        rows: how many rows of a batch to print.

    Raises:
        ValueError: lanes along several axes; `adjust` without lanes.

    Reference: R Core Team, `print.summary.glm`.
    """
    rows = check_count(rows, "rows")
    axes = np.ndim(table.estimate) - 1
    if axes > 1:
        raise ValueError(f"table has lanes along {axes} axes; reshape each field to one")
    if adjust is not None and not axes:
        raise ValueError("adjust is for the p-values of many lanes, and the table is of one fit")
    p_value = table.p_value if adjust is None else adjust(table.p_value)
    names = [
        (f"lane {i}",) * bool(axes) + (name,) for i in range(len(np.atleast_1d(table.aic))) for name in table.names
    ]
    fields = (table.estimate, table.std_error, table.statistic, p_value, table.lower, table.upper)
    numbers = np.stack([np.asarray(field, float).reshape(-1) for field in fields], axis=1)
    letter = "z" if np.all(np.isinf(table.df)) else "t"
    share = f"{100 * _level(table):.4g}%"
    found = "p, adjusted" if adjust else f"P(>|{letter}|)"
    head = ("",) * len(names[0]) + ("estimate", "std error", letter, found, f"{share} from", "to") + ("",) * stars
    cells = [head]
    for name, row in zip(names[:rows], numbers, strict=False):
        mark = ("*" * sum(row[3] < bar for bar in (0.05, 0.01, 0.001)),) * stars
        cells.append((*name, *(_number(value, p=i == 3) for i, value in enumerate(row)), *mark))
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = len(names[0])
    lines = [
        "  ".join(f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, wide, strict=True)))
        for row in cells
    ]
    lines = [line.rstrip() for line in lines]
    if axes:
        return "\n".join(lines + [f"... {len(names) - rows} rows more"] * (len(names) > rows))
    known = "taken to be" if letter == "z" else "estimated as"
    lines += [
        "",
        f"dispersion {known} {_number(table.dispersion)}",
        f"deviance {_number(table.deviance)} on {_number(table.df_resid)} degrees of freedom, "
        f"null {_number(table.null_deviance)}",
        f"log-likelihood {_number(table.log_likelihood)}, AIC {_number(table.aic)}, BIC {_number(table.bic)}",
    ]
    return "\n".join(lines)


def _level(table: Inference) -> float:
    """The level of the intervals, from their width."""
    df = jnp.broadcast_to(jnp.asarray(table.df)[..., None], table.estimate.shape)
    reach = (table.upper - table.estimate) / table.std_error
    tail = jnp.where(jnp.isinf(df), two_sided_tail(reach, None), two_sided_tail(reach, jnp.where(jnp.isinf(df), 1, df)))
    return round(float(1 - np.nanmedian(np.asarray(tail))), 6)


def _number(number: Array, p: bool = False) -> str:
    """A number in five digits; a p-value in three, as R down to 2e-16."""
    value = float(number)
    if np.isnan(value):
        return "NA"
    if p and value < 2e-16:
        return "<2e-16"
    return (f"{value:.3f}" if value >= 0.001 else f"{value:.1e}") if p else f"{value:.5g}"
