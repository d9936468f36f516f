"""The analysis of deviance: what each of a sequence of nested models gains on the one before it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from .hypotheses import likelihood_ratio
from .inferences import Inference
from .inputs import is_traced


class DevianceTable(NamedTuple):
    """Nested models, the smallest first: (m,) each, lanes before. The first has no `df`, `drop` and test: NaN.

    `drop` is by how much the deviance falls on `df` coefficients more; `statistic` is chi-squared with `df` degrees of
    freedom where the dispersion is known, else F with `df` and the last `df_resid`.
    """

    df_resid: Array
    deviance: Array
    df: Array
    drop: Array
    statistic: Array
    p_value: Array


def analysis_of_deviance(tables: Sequence[Inference]) -> DevianceTable:
    """The analysis of deviance of nested models that were fitted to the same rows, each against the one before it.

        drop / dispersion of the widest model, chi-squared with df degrees of freedom; or F, it / df

    as R's `anova(m0, m1, m2, test="Chisq")` or `"F"`: `likelihood_ratio` of each pair, at one dispersion. That is the
    last table's; one that is known goes into `inference(dispersion=)`. With an estimated alpha `drop` is twice the
    difference of the log-likelihoods instead. Not for penalized fits. Pure; lanes of all tables go together.

    Args:
        tables: two or more from `inference`, in order, the smallest model first.

    Returns:
        `DevianceTable`; a model with as many coefficients as the one before it has a p-value of NaN.

    Raises:
        ValueError: fewer than two tables; models of other rows or in another order; with and without an alpha.
        TypeError: what is no `Inference`.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.3.
    """
    if not isinstance(tables, list | tuple) or isinstance(tables, Inference):
        raise TypeError(f"tables must be a list of what inference returns, got {type(tables).__name__}")
    for table in tables:
        if not isinstance(table, Inference):
            raise TypeError(f"tables must hold what inference returns, got {type(table).__name__}")
    if len(tables) < 2:
        raise ValueError(f"need two models or more to compare, got {len(tables)}")
    for i in range(1, len(tables)):
        _check_pair(tables[i - 1], tables[i], i)
    last = tables[-1]
    tests = [
        likelihood_ratio(table._replace(dispersion=last.dispersion, df=last.df), before)
        for before, table in pairwise(tables)
    ]
    alpha = "alpha" in last.names
    drops = [
        2 * (table.log_likelihood - before.log_likelihood) if alpha else before.deviance - table.deviance
        for before, table in pairwise(tables)
    ]
    none = jnp.full_like(last.deviance, jnp.nan)

    def column(values: list[Array]) -> Array:
        return jnp.stack(values, axis=-1)

    return DevianceTable(
        df_resid=column([table.df_resid for table in tables]),
        deviance=column([table.deviance for table in tables]),
        df=column([none, *(test.df for test in tests)]),
        drop=column([none, *drops]),
        statistic=column([none, *(test.statistic for test in tests)]),
        p_value=column([none, *(test.p_value for test in tests)]),
    )


def _check_pair(before: Inference, table: Inference, i: int) -> None:
    """Raise where two tables are known not to be of nested models of the same rows."""
    if is_traced(before, table):
        return
    rows, others = (np.asarray(each.df_resid + each.edf) for each in (before, table))
    if rows.shape != others.shape:
        raise ValueError(f"tables[{i - 1}] and tables[{i}] have lanes of shapes {rows.shape} and {others.shape}")
    if np.any(np.abs(rows - others) > 1e-6 * np.abs(rows)):
        raise ValueError(
            f"tables[{i - 1}] is of {rows.flat[0]:g} rows and tables[{i}] of {others.flat[0]:g}; fit all models to the "
            "same rows"
        )
    if np.any(np.asarray(table.edf) < np.asarray(before.edf) - 1e-6):
        raise ValueError(f"tables[{i}] has fewer coefficients than tables[{i - 1}]; put the smallest model first")
