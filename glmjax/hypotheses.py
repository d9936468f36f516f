"""Tests of hypotheses about a linear model's coefficients: Wald's, the likelihood ratio, and Rao's score test."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data
from .inferences import Inference, no_errors
from .influence import effects_task
from .inputs import is_traced, read_array, to_float
from .linear import Task
from .losses import pearson_chi2
from .optima import make_optimum, row_scores
from .predictors import Dense
from .programs import quick_jit
from .results import Fit
from .rows import chunk_rows, row_fold
from .tails import chi2_tail, f_tail


class HypothesisTest(NamedTuple):
    """A test: the `statistic`, its `p_value`, `df` and `df_resid`.

    Where the dispersion is known the statistic is chi-squared with `df` degrees of freedom, and `df_resid` infinite;
    else it is F with `df` and `df_resid`.
    """

    statistic: Array
    df: Array
    df_resid: Array
    p_value: Array


def judged(chi2: Array, df: Array, df_resid: Array | None) -> HypothesisTest:
    """The test by a statistic that is chi-squared but for the dispersion's error; `df_resid` None where it is known."""
    df = jnp.asarray(df, chi2.dtype)
    if df_resid is None:
        return HypothesisTest(chi2, df, jnp.full_like(chi2, jnp.inf), chi2_tail(chi2, df))
    known = jnp.isinf(df_resid)
    p_f = f_tail(chi2 / df, df, jnp.where(known, 1, df_resid))
    statistic = jnp.where(known, chi2, chi2 / df)
    return HypothesisTest(statistic, df, df_resid, jnp.where(known, chi2_tail(chi2, df), p_f))


def wald(table: Inference, hypothesis: Any, value: Any = 0.0) -> HypothesisTest:
    """Wald's test of `L beta = value`: `(L beta - value)' (L covariance L')^-1 (L beta - value)`, or F, it / rows of L.

    With the covariance that the table was made with, so robust where that is. That coefficients 1 and 2 are 0 is
    `wald(table, jnp.eye(len(table.names))[1:3])`; that they are equal, `wald(table, [0, 1, -1, 0])`.

    Args:
        table: from `inference`.
        hypothesis: L, (r, q) or (q,), in the order of `table.names`; its rows must be independent.
        value: (r,), or one number.

    Returns:
        `HypothesisTest`; NaN where L asks for a coefficient without an error, or its rows depend on each other.

    Raises:
        ValueError: shapes that do not fit; a table with lanes (`jax.vmap` over them).

    Reference: Wald, Transactions of the American Mathematical Society 54 (1943).
    """
    q = len(table.names)
    if np.ndim(table.estimate) != 1:
        raise ValueError(f"table has lanes, its estimates are of shape {np.shape(table.estimate)}; jax.vmap over them")
    dtype = table.estimate.dtype
    matrix = jnp.atleast_2d(jnp.asarray(hypothesis, dtype))
    if matrix.ndim != 2 or matrix.shape[1] != q:
        raise ValueError(f"hypothesis must be (r, {q}), a column a coefficient, got shape {np.shape(hypothesis)}")
    if np.shape(value) not in ((), (matrix.shape[0],)):
        raise ValueError(f"value must be one number or ({matrix.shape[0]},), got shape {np.shape(value)}")
    return _wald(table, matrix, jnp.broadcast_to(jnp.asarray(value, dtype), matrix.shape[:1]))


@quick_jit
def wald_each(table: Inference, asked: Array) -> HypothesisTest:
    """Wald's tests that the coefficients which each row of `asked`, (m, q), marks are 0; one program for all."""

    def one(asked: Array) -> HypothesisTest:
        spread = jnp.where(asked[:, None] & asked[None], table.covariance, jnp.diag(jnp.where(asked, 0.0, 1.0)))
        half = _half(spread, jnp.where(asked, table.estimate, 0))
        return judged(half @ half, jnp.sum(asked), table.df)

    return jax.vmap(one)(asked)


def _half(spread: Array, gap: Array) -> Array:
    """What has the square `gap' spread^-1 gap`, by Cholesky of the correlations; NaN where they are singular."""
    scale = 1 / jnp.sqrt(jnp.diag(spread))
    upper = jnp.linalg.cholesky(spread * scale[:, None] * scale[None]).T
    # A sandwich of fewer clusters than coefficients has pivots that are rounding errors, and would give 1e17.
    regular = jnp.all(jnp.diag(upper) ** 2 > 10 * len(gap) * jnp.finfo(gap.dtype).eps)
    return jnp.where(regular, jax.scipy.linalg.solve_triangular(upper, scale * gap, trans=1), jnp.nan)


@quick_jit
def _wald(table: Inference, matrix: Array, value: Array) -> HypothesisTest:
    used = jnp.any(matrix != 0, axis=0)  # 0 times the NaN of an aliased coefficient that is not asked for
    gap = matrix @ jnp.where(used, table.estimate, 0) - value
    spread = matrix @ jnp.where(used[:, None] & used[None], table.covariance, 0) @ matrix.T
    half = _half(spread, gap)
    return judged(half @ half, jnp.asarray(len(matrix)), table.df)


def likelihood_ratio(table: Inference, restricted: Inference) -> HypothesisTest:
    """The likelihood-ratio test of a model against one nested in it, fitted to the same rows.

        (restricted.deviance - table.deviance) / table.dispersion

    chi-squared, or F, it / df with the wider model's dispersion, as R's `anova`. With an estimated alpha it is twice
    the difference of the log-likelihoods instead. Not for penalized fits, nor for robust covariances, which the
    deviance knows nothing of. Pure; lanes of both go together.

    Args:
        table: from `inference`, of the wider model.
        restricted: of the model that is nested in it.

    Returns:
        `HypothesisTest`; NaN where the restricted model has as many coefficients.

    Raises:
        ValueError: one of the models has an estimated alpha and the other none.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.3.
    """
    estimated, other = ("alpha" in each.names for each in (table, restricted))
    if estimated != other:
        raise ValueError("one model has an estimated alpha and the other none: their deviances cannot be compared")
    drop = (restricted.deviance - table.deviance) / table.dispersion
    if estimated:
        drop = 2 * (table.log_likelihood - restricted.log_likelihood)
    df = restricted.df_resid - table.df_resid
    return judged(jnp.where(df > 0, drop, jnp.nan), jnp.where(df > 0, df, jnp.nan), table.df)


def score_test(data: Data, fit: Fit, columns: Any) -> HypothesisTest:
    """Rao's score test of features that a fit does not have: `U' I^-1 U / dispersion`, without fitting them.

    U and I are score and expected information of the model with the columns added, at the fit, where their
    coefficients are 0. The dispersion is Pearson's of the fit, and the test F then.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, at an optimum; without a penalty, at which U is not 0 for the features it has.
        columns: the features to test, (n,) or (n, m).

    Returns:
        `HypothesisTest`, with m times outputs degrees of freedom; NaN where a column depends on others or on those
        of the model, and for lanes without errors.

    Raises:
        ValueError: as `inference`; a fit with l2, columns of another length.

    Reference: Rao, Mathematical Proceedings of the Cambridge Philosophical Society 44 (1948).
    """
    sentence = no_errors(fit)
    if sentence:
        raise ValueError(f"there is no score test: {sentence}")
    if not is_traced(fit.l2) and np.any(np.asarray(fit.l2) != 0):
        raise ValueError("there is no score test of a fit with l2: its score is not 0; fit it without")
    added = to_float(read_array(columns, "columns")[0], "columns", data.x.dtype)
    added = added[:, None] if added.ndim == 1 else added
    if added.ndim != 2 or len(added) != len(data.x):
        raise ValueError(f"columns must be ({len(data.x)}, m), a row each of x, got shape {np.shape(columns)}")

    def wider(part: Dense) -> Dense:
        return part._replace(w=jnp.concatenate([part.w, jnp.zeros((added.shape[1], *part.w.shape[1:]), part.w.dtype)]))

    wide = data._replace(x=jnp.concatenate([data.x, added], axis=1))
    moved = fit._replace(params=wider(fit.params), l2=jnp.zeros_like(fit.loss))
    moved = moved._replace(aliased=None if fit.aliased is None else wider(fit.aliased))
    return _score_test(effects_task(moved, wide), moved, jnp.any(fit.l2 != 0), added[:0])


@quick_jit
def _score_test(task: Task, fit: Fit, penalized: Array, added: Array) -> HypothesisTest:
    model, data, m = task.model, task.data, added.shape[1]
    optimum = make_optimum(task, fit)
    k = model.family.n_outputs or 1

    def update(total: Array, rows: Data, new: Array) -> Array:
        return total + jnp.sum(row_scores(optimum, rows, new)[0], axis=0)

    q = len(optimum.root)
    score = row_fold(update, jnp.zeros(q, optimum.root.dtype), data, chunk_rows(4 * q)) @ optimum.root
    df, df_resid = jnp.asarray(k * m), None
    chi2 = score @ score
    if model.family.dispersion is not None:
        df_resid = k * optimum.rows - (optimum.edf - k * m)
        chi2 = chi2 * df_resid / pearson_chi2(model, task.params, data)
    return judged(jnp.where(penalized, jnp.nan, chi2), df, df_resid)
