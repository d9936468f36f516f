"""Limited-memory BFGS on all rows: wide linear models, and MLPs in full batch.

    minimize  f(u) = sum(weight nll) / sum(weight) + sum(l2 u^2) / 2  over one flat vector u

Linear models work in standardized columns, MLPs in their parameters as they are.

1. start: the parameters given; a linear model without any starts at the best bias for the family's start.
2. direction: -H g, with H from the last few changes s of u and y of the gradient, by the two-loop recursion about
   the scale s'y / y'y of the newest; the first time -g.
3. line search: one pass per trial. A length is kept if the loss fell by enough and the slope rose by enough (weak
   Wolfe); else the bracket is halved, or the length doubled while there is none. Where the loss is down to its
   rounding the slopes decide.
4. stop: max|g| <= tol max(1, |f|). A linear model then has to show that its estimate exists (`runs_away`).

The step takes sums, never data.

Reference: Nocedal and Wright (2006), Numerical Optimization, chapter 7; Lewis and Overton (2013), Nonsmooth optimization
via quasi-Newton methods; Hager and Zhang (2005), for the approximate Wolfe conditions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from .columns import Columns, measure, raw_gradient, standardize, to_params, to_theta
from .data import Data, clean
from .factors import factor_by_cholesky, solve
from .implicit import implicit_tangent, without_tangent
from .inputs import check_count, check_number, is_traced, per_row
from .lanes import any_lane
from .linear import Task, empty_params, entry_status, free_shift, make_task, theta_penalty
from .losses import Sums, chunk_sums, objective, penalty, targets_supported, with_dispersion
from .models import Model, check_params, check_problem, in_dtype
from .passes import Point, derivatives, information_pass, score_pass
from .predictors import Dense, Linear
from .results import Fit, Status
from .rows import chunk_rows, row_fold, row_sums

RUNNING = -1
DENSE = 1000  # coefficients up to which a linear model's information is computed, once, to certify the end


class GradientSums(NamedTuple):
    """What a pass adds up: of weight * nll its value, its size and its gradient by u; weight and deviance."""

    nll: Array
    size: Array
    weight: Array
    deviance: Array
    gradient: Array


class Rules(NamedTuple):
    """What does not change during a run: the ridge penalty on each of u, and when to stop."""

    l2: Array
    tol: Array
    max_steps: Array


class LBFGSState(NamedTuple):
    """A run between passes: the best u so far, and the line along which the next pass is taken, at `length`.

    `moves` and `turns` (memory, p) hold the changes of u and of the gradient, newest first, and `curvature` (memory,)
    1 / (move @ turn), 0 where nothing is remembered yet.
    """

    at: Array
    loss: Array
    deviance: Array
    gradient: Array
    direction: Array
    slope: Array
    length: Array
    low: Array
    high: Array
    moves: Array
    turns: Array
    curvature: Array
    steps: Array
    passes: Array
    status: Array


def lbfgs_init(at: Array, status: Array, memory: int) -> LBFGSState:
    """The state before the first pass, which is taken at `at` itself."""
    dtype = at.dtype
    zero, infinity, none = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return LBFGSState(
        at=at,
        loss=infinity,
        deviance=zero,
        gradient=jnp.zeros_like(at),
        direction=jnp.zeros_like(at),
        slope=zero,
        length=zero,
        low=zero,
        high=infinity,
        moves=jnp.zeros((memory, at.size), dtype),
        turns=jnp.zeros((memory, at.size), dtype),
        curvature=jnp.zeros(memory, dtype),
        steps=none,
        passes=none,
        status=status,
    )


def trial(state: LBFGSState) -> Array:
    """Where the next pass is taken."""
    return state.at + state.length * state.direction


def two_loop(gradient: Array, moves: Array, turns: Array, curvature: Array) -> Array:
    """The direction -H g; empty slots, whose curvature is 0, change nothing, and with all of them empty it is -g cut
    to a length of 1.
    """
    q, alphas = gradient, []
    for s, y, rho in zip(moves, turns, curvature, strict=True):
        alphas.append(rho * (s @ q))
        q = q - alphas[-1] * y
    known = curvature[0] > 0
    newest = jnp.where(known, curvature[0] * (turns[0] @ turns[0]), jnp.maximum(1, jnp.linalg.norm(gradient)))
    r = q / newest
    for s, y, rho, alpha in reversed(list(zip(moves, turns, curvature, alphas, strict=True))):
        r = r + (alpha - rho * (y @ r)) * s
    return -r


def lbfgs_step(rules: Rules, state: LBFGSState, sums: GradientSums) -> LBFGSState:
    """Take in the sums of a pass at `trial(state)`; the state with the next trial."""
    eps = jnp.finfo(state.at.dtype).eps
    here = trial(state)

    # What the pass found, as means over the rows, penalty included.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    loss = sums.nll / total + 0.5 * jnp.sum(rules.l2 * here**2)
    gradient = sums.gradient / total + rules.l2 * here
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))
    slope = gradient @ state.direction
    first = jnp.isinf(state.loss)

    # Wolfe. Near the optimum the loss cannot tell two points apart: up to rounding, the slope then has to.
    slack = 16 * eps * jnp.maximum(sums.size / total, 1)
    fell = loss <= state.loss + 1e-4 * state.length * state.slope
    level = (loss <= state.loss + slack) & (slope <= -0.8 * state.slope)
    low_enough = finite & (fell | level)
    accepted = finite & (first | (low_enough & (slope >= 0.9 * state.slope)))

    # The bracket; where it has closed on nothing, once more along the gradient itself, and then no more.
    low = jnp.where(low_enough, state.length, state.low)
    high = jnp.where(low_enough, state.high, state.length)
    length = jnp.where(jnp.isinf(high), 2 * state.length, (low + high) / 2)
    step = jnp.max(jnp.abs(state.direction), initial=0)
    closed = (high - low) * step <= eps * jnp.max(jnp.abs(state.at), initial=1)
    closed = ~accepted & (closed | (length * step > 1 / eps))
    remembered = state.curvature[0] > 0
    stuck = closed & ~remembered

    # Memory. The change of the gradient must be curvature and not rounding.
    move, turn = here - state.at, gradient - state.gradient
    product = move @ turn
    useful = accepted & ~first & (product > eps * jnp.linalg.norm(move) * jnp.linalg.norm(turn))

    def pushed(old: Array, new: Array) -> Array:
        return jnp.where(useful, jnp.concatenate([new[None], old[:-1]]), old)

    moves, turns = pushed(state.moves, move), pushed(state.turns, turn)
    curvature = pushed(state.curvature, 1 / jnp.where(useful, product, 1))
    curvature = jnp.where(closed, 0, curvature)

    at = jnp.where(accepted, here, state.at)
    loss, gradient = jnp.where(accepted, loss, state.loss), jnp.where(accepted, gradient, state.gradient)
    direction = two_loop(gradient, moves, turns, curvature)
    downhill = gradient @ direction
    uphill = ~(downhill < 0)
    direction = jnp.where(uphill, -gradient / jnp.maximum(1, jnp.linalg.norm(gradient)), direction)
    curvature = jnp.where(uphill & (accepted | closed), 0, curvature)
    turned = accepted | closed

    residual = jnp.max(jnp.abs(gradient), initial=0) / jnp.maximum(1, jnp.abs(loss))
    converged = (accepted & (residual <= rules.tol)) | (stuck & (residual <= 100 * rules.tol))
    steps = state.steps + jnp.where(accepted & ~first, 1, 0)
    status = jnp.where((steps >= rules.max_steps) | stuck, Status.MAX_STEPS, RUNNING)
    status = jnp.where(first & ~finite, Status.NONFINITE, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    return LBFGSState(
        at=at,
        loss=loss,
        deviance=jnp.where(accepted, sums.deviance, state.deviance),
        gradient=gradient,
        direction=jnp.where(turned, direction, state.direction),
        slope=jnp.where(turned, gradient @ direction, state.slope),
        length=jnp.where(turned, 1, length),
        low=jnp.where(turned, 0, low),
        high=jnp.where(turned, jnp.inf, high),
        moves=moves,
        turns=turns,
        curvature=curvature,
        steps=steps,
        passes=state.passes + 1,
        status=status.astype(jnp.int32),
    )


def lbfgs_run(rules: Rules, state: LBFGSState, evaluate: Callable[[Array], GradientSums]) -> LBFGSState:
    """Steps until every lane has ended; `evaluate` is a pass at u."""
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING, lambda state: lbfgs_step(rules, state, evaluate(trial(state))), state
    )


def linear_pass(model: Model, columns: Columns, data: Data, theta: Array) -> GradientSums:
    """The sums of a linear model at theta, (p, k)."""

    def short(sums: Any) -> GradientSums:
        return GradientSums(sums.nll, sums.size, sums.weight, sums.deviance, sums.score)

    def update(total: GradientSums, rows: Data, new: Array) -> GradientSums:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        parts = derivatives(model, rows, new, z @ theta)
        size = jnp.sum(jnp.abs(parts.nll))
        score = (parts.r.T @ z).T.reshape(-1)
        part = (jnp.sum(parts.nll), size, jnp.sum(parts.weight), jnp.sum(parts.deviance), score)
        return jax.tree.map(jnp.add, total, GradientSums(*part))

    def careful() -> GradientSums:
        zero = jnp.zeros((), theta.dtype)
        none = GradientSums(zero, zero, zero, zero, jnp.zeros(theta.size, theta.dtype))
        return row_fold(update, none, data, chunk_rows(2 * len(theta)))

    def fast() -> GradientSums:
        return short(score_pass(model, columns, data, Point(theta, theta, jnp.asarray(False))))

    # The fast one standardizes in the coefficients, which costs digits where columns are far from 0.
    far = jnp.max(jnp.abs(columns.center / columns.scale), initial=0) > 100
    return jax.lax.cond(any_lane(far), careful, fast)


def network_pass(model: Model, data: Data, u: Array, unravel: Callable[[Array], Any]) -> GradientSums:
    """The sums of an MLP at u."""

    def part(rows: Data) -> GradientSums:
        def nll(u: Array) -> tuple[Array, Sums]:
            sums = chunk_sums(model, unravel(u), rows)
            return sums.nll, sums

        (value, sums), gradient = jax.value_and_grad(nll, has_aux=True)(u)
        return GradientSums(value, jnp.abs(value), sums.weight, sums.deviance, gradient)

    return row_sums(part, data)


def bias_start(model: Model, columns: Columns, data: Data, theta: Array) -> Array:
    """Theta (p, k) of zeros but for the bias, a weighted mean of the family's start where that is finite."""
    if columns.constant is not None:
        return theta

    def update(total: tuple[Array, Array], rows: Data, new: Array) -> tuple[Array, Array]:
        rows = clean(rows)
        parts = derivatives(model, rows, new, jnp.zeros((len(rows.x), theta.shape[1]), theta.dtype), jnp.asarray(True))
        return total[0] + jnp.sum(parts.r, axis=0), total[1] + jnp.sum(jnp.diagonal(parts.h, axis1=1, axis2=2), axis=0)

    zero = jnp.zeros(theta.shape[1], theta.dtype)
    r, h = row_fold(update, (zero, zero), data)
    bias = -r / jnp.where(h > 0, h, 1)
    return theta.at[0].set(jnp.where(jnp.all(jnp.isfinite(bias)), bias, 0))


def along(model: Model, columns: Columns, data: Data, direction: Array) -> tuple[Array, Array]:
    """How far the direction (p, k) moves any eta, and whether far out on it some row's loss rises."""
    bound = jnp.sum(jnp.abs(direction))
    far = 1e6 / jnp.where(bound > 0, bound, 1)

    def update(total: tuple[Array, Array], rows: Data, new: Array) -> tuple[Array, Array]:
        rows = clean(rows)
        eta = standardize(columns, rows.x) @ direction
        parts = derivatives(model, rows, new, far * eta)
        rises = ~(jnp.sum(jnp.where(eta == 0, 0, parts.r * eta), axis=1) <= 0)
        reach = jnp.max(jnp.where(per_row(parts.weight > 0, eta), jnp.abs(eta), 0), initial=0)
        return jnp.maximum(total[0], reach), total[1] | jnp.any(rises & (parts.weight > 0))

    start = (jnp.zeros((), direction.dtype), jnp.asarray(False))
    return row_fold(update, start, data, chunk_rows(2 * len(direction)))


def runs_away(task: Task, columns: Columns, state: LBFGSState, l2: Array) -> Array:
    """Whether at a point where the gradient is small the estimate does not exist: the loss goes on falling for ever.

    A gradient cannot tell, since where classes are separated it goes to 0 as well. Up to `DENSE` coefficients the
    Newton step does: nothing is left to gain, and still it moves some eta by 0.1 or more. For more of them the last
    quasi-Newton step stands in for it, and theta itself is held against the definition: along it no loss rises.
    """
    model, data = task.model, task.data
    theta = state.at.reshape(-1, task.model.family.n_outputs or 1)
    if theta.size <= DENSE:
        sums = information_pass(model, columns, data, Point(theta, theta, jnp.asarray(False)))
        total = jnp.where(sums.weight > 0, sums.weight, 1)
        jitter = jnp.asarray(16 * theta.size * jnp.finfo(theta.dtype).eps, theta.dtype)
        ridge = theta_penalty(task, columns)
        factor = factor_by_cholesky(sums.system / total, ridge, jitter, jnp.ones(theta.size, bool))
        step = solve(factor, state.gradient)
        tiny = state.gradient @ step <= 10 * task.tol * jnp.maximum(1, jnp.abs(state.loss))
        return tiny & (along(model, columns, data, step.reshape(theta.shape))[0] > 0.1)
    free = (l2 == 0).reshape(theta.shape)
    reach = along(model, columns, data, jnp.where(free, state.direction.reshape(theta.shape), 0))[0]
    size, rises = along(model, columns, data, jnp.where(free, theta, 0))
    return (reach > 0.1) | ((size > 0) & ~rises)


class Solution(NamedTuple):
    """What `Fit` says of one lane."""

    params: Any
    loss: Array
    deviance: Array
    optimality: Array
    steps: Array
    passes: Array
    status: Array


def solve_linear(task: Task, memory: int) -> Solution:
    """The run of a linear model from memory, and the verdict."""
    model, data = task.model, task.data
    columns = measure(data, model.predictor.bias, jnp.any(task.l2 > 0))  # type: ignore[union-attr]
    like = empty_params(model, data.x.shape[1], data.x.dtype)
    theta = to_theta(columns, like if task.params is None else task.params)
    theta = bias_start(model, columns, data, theta) if task.params is None else theta
    if free_shift(model):
        theta = theta - jnp.mean(theta, axis=1, keepdims=True)
    l2 = theta_penalty(task, columns).diagonal
    state = lbfgs_run(
        Rules(l2, task.tol, task.max_steps),
        lbfgs_init(theta.reshape(-1), entry_status(task, RUNNING), memory),
        lambda u: linear_pass(model, columns, data, u.reshape(theta.shape)),
    )
    done = state.status == Status.CONVERGED
    away = jax.lax.cond(any_lane(done), lambda: runs_away(task, columns, state, l2), lambda: jnp.asarray(False))
    slope = raw_gradient(columns, state.gradient.reshape(theta.shape))
    return Solution(
        params=_centered(model, to_params(columns, state.at.reshape(theta.shape), like)),
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(jnp.abs(slope), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=jnp.where(done & away, Status.SEPARATED, state.status).astype(jnp.int32),
    )


def _centered(model: Model, params: Dense) -> Dense:
    """The parameters with biases of K logits that sum to 0."""
    if params.b is None or not free_shift(model):
        return params
    return params._replace(b=params.b - jnp.mean(params.b))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def linear_solution(task: Task, memory: int) -> Solution:
    """`solve_linear`, differentiable by the implicit function theorem."""
    return jax.jit(solve_linear, static_argnums=1)(task, memory)


@linear_solution.defjvp
def _linear_tangent(memory: int, primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    (task,), (moved,) = primals, tangents
    solution = linear_solution(task, memory)
    columns = jax.lax.stop_gradient(measure(task.data, task.model.predictor.bias, jnp.any(task.l2 > 0)))  # type: ignore[union-attr]
    like = jax.tree.map(jnp.zeros_like, solution.params)
    theta = to_theta(columns, solution.params)

    def f(flat: Array, model: Model, data: Data, l2: Array) -> tuple[Array, Array]:
        loss, sums = objective(model, to_params(columns, flat.reshape(theta.shape), like), clean(data), l2)
        return loss, sums.deviance

    inputs, moves = (task.model, task.data, task.l2), (moved.model, moved.data, moved.l2)
    flat, gauge = theta.reshape(-1), theta_penalty(task, columns).gauge
    tangent = implicit_tangent(lambda *at: f(*at)[0], flat, inputs, moves, jnp.ones(flat.shape, bool), gauge)
    _, (loss, deviance) = jax.jvp(f, (flat, *inputs), (tangent, *moves))
    params = _centered(task.model, to_params(columns, tangent.reshape(theta.shape), like))
    return solution, without_tangent(solution)._replace(params=params, loss=loss, deviance=deviance)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def network_solution(task: Task, memory: int) -> Solution:
    """The run of an MLP from memory."""
    return jax.jit(solve_network, static_argnums=1)(task, memory)


@network_solution.defjvp
def _network_tangent(memory: int, primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    raise ValueError(
        "fit_lbfgs of an mlp has no derivative, since its optimum is not unique; put jax.lax.stop_gradient around its "
        "arguments, or differentiate fit_sgd"
    )


def solve_network(task: Task, memory: int) -> Solution:
    """The run of an MLP, and the verdict."""
    model, data = task.model, clean(task.data)
    u, unravel = ravel_pytree(task.params)
    l2 = jax.grad(lambda u: jnp.sum(jax.grad(lambda u: penalty(unravel(u), task.l2))(u)))(u)  # l2 for w, 0 for b
    numbers = (task.l2 >= 0) & jnp.isfinite(task.l2) & (task.tol > 0) & (task.max_steps >= 1)
    status = jnp.where(targets_supported(model, task.data), RUNNING, Status.INVALID_TARGET)
    status = jnp.where(numbers, status, Status.INVALID_INPUT).astype(jnp.int32)
    rules = Rules(l2, task.tol, task.max_steps)
    state = lbfgs_run(rules, lbfgs_init(u, status, memory), lambda u: network_pass(model, data, u, unravel))
    return Solution(
        params=unravel(state.at),
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(jnp.abs(state.gradient), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=state.status,
    )


def network_task(model: Model, data: Data, params: Any, l2: Any, tol: Any, max_steps: Any) -> Task:
    """Check what `fit_lbfgs` is given for an MLP; raises as it says."""
    check_problem(model, data)
    d, dtype = data.x.shape[1], data.x.dtype
    if params is None:
        raise ValueError(f"an mlp needs params to start from: pass params=gj.init(model, key, {d})")
    check_params(model, params, d)
    check_number(l2, "l2", at_least=0)
    if tol is not None:
        check_number(tol, "tol", above=0)
    if not is_traced(max_steps):
        max_steps = check_count(max_steps, "max_steps")
    tol = float(jnp.finfo(dtype).eps) ** 0.5 if tol is None else tol
    return Task(
        model=in_dtype(model, dtype),
        data=jax.tree.map(lambda part: jnp.asarray(part).astype(dtype), data),
        params=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params),
        l2=jnp.asarray(l2, dtype),
        tol=jnp.asarray(tol, dtype),
        max_steps=jnp.asarray(max_steps, jnp.int32),
    )


def fit_lbfgs(
    model: Model,
    data: Data,
    *,
    params: Any = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 500,
    memory: int = 10,
) -> Fit:
    """Fit by L-BFGS on all rows: wide linear models, whose information would not fit, and MLPs in full batch.

    `loss(model, params, data, l2)` is minimized; memory is a few vectors of parameters. Pure and deterministic:
    `jax.vmap` it over y, weight, l2 and params. A linear fit is differentiable by the implicit function theorem (that
    takes its information matrix, so it is for some thousand coefficients); an MLP's raises.

    With more columns than rows and no penalty a linear model has many minimizers, and the one with the smallest
    standardized coefficients is found (from `params=None`), or for classes and counts mostly none: SEPARATED.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        params: where to start; for an MLP `init(model, key, d)`. A linear model starts at a bias by default.
        l2: ridge penalty, 0 or more; for a linear model one number or broadcast to w.
        tol: ends when max|gradient| <= tol * max(1, |loss|), for linear models in columns scaled to a largest
            deviation of 1. None is eps^0.75 for linear models (2e-12 in float64, some digits above the rounding of
            the gradient) and eps^0.5 for MLPs (1e-8: their loss is flat in many directions, and past that point no
            loss can be seen to fall).
        max_steps: steps at most; a step takes one pass, now and then a few.
        memory: how many past steps the curvature is learned from.

    Returns:
        `Fit` with status CONVERGED, MAX_STEPS (also where no shorter step lowers the loss, as at a kink of a ReLU
        network), NONFINITE, SEPARATED, INVALID_TARGET or INVALID_INPUT.

    Raises:
        ValueError: an MLP without `params`, numbers out of range, shapes that do not fit; a derivative of an MLP's fit.

    Reference: Nocedal and Wright (2006), Numerical Optimization, section 7.2; Lewis and Overton (2013).
    """
    check_problem(model, data)
    memory = check_count(memory, "memory")
    if isinstance(model.predictor, Linear):
        level = float(jnp.finfo(data.x.dtype).eps) ** -0.25  # times eps
        task = make_task(model, data, params, l2, tol, max_steps, default_tol=level)
        solution = linear_solution(task, memory)
    else:
        task = network_task(model, data, params, l2, tol, max_steps)
        solution = network_solution(task, memory)
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
        infinite=None,
        l1=jnp.zeros((), data.x.dtype),
        l2=jnp.asarray(l2, data.x.dtype),
        history=None,
    )
