"""Newton's method (iteratively reweighted least squares) for linear models.

In standardized columns z, with score g and information H of the objective (Fisher's where the link is not canonical):

1. start: least squares on the family's start, as R; or the parameters given.
2. step:  (H + damping diag(H)) s = g, and theta - s is tried; kept if the loss has not risen, up to rounding.
3. stop:  on the Newton decrement sqrt(g' s), which bounds how far the loss is above its minimum: when what the next
   pass would find is below `tol`, the last step is taken without another pass.

The step takes sums, never data, so that they may come from memory, from a disk or from a mesh. Ill-conditioned systems
are factored by QR of the rows instead of Cholesky. While many rows are far from deciding anything, H comes from a
sample of them, and score-only passes go on from it by L-BFGS, as long as they converge fast.

Reference: McCullagh and Nelder (1989), Generalized Linear Models; Nocedal and Wright (2006), Numerical Optimization.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, bias_marks, measure, raw_gradient, to_params, to_theta, to_theta_marks
from .data import Data, clean
from .factors import (
    Factor,
    Penalty,
    factor_by_cholesky,
    factorize,
    independent,
    penalized_rows,
    reciprocal_condition,
    smallest_pivot,
    solve,
)
from .implicit import implicit_tangent, without_tangent
from .lanes import any_lane
from .linear import Task, as_marks, empty_params, endless, entry_status, free_shift, make_task, theta_penalty
from .losses import objective
from .models import Model
from .passes import LinearSums, Point, factor_pass, information_pass, score_pass
from .predictors import Dense
from .results import Fit, Status
from .rows import chunk_rows

SCORE, INFORMATION, FACTOR = 0, 1, 2  # what a pass is asked for; FACTOR is INFORMATION by QR
RUNNING = -1


class Rules(NamedTuple):
    """What does not change during a run: the penalty on theta, and when to stop."""

    penalty: Penalty
    tol: Array
    max_steps: Array
    lazy: Array | None  # whether score-only passes may be asked for; None where they never are


class NewtonState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
    kind: Array  # what the next pass is asked for
    orthogonal: Array  # whether `system` is a triangular factor
    kept: Array  # columns that are independent of those before them
    pairs: Array | None  # (2, m, p k): moves of theta and of the score since `system` was taken; None if never lazy
    loss: Array
    deviance: Array
    score: Array
    system: Array
    weight: Array
    damping: Array
    decrement: Array
    rate: Array  # the last decrement over the one before
    steps: Array
    passes: Array
    status: Array


def newton_init(theta: Array, status: Array, start: bool, memory: int | None = None) -> NewtonState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start; `memory` pairs."""
    p, dtype = theta.size, theta.dtype
    zero, infinity = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    none = jnp.zeros((), jnp.int32)
    return NewtonState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
        kind=none + INFORMATION,
        orthogonal=jnp.asarray(False),
        kept=jnp.ones(p, bool),
        pairs=None if memory is None else jnp.zeros((2, memory, p), dtype),
        loss=infinity,
        deviance=zero,
        score=jnp.zeros(p, dtype),
        system=jnp.zeros((p, p), dtype),
        weight=zero,
        damping=zero,
        decrement=infinity,
        rate=jnp.ones((), dtype),
        steps=none,
        passes=none,
        status=status,
    )


def point(state: NewtonState) -> Point:
    """Where the next pass is taken, and the direction to it."""
    return Point(state.trial, state.trial - state.theta, state.start)


def newton_step(rules: Rules, state: NewtonState, sums: LinearSums, bias: Array) -> NewtonState:
    """Take in the sums of a pass at `state.trial`; the state with the next trial. `bias` (p, k) marks the bias."""
    eps = jnp.finfo(state.loss.dtype).eps
    penalty, shape = rules.penalty, state.theta.shape

    # What the pass found, as means over the rows, penalty included.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    flat = state.trial.reshape(-1)
    score = sums.score / total + penalty.diagonal * flat
    loss = sums.nll / total + 0.5 * jnp.sum(penalty.diagonal * flat**2)
    size = jnp.maximum(sums.size / total, 1)
    by_qr = state.kind == FACTOR
    fresh = state.kind != SCORE
    system = jnp.where(fresh, sums.system / jnp.where(by_qr, jnp.sqrt(total), total), state.system)

    # The first factor by QR decides which columns are dependent.
    orthogonal = by_qr | state.orthogonal
    deciding = by_qr & ~state.orthogonal
    kept = jax.lax.cond(
        any_lane(deciding),
        lambda: jnp.where(deciding, independent(penalized_rows(system, penalty), max(1e-11, 64 * eps)), state.kept),
        lambda: state.kept,
    )
    # Without slack lanes would backtrack on rounding at the optimum; steps whose gain is less than the rounding of the
    # loss are taken on trust, since the score still tells.
    slack = 16 * eps * size
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    finite = jnp.all(jnp.isfinite(score)) & jnp.all(jnp.isfinite(system))
    accepted = finite & (state.start | (loss <= state.loss + slack))

    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    score = jnp.where(accepted, score, state.score)
    system = jnp.where(accepted, system, state.system)
    factor = factorize(system, orthogonal, penalty, damping, kept)
    pairs = None
    if state.pairs is not None:
        move = jnp.stack([(state.trial - state.theta).reshape(-1), score - state.score])
        pairs = jnp.where(fresh | ~accepted, 0, jnp.roll(state.pairs, -1, axis=1).at[:, -1].set(move))
        pairs = jnp.where(jnp.isfinite(state.loss), pairs, 0)
    step = solve(factor, score) if pairs is None else quasi_newton(factor, pairs, score)
    decrement = jnp.sqrt(jnp.maximum(score @ step, 0))
    step = step.reshape(shape)

    # Too ill-conditioned for Cholesky: the same pass again, by QR.
    ill = accepted & fresh & ~orthogonal & (damping == 0) & ~(smallest_pivot(factor) > eps**0.6)

    # How much the next pass would still find: a quadratic rate goes on falling, a linear one does not.
    measured = jnp.isfinite(state.decrement) & accepted
    rate = jnp.where(measured, decrement / jnp.where(state.decrement > 0, state.decrement, 1), 1)
    expected = decrement * rate * jnp.minimum(1, jnp.where(measured, rate / state.rate, 1))
    scale, level = jnp.sqrt(size), jnp.sqrt(eps)
    # No loss is left to gain, yet rows keep moving by steps of one: their losses have no minimum.
    endless = (sums.reach > 0.1) & (state.decrement <= level) & (decrement <= level)
    # Rounding: no pass will find less. An ill-conditioned system lifts the rounding of the score.
    floor = (decrement <= jnp.where(orthogonal, level, 1e-3 * level) * scale) & (rate > 0.5)
    small = (expected <= rules.tol * scale) & ~orthogonal
    converged = accepted & ~state.start & (damping == 0) & ~endless & (small | floor | (decrement <= eps**2))

    # At the start theta is the bias alone, a mean of the start: the fallback for a first trial outside the domain.
    diagonal = jnp.where(by_qr, jnp.sum(system**2, axis=0), jnp.diag(system)) + penalty.diagonal
    null = jnp.where(bias, (-score / jnp.where(diagonal > 0, diagonal, 1)).reshape(shape), 0)
    lost = ~accepted & ~jnp.isfinite(state.loss)
    theta = jnp.where(state.start, null, jnp.where(accepted, state.trial, state.theta))
    trial = jnp.where(lost, state.theta, jnp.where(state.start, 0, theta) - step)

    steps = state.steps + jnp.where(state.start | ill, 0, 1)
    status = jnp.where(steps >= rules.max_steps, Status.MAX_STEPS, RUNNING)
    nowhere = lost & (state.start | jnp.all(state.trial == state.theta))
    status = jnp.where(nowhere | (damping > 1e12), Status.NONFINITE, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    status = jnp.where(accepted & endless & (rate > 0.3), Status.SEPARATED, status)
    fast = jnp.where(measured, rate < 0.3, state.kind == SCORE)
    lazy = jnp.asarray(False) if rules.lazy is None else rules.lazy & fast & accepted & ~state.start
    known = accepted & ~ill & ~state.start
    return NewtonState(
        theta=jnp.where(ill, state.theta, theta),
        trial=jnp.where(ill, state.trial, trial),
        start=state.start & ill,
        kind=jnp.where(orthogonal | ill, FACTOR, jnp.where(lazy, SCORE, INFORMATION)).astype(jnp.int32),
        orthogonal=orthogonal,
        kept=kept,
        pairs=pairs,
        loss=jnp.where(known, loss, state.loss),
        deviance=jnp.where(known, sums.deviance, state.deviance),
        score=score,
        system=system,
        weight=sums.weight,
        damping=damping,
        decrement=jnp.where(known, decrement, state.decrement),
        rate=jnp.where(measured & ~ill, rate, state.rate),
        steps=steps,
        passes=state.passes + jnp.where(by_qr, 2, 1),
        status=jnp.where(ill, RUNNING, status).astype(jnp.int32),
    )


def quasi_newton(factor: Factor, pairs: Array, score: Array) -> Array:
    """L-BFGS's two loops over the pairs, from the factored information: the step for a score, (p k,)."""
    moves, changes = pairs
    products = jnp.sum(moves * changes, axis=1)
    rho = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)

    def back(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        s, y, r = pair
        a = r * (s @ q)
        return q - a * y, a

    def forth(step: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        s, y, r, a = pair
        return step + (a - r * (y @ step)) * s, None

    q, a = jax.lax.scan(back, score, (moves, changes, rho), reverse=True)
    return jax.lax.scan(forth, solve(factor, q), (moves, changes, rho, a))[0]


def newton_run(rules: Rules, state: NewtonState, model: Model, columns: Columns, data: Data) -> NewtonState:
    """Steps until every lane has ended, the passes taken from memory."""
    bias = bias_marks(columns, state.theta)

    def body(state: NewtonState) -> NewtonState:
        running = state.status == RUNNING
        at = point(state)

        def with_information() -> LinearSums:
            return information_pass(model, columns, data, at)

        if rules.lazy is None:
            sums = with_information()
        else:
            wanted = any_lane(running & (state.kind != SCORE))
            sums = jax.lax.cond(wanted, with_information, lambda: score_pass(model, columns, data, at))
        by_qr = state.kind == FACTOR
        factor = jax.lax.cond(
            any_lane(running & by_qr),
            lambda: factor_pass(model, columns, data, at),
            lambda: jnp.zeros_like(sums.system),
        )
        sums = sums._replace(system=jnp.where(by_qr, factor, sums.system))
        return newton_step(rules, state, sums, bias)

    return jax.lax.while_loop(lambda state: state.status == RUNNING, body, state)


class Solution(NamedTuple):
    """What `Fit` says of one lane."""

    params: Dense
    loss: Array
    optimality: Array
    deviance: Array
    steps: Array
    passes: Array
    status: Array
    rcond: Array
    aliased: Dense
    infinite: Dense


def starting_theta(task: Task, columns: Columns) -> Array:
    """Theta of the parameters given, the classes' sums taken off where they are free; zeros where none were."""
    like = empty_params(task.model, task.data.x.shape[1], task.data.x.dtype)
    theta = to_theta(columns, like if task.params is None else task.params)
    return theta - jnp.mean(theta, axis=1, keepdims=True) if free_shift(task.model) else theta


def sample_size(n: int, p: int) -> int | None:
    """Rows of the sample that a run on n rows of p coefficients starts on; None where it starts on all of them."""
    chunk = chunk_rows(p)
    size = max(n // 10, 50 * p) // chunk * chunk
    return size if n >= 5 * size > 0 and n * p >= 1_000_000 else None


def take_sample(data: Data, size: int, chunk: int) -> Data:
    """Rows spread evenly over all, each moved by a fixed scramble, so that neither order nor period of the rows
    matters; those of every chunk are spread too.
    """
    stride, parts = data.x.shape[0] // size, max(size // chunk, 1)
    order = np.arange(size).reshape(-1, parts).T.reshape(-1) if size % parts == 0 else np.arange(size)
    shift = (order.astype(np.uint32) * np.uint32(2654435761) >> 8) % stride  # Knuth's multiplicative hash
    rows = jnp.asarray(order * stride + shift.astype(np.int64), jnp.int32)
    return jax.tree.map(lambda part: part.at[rows].get(mode="promise_in_bounds", unique_indices=True), data)


def run_task(task: Task) -> tuple[NewtonState, Columns, Penalty]:
    """Steps from the start, or from the parameters given, to the end."""
    model, data = task.model, task.data
    bias = model.predictor.bias  # type: ignore[union-attr]
    d, k = data.x.shape[1], model.family.n_outputs or 1
    size = sample_size(data.x.shape[0], (d + bias) * k)
    sample = data if size is None else take_sample(data, size, chunk_rows((d + bias) * k * k))
    # Any center and scale will do, so the sample's; but what stands in for a bias must be constant in every row.
    columns = measure(sample if bias else data, bias, jnp.any(task.l2 > 0))
    penalty = theta_penalty(task, columns)
    fresh = newton_init(starting_theta(task, columns), entry_status(task, RUNNING), start=task.params is None)
    if size is None:
        rules = Rules(penalty, task.tol, task.max_steps, None)
        return newton_run(rules, fresh, model, columns, data), columns, penalty

    theta, system, good = sample_guess(fresh, penalty, model, columns, sample)
    guess = newton_init(theta, fresh.status, start=False, memory=6)
    guess = guess._replace(system=system, kind=jnp.full_like(fresh.kind, SCORE))
    first = jax.tree.map(lambda a, b: jnp.where(good, a, b), guess, fresh._replace(pairs=guess.pairs))
    # Score-only passes standardize in the coefficients: not where the columns are far from 0.
    lazy = good & (jnp.max(jnp.abs(columns.center / columns.scale), initial=0) < 1e4)
    rules = Rules(penalty, task.tol, task.max_steps, lazy)
    return newton_run(rules, first, model, columns, data), columns, penalty


def sample_guess(
    state: NewtonState, penalty: Penalty, model: Model, columns: Columns, sample: Data
) -> tuple[Array, Array, Array]:
    """Newton steps on a sample: theta, the last information, and whether they went well. That is as near to the
    sample's optimum as it is to that of all rows.
    """
    shape, kept, zero = state.theta.shape, state.kept, jnp.zeros((), state.theta.dtype)
    last = 3

    def step(i: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        theta, _, good = at
        start = state.start & (i == 0)
        few = jnp.where(i < last, 1, sample.x.shape[0])  # a chunk will do until the last step
        sums = information_pass(model, columns, sample, Point(theta, jnp.zeros_like(theta), start), few)
        system = sums.system / sums.weight
        factor = factor_by_cholesky(system, penalty, zero, kept)
        # A start takes its step from 0, and its score is about that.
        theta = jnp.where(start, 0, theta)
        move = solve(factor, sums.score / sums.weight + penalty.diagonal * theta.reshape(-1)).reshape(shape)
        good &= jnp.all(jnp.isfinite(move)) & (smallest_pivot(factor) > jnp.finfo(theta.dtype).eps ** 0.6)
        return theta - move, system, good

    return jax.lax.fori_loop(0, last + 1, step, (state.theta, state.system, jnp.asarray(True)))


def solve_task(task: Task) -> Solution:
    """The run from memory, and the verdict."""
    model, data = task.model, task.data
    state, columns, penalty = run_task(task)
    status = state.status
    ended = (status == Status.CONVERGED) | (status == Status.SEPARATED)
    theta = jnp.where(ended, state.trial, state.theta)
    separated = status == Status.SEPARATED
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), empty_params(model, data.x.shape[1], theta.dtype))

    def limits() -> Dense:
        at = Point(theta, state.trial - state.theta, state.start)
        moved = information_pass(model, columns, data, at).reach
        marks = endless(task, columns, at, state.kept, moved, penalty)
        return jax.tree.map(lambda mark: mark & separated, marks)

    infinite = jax.lax.cond(any_lane(separated), limits, lambda: nothing)
    status = jnp.where((status == Status.CONVERGED) & ~jnp.all(state.kept), Status.RANK_DEFICIENT, status)
    factor = factorize(state.system, state.orthogonal, penalty, jnp.zeros_like(state.damping), state.kept)
    score = raw_gradient(columns, state.score.reshape(theta.shape))
    like = empty_params(model, data.x.shape[1], theta.dtype)
    return Solution(
        params=to_params(columns, jnp.where(state.kept.reshape(theta.shape), theta, 0), like),
        loss=state.loss,
        optimality=jnp.max(jnp.abs(score), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        deviance=state.deviance,
        steps=state.steps,
        passes=state.passes,
        status=status.astype(jnp.int32),
        rcond=reciprocal_condition(factor),
        aliased=as_marks(task, columns, ~state.kept),
        infinite=infinite,
    )


@jax.custom_jvp
def newton_solution(task: Task) -> Solution:
    """`solve_task`, differentiable by the implicit function theorem."""
    return jax.jit(solve_task)(task)


@newton_solution.defjvp
def _newton_tangent(primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    (task,), (moved,) = primals, tangents
    solution = newton_solution(task)
    columns = jax.lax.stop_gradient(measure(task.data, task.model.predictor.bias, jnp.any(task.l2 > 0)))
    like = jax.tree.map(jnp.zeros_like, solution.params)
    theta = to_theta(columns, solution.params)

    def f(flat: Array, model: Model, data: Data, l2: Array) -> Array:
        return objective(model, to_params(columns, flat.reshape(theta.shape), like), clean(data), l2)[0]

    inputs, moves = (task.model, task.data, task.l2), (moved.model, moved.data, moved.l2)
    free = ~to_theta_marks(solution.aliased).reshape(-1)
    gauge = theta_penalty(task, columns).gauge
    flat = theta.reshape(-1)
    tangent = implicit_tangent(f, flat, inputs, moves, free, gauge)
    _, loss = jax.jvp(f, (flat, *inputs), (tangent, *moves))
    none = without_tangent(solution)
    params = to_params(columns, tangent.reshape(theta.shape), like)
    return solution, none._replace(params=params, loss=loss)


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
    """
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=256.0)
    solution = newton_solution(task)
    return Fit(
        model=task.model,
        params=solution.params,
        loss=solution.loss,
        optimality=solution.optimality,
        steps=solution.steps,
        passes=solution.passes,
        status=solution.status,
        rcond=solution.rcond,
        aliased=solution.aliased,
        infinite=solution.infinite,
        l1=jnp.zeros((), data.x.dtype),
        l2=jnp.asarray(l2, data.x.dtype),
        history=None,
    )
