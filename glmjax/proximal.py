"""`fit_elastic_net`: proximal Newton for the elastic net with bounds, for linear models.

    minimize  sum(weight nll) / sum(weight) + sum(l1 |w|) + sum(l2 w^2) / 2,   lower <= w <= upper,  biases free

in standardized columns, in which penalties and bounds stay separable. The steps themselves are those of `descent`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, bias_marks, raw_gradient, to_params, to_theta
from .coordinates import violation
from .data import Data
from .descent import INFORMATION, ProximalState, Rules, point, proximal_init, proximal_run
from .factors import Penalty
from .implicit import without_tangent
from .lanes import any_lane
from .linear import Solution, as_fit, centered, empty_params, endless, entry_status, free_shift
from .models import Model
from .nets import Net, make_net, measure_net, net_tangent, per_theta, theta_terms
from .passes import LinearSums, information_pass, score_pass
from .predictors import Dense
from .programs import quick_jit
from .results import RUNNING, Fit, Status
from .rotations import RESTING, resting_factor
from .rows import by_rows


def net_rules(net: Net, columns: Columns, lazy: Array | None = None) -> Rules:
    """What does not change during a run."""
    model, terms = net.task.model, theta_terms(net, columns)
    loose = (terms.l1 == 0) & (terms.l2 == 0) & jnp.isinf(terms.lower) & jnp.isinf(terms.upper) & free_shift(model)
    loose = jnp.all(loose.reshape(-1, model.family.n_outputs or 1), axis=1, keepdims=True)
    return Rules(terms, loose, net.task.tol, net.task.max_steps, lazy)


def net_start(net: Net, columns: Columns, rules: Rules) -> ProximalState:
    """The state before the first pass."""
    task, terms = net.task, rules.terms
    like = empty_params(task.model, task.data.x.shape[1], task.data.x.dtype)
    theta = to_theta(columns, like if task.params is None else task.params)
    theta = jnp.clip(theta, terms.lower.reshape(theta.shape), terms.upper.reshape(theta.shape))
    theta = theta - jnp.where(rules.loose, jnp.mean(theta, axis=1, keepdims=True), 0)
    status = entry_status(task, RUNNING)
    valid = jnp.all((net.l1 >= 0) & jnp.isfinite(net.l1) & (net.lower <= net.upper))
    status = jnp.where(valid, status, Status.INVALID_INPUT).astype(jnp.int32)
    return proximal_init(theta, status, task.params is None)


def net_run(model: Model, data: Data, columns: Columns, rules: Rules, state: ProximalState) -> ProximalState:
    """The run from memory."""

    def sums_at(state: ProximalState) -> LinearSums:
        at = point(state)
        if rules.lazy is None:
            return information_pass(model, columns, data, at)
        return jax.lax.cond(
            any_lane((state.status == RUNNING) & (state.kind == INFORMATION)),
            lambda: information_pass(model, columns, data, at, product=jnp.float32),
            lambda: score_pass(model, columns, data, at),
        )

    return proximal_run(rules, state, bias_marks(columns, state.theta), sums_at)


def net_conclusion(net: Net, columns: Columns, rules: Rules, state: ProximalState) -> Solution:
    """What the state at the end of a run from memory means."""
    model, data = net.task.model, net.task.data
    separated = state.status == Status.SEPARATED

    def limits() -> Dense:
        at = point(state)
        moved = information_pass(model, columns, data, at).reach
        return net_limits(net, columns, rules, state, resting_factor(model, columns, data, at, RESTING * moved))

    infinite = jax.lax.cond(any_lane(separated), limits, lambda: no_limits(net))
    return net_answer(net, columns, rules, state, infinite)


def no_limits(net: Net) -> Dense:
    """Marks on no parameter."""
    like = empty_params(net.task.model, net.task.data.x.shape[1], net.task.data.x.dtype)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), like)


def net_limits(net: Net, columns: Columns, rules: Rules, state: ProximalState, r: Array) -> Dense:
    """Which parameters go to infinity where the state is separated; r is the `resting_factor` of its rows."""
    terms, flat, theta = rules.terms, state.theta.reshape(-1), state.theta
    held = (flat <= terms.lower) | (flat >= terms.upper) | (jnp.isfinite(terms.lower) & jnp.isfinite(terms.upper))
    gauge = jnp.kron(jnp.eye(len(theta)), jnp.ones((1, theta.shape[1]))).astype(theta.dtype)
    penalty = Penalty(terms.l1 + terms.l2, gauge if free_shift(net.task.model) else None)
    marks = endless(net.task, columns, r, ~held, penalty)
    return jax.tree.map(lambda mark: mark & (state.status == Status.SEPARATED), marks)


def net_answer(net: Net, columns: Columns, rules: Rules, state: ProximalState, infinite: Dense) -> Solution:
    """What the state at the end of a run means, and which parameters are `infinite`."""
    task, terms = net.task, rules.terms
    like = empty_params(task.model, task.data.x.shape[1], task.data.x.dtype)
    theta, flat = state.theta, state.theta.reshape(-1)
    params = centered(task.model, to_params(columns, theta, like))
    low, high = flat <= terms.lower, flat >= terms.upper
    at_lower, at_upper = (mark.reshape(theta.shape)[columns.constant is None :] for mark in (low, high))
    w = jnp.where(at_lower.reshape(like.w.shape), net.lower, params.w)  # exactly, whatever rounding made of it
    params = params._replace(w=jnp.where(at_upper.reshape(like.w.shape), net.upper, w))
    slope = raw_gradient(columns, (state.gradient + terms.l2 * flat).reshape(theta.shape)).reshape(-1)
    raw = terms._replace(l1=per_theta(columns, net.l1, 0).reshape(-1))
    return Solution(
        params=params,
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(violation(raw, slope, flat), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=state.status,
        infinite=infinite,
    )


@by_rows
@quick_jit
def solve_net(net: Net) -> Solution:
    """The run from memory, and the verdict."""
    columns = measure_net(net)
    rules = net_rules(net, columns)
    state = net_run(net.task.model, net.task.data, columns, rules, net_start(net, columns, rules))
    return net_conclusion(net, columns, rules, state)


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
    net = make_net(model, data, params, l1, l2, standardize, lower, upper, tol, max_steps, default_tol=1024.0)
    return as_fit(net.task.model, net.task.data, net_solution(net), l1, l2)
