"""`average`: marginal effects, contrasts, and any other function of a linear model's parameters, with its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .covariance import fisher
from .data import Data
from .inferences import Goodness, as_value, check_arguments, determined, dispersion_of
from .influence import as_dense, as_vector, effects_task
from .linear import Task
from .losses import deviance, pearson_chi2
from .optima import Optimum, make_optimum, to_flat
from .predictors import Dense
from .programs import quick_jit
from .results import Fit, Status
from .tails import two_sided_quantile, two_sided_tail


class Average(NamedTuple):
    """A function of the parameters with its errors, tests of 0 and intervals: each shaped like what it returns."""

    estimate: Array
    std_error: Array
    statistic: Array
    p_value: Array
    lower: Array
    upper: Array


def average(
    data: Data,
    fit: Fit,
    f: Callable[[Dense], Array],
    *,
    covariance: Callable[[Optimum], Array] = fisher,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float | Array = 0.95,
) -> Average:
    """Any function of a linear model's parameters, such as an average of predictions, with delta-method errors.

        std_error = sqrt(diag(J C J')),   J = d f / d params,  C the covariance of `inference`

    What `f` returns is up to it, by `gj.predict` or otherwise. With `model = fit.model`, rows `x`, and `e` ones in
    column j of zeros shaped like x:

        def slope(params):  # the average marginal effect of feature j, d mean / d x_j
            return jax.jvp(lambda x: gj.predict(model, params, x), (x,), (e,))[1].mean()

        def contrast(params):  # all treated against none: a risk difference, or a difference of counts
            return (gj.predict(model, params, treated) - gj.predict(model, params, untreated)).mean()

        def elasticity(params):  # d log(mean) / d log(x_j), averaged
            return jax.jvp(lambda x: jnp.log(gj.predict(model, params, x)), (x,), (e * x,))[1].mean()

    and `x.mean(axis=0)[None]` for x is the effect at the means. Rows are taken as given, and not themselves as drawn.

    Pure: `jax.vmap` it over fits and data. It compiles once for each `f` as an object: of one made anew at each call,
    give `jax.tree_util.Partial(g, x)` for a module's function `g(x, params)`. Aliased coefficients are 0 and carry no
    error. Where the fit is SEPARATED, errors are NaN where the derivative by an infinite coefficient is not 0; lanes
    without errors are NaN throughout.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, at an optimum; without `l1`.
        f: of parameters like `fit.params`, differentiable; it returns an array of any shape.
        covariance: as in `inference`: `fisher`, `hc3`, `clustered(groups)`, ...
        dispersion: as in `inference`.
        level: of the intervals, above 0 and below 1.

    Returns:
        `Average`. Statistics are normal where the dispersion is known, else t with n - p degrees of freedom.

    Raises:
        ValueError: as `inference`.
        TypeError: `fit` is no `Fit`; `covariance` or `f` no function; `f` returns no array of real numbers.

    Reference: Oehlert, A note on the delta method, The American Statistician 46 (1992).
    """
    check_arguments(fit, covariance, level)
    if not callable(f):
        raise TypeError(f"f must be a function, got {f!r}")
    dispersion = dispersion_of(fit.model.family, dispersion, data.x.dtype)
    task = effects_task(fit, data)
    out = jax.eval_shape(f, task.params)
    if not (hasattr(out, "dtype") and jnp.issubdtype(out.dtype, jnp.floating)):
        found = getattr(out, "dtype", type(out).__name__)
        raise TypeError(f"f must return one array of real numbers, got {found}; stack what it returns by jnp.stack")
    return _average(
        task, fit, as_value(f), as_value(covariance), as_value(dispersion), jnp.asarray(level, data.x.dtype)
    )


@quick_jit
def _average(task: Task, fit: Fit, f: Any, covariance: Any, dispersion: Any, level: Array) -> Average:
    model, params, data = task.model, task.params, task.data
    optimum = make_optimum(task, fit)
    df = None
    if callable(dispersion):
        df = (model.family.n_outputs or 1) * optimum.rows - optimum.edf
        sums = deviance(model, params, data), pearson_chi2(model, params, data)
        dispersion = dispersion(Goodness(model, params, data, *sums, df))
    optimum = optimum._replace(dispersion=dispersion)

    separated = fit.status == Status.SEPARATED
    q = as_vector(params).size
    endless = jnp.zeros(q, bool) if fit.infinite is None else as_vector(fit.infinite) & separated
    known, _ = determined(fit, optimum)

    # Along the columns of root no sum of squares cancels, however ill-conditioned the covariance is.
    root = jnp.where(endless[:, None], 0, to_flat(optimum, optimum.root)[:q])
    estimate, along = jax.linearize(f, params)

    def moved(column: Array) -> Array:
        return along(as_dense(column, params))

    moves = jax.vmap(moved)(root.T).reshape(len(root.T), -1)
    variance = jnp.sum(moves * (covariance(optimum) @ moves), axis=0).reshape(estimate.shape)
    # One direction, in which what depends on several of them does not cancel.
    lost = moved(jnp.where(endless, 1 + jnp.sqrt(jnp.arange(2.0, q + 2, dtype=root.dtype)), 0)) != 0
    std_error = jnp.where(lost, jnp.nan, jnp.sqrt(variance))
    statistic = estimate / std_error
    reach = two_sided_quantile(1 - level, df) * std_error
    found = Average(estimate, std_error, statistic, two_sided_tail(statistic, df), estimate - reach, estimate + reach)
    return jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.nan), found)
