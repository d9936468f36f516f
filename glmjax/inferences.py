"""`inference`: errors, tests and intervals of a linear model's coefficients, and how well it fits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from .covariance import SUMS, fisher
from .data import Data
from .distributions import Family
from .influence import as_vector, effects_task
from .inputs import check_level, check_number, is_traced
from .linear import Task, free_shift
from .losses import goodness_sums, log_likelihood
from .models import Model
from .newton import null_deviance
from .optima import Optimum, make_optimum, to_flat
from .predictors import Linear
from .programs import quick_jit
from .resampling import outcome
from .results import Fit, Status
from .rows import by_rows
from .tails import two_sided_quantile, two_sided_tail


@jax.tree_util.register_static
class Names(tuple):
    """Names of coefficients, a tuple of text that goes through `jit` and `vmap` as it is."""


class Inference(NamedTuple):
    """What is known about q coefficients, and how well the model fits; under `vmap` lanes come first.

    `estimate`, `std_error`, `statistic`, `p_value`, `lower`, `upper` (q,), in the units of the coefficients;
    `covariance` (q, q). The others are numbers: `dispersion`, the one that errors are multiplied by; `log_likelihood`,
    with dispersion deviance / n as R's; `deviance` and `null_deviance`; `pearson_chi2`; `aic` and `bic`; `df_resid`,
    n - edf, times the outputs; `edf`, effective degrees of freedom, the number of coefficients where there is no
    penalty; `df`, those of the t distribution of the statistics, infinite where they are normal.
    `names` (q,) are "b" and "w[j]", of several outputs "b[k]" and "w[j, k]"; an estimated "alpha" is the last. Names
    of one's own are `table._replace(names=Names(["intercept", "age"]))`. What was fitted, which also lanes without
    errors have: `model`, with the family's numbers; `rows`, n = sum(weight); `status` and `steps` of the fit.
    """

    names: Names
    estimate: Array
    std_error: Array
    statistic: Array
    p_value: Array
    lower: Array
    upper: Array
    covariance: Array
    dispersion: Array
    log_likelihood: Array
    deviance: Array
    null_deviance: Array
    pearson_chi2: Array
    aic: Array
    bic: Array
    df_resid: Array
    edf: Array
    df: Array
    model: Model
    rows: Array
    status: Array
    steps: Array


class Goodness(NamedTuple):
    """What a dispersion is estimated from."""

    model: Model
    params: Any
    data: Data
    deviance: Array
    pearson_chi2: Array
    df_resid: Array


def pearson_dispersion(goodness: Goodness) -> Array:
    """Pearson's chi-squared / (n - p): R's, and the default; consistent whatever the distribution."""
    return goodness.pearson_chi2 / goodness.df_resid


def deviance_dispersion(goodness: Goodness) -> Array:
    """Deviance / (n - p); for gamma targets that are nearly 0 or rounded steeper than Pearson's."""
    return goodness.deviance / goodness.df_resid


def likelihood_dispersion(goodness: Goodness) -> Array:
    """The maximum-likelihood dispersion, as R's `MASS::gamma.dispersion`; NaN for families without a likelihood.

    Deviance / n for normal and inverse Gaussian targets; found by Newton's method on its logarithm, from there.
    """
    model, params, data = goodness.model, goodness.params, goodness.data
    if model.family.dispersion is None:
        return jnp.ones_like(goodness.deviance)

    def value(u: Array) -> Array:
        return log_likelihood(replace(model, family=replace(model.family, dispersion=jnp.exp(u))), params, data)

    def step(_: int, u: Array) -> Array:
        slope, curvature = jax.jvp(jax.grad(value), (u,), (jnp.ones_like(u),))
        return u + jnp.clip(slope / jnp.abs(curvature), -1, 1)

    return jnp.exp(jax.lax.fori_loop(0, 10, step, jnp.log(jnp.asarray(model.family.dispersion))))


def inference(
    data: Data,
    fit: Fit,
    *,
    covariance: Callable[[Optimum], Array] = fisher,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float | Array = 0.95,
) -> Inference:
    """Standard errors, tests and intervals of a linear model's coefficients, and how well it fits.

        covariance = H^-1 M H^-1,   statistic = estimate / std_error,   p_value = P(|T| > |statistic|)

    H = sum(weight I_i z_i z_i') + sum(weight) diag(l2), M as the estimator has it. T is normal where the dispersion is
    known, else t with n - p degrees of freedom; n = sum(weight), p the effective degrees of freedom
    `tr(H^-1 sum(weight I_i z_i z_i'))`: the number of coefficients where there is no penalty. AIC is
    `-2 log_likelihood + 2 p`, p with an estimated dispersion or alpha counted in.

    Pure: under `jit` it compiles once, whichever numbers the fit has; `jax.vmap` it over fits and data. Under a
    transformation a lane that has no errors has NaN for them, and its `status` says why. Aliased coefficients are
    NaN, as R's NA. Where the fit is SEPARATED, so are the errors of the coefficients that are infinite; the others
    are right. BOUNDARY leaves alpha without an error.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, at an optimum; without `l1`.
        covariance: `fisher`, `observed`, `hc0`, `hc1`, `hc2`, `hc3`, `clustered(groups)`, and for ridge fits
            `bayesian`; or a function of one's own, of an `Optimum`.
        dispersion: None is the family's: 1 where it has none to estimate (Bernoulli, binomial, categorical, Poisson,
            negative binomial), else `pearson_dispersion`. Or `deviance_dispersion`, `likelihood_dispersion`, another
            function of `Goodness`, or a number that is known.
        level: of the intervals, above 0 and below 1.

    Returns:
        `Inference`.

    Raises:
        ValueError: a fit that has not converged, or one by `l1`; K logits, which have no errors; hidden layers;
            shapes that do not fit, a level out of range.
        TypeError: `fit` is no `Fit`, `covariance` no function.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5; for the estimators see there.
    """
    check_arguments(fit, covariance, level)
    dispersion = dispersion_of(fit.model.family, dispersion, data.x.dtype)
    task = effects_task(fit, data)
    null = null_deviance(task.model, task.data)  # before, so that outside of a transformation its programs are small
    known = not callable(dispersion) or dispersion in (pearson_dispersion, deviance_dispersion)
    run = _by_rows if known and covariance in SUMS else _inference
    return run(task, fit, as_value(covariance), as_value(dispersion), jnp.asarray(level, data.x.dtype), null)


def check_arguments(fit: Any, covariance: Any, level: Any) -> None:
    """Raise for a fit without errors, what is no estimator, a level out of range."""
    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be a Fit, such as gj.fit_newton(model, data), got {type(fit).__name__}")
    sentence = no_errors(fit)
    if sentence:
        raise ValueError(f"there are no standard errors: {sentence}")
    if not callable(covariance):
        raise TypeError(f"covariance must be an estimator such as gj.fisher or gj.hc3, got {covariance!r}")
    check_level(level)


def dispersion_of(family: Family, dispersion: Any, dtype: DTypeLike) -> Any:
    """The dispersion as a function of `Goodness`, or as a number; that of the family where it is None."""
    if dispersion is None and family.dispersion is not None:
        return pearson_dispersion
    if callable(dispersion):
        return dispersion
    dispersion = 1.0 if dispersion is None else dispersion
    check_number(dispersion, "dispersion", above=0)
    return jnp.asarray(dispersion, dtype)


def no_errors(fit: Fit) -> str:
    """Why a fit has no standard errors, or nothing."""
    model, status = fit.model, fit.status
    if not isinstance(model.predictor, Linear):
        return (
            "the weights of an mlp are no unique optimum; use bootstrap for what it predicts, and deviance, "
            "log_likelihood and deviance_r2 for how well it fits"
        )
    if free_shift(model):
        return (
            "a constant added to all K logits changes nothing, so that no single one is determined; fit "
            f"categorical({model.family.n_classes}, reference=0), whose coefficients are log-odds against class 0"
        )
    if not is_traced(fit.l1) and np.any(np.asarray(fit.l1) != 0):
        return "l1 chose the coefficients by the same data; use bootstrap, or refit by fit_newton to other data"
    if is_traced(status):
        return ""
    if np.ndim(status):
        return f"fit has lanes, its status is of shape {np.shape(status)}; jax.vmap inference over them"
    ended = Status(int(status))
    if ended in (Status.COMPLETED, Status.STOPPED_EARLY):
        return "the passes of fit_sgd do not end at an optimum; go on by fit_newton(model, data, params=fit.params)"
    if ended not in DETERMINED or (ended == Status.SEPARATED and fit.infinite is None):
        return f"the fit ended {ended.name}: {ended.sentence}"
    return ""


DETERMINED = (Status.CONVERGED, Status.RANK_DEFICIENT, Status.BOUNDARY, Status.SEPARATED)


def as_value(function: Any) -> Any:
    """A function as a leafless value of a `jit`, or with the arrays that it holds as leaves; arrays as they are."""
    plain = callable(function) and not isinstance(function, jax.tree_util.Partial)
    return jax.tree_util.Partial(function) if plain else function


@quick_jit
def _inference(task: Task, fit: Fit, covariance: Any, dispersion: Any, level: Array, null: Array) -> Inference:
    optimum, sums = make_optimum(task, fit), goodness_sums(task.model, task.params, task.data)
    return as_table(task, fit, optimum, covariance, dispersion, level, (null, *sums))


_by_rows = by_rows(_inference)


def as_table(task: Task, fit: Fit, optimum: Optimum, middle: Any, dispersion: Any, level: Any, sums: Any) -> Inference:
    """The table, M by `middle`; `sums` are the null deviance and the `goodness_sums`."""
    model, (null, fitted, chi2, value) = task.model, sums
    df_resid = (model.family.n_outputs or 1) * optimum.rows - optimum.edf
    estimated = callable(dispersion)
    phi = dispersion(Goodness(model, task.params, task.data, fitted, chi2, df_resid)) if estimated else dispersion
    df = df_resid if estimated else None

    known, marks = determined(fit, optimum)
    root = to_flat(optimum, optimum.root)
    cov = root @ middle(optimum._replace(dispersion=phi)) @ root.T
    cov = jnp.where(marks[:, None] & marks[None], cov, jnp.nan)
    estimate = as_vector(outcome(fit))
    if model.family.estimates_alpha:
        estimate = jnp.append(estimate, jnp.asarray(model.family.alpha, estimate.dtype))
    std_error = jnp.sqrt(jnp.diag(cov))
    statistic = estimate / std_error
    reach = two_sided_quantile(1 - level, df) * std_error

    counted = optimum.edf + (0 if model.family.dispersion is None else 1)
    table = Inference(
        names=names_of(model, task.data.x.shape[1]),
        estimate=estimate,
        std_error=std_error,
        statistic=statistic,
        p_value=two_sided_tail(statistic, df),
        lower=estimate - reach,
        upper=estimate + reach,
        covariance=cov,
        dispersion=phi,
        log_likelihood=value,
        deviance=fitted,
        null_deviance=null,
        pearson_chi2=chi2,
        aic=2 * (counted - value),
        bic=jnp.log(optimum.rows) * counted - 2 * value,
        df_resid=df_resid,
        edf=optimum.edf,
        df=jnp.full_like(df_resid, jnp.inf) if df is None else df,
        model=model,
        rows=optimum.rows,
        status=fit.status,
        steps=fit.steps,
    )
    first = Inference._fields.index("model")  # from there on is what was fitted, which every lane has
    return Inference(*jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.nan), table[:first]), *table[first:])


def determined(fit: Fit, optimum: Optimum) -> tuple[Array, Array]:
    """Whether a lane has errors, (), and which coefficients have, (q,)."""
    known = jnp.all(fit.l1 == 0)
    known &= jnp.any(jnp.stack([fit.status == ended for ended in DETERMINED]))
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), fit.params)
    aliased, infinite = (none if marks is None else marks for marks in (fit.aliased, fit.infinite))
    lost = as_vector(aliased) | (as_vector(infinite) & (fit.status == Status.SEPARATED))
    if fit.infinite is None:
        known &= fit.status != Status.SEPARATED
    return known, ~jnp.append(lost, ~optimum.kept[lost.size :])


def names_of(model: Model, d: int) -> Names:
    """The names of the coefficients, as `Inference` has them."""
    bias, k = model.predictor.bias, model.family.n_outputs  # type: ignore[union-attr]
    if k is None:
        names = ["b"] * bias + [f"w[{j}]" for j in range(d)]
    else:
        names = [name for i in range(k) for name in [f"b[{i}]"] * bias + [f"w[{j}, {i}]" for j in range(d)]]
    return Names(names + ["alpha"] * model.family.estimates_alpha)
