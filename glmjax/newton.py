"""`fit_newton`: Newton's steps from memory, from a start on a sample where there are many rows, to a verdict."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, measure, raw_gradient, to_params, to_theta, to_theta_marks
from .data import Data, clean
from .factors import Penalty, factor_by_cholesky, factorize, reciprocal_condition, smallest_pivot, solve
from .implicit import implicit_tangent, without_tangent
from .lanes import any_lane
from .linear import Task, as_marks, empty_params, endless, entry_status, free_shift, make_task, theta_penalty
from .losses import objective
from .models import Model
from .passes import Point, information_pass
from .predictors import Dense
from .results import Fit, Status
from .rows import chunk_rows
from .steps import RUNNING, SCORE, NewtonState, Rules, newton_init, newton_run


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
    guess = newton_init(theta, fresh.status, start=False)
    guess = guess._replace(system=system, kind=jnp.full_like(fresh.kind, SCORE))
    first = jax.tree.map(lambda a, b: jnp.where(good, a, b), guess, fresh)
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
        marks = endless(task, columns, at, state.kept, state.reach, penalty)
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
    """Fit a linear model by Newton's method on `loss(model, params, data, l2)`: R's numbers, or a verdict."""
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
