"""Proximal Newton for the elastic net with bounds, for linear models.

    minimize  sum(weight nll) / sum(weight) + sum(l1 |w|) + sum(l2 w^2) / 2,   lower <= w <= upper,  biases free

In standardized columns, with gradient g and information H of the mean loss:

1. start: the quadratic of the family's start, as R's first least squares; or the parameters given.
2. model: g's + s'(H + damping diag(H))s / 2 plus the penalties and bounds, which stay separable in theta.
3. inner: sweeps of coordinate descent find which coefficients are 0 or at a bound; one linear system for the others
   then ends on the model's minimum to rounding, or on the way to it at the first coefficient that becomes 0.
4. step:  the model's minimum is tried, and kept if the objective has not risen, up to rounding; else more damping.
5. stop:  where no coefficient has a way downhill: on the largest violation of the conditions of optimality.

Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate
descent; Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, bias_marks, measure, raw_gradient, to_params, to_theta
from .data import Data, clean, row_weight
from .factors import Penalty, factor_by_cholesky, solve
from .implicit import implicit_tangent, without_tangent
from .inputs import is_traced
from .lanes import any_lane
from .linear import Task, check_penalty, empty_params, endless, entry_status, free_shift, make_task
from .losses import Sums, objective, with_dispersion
from .models import Model
from .passes import LinearSums, Point, information_pass
from .predictors import Dense
from .results import Fit, Status
from .rows import row_sums

RUNNING = -1
SWEEPS, ROUNDS = 3, 50  # of coordinate descent before each linear system, and how many such rounds a step may take


class Net(NamedTuple):
    """An elastic net to fit, checked and in x's dtype; `l1` and the bounds are shaped like w."""

    task: Task
    l1: Array
    lower: Array
    upper: Array


class Terms(NamedTuple):
    """What stands beside the loss, for each coefficient of flat theta, (p k,)."""

    l1: Array
    l2: Array
    lower: Array
    upper: Array


class Rules(NamedTuple):
    """What does not change during a run. `loose` (p, 1): rows of theta that nothing but a convention holds in place
    when a constant is added to all their classes.
    """

    terms: Terms
    loose: Array
    tol: Array
    max_steps: Array


class ProximalState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
    loss: Array
    deviance: Array
    gradient: Array
    system: Array
    damping: Array
    decrement: Array
    residual: Array  # the largest violation at theta
    steps: Array
    passes: Array
    status: Array


def violation(terms: Terms, slope: Array, theta: Array) -> Array:
    """How steeply the objective falls when a coefficient moves either way that its bounds allow; 0 at an optimum.

    `slope` is the derivative of the smooth part, loss and l2.
    """
    left = slope + jnp.where(theta > 0, terms.l1, -terms.l1)
    right = slope + jnp.where(theta >= 0, terms.l1, -terms.l1)
    downhill = jnp.maximum(jnp.where(theta > terms.lower, left, 0), jnp.where(theta < terms.upper, -right, 0))
    return jnp.maximum(downhill, 0)


def sweep(system: Array, terms: Terms, t: Array, slope: Array) -> tuple[Array, Array]:
    """Coordinate descent once through all coefficients t; `slope` is the loss's, and kept up to date."""

    def update(j: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, slope = at
        row, l1 = system[j], terms.l1[j]
        pull = row[j] * t[j] - slope[j]
        curvature = row[j] + terms.l2[j]
        new = jnp.where(jnp.abs(pull) <= l1, 0, pull - jnp.sign(pull) * l1) / jnp.where(curvature > 0, curvature, 1)
        new = jnp.where((curvature > 0) | (l1 > 0), jnp.clip(new, terms.lower[j], terms.upper[j]), t[j])
        return t.at[j].set(new), slope + row * (new - t[j])

    return jax.lax.fori_loop(0, t.shape[0], update, (t, slope))


def polish(system: Array, terms: Terms, t: Array, slope: Array) -> Array:
    """Solve for the coefficients that are not 0 or at a bound, and go there, or as far as their signs and bounds hold.

    Solved for the change, so that the jitter that a singular system needs costs no digits.
    """
    p = t.shape[0]
    free = (t > terms.lower) & (t < terms.upper) & ((t != 0) | (terms.l1 == 0)) & (jnp.diag(system) + terms.l2 > 0)
    jitter = jnp.asarray(16 * p * jnp.finfo(t.dtype).eps, t.dtype)
    factor = factor_by_cholesky(system, Penalty(terms.l2, None), jitter, free)
    move = -solve(factor, slope + terms.l2 * t + terms.l1 * jnp.sign(t))
    move = jnp.where(jnp.all(jnp.isfinite(move)), move, 0)
    signed = terms.l1 > 0
    lower = jnp.where(signed & (t > 0), jnp.maximum(terms.lower, 0), terms.lower)
    upper = jnp.where(signed & (t < 0), jnp.minimum(terms.upper, 0), terms.upper)
    end = jnp.where(move < 0, lower, upper)
    share = jnp.where(move == 0, jnp.inf, (end - t) / jnp.where(move == 0, 1, move))
    length = jnp.minimum(1, jnp.min(share, initial=jnp.inf))
    return jnp.where(share <= length, end, t + length * move)


def minimize_model(system: Array, gradient: Array, base: Array, terms: Terms, goal: Array, running: Array) -> Array:
    """The minimum of the quadratic model about `base`, flat, with violations of at most `goal`."""

    def slope_at(t: Array) -> Array:
        return gradient + system @ (t - base)

    def body(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        t, slope, _, i = state
        for _ in range(SWEEPS):
            t, slope = sweep(system, terms, t, slope)
        t = polish(system, terms, t, slope)
        slope = slope_at(t)
        return t, slope, jnp.max(violation(terms, slope + terms.l2 * t, t), initial=0), i + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        return running & (state[2] > goal) & (state[3] < ROUNDS)

    t = jnp.clip(base, terms.lower, terms.upper)
    first = (t, slope_at(t), jnp.full((), jnp.inf, t.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, body, first)[0]


def proximal_init(theta: Array, status: Array, start: bool) -> ProximalState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start."""
    p, dtype = theta.size, theta.dtype
    zero, infinity, none = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return ProximalState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
        loss=infinity,
        deviance=zero,
        gradient=jnp.zeros(p, dtype),
        system=jnp.zeros((p, p), dtype),
        damping=zero,
        decrement=infinity,
        residual=infinity,
        steps=none,
        passes=none,
        status=status,
    )


def proximal_step(rules: Rules, state: ProximalState, sums: LinearSums, bias: Array) -> ProximalState:
    """Take in the sums of a pass at `state.trial`; the state with the next trial. `bias` (p, k) marks the bias."""
    terms, shape, dtype = rules.terms, state.theta.shape, state.theta.dtype
    eps = jnp.finfo(dtype).eps

    # What the pass found, as means over the rows.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    flat = state.trial.reshape(-1)
    gradient, system, size = sums.score / total, sums.system / total, jnp.maximum(sums.size / total, 1)
    loss = sums.nll / total + jnp.sum(terms.l1 * jnp.abs(flat) + 0.5 * terms.l2 * flat**2)
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(system))
    # Without slack lanes would backtrack on rounding at the optimum; steps whose gain is less than the rounding of the
    # loss are taken on trust, since the gradient still tells.
    slack = 16 * eps * size
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    accepted = finite & (state.start | (loss <= state.loss + slack))
    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    gradient, system = jnp.where(accepted, gradient, state.gradient), jnp.where(accepted, system, state.system)

    # The quadratic of a start is one about 0, and what is violated there says nothing of convergence.
    base = jnp.where(state.start & accepted, 0, jnp.where(accepted, flat, state.theta.reshape(-1)))
    residual = jnp.max(violation(terms, gradient + terms.l2 * base, base), initial=0) / size
    goal = jnp.maximum(jnp.minimum(0.1, residual) * residual, 0.25 * rules.tol) * size
    damped = system + jnp.diag(damping * jnp.diag(system))
    t = minimize_model(damped, gradient, base, terms, goal, state.status == RUNNING)
    move = t - base
    decrement = jnp.sqrt(jnp.maximum(move @ (system @ move), 0))
    next_trial = t.reshape(shape)
    next_trial = next_trial - jnp.where(rules.loose, jnp.mean(next_trial, axis=1, keepdims=True), 0)

    # A start that is not finite, or a first trial outside the link's domain: go on from the bias alone, then from 0.
    pull = -gradient / jnp.where(jnp.diag(system) > 0, jnp.diag(system), 1)
    null = jnp.clip(jnp.where(bias.reshape(-1) & finite, pull, 0), terms.lower, terms.upper).reshape(shape)
    lost = ~accepted & ~jnp.isfinite(state.loss)
    theta = jnp.where(state.start, null, jnp.where(accepted, state.trial, state.theta))
    trial = jnp.where(lost, jnp.where(state.start, null, state.theta), next_trial)

    # No loss is left to gain, yet rows keep moving by steps of one: their losses have no minimum. Columns are at most
    # 1 in size, so that a small sum says without a pass that no row will move.
    level = jnp.sqrt(eps)
    known = accepted & ~state.start
    moved_before = jnp.isfinite(state.loss)
    at_rest = (moved_before & (sums.reach <= 0.1)) | (jnp.sum(jnp.abs(next_trial - base.reshape(shape))) <= 0.1)
    separated = accepted & (sums.reach > 0.1) & (state.decrement <= level) & (decrement <= level)
    separated &= decrement > 0.3 * state.decrement
    floor = (residual <= 64 * rules.tol) & (residual > 0.5 * state.residual)
    converged = known & at_rest & ((residual <= rules.tol) | floor)

    steps = state.steps + jnp.where(state.start, 0, 1)
    status = jnp.where(steps >= rules.max_steps, Status.MAX_STEPS, RUNNING)
    nowhere = lost & ~state.start & jnp.all(state.trial == state.theta)
    status = jnp.where(nowhere | (damping > 1e12), Status.NONFINITE, status)
    status = jnp.where(separated, Status.SEPARATED, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    return ProximalState(
        theta=theta,
        trial=trial,
        start=jnp.zeros_like(state.start),
        loss=jnp.where(known, loss, state.loss),
        deviance=jnp.where(known, sums.deviance, state.deviance),
        gradient=gradient,
        system=system,
        damping=jnp.where(lost, 0, damping),
        decrement=jnp.where(known, decrement, state.decrement),
        residual=jnp.where(known, residual, state.residual),
        steps=steps,
        passes=state.passes + 1,
        status=status.astype(jnp.int32),
    )


def proximal_run(rules: Rules, state: ProximalState, model: Model, columns: Columns, data: Data) -> ProximalState:
    """Steps until every lane has ended, the passes taken from memory."""
    bias = bias_marks(columns, state.theta)

    def body(state: ProximalState) -> ProximalState:
        at = Point(state.trial, state.trial - state.theta, state.start)
        return proximal_step(rules, state, information_pass(model, columns, data, at), bias)

    return jax.lax.while_loop(lambda state: state.status == RUNNING, body, state)


class Solution(NamedTuple):
    """What `Fit` says of one lane."""

    params: Dense
    loss: Array
    deviance: Array
    optimality: Array
    steps: Array
    passes: Array
    status: Array
    infinite: Dense


def measure_net(net: Net) -> Columns:
    """Standardized columns in which penalties and bounds stay separable: without a bias nothing is centered."""
    return measure(net.task.data, net.task.model.predictor.bias, jnp.asarray(True))  # type: ignore[union-attr]


def per_theta(columns: Columns, w: Array, fill: float) -> Array:
    """A number for each of w as one for each of theta, (p, k); biases have `fill`."""
    w = w.reshape(w.shape[0], -1)
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


def centered(net: Net, params: Dense) -> Dense:
    """The parameters with biases of K logits that sum to 0."""
    if params.b is None or not free_shift(net.task.model):
        return params
    return params._replace(b=params.b - jnp.mean(params.b))


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
    state = proximal_run(rules, proximal_init(theta, status, task.params is None), model, columns, data)

    theta, flat = state.theta, state.theta.reshape(-1)
    params = centered(net, to_params(columns, theta, like))
    low, high = flat <= terms.lower, flat >= terms.upper
    at_lower, at_upper = (mark.reshape(theta.shape)[columns.constant is None :] for mark in (low, high))
    w = jnp.where(at_lower.reshape(like.w.shape), net.lower, params.w)  # exactly, whatever rounding made of it
    params = params._replace(w=jnp.where(at_upper.reshape(like.w.shape), net.upper, w))
    slope = raw_gradient(columns, (state.gradient + terms.l2 * flat).reshape(theta.shape)).reshape(-1)
    raw = terms._replace(l1=per_theta(columns, net.l1, 0).reshape(-1))

    separated = state.status == Status.SEPARATED
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), like)

    def limits() -> Dense:
        at = Point(theta, state.trial - theta, jnp.asarray(False))
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
    return jax.jit(solve_net)(net)


@net_solution.defjvp
def _net_tangent(primals: tuple[Net], tangents: tuple[Net]) -> tuple[Solution, Solution]:
    (net,), (moved,) = primals, tangents
    solution = net_solution(net)
    params, columns = solution.params, jax.lax.stop_gradient(measure_net(net))
    like, theta = jax.tree.map(jnp.zeros_like, params), to_theta(columns, solution.params)
    sign = jnp.sign(params.w)

    def f(flat: Array, model: Model, data: Data, l1: Array, l2: Array, shift: Array) -> tuple[Array, Array]:
        at = to_params(columns, (flat + shift).reshape(theta.shape), like)
        loss, sums = objective(model, at, clean(data), l2)
        return loss + jnp.sum(l1 * sign * at.w), sums.deviance

    # Coefficients at a bound move with it, and push the others: `shift` is their tangent.
    at_lower, at_upper = params.w == net.lower, params.w == net.upper
    held = jnp.where(at_lower, moved.lower, 0) + jnp.where(at_upper & ~at_lower, moved.upper, 0)
    width = per_theta(columns, jnp.broadcast_to(columns.scale, params.w.T.shape).T, 1)
    held = (per_theta(columns, held, 0) * width).reshape(-1)
    free = ~(at_lower | at_upper) & ((params.w != 0) | (net.l1 == 0))
    free = per_theta(columns, free, True)

    task, away = net.task, moved.task
    inputs = (task.model, task.data, net.l1, task.l2, jnp.zeros_like(held))
    moves = (away.model, away.data, moved.l1, away.l2, held)
    gauge = None
    if free_shift(task.model):
        # Rows of theta along which the objective stays the same when a constant is added to all classes.
        pull, ridge = (per_theta(columns, part, 0) for part in (net.l1 * sign, task.l2))
        flat_rows = jnp.all(free & (ridge == 0), axis=1) & (jnp.abs(jnp.sum(pull, axis=1)) <= 1e-12)
        k = theta.shape[1]
        rows = jnp.kron(jnp.eye(len(theta)), jnp.ones((1, k)) / np.sqrt(k)).astype(theta.dtype)
        gauge = rows * flat_rows[:, None]
    flat = theta.reshape(-1)
    tangent = implicit_tangent(lambda *at: f(*at)[0], flat, inputs, moves, free.reshape(-1), gauge)
    _, (loss, deviance) = jax.jvp(f, (flat, *inputs), (tangent, *moves))
    turned = centered(net, to_params(columns, (tangent + held).reshape(theta.shape), like))
    return solution, without_tangent(solution)._replace(params=turned, loss=loss, deviance=deviance)


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
    if not is_traced(value) and np.any(~(np.asarray(value) != -fill)):
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
        ValueError: a penalty that is negative, infinite or of another shape, `lower` above `upper`, an MLP, shapes
            that do not fit.

    Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via
    coordinate descent, Journal of Statistical Software 33.
    """
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=1024.0)
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
    zero = jnp.zeros_like(solution.deviance)
    return Fit(
        model=with_dispersion(task.model, task.data, Sums(zero, solution.deviance, zero)),
        params=solution.params,
        loss=solution.loss,
        optimality=solution.optimality,
        steps=solution.steps,
        passes=solution.passes,
        status=solution.status,
        rcond=None,
        aliased=None,
        infinite=solution.infinite,
        l1=jnp.asarray(l1, data.x.dtype),
        l2=jnp.asarray(l2, data.x.dtype),
        history=None,
    )
