"""`streaming`: fits and tables from rows that memory does not hold, with the same numbers.

A pass is a loop of the host over chunks of one shape: each goes through the pass that memory has, as one compiled
program, and what it returns is added up. The steps between passes are those of memory, which take sums and never data.
The host waits for the end of a pass only: while a chunk is computed with, the next ones are read.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .checkpoints import Log, open_log
from .chunking import Pages, count_rows, mesh_of_source
from .covariance import bayesian, fisher, hc0, hc1, hc2, hc3
from .data import Data
from .distributions import has_expectation
from .epochs import fit_sgd
from .factors import Factor, Penalty, factor_by_qr
from .inferences import (
    Goodness,
    Inference,
    as_table,
    as_value,
    check_arguments,
    deviance_dispersion,
    dispersion_of,
    pearson_dispersion,
)
from .influence import effects_task
from .linear import check_alpha_given
from .losses import deviance, goodness_sums
from .models import Model, glm, init
from .newton import link_of_totals
from .optima import Optimum, at_fit, by_cholesky, information_total, rooted, signed
from .parquet import parquet_source
from .passes import Point
from .predictors import Dense
from .programs import quick_jit
from .reading import Reader, add, end, fold, open_reader
from .results import Fit
from .rows import by_rows
from .shrinkage import fit_elastic_net
from .sources import ROWS, Source, array_source
from .streamed import Survey, factor_of, fit_logged, measured, stack, standing, survey
from .wide import fit_lbfgs

__all__ = [
    "Source",
    "array_source",
    "count_rows",
    "fit_elastic_net",
    "fit_lbfgs",
    "fit_newton",
    "fit_sgd",
    "inference",
    "parquet_source",
]


def fit_newton(
    model: Model,
    source: Iterable[Data],
    *,
    params: Dense | None = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
    rows: int = ROWS,
    progress: bool = False,
    checkpoint: str | os.PathLike | None = None,
    every: float = 1.0,
) -> Fit:
    """Fit a linear model to rows beyond memory by Newton's method: what `glmjax.fit_newton` finds, to rounding.

    The first pass checks the rows as `make_data` does, and measures the columns. The next ones are Newton's: from the
    optimum of the first chunk, which costs none, some three, so rows in random order serve best; more by QR where the
    system is ill-conditioned, and one more where the rows are separated. A call of the host, not to be transformed.

    Args:
        model: from `glm`; its information matrix must fit in memory.
        source: yields `Data` of NumPy arrays, of any number of rows, each time it is iterated: a list of them, from
            `array_source` or `parquet_source`, or `Source(function)`.
        params, l2, tol, max_steps: as for `glmjax.fit_newton`.
        rows: of a chunk; some of them are in memory at once.
        progress: a line on stderr for each pass.
        checkpoint: a file that says how far the fit has come, so that the same call goes on from there after a crash,
            to the same bits on the same machine. It stays: once the fit has ended the call returns at once, or goes on
            if `max_steps` have grown and it had ended at those. Delete it to begin anew.
        every: minutes between two writings, 0 for each pass; `kill -9` leaves the file as it was written last.

    Returns:
        `Fit`, as `glmjax.fit_newton` has it; `passes` are all reads of the source.

    Raises:
        ValueError: an empty source, one that cannot be read twice, chunks that disagree, bad values (with chunk and
            row), a negative binomial without alpha; a checkpoint of another call, or one that was cut off or altered;
            what `glmjax.fit_newton` raises.
        TypeError: what is no source; chunks of several dtypes.
        OSError: a file that cannot be read; it names file and row group.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    check_alpha_given(model)
    reader = open_reader(source, model.family, rows, progress)
    call = {"solver": "fit_newton", "model": model, "params": params, "l2": l2, "tol": tol}
    log = open_log(reader, checkpoint, every, max_steps, **call)
    return end(reader, fit_logged(model, log, params, l2, tol, max_steps))


def inference(
    source: Iterable[Data],
    fit: Fit,
    *,
    covariance: Callable[[Optimum], Array] = fisher,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float = 0.95,
    rows: int = ROWS,
    progress: bool = False,
) -> Inference:
    """Errors, tests and intervals from rows beyond memory: what `glmjax.inference` finds, to rounding.

    Two passes, one more for `hc0` to `hc3` and where the system is ill-conditioned; with an offset some five more,
    which do not look at x, for the null deviance.

    Args:
        source: the rows that the model was fitted to, as for `fit_newton`.
        fit: of a linear model, by whichever solver.
        covariance: `fisher`, `bayesian`, `hc0`, `hc1`, `hc2` or `hc3`, whose sums over the rows can be added up.
        dispersion: None, `pearson_dispersion`, `deviance_dispersion`, or a number that is known.
        level: of the intervals, above 0 and below 1.
        rows, progress: as for `fit_newton`.

    Returns:
        `Inference`.

    Raises:
        ValueError: another estimator of covariance or dispersion, an estimated alpha; what `fit_newton` and
            `glmjax.inference` raise.
        TypeError, OSError: as they do.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    check_arguments(fit, covariance, level)
    check_additive(fit, covariance, dispersion)
    reader = open_reader(source, fit.model.family, rows, progress)
    found = survey(Log(reader), fit.model.family)
    data = standing(reader, found)
    task, dispersion = effects_task(fit, data), dispersion_of(fit.model.family, dispersion, data.x.dtype)
    model, columns = task.model, measured(task, found)
    null, bias = null_of(model, reader, found)
    optimum, ridge = _at_fit(task, fit, columns, found.weight, found.copies)
    system, *sums = fold(reader.chunks(), lambda chunk: _sums(null, bias, optimum, model, chunk), add)
    scaled, ill = _by_cholesky(optimum, ridge, system)
    if ill and not signed(optimum):
        at = Point(optimum.theta, jnp.zeros_like(optimum.theta), jnp.asarray(False))
        r = fold(reader.chunks(), lambda chunk: factor_of(optimum.model, columns, chunk, at), stack)
        scaled = _by_qr(optimum, ridge, r)
    optimum = _rooted(optimum, ridge, scaled, ill)
    middle = as_value(covariance)
    if covariance in SUMMED:
        total = fold(reader.chunks(), lambda chunk: _middle(middle, optimum._replace(data=chunk)), add)
        middle = jax.tree_util.Partial(_given, total)
    share = jnp.asarray(level, data.x.dtype)
    return end(reader, _table(task, fit, optimum, middle, as_value(dispersion), share, tuple(sums)))


SUMMED = (hc0, hc1, hc2, hc3)  # sums over the rows, times what all rows share


def check_additive(fit: Fit, covariance: Any, dispersion: Any) -> None:
    """Raise for what is no sum over the rows."""
    if covariance not in (fisher, bayesian, *SUMMED):
        name = getattr(covariance, "__name__", repr(covariance))
        raise ValueError(
            f"covariance={name} is not made of sums over chunks; from a source there are fisher, bayesian, hc0, hc1, "
            "hc2 and hc3; others take rows in memory, glmjax.inference(data, fit, covariance=...)"
        )
    if callable(dispersion) and dispersion not in (pearson_dispersion, deviance_dispersion):
        name = getattr(dispersion, "__name__", repr(dispersion))
        raise ValueError(
            f"dispersion={name} takes rows in memory; from a source there are pearson_dispersion and "
            "deviance_dispersion, or give a number"
        )
    if fit.model.family.estimates_alpha:
        raise ValueError(
            "an estimated alpha has an error of its own, for which the rows must be in memory; use glmjax.inference"
        )


def null_of(model: Model, reader: Reader, found: Survey) -> tuple[Model, Dense]:
    """The model that knows no features, and its parameters; as `newton.null_fit`."""
    family, dtype = model.family, reader.first[0].x.dtype
    null = glm(replace(family, estimates_alpha=False))
    if not model.predictor.bias:  # type: ignore[union-attr]
        return null, init(null, None, 0, dtype=dtype)
    if reader.first[0].offset is None and has_expectation(family):
        w: Any = np.zeros((0,) if family.n_outputs is None else (0, family.n_outputs), dtype)
        return null, Dense(w, _link(family, *found.targets))
    rows = Source(partial(_without_features, reader.source), mesh=mesh_of_source(reader.source))
    bare = replace(reader, source=rows, passes=0, count=0, first=(), pages=Pages())
    return null, fit_logged(null, Log(bare), None, 0.0, None, 100).params


def _without_features(source: Iterable[Data]) -> Iterator[Data]:
    for part in source:
        yield part._replace(x=part.x[:, :0])


@by_rows
@quick_jit
def _sums(null: Model, bias: Dense, optimum: Optimum, model: Model, chunk: Data) -> tuple[Array, ...]:
    bare = deviance(null, bias, chunk._replace(x=chunk.x[:, :0]))
    return information_total(optimum._replace(data=chunk)), bare, *goodness_sums(model, optimum.params, chunk)


@quick_jit
def _by_qr(optimum: Optimum, ridge: Array, r: Array) -> Factor:
    return factor_by_qr(r, Penalty(ridge, None), jnp.zeros((), ridge.dtype), optimum.kept)


@by_rows
@quick_jit
def _middle(covariance: Any, optimum: Optimum) -> Array:
    return covariance(optimum)


def _given(middle: Array, optimum: Optimum) -> Array:
    return middle


_at_fit, _by_cholesky, _rooted = quick_jit(at_fit), quick_jit(by_cholesky), quick_jit(rooted)
_link, _table = quick_jit(link_of_totals), quick_jit(as_table)
