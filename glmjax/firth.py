"""`fit_firth`: Firth's bias reduction, which has finite coefficients where maximum likelihood has none.

In standardized columns z, on F of `jeffreys`, whose score g and system A take two passes:

1. start: least squares on the family's start, as R; or the parameters given.
2. step:  s = H g, H the inverse of A corrected by the last moves (L-BFGS); theta - s is tried, halved until F falls.
3. stop:  on the decrement sqrt(g' s), when what the next passes would find is below `tol`.

Reference: Firth (1993), Bias reduction of maximum likelihood estimates, Biometrika 80.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, measure, to_params, to_theta, to_theta_marks
from .data import Data
from .distributions import by_expectation, has_expectation
from .factors import reciprocal_condition, solve
from .implicit import without_tangent
from .jeffreys import Penalized, penalized_at, penalized_tangent, start_at
from .lanes import chosen
from .linear import Solution, Task, as_fit, as_marks, check_alpha_given, empty_params, entry_status, make_task
from .models import Model, check_problem
from .predictors import Dense
from .programs import quick_jit, staged
from .quasinewton import two_loop
from .results import RUNNING, Fit, Status

MEMORY = 8
FAR = 5.0  # the longest step in a standardized column, as `logistf` has it, while theta is not longer
NEAR = 0.3  # a decrement from where on F is nearly quadratic, and moves tell of it


class FirthState(NamedTuple):
    """A run between evaluations: the best theta, (p, 1), with what was found there, and the trial that comes next."""

    theta: Array
    trial: Array
    kept: Array  # columns that are independent of those before them
    pairs: Array  # (2, m, p): the last moves of theta and of the score, newest first
    curvature: Array  # (m,): 1 / (move @ score's move), 0 where that is not positive or there is no pair
    loss: Array
    score: Array
    upper: Array  # the information's factor
    decrement: Array
    steps: Array
    status: Array


def firth_init(theta: Array, kept: Array, status: Array) -> FirthState:
    """The state before the first evaluation, at theta."""
    p, dtype = theta.size, theta.dtype
    infinity = jnp.full((), jnp.inf, dtype)
    return FirthState(
        theta=jnp.zeros_like(theta),
        trial=theta,
        kept=kept,
        pairs=jnp.zeros((2, MEMORY, p), dtype),
        curvature=jnp.zeros(MEMORY, dtype),
        loss=infinity,
        score=jnp.zeros(p, dtype),
        upper=jnp.eye(p, dtype=dtype),
        decrement=infinity,
        steps=jnp.zeros((), jnp.int32),
        status=status,
    )


def firth_step(tol: Array, max_steps: Array, state: FirthState, found: Penalized) -> FirthState:
    """Take in what was found at `state.trial`; the state with the next trial."""
    eps = float(jnp.finfo(state.loss.dtype).eps)
    slack = found.size * (eps * (16 + jnp.sum(jnp.abs(state.trial))) + jnp.minimum(found.noise, eps**0.5))
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)  # so small a gain is taken on trust
    # Far out the information is that of fewer rows than there are coefficients, and its determinant rounding.
    finite = jnp.all(jnp.isfinite(found.score)) & (found.noise < 0.1)
    accepted = finite & (found.loss <= state.loss + slack)

    measured = jnp.isfinite(state.loss)
    move = jnp.stack([(state.trial - state.theta).reshape(-1), found.score - state.score])
    bend = move[0] @ move[1]
    useful = measured & (bend > 0) & (state.decrement < NEAR)
    pairs = jnp.concatenate([jnp.where(useful, move, 0)[:, None], state.pairs[:, :-1]], axis=1)
    newest = jnp.where(useful, 1 / jnp.where(useful, bend, 1), 0)
    curvature = jnp.append(newest, state.curvature[:-1])
    step = two_loop(found.score, pairs[0], pairs[1], curvature, partial(solve, found.system), MEMORY)
    decrement = jnp.sqrt(jnp.maximum(found.score @ step, 0))
    most = jnp.max(jnp.abs(state.trial), initial=FAR)
    step = step * jnp.minimum(1, most / jnp.maximum(jnp.max(jnp.abs(step), initial=0), most))

    rate = jnp.where(measured, decrement / jnp.where(state.decrement > 0, state.decrement, 1), 1)
    scale = jnp.sqrt(found.size)
    # Rounding: no pass will find less.
    floor = (decrement <= (max(1e-3 * eps**0.5, 64 * eps) + found.noise) * scale) & (rate > 0.5)
    # A lucky step tells nothing of the next one: by the system alone rates are linear, and about the largest leverage.
    expected = decrement * jnp.clip(rate, 0.1, 1)
    converged = (expected <= tol * scale) | floor | (decrement <= eps**2)
    steps = state.steps + 1
    last = jnp.where(measured, Status.MAX_STEPS, Status.NONFINITE)
    status = jnp.where(steps >= max_steps, last, RUNNING).astype(jnp.int32)
    onward = FirthState(
        theta=state.trial,
        trial=state.trial - step.reshape(state.theta.shape),
        kept=state.kept,
        pairs=pairs,
        curvature=curvature,
        loss=found.loss,
        score=found.score,
        upper=found.information.upper,
        decrement=decrement,
        steps=steps,
        status=jnp.where(converged, Status.CONVERGED, jnp.where(steps >= max_steps, Status.MAX_STEPS, status)),
    )
    halved = state._replace(trial=state.theta + 0.5 * (state.trial - state.theta), steps=steps, status=status)
    return chosen(accepted, onward, halved)


def firth_run(
    tol: Array, max_steps: Array, state: FirthState, found_at: Callable[[FirthState], Penalized]
) -> FirthState:
    """Steps until every lane has ended."""
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING,
        lambda state: firth_step(tol, max_steps, state, found_at(state)),
        state,
    )


def fit_firth(
    model: Model,
    data: Data,
    *,
    params: Dense | None = None,
    tol: float | None = None,
    max_steps: int = 200,
) -> Fit:
    """Fit a linear model by Firth's bias reduction: finite coefficients, separated or not, of smaller bias.

        maximize  log-likelihood + log(det I) / 2,   I = sum(weight h x x'),  h the Fisher information of a row

    Jeffreys' prior, over all coefficients with the bias. Under the canonical links, Bernoulli's and the binomial's
    logit and the Poisson's log, it removes the first-order bias of maximum likelihood, as R's `logistf` and `brglm2`.
    Under other links it is the same penalized likelihood, `brglm2`'s "MPL_Jeffreys": finite under probit and cloglog,
    but of first-order bias; links that bound eta may have no maximum. What is predicted does not depend on units, or on
    how x is parametrized.

    `inference(data, fit)` gives the errors that `logistf` prints, of I at the estimate, with Wald's tests and
    intervals; `firth_intervals` those by the penalized likelihood, which are the better ones where data are few.

    Pure: `jax.vmap` it over y, weight, offset and x. Differentiable by the implicit function theorem, forward and
    backward, with respect to x, y, weight, precision, offset and the family's numbers.

    Args:
        model: from `glm`, with one output and without a dispersion: Bernoulli, binomial, Poisson, or negative binomial
            of a given alpha.
        data: from `make_data`.
        params: where to start; None starts at the family's start, as R does.
        tol: as in `fit_newton`; None is eps^0.85.
        max_steps: steps at most, halved ones included; each takes two passes.

    Returns:
        `Fit`, whose `loss` is what was minimized, `(sum(weight nll) - log(det I) / 2) / sum(weight)`, aliased
        coefficients left out of I. Its status is CONVERGED; RANK_DEFICIENT (the coefficients in `aliased` are 0,
        predictions are right); MAX_STEPS, NONFINITE, INVALID_TARGET, INVALID_INPUT.

    Raises:
        ValueError: a model with hidden layers, several outputs, a dispersion or an alpha to estimate; numbers out of
            range, shapes that do not fit.

    Reference: Firth, Biometrika 80 (1993); Heinze and Schemper, Statistics in Medicine 21 (2002); Kosmidis and Firth,
    Biometrika 108 (2021), for other links.
    """
    check_problem(model, data)
    task = firth_task(model, data, params, tol, max_steps)
    return as_fit(task.model, task.data, firth_solution(task), 0.0, 0.0)


def firth_task(model: Model, data: Data, params: Dense | None, tol: float | None, max_steps: int) -> Task:
    """The arguments, checked."""
    check_alpha_given(model)
    family = model.family
    reason = ""
    if family.n_outputs is not None:
        reason = "has several outputs; fit categorical data a class against another, by bernoulli()"
    elif family.dispersion is not None:
        reason = "has a dispersion to estimate, and no likelihood until it is known; use poisson() or bernoulli()"
    elif not has_expectation(family):
        reason = "has no expected information, of which Jeffreys' prior is made; use negative_binomial(alpha)"
    if reason:
        raise ValueError(f"there is no Firth fit of the {family.name} family: it {reason}")
    return make_task(model, data, params, 0.0, tol, max_steps, default_tol=float(jnp.finfo(data.x.dtype).eps) ** -0.15)


@quick_jit
def _solved(task: Task) -> Solution:
    """The run from the start, and its verdict."""
    model, data = replace(task.model, family=by_expectation(task.model.family)), task.data
    columns = columns_of(task)
    like = empty_params(model, data.x.shape[1], data.x.dtype)
    theta, kept = start_at(model, columns, data, to_theta(columns, like))
    theta = theta if task.params is None else to_theta(columns, task.params)
    theta = jnp.where(kept[:, None], theta, 0)
    state = firth_init(theta, kept, entry_status(task, RUNNING))

    def found_at(state: FirthState) -> Penalized:
        return penalized_at(model, columns, data, state.trial, state.kept)

    state = firth_run(task.tol, task.max_steps, state, found_at)
    converged = state.status == Status.CONVERGED
    deficient = converged & jnp.any(~kept)
    return Solution(
        params=to_params(columns, jnp.where(converged, state.trial, state.theta), like),
        loss=state.loss,
        deviance=jnp.zeros_like(state.loss),
        optimality=jnp.max(jnp.abs(state.score), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=2 * state.steps + 1,
        status=jnp.where(deficient, Status.RANK_DEFICIENT, state.status).astype(jnp.int32),
        rcond=reciprocal_condition(state.upper),
        aliased=as_marks(task, columns, ~kept),
        infinite=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), like),
    )


def columns_of(task: Task) -> Columns:
    """The standardized columns of the rows."""
    return measure(task.data, task.model.predictor.bias, jnp.asarray(False))  # type: ignore[union-attr]


# Differentiable by the implicit function theorem.
firth_solution = jax.custom_jvp(staged(_solved, jax.jit(_solved)))


@firth_solution.defjvp
def _firth_tangent(primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    (task,), (moved,) = primals, tangents
    solution = firth_solution(task)
    columns = jax.lax.stop_gradient(columns_of(task))
    free = ~to_theta_marks(solution.aliased).reshape(-1)
    flat = to_theta(columns, solution.params).reshape(-1)
    params, loss = penalized_tangent(task.model, task.data, columns, flat, free, (moved.model, moved.data))
    return solution, without_tangent(solution)._replace(params=params, loss=loss)
