"""`fit_newton`: Newton's method (iteratively reweighted least squares), the solver of linear models."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data, clean, row_weight
from .distributions import Family, has_expectation, link_of_target
from .inputs import per_row
from .irls import newton_solution
from .linear import as_fit, make_task
from .losses import deviance
from .meshes import device_sum
from .models import Model, check_problem, glm, in_dtype, init
from .overdispersion import at_alpha, overdispersed_solution
from .predictors import Dense, Linear
from .results import Fit
from .rows import by_rows


def fit_newton(
    model: Model,
    data: Data,
    *,
    params: Dense | None = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
) -> Fit:
    """Fit a linear model by Newton's method on `loss(model, params, data, l2)`: R's numbers, or a verdict.

    Iteratively reweighted least squares: each step solves `H step = gradient`, H the Fisher information (the observed
    one for canonical links, where they are the same, and nearly so for the negative binomial's log link), in centered
    and scaled columns, damped where it would raise the loss. H is factored by Cholesky, or by QR of the rows where it
    is ill-conditioned. Where there are many rows, the first steps are taken on a sample of them. The answer does not
    depend on the units, the order of the rows or where it started; lanes of a `vmap` are those of single fits, to
    rounding.

    Pure: `jax.vmap` it over y, weight, offset, l2 and x. Differentiable by the implicit function theorem, forward and
    backward, with respect to x, y, weight, precision, offset, l2 and the family's numbers. A negative binomial without
    an alpha gets its maximum-likelihood one, `fit.model.family.alpha`, found together with the coefficients.

    Float64 gives the digits that R prints, and more. In float32 expect 5 to 6 digits of the linear predictor, less
    where `fit.rcond` is small.

    Args:
        model: from `glm`; its information matrix, (p k, p k) for p coefficients an output, must fit in memory: for
            more than some thousand use `fit_lbfgs`.
        data: from `make_data`.
        params: where to start; None starts at the family's start, as R does.
        l2: ridge penalty, 0 or more, one number or broadcast to w: a coefficient's own.
        tol: ends when the next step is foreseen to have a Newton decrement, sqrt(gradient' H^-1 gradient), of at most
            `tol` times the square root of max(1, mean |nll|). The coefficients are then within `tol` standard errors
            of one observation of the optimum. None is eps^0.85, 5e-14 in float64 and 1e-6 in float32.
        max_steps: steps at most.

    Returns:
        `Fit` with status CONVERGED; RANK_DEFICIENT (the coefficients in `aliased` are 0, predictions are right);
        SEPARATED (those in `infinite` go to infinity, the others and the loss are at their limits); BOUNDARY (alpha is
        estimated as 0); MAX_STEPS, NONFINITE, INVALID_TARGET, INVALID_INPUT. `check` puts them in words.

    Raises:
        ValueError: a model with hidden layers, numbers out of range, shapes that do not fit.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5; Lawless (1987) for alpha.
    """
    check_problem(model, data)
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=float(jnp.finfo(data.x.dtype).eps) ** -0.15)
    fitted = task.model
    if model.family.estimates_alpha:
        solution, alpha = overdispersed_solution(task)
        fitted = at_alpha(fitted, alpha)
    else:
        solution = newton_solution(task)
    return as_fit(fitted, task.data, solution, 0.0, l2)


def null_deviance(model: Model, data: Data) -> Array:
    """The deviance, (), of the model that knows no features: the best bias and the offset, or without a bias the
    offset alone; as R's `null.deviance`.

    Of a fit that estimated alpha pass `fit.model`, and the null model has that alpha. For an MLP it is the deviance
    of its family's null GLM. Errors are those of `loss`.

    Without an offset the best bias is the link of the targets' mean, in families that are exponential ones: of
    `Distribution`s all but those whose `information` is `hessian`.
    """
    return deviance(*null_fit(model, data))


def null_fit(model: Model, data: Data) -> tuple[Model, Dense, Data]:
    """The model that knows no features, its parameters, and the data without features."""
    check_problem(model, data)
    # NumPy's empty arrays: JAX's are a program each to make, and a first call takes each some 10 ms.
    dtype = data.x.dtype
    x: Any = np.zeros((data.x.shape[0], 0), dtype)
    data = data._replace(x=x)
    family = replace(model.family, estimates_alpha=False)
    null = glm(family)
    if isinstance(model.predictor, Linear) and not model.predictor.bias:
        return null, init(null, None, 0, dtype=dtype), data  # a bias of 0
    # In an exponential family the score of a constant is 0 where its mean is that of the targets.
    if data.offset is None and has_expectation(family):
        w: Any = np.zeros((0,) if family.n_outputs is None else (0, family.n_outputs), dtype)
        return null, Dense(w, _link_of_average(in_dtype(null, dtype).family, data)), data
    return null, fit_newton(null, data).params, data


@by_rows
@jax.jit
def _link_of_average(family: Family, data: Data) -> Array:
    return link_of_totals(family, *target_totals(family, clean(data)))


def target_totals(family: Family, data: Data) -> tuple[Array, Array]:
    """The weighted sum of the targets, of classes how often there is each, and the sum of the weights."""
    weight = row_weight(data)
    weight = jnp.ones_like(data.y, shape=data.y.shape[:1]) if weight is None else weight
    if family.n_classes:
        counts = [jnp.sum(jnp.where(data.y == label, weight, 0)) for label in range(family.n_classes)]
        return device_sum((jnp.stack(counts), jnp.sum(weight)))
    total = jnp.sum(jnp.where(per_row(weight == 0, data.y), 0, per_row(weight, data.y) * data.y), axis=0)
    return device_sum((total, jnp.sum(weight)))


def link_of_totals(family: Family, total: Array, weight: Array) -> Array:
    """The linear predictor, () or (k,), at the weighted mean of the targets; large where it would be infinite."""
    if family.n_classes:
        eta = jnp.log(total)
        eta = eta if family.reference is None else jnp.delete(eta - eta[family.reference], family.reference)
    else:
        trials = family.target_shape == (2,) and family.n_outputs is None
        eta = link_of_target(family, total[0] / jnp.sum(total) if trials else total / weight)
    edge = jnp.log(jnp.finfo(eta.dtype).max)
    return jnp.nan_to_num(eta, nan=-edge, posinf=edge, neginf=-edge)  # NaN: the log of a negative mean, which is near 0
