"""Newton's steps from memory, rehearsed on a sample where there are many rows, to a verdict."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, bias_marks, in_range, measure, to_params, to_theta, to_theta_marks
from .data import valid_rows
from .factors import independent, penalized_rows, reciprocal_condition
from .implicit import without_tangent
from .lanes import chosen, grouped, lanewise, rarely
from .linear import (
    Solution,
    Task,
    as_marks,
    centered,
    empty_params,
    endless,
    entry_status,
    free_shift,
    optimum_tangent,
    theta_penalty,
)
from .programs import quick_jit, staged
from .results import RUNNING, Status
from .rotations import RESTING, factor_pass, resting_factor
from .rows import by_rows
from .steps import ILL, NewtonState, Rules, memory_sums, newton_init, newton_run, orthogonal_sums, point


class Run(NamedTuple):
    """Where a run has ended, in which columns, and what that means."""

    columns: Columns
    state: NewtonState
    solution: Solution


def samples_of(n: int, p: int, lanes: int) -> tuple[int, ...] | None:
    """The samples that a run on n rows and p coefficients rehearses on, one block in so many for each step; None where
    there is nothing to gain. The last one's system is to serve many passes, at an optimum that the others have found.
    """
    few, some = n // max(2048 if lanes == 1 else 1024, 20 * p), 5
    if n < 250 * p or lanes * n * p < 1_000_000 or few < 4:
        return None
    return (few, few, min(2 * some, few), some) if lanes == 1 else (few, few, few // 2)


def starting_theta(task: Task, columns: Columns) -> Array:
    """Theta of the parameters given, the classes' sums taken off where they are free; zeros where none were."""
    like = empty_params(task.model, task.data.x.shape[1], task.data.x.dtype)
    theta = to_theta(columns, like if task.params is None else task.params)
    return theta - jnp.mean(theta, axis=1, keepdims=True) if free_shift(task.model) else theta


@by_rows
@quick_jit
def first_run(task: Task) -> Run:
    """Steps from the start, or from the parameters given, to the end, or to where Cholesky fails."""
    return lanewise(lambda lanes: partial(_first_run, lanes))(task)


def _first_run(lanes: int, task: Task) -> Run:
    model, data = task.model, task.data
    free = model.predictor.bias  # type: ignore[union-attr]
    n, d = data.x.shape
    samples = samples_of(n, (d + free) * (model.family.n_outputs or 1), lanes) if task.params is None else None
    # A sample tells center and scale well enough, but not whether a column is constant and may stand in for the bias.
    some = jax.tree.map(lambda rows: rows[:: samples[0]], data) if samples and free else data
    columns = measure(some, free, jnp.any(task.l2 > 0))
    # Score-only passes standardize in the coefficients: not where the columns are far from 0.
    lazy = (samples is not None) & (jnp.max(jnp.abs(columns.center / columns.scale), initial=0) < 1e4)
    # A pass of many lanes is one row at a time for the most part: they get the system of all rows, and as computed.
    alone = samples is not None and lanes == 1
    product = jnp.float32 if alone else None
    rules = Rules(theta_penalty(task, columns), task.tol, task.max_steps, samples, alone, product, lazy)
    # What the columns do not show of a bad x ends as NONFINITE, and is named then: no pass is spent on looking for it.
    status = entry_status(task._replace(data=data._replace(x=data.x[:, :0])), RUNNING)
    status = jnp.where(in_range(columns), status, Status.INVALID_INPUT).astype(jnp.int32)
    start = newton_init(starting_theta(task, columns), status, task.params is None, len(samples or ()))
    bias = bias_marks(columns, start.theta)
    state = newton_run(rules, start, bias, lambda state: memory_sums(rules, model, columns, data, state))
    return Run(columns, state, conclude(task, columns, state))


@by_rows
@quick_jit
def second_run(task: Task, run: Run) -> Run:
    """Steps by QR from where Cholesky has failed; the first factor decides which columns are dependent."""
    model, data, columns = task.model, task.data, run.columns
    ill = run.state.status == ILL
    penalty = theta_penalty(task, columns)
    total = jnp.where(run.state.weight > 0, run.state.weight, 1)
    r = factor_pass(model, columns, data, point(run.state)) / jnp.sqrt(total)
    eps = jnp.finfo(r.dtype).eps
    kept = independent(penalized_rows(r, penalty), max(1e-11, 64 * float(eps)))
    state = run.state._replace(kept=kept, status=jnp.where(ill, RUNNING, run.state.status))
    rules = Rules(penalty, task.tol, task.max_steps, None, False, None, jnp.asarray(False))
    bias = bias_marks(columns, state.theta)
    sums_at = partial(orthogonal_sums, model, columns, data)
    state = newton_run(rules, state, bias, sums_at, orthogonal=True)
    ended = Run(columns, state, conclude(task, columns, state))
    return chosen(ill, ended, run)


@by_rows
@quick_jit
def blame_rows(task: Task, run: Run) -> Run:
    """The run with NONFINITE lanes turned to INVALID_INPUT where it is their rows' fault."""
    status = run.solution.status
    bad = (status == Status.NONFINITE) & ~valid_rows(task.data)
    return run._replace(solution=run.solution._replace(status=jnp.where(bad, Status.INVALID_INPUT, status)))


@by_rows
@quick_jit
def mark_infinite(task: Task, run: Run) -> Run:
    """The run with the coefficients marked that go to infinity, in lanes that are separated."""
    state = run.state
    r = resting_factor(task.model, run.columns, task.data, point(state), RESTING * state.reach)
    marks = endless(task, run.columns, r, state.kept, theta_penalty(task, run.columns))
    marks = jax.tree.map(lambda mark: mark & (state.status == Status.SEPARATED), marks)
    return run._replace(solution=run.solution._replace(infinite=marks))


def conclude(task: Task, columns: Columns, state: NewtonState) -> Solution:
    """What the state at the end of a run means."""
    ended = (state.status == Status.CONVERGED) | (state.status == Status.SEPARATED)
    theta = jnp.where(ended, state.trial, state.theta)
    aliased = ~state.kept
    like = empty_params(task.model, task.data.x.shape[1], theta.dtype)
    deficient = (state.status == Status.CONVERGED) & jnp.any(aliased)
    return Solution(
        params=centered(task.model, to_params(columns, jnp.where(aliased.reshape(theta.shape), 0, theta), like)),
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(jnp.abs(state.score), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=jnp.where(deficient, Status.RANK_DEFICIENT, state.status).astype(jnp.int32),
        rcond=reciprocal_condition(state.upper),
        aliased=as_marks(task, columns, aliased),
        infinite=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), like),
    )


def runs(task: Task) -> Solution:
    """The runs from memory, and the verdict."""
    run = first_run(task)
    run = rarely(run.state.status, ILL, lambda run: second_run(task, run), run)
    run = rarely(run.state.status, Status.NONFINITE, lambda run: blame_rows(task, run), run)
    return rarely(run.state.status, Status.SEPARATED, lambda run: mark_infinite(task, run), run).solution


# Differentiable by the implicit function theorem.
newton_solution = jax.custom_jvp(staged(runs, by_rows(jax.jit(grouped(runs, lambda task: task.data.x)))))


@newton_solution.defjvp
def _newton_tangent(primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    (task,), (moved,) = primals, tangents
    solution = newton_solution(task)
    free = ~to_theta_marks(solution.aliased).reshape(-1)
    params, loss, deviance = optimum_tangent(task, solution, free, (moved.model, moved.data, moved.l2))
    return solution, without_tangent(solution)._replace(params=params, loss=loss, deviance=deviance)
