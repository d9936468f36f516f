"""`fit_elastic_net`: proximal Newton for the elastic net with bounds, for linear models.

    minimize  sum(weight nll) / sum(weight) + sum(l1 |w|) + sum(l2 w^2) / 2,   lower <= w <= upper,  biases free

in standardized columns, in which penalties and bounds stay separable. The steps themselves are those of `descent`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, as_matrix, bias_marks, measure, raw_gradient, to_params, to_theta
from .data import Data, clean, row_weight
from .descent import Rules, Terms, point, proximal_init, proximal_run, violation
from .factors import Penalty
from .implicit import implicit_tangent, without_tangent
from .inputs import is_traced
from .lanes import any_lane
from .linear import (
    Solution,
    Task,
    as_fit,
    centered,
    check_alpha_given,
    check_penalty,
    empty_params,
    endless,
    entry_status,
    free_shift,
    make_task,
)
from .losses import objective
from .models import Model
from .passes import information_pass
from .predictors import Dense
from .programs import quick_jit
from .results import RUNNING, Fit, Status
from .rows import row_sums


class Net(NamedTuple):
    """An elastic net to fit, checked and in x's dtype; `l1` and the bounds are shaped like w."""

    task: Task
    l1: Array
    lower: Array
    upper: Array


def measure_net(net: Net) -> Columns:
    """Standardized columns in which penalties and bounds stay separable: without a bias nothing is centered."""
    return measure(net.task.data, net.task.model.predictor.bias, jnp.asarray(True))  # type: ignore[union-attr]


def per_theta(columns: Columns, w: Array, fill: float) -> Array:
    """A number for each of w as one for each of theta, (p, k); biases have `fill`."""
    w = as_matrix(w)
    bias = columns.constant is None
    return jnp.concatenate([jnp.full((1, w.shape[1]), fill, w.dtype), w]) if bias else w


def theta_terms(net: Net, columns: Columns) -> Terms:
    """Penalties and bounds as they act on theta."""
    unit = columns.scale[:, None]
    shape = (net.l1.shape[0], net.task.model.family.n_outputs or 1)
    l1, l2 = net.l1.reshape(shape) / unit, net.task.l2.reshape(shape) / unit**2
    lower, upper = net.lower.reshape(shape) * unit, net.upper.reshape(shape) * unit
    parts = (per_theta(columns, *part) for part in ((l1, 0), (l2, 0), (lower, -jnp.inf), (upper, jnp.inf)))
    return Terms(*(part.reshape(-1) for part in parts))


@quick_jit
def solve_net(net: Net) -> Solution:
    """The run from memory, and the verdict."""
    task = net.task
    model, data = task.model, task.data
    columns, like = measure_net(net), empty_params(model, data.x.shape[1], data.x.dtype)
    terms = theta_terms(net, columns)
    theta = to_theta(columns, like if task.params is None else task.params)
    loose = (terms.l1 == 0) & (terms.l2 == 0) & jnp.isinf(terms.lower) & jnp.isinf(terms.upper) & free_shift(model)
    loose = jnp.all(loose.reshape(theta.shape), axis=1, keepdims=True)
    theta = jnp.clip(theta, terms.lower.reshape(theta.shape), terms.upper.reshape(theta.shape))
    theta = theta - jnp.where(loose, jnp.mean(theta, axis=1, keepdims=True), 0)

    status = entry_status(task, RUNNING)
    valid = jnp.all((net.l1 >= 0) & jnp.isfinite(net.l1) & (net.lower <= net.upper))
    status = jnp.where(valid, status, Status.INVALID_INPUT).astype(jnp.int32)
    rules = Rules(terms, loose, task.tol, task.max_steps)
    start = proximal_init(theta, status, task.params is None)
    state = proximal_run(
        rules, start, bias_marks(columns, theta), lambda state: information_pass(model, columns, data, point(state))
    )

    theta, flat = state.theta, state.theta.reshape(-1)
    params = centered(model, to_params(columns, theta, like))
    low, high = flat <= terms.lower, flat >= terms.upper
    at_lower, at_upper = (mark.reshape(theta.shape)[columns.constant is None :] for mark in (low, high))
    w = jnp.where(at_lower.reshape(like.w.shape), net.lower, params.w)  # exactly, whatever rounding made of it
    params = params._replace(w=jnp.where(at_upper.reshape(like.w.shape), net.upper, w))
    slope = raw_gradient(columns, (state.gradient + terms.l2 * flat).reshape(theta.shape)).reshape(-1)
    raw = terms._replace(l1=per_theta(columns, net.l1, 0).reshape(-1))

    separated = state.status == Status.SEPARATED
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), like)

    def limits() -> Dense:
        at = point(state)
        moved = information_pass(model, columns, data, at).reach
        held = low | high | (jnp.isfinite(terms.lower) & jnp.isfinite(terms.upper))
        gauge = jnp.kron(jnp.eye(len(theta)), jnp.ones((1, theta.shape[1]))).astype(theta.dtype)
        penalty = Penalty(terms.l1 + terms.l2, gauge if free_shift(model) else None)
        marks = endless(task, columns, at, ~held, moved, penalty)
        return jax.tree.map(lambda mark: mark & separated, marks)

    return Solution(
        params=params,
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(violation(raw, slope, flat), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=state.status,
        infinite=jax.lax.cond(any_lane(separated), limits, lambda: nothing),
    )


@jax.custom_jvp
def net_solution(net: Net) -> Solution:
    """`solve_net`, differentiable by the implicit function theorem where the set of zeros and bounds stays as it is."""
    return solve_net(net)


@net_solution.defjvp
def _net_tangent(primals: tuple[Net], tangents: tuple[Net]) -> tuple[Solution, Solution]:
    (net,), (moved,) = primals, tangents
    solution, task = net_solution(net), moved.task
    moves = (task.model, task.data, moved.l1, task.l2, moved.lower, moved.upper)
    params, loss, deviance = net_tangent(net, solution.params, moves)
    return solution, without_tangent(solution)._replace(params=params, loss=loss, deviance=deviance)


@quick_jit
def net_tangent(net: Net, params: Dense, moves: tuple) -> tuple[Dense, Array, Array]:
    """Tangents of the parameters, the loss and the deviance, for those of model, data, l1, l2, lower and upper."""
    columns = jax.lax.stop_gradient(measure_net(net))
    like, theta = jax.tree.map(jnp.zeros_like, params), to_theta(columns, params)
    sign = jnp.sign(params.w)

    def f(flat: Array, model: Model, data: Data, l1: Array, l2: Array, shift: Array) -> tuple[Array, Array]:
        at = to_params(columns, (flat + shift).reshape(theta.shape), like)
        loss, sums = objective(model, at, clean(data), l2)
        return loss + jnp.sum(l1 * sign * at.w), sums.deviance

    # Coefficients at a bound move with it, and push the others: `shift` is their tangent.
    *others, lower, upper = moves
    at_lower, at_upper = params.w == net.lower, params.w == net.upper
    held = jnp.where(at_lower, lower, 0) + jnp.where(at_upper & ~at_lower, upper, 0)
    width = per_theta(columns, jnp.broadcast_to(columns.scale, params.w.T.shape).T, 1)
    held = (per_theta(columns, held, 0) * width).reshape(-1)
    free = ~(at_lower | at_upper) & ((params.w != 0) | (net.l1 == 0))
    free = per_theta(columns, free, True)

    task = net.task
    inputs = (task.model, task.data, net.l1, task.l2, jnp.zeros_like(held))
    gauge = None
    if free_shift(task.model):
        # Rows of theta along which the objective stays the same when a constant is added to all classes.
        pull, ridge = (per_theta(columns, part, 0) for part in (net.l1 * sign, task.l2))
        flat_rows = jnp.all(free & (ridge == 0), axis=1) & (jnp.abs(jnp.sum(pull, axis=1)) <= 1e-12)
        k = theta.shape[1]
        rows = jnp.kron(jnp.eye(len(theta)), jnp.ones((1, k)) / np.sqrt(k)).astype(theta.dtype)
        gauge = jnp.where(flat_rows[:, None], rows, 0)
    flat = theta.reshape(-1)
    tangent = implicit_tangent(lambda *at: f(*at)[0], flat, inputs, (*others, held), free.reshape(-1), gauge)
    _, (loss, deviance) = jax.jvp(f, (flat, *inputs), (tangent, *others, held))
    return centered(task.model, to_params(columns, (tangent + held).reshape(theta.shape), like)), loss, deviance


def deviations(data: Data) -> Array:
    """Weighted standard deviations of the columns of x, (d,), dividing by the sum of weights; 1 for a constant one."""

    def weights(rows: Data) -> Array:
        weight = row_weight(rows)
        return jnp.ones(rows.x.shape[:1], rows.x.dtype) if weight is None else weight

    data = clean(data)
    count, total = row_sums(lambda rows: (jnp.sum(weights(rows)), weights(rows) @ rows.x), data)
    mean = total / jnp.where(count > 0, count, 1)
    square = row_sums(lambda rows: weights(rows) @ (rows.x - mean[None]) ** 2, data) / jnp.where(count > 0, count, 1)
    flat = square <= (8 * jnp.finfo(mean.dtype).eps * mean) ** 2
    return jnp.where(flat, 1, jnp.sqrt(jnp.where(flat, 1, square)))


def _bound(value: Any, name: str, like: Array, fill: float) -> Array:
    """A bound broadcast to w; raises for other shapes and for NaN."""
    if value is None:
        return jnp.full(like.shape, fill, like.dtype)
    try:
        fits = np.broadcast_shapes(np.shape(value), like.shape) == like.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be one number or broadcast to the shape {like.shape} of w, got {np.shape(value)}"
        )
    if not is_traced(value) and np.any(np.isnan(value) | (np.asarray(value) == -fill)):
        raise ValueError(f"{name} must be numbers, {fill} for no bound, got {value}")
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def fit_elastic_net(
    model: Model,
    data: Data,
    *,
    l1: float | Array,
    l2: float | Array = 0.0,
    params: Dense | None = None,
    standardize: bool = False,
    lower: float | Array | None = None,
    upper: float | Array | None = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Fit:
    """Fit a linear model with an elastic-net penalty and bounds, to rounding: zeros are exact.

    `sum(weight * nll) / sum(weight) + sum(l1 * |w|) + sum(l2 * w^2) / 2` is minimized over `lower <= w <= upper`,
    biases free. Pure: `jax.vmap` it over data and penalties, and differentiate it with respect to x, y, weight,
    offset, l1, l2 and the bounds, where the coefficients that are 0 or at a bound stay so.

    glmnet's `lambda` and `alpha` are `l1 = lambda * alpha`, `l2 = lambda * (1 - alpha)`, with `standardize=True`.
    Where the minimizer is not unique (more unpenalized columns than rows), one of them is found.

    Args:
        model: from `glm`.
        data: from `make_data`.
        l1: lasso penalty, 0 or more, one number or broadcast to w: a coefficient's own, 0 for unpenalized.
        l2: ridge penalty, likewise.
        params: where to start; None starts at the family's start.
        standardize: let the penalties act on the coefficients of columns scaled to a weighted standard deviation of
            1 (1/n): `l1 * sd` and `l2 * sd^2`. Coefficients, and bounds, are those of x as it is.
        lower: bound that w is not to fall below, one number or broadcast to w; None for none.
        upper: bound that w is not to exceed, likewise.
        tol: ends when no coefficient's slope downhill, in columns scaled to a largest deviation of 1, is above `tol`
            times the mean size of the loss; None is 1024 eps, 2e-13 in float64.
        max_steps: Newton steps at most.

    Returns:
        `Fit` with status CONVERGED, MAX_STEPS, NONFINITE, SEPARATED (unpenalized coefficients without a finite
        estimate, such as the bias where there is one class only; marked in `infinite`), INVALID_TARGET or
        INVALID_INPUT. `optimality` is the largest violation of the conditions of optimality, in units of the
        parameters, over max(1, |loss|).

    Raises:
        ValueError: a penalty that is negative, infinite or of another shape, `lower` above `upper`, an MLP, an alpha
            that is to be estimated, shapes that do not fit.

    Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via
    coordinate descent, Journal of Statistical Software 33.
    """
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=1024.0)
    check_alpha_given(model)
    check_penalty(l1, "l1", task.l2.shape)
    low, high = _bound(lower, "lower", task.l2, -np.inf), _bound(upper, "upper", task.l2, np.inf)
    if not is_traced(low, high) and np.any(np.asarray(low > high)):
        index = tuple(int(i) for i in np.argwhere(np.asarray(low > high))[0])
        place = ", ".join(map(str, index))
        raise ValueError(f"lower[{place}] = {low[index]} is above upper[{place}] = {high[index]}; swap or widen them")
    sparse = jnp.broadcast_to(jnp.asarray(l1, task.l2.dtype), task.l2.shape)
    if standardize:
        spread = deviations(task.data).reshape(-1, *[1] * (sparse.ndim - 1))
        sparse, task = sparse * spread, task._replace(l2=task.l2 * spread**2)
    solution = net_solution(Net(task, sparse, low, high))
    return as_fit(task.model, task.data, solution, l1, l2)
