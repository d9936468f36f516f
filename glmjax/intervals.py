"""Intervals at rows of features: for the mean there, and for a new target."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import as_matrix, standardize
from .covariance import fisher
from .data import Data
from .distributions import Family, no_sample
from .families import normal
from .inferences import Goodness, as_value, determined, inference
from .influence import effects_task
from .inputs import check_count, check_key, per_row
from .linear import Task
from .models import linear_predictor, read_rows
from .numerics import log1mexp
from .optima import Optimum, make_optimum, whitened
from .programs import quick_jit
from .results import Fit, Status
from .tails import two_sided_quantile

BATCH = 500_000  # draws that are held at once


class Interval(NamedTuple):
    """Intervals at each row, about the `mean` that `predict` returns there, and shaped like it; lanes come first."""

    mean: Array
    lower: Array
    upper: Array


class Rows(NamedTuple):
    """Rows of features at a fit: `eta` (n, k), how the coefficients' coordinates move it (n, k, q), whether a row is
    `known`, (n,), and the covariance of the coordinates (q, q).
    """

    eta: Array
    moves: Array
    known: Array
    covariance: Array


def mean_interval(
    data: Data,
    fit: Fit,
    x: Any,
    *,
    offset: Any = None,
    covariance: Callable[[Optimum], Array] = fisher,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float | Array = 0.95,
) -> Interval:
    """Intervals for E[t | x], made on the scale of the linear predictor, so that they stay among the means.

        eta -+ q se,   se^2 = z' covariance z,   through the inverse link

    z is the row of x with a 1 for the bias, q the quantile of `inference`: normal where the dispersion is known, else
    t. As R's `predict(se.fit=TRUE)` mapped by the inverse link. Of classes it is the logit of each one's probability
    that is moved, by its standard error to first order. An end beyond the link's domain is where the means end.

    Pure; `jax.vmap` it over fits, data and rows. Aliased coefficients count as 0, as in predictions. NaN where a row
    has to do with a coefficient that is infinite, and for lanes without errors. An estimated alpha does not matter
    but for its part in the covariance.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, as `inference` takes it.
        x: features, (m, d), as `predict` takes them.
        offset: (m,) or None; a model fitted with an offset wants one here too.
        covariance: as `inference` takes it.
        dispersion: as `inference` takes it.
        level: above 0 and below 1.

    Returns:
        `Interval`.

    Raises:
        ValueError: as `inference` and `predict`.
        TypeError: as `inference` and `predict`.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    table = inference(data, fit, covariance=covariance, dispersion=dispersion, level=level)
    x, offset = read_rows(fit.params, x, offset)
    task, tail = effects_task(fit, data), 1 - jnp.asarray(level, data.x.dtype)
    return _mean_interval(task, fit, x, offset, as_value(covariance), table.dispersion, table.df, tail)


def prediction_interval(
    data: Data,
    fit: Fit,
    x: Any,
    key: Array | None = None,
    *,
    offset: Any = None,
    n_draws: int = 2000,
    covariance: Callable[[Optimum], Array] = fisher,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float | Array = 0.95,
) -> Interval:
    """Intervals for a new target at each row: for what it scatters by, and what the coefficients are not known by.

    Of the normal family with the identity link it is exact, `mean -+ q sqrt(dispersion + se^2)`, and no key needed;
    R's `predict(interval="prediction")`. Else the ends are quantiles of draws: of coefficients from their normal
    distribution, the same ones for every row, and of a target from the family at each, at the dispersion of
    `inference`. They are among the draws, the next ones out, and so whole numbers for counts.

    Pure; `jax.vmap` it over fits, data, rows and keys. NaN as `mean_interval`, and where a draw of the coefficients
    leaves the link's domain.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, as `inference` takes it; a family that can be sampled from.
        x: features, (m, d), as `predict` takes them.
        key: a JAX random key; None will do where the interval is exact.
        offset: (m,) or None; a model fitted with an offset wants one here too.
        n_draws: draws a row, 2 or more; their error in an end's level is sqrt(level (1 - level) / n_draws) or so.
        covariance: as `inference` takes it.
        dispersion: as `inference` takes it.
        level: above 0 and below 1.

    Returns:
        `Interval`. Binomial targets are shares of one trial.

    Raises:
        ValueError: as `inference` and `predict`; classes, which have no order, quasi families, which have no
            distribution; `n_draws` below 2.
        TypeError: as `inference` and `predict`; no key where one is needed.

    Reference: Gelman and Hill, Data Analysis Using Regression (2007), section 7.2.
    """
    table = inference(data, fit, covariance=covariance, dispersion=dispersion, level=level)
    family = fit.model.family
    if family.n_classes is not None:
        raise ValueError("there is no prediction interval: classes have no order; mean_interval has the probabilities")
    if family.distribution.sample is no_sample:
        raise ValueError(
            f"there is no prediction interval: the {family.name} family has no distribution to draw a target from, it "
            "is its first two moments only; fit the family itself, or negative_binomial"
        )
    n_draws = check_count(n_draws, "n_draws", at_least=2)
    check_key(key)
    exact = family.distribution is normal().distribution and family.link == "identity"
    if key is None and not exact:
        raise TypeError(f"key must be a JAX random key, such as jax.random.key(0): {family.name} targets are drawn")
    x, offset = read_rows(fit.params, x, offset)
    task, tail = effects_task(fit, data), 1 - jnp.asarray(level, data.x.dtype)
    args = task, fit, x, offset, as_value(covariance), table.dispersion
    if exact:
        return _exact_interval(*args, table.df, tail)
    noise = jnp.zeros((n_draws, 0), x.dtype)  # how many draws, as a shape
    return _drawn_interval(*args, tail, key, noise)


def _rows(task: Task, fit: Fit, x: Array, offset: Array | None, covariance: Any, dispersion: Array) -> Rows:
    model, params = task.model, task.params
    optimum = make_optimum(task, fit)._replace(dispersion=dispersion)
    k = optimum.theta.shape[1]
    eta = linear_predictor(model, params, x, offset).reshape(-1, k)
    moves = whitened(optimum, standardize(optimum.columns, x))[:, :k]
    known, _ = determined(fit, optimum)
    known = jnp.full(len(x), known)
    if fit.infinite is not None:
        touched = ((x != 0).astype(x.dtype) @ as_matrix(fit.infinite.w).astype(x.dtype)).sum(axis=1) > 0
        if fit.infinite.b is not None:
            touched |= jnp.any(fit.infinite.b)
        known &= ~(touched & (fit.status == Status.SEPARATED))
    return Rows(eta, moves, known, covariance(optimum))


def _shaped(family: Family, rows: Rows, values: tuple[Array, ...]) -> list[Array]:
    """Values (n, k) as `predict` shapes them, NaN in rows that are not known."""
    flat = [jnp.where(rows.known[:, None], value, jnp.nan) for value in values]
    return [value if family.n_outputs else value[:, 0] for value in flat]


@quick_jit
def _mean_interval(
    task: Task, fit: Fit, x: Array, offset: Array | None, covariance: Any, dispersion: Array, df: Array, tail: Array
) -> Interval:
    family = task.model.family
    rows = _rows(task, fit, x, offset, covariance, dispersion)
    q = two_sided_quantile(tail, df)
    if family.n_classes is not None:
        labels = jnp.arange(family.n_classes, dtype=x.dtype)

        def log_odds(eta: Array) -> Array:
            loss = jax.vmap(lambda label: family.nll(eta, label))(labels)
            return -loss - log1mexp(-loss)

        at, slope = jax.vmap(log_odds)(rows.eta), jax.vmap(jax.jacfwd(log_odds))(rows.eta)
        reach = q * _errors(rows._replace(moves=slope @ rows.moves))
        ends = [jax.nn.sigmoid(part) for part in (at, at - reach, at + reach)]
        return Interval(*_shaped(family, rows, tuple(ends)))
    reach = q * _errors(rows)
    mean = _means(family, rows.eta)
    ends = [_end(family, rows.eta, mean, part) for part in (rows.eta - reach, rows.eta + reach)]
    return Interval(*_shaped(family, rows, (mean, jnp.minimum(*ends), jnp.maximum(*ends))))


def _errors(rows: Rows) -> Array:
    """Standard errors of what is moved, (n, k)."""
    variance = jnp.einsum("nkq,nkq->nk", rows.moves @ rows.covariance, rows.moves)
    return jnp.sqrt(jnp.maximum(variance, 0))


def _means(family: Family, eta: Array) -> Array:
    """The means at linear predictors (n, k), of a family without classes."""
    return jax.vmap(family.mean)(eta if family.n_outputs else eta[:, 0]).reshape(eta.shape)


def _end(family: Family, eta: Array, mean: Array, end: Array) -> Array:
    """The mean at an end of eta's interval; where the means end if that is outside of the link's domain."""
    there = _means(family, end)
    # An nll that is not finite says so; that of a link with a pole goes on behind it, where means jump.
    if family.n_outputs:
        loss = jax.vmap(family.nll)(end, mean)
    else:
        target = jnp.concatenate([mean, 1 - mean], axis=1) if family.target_shape else mean[:, 0]  # successes, failures
        loss = jax.vmap(family.nll)(end[:, 0], target)
    slope = jax.jvp(lambda eta: _means(family, eta), (eta,), (jnp.ones_like(eta),))[1]
    inside = per_row(jnp.isfinite(loss), end) & ((there - mean) * (end - eta) * jnp.sign(slope) >= 0)
    edge = jnp.where((eta > 0) == (end > 0), 1, 0 * eta)  # domains end at 0, on either side of it, or at 1
    return jnp.where(jnp.isnan(end), jnp.nan, jnp.where(inside, there, _means(family, edge)))


@quick_jit
def _exact_interval(
    task: Task, fit: Fit, x: Array, offset: Array | None, covariance: Any, dispersion: Array, df: Array, tail: Array
) -> Interval:
    rows = _rows(task, fit, x, offset, covariance, dispersion)
    reach = two_sided_quantile(tail, df) * jnp.sqrt(dispersion + _errors(rows) ** 2)
    return Interval(*_shaped(task.model.family, rows, (rows.eta, rows.eta - reach, rows.eta + reach)))


@quick_jit
def _drawn_interval(
    task: Task,
    fit: Fit,
    x: Array,
    offset: Array | None,
    covariance: Any,
    dispersion: Array,
    tail: Array,
    key: Array,
    draws: Array,
) -> Interval:
    family, count = task.model.family, len(draws)
    rows = _rows(task, fit, x, offset, covariance, dispersion)
    if family.dispersion is not None:
        family = replace(family, dispersion=dispersion)
    sizes, turn = jnp.linalg.eigh(rows.covariance)
    root = turn * jnp.sqrt(jnp.maximum(sizes, 0))[None]
    first, *keys = jax.random.split(key)
    normals = jax.random.normal(first, (count, len(root)), x.dtype) @ root.T

    def at_row(row: tuple[Array, Array, Array]) -> Array:
        eta, moves, key = row
        etas = eta[None] + normals @ moves.T
        targets = family.sample(key, etas if family.n_outputs else etas[:, 0]).reshape(count, -1)
        targets = targets[:, : len(eta)]  # of successes and failures the successes
        low, high = (jnp.quantile(targets, part, axis=0, method=way) for part, way in ends)
        return jnp.stack([low, high])

    ends = (tail / 2, "lower"), (1 - tail / 2, "higher")
    each = jax.random.split(keys[0], len(x))
    some = max(1, min(len(x), BATCH // count))
    found = jax.lax.map(at_row, (rows.eta, rows.moves, each), batch_size=some)
    return Interval(*_shaped(family, rows, (_means(family, rows.eta), found[:, 0], found[:, 1])))
