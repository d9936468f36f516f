"""Newton's method in the coefficients and in log(alpha) at once, for negative binomials whose alpha is to be estimated.

    minimize  sum(weight (-log-likelihood)) / sum(weight) + sum(l2 w^2) / 2   over theta and alpha

1. start: the fit at alpha = 0, the Poisson one. If there the loss does not fall with alpha, the counts are not
   overdispersed, and that is the answer: BOUNDARY. Else alpha starts at its moment estimate.
2. step:  Newton's, as in `steps`, with the information of theta, the curvature in log(alpha) and the second derivative
   across the two, which is 0 on average only.

Reference: Lawless, Negative binomial and mixed Poisson regression (Canadian Journal of Statistics, 1987).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, bias_marks, measure, standardize, to_params, to_theta, to_theta_marks
from .data import Data, clean, row_weight
from .factors import Penalty, factor_by_cholesky, solve
from .implicit import implicit_tangent, without_tangent
from .inputs import per_row
from .irls import newton_solution
from .lanes import chosen, rarely
from .linear import Solution, Task, theta_penalty
from .losses import objective, penalty
from .models import Model, linear_predictor
from .passes import LinearSums, information_pass
from .programs import quick_jit, staged
from .results import RUNNING, Status
from .rotations import factor_pass
from .rows import by_rows, chunk_rows, row_fold, row_sums
from .steps import ILL, NewtonState, Rules, newton_init, newton_run, watched_point


class Overdispersed(NamedTuple):
    """The solution at the estimated alpha."""

    solution: Solution
    alpha: Array


class Joint(NamedTuple):
    """A run in theta, and log(alpha) as its last row, from the fit at alpha = 0 that it started from."""

    columns: Columns
    base: Solution
    state: NewtonState


def at_alpha(model: Model, alpha: Any) -> Model:
    """The model at a given alpha."""
    return replace(model, family=replace(model.family, alpha=alpha))


def complete_nll(model: Model, alpha: Array, eta: Array, y: Array) -> Array:
    """-log-likelihood of a row, all its terms."""
    return -at_alpha(model, alpha).family.log_likelihood(eta, y, jnp.ones_like(eta))


def weighted_sums(
    columns: Columns,
    data: Data,
    theta: Array,
    total: tuple[Array, ...],
    row: Callable[[Array, Array, Array], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """Weighted sums over the rows of `row(z, eta, y)`, arrays of the shapes of `total`, which is added to."""

    def update(total: tuple[Array, ...], rows: Data, new: Array) -> tuple[Array, ...]:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        eta = (z @ theta)[:, 0]
        parts = jax.vmap(row)(z, eta if rows.offset is None else eta + rows.offset, rows.y)
        return jax.tree.map(jnp.add, total, weighted(rows, parts, new))

    return row_fold(update, total, data, chunk_rows(3 * len(theta)))


def weighted(rows: Data, parts: tuple[Array, ...], new: Array | bool = True) -> tuple[Array, ...]:
    """Sums over the rows of weight times each part, (n, ...)."""
    weight = row_weight(rows)
    weight = jnp.where(new, jnp.ones_like(parts[0]) if weight is None else weight, 0)
    products = (jnp.where(per_row(weight == 0, part), 0, per_row(weight, part) * part) for part in parts)
    return tuple(jnp.sum(product, axis=0) for product in products)


def joint_sums(model: Model, columns: Columns, data: Data, orthogonal: bool, state: NewtonState) -> LinearSums:
    """The sums of a step in theta and log(alpha); by QR without what their second derivatives have across the two."""
    at = watched_point(state)
    theta, log_alpha = at.theta[:-1], at.theta[-1, 0]

    def row(z: Array, eta: Array, y: Array) -> tuple[Array, ...]:
        derivatives = jax.value_and_grad(lambda *at: complete_nll(model, jnp.exp(at[0]), at[1], y), (0, 1))
        along = (jnp.ones_like(eta), jnp.zeros_like(eta))
        (value, (slope, _)), (_, (curvature, cross)) = jax.jvp(derivatives, (log_alpha, eta), along)
        return value, jnp.abs(value), slope, curvature, cross * z

    zero = jnp.zeros((), theta.dtype)
    total = (zero, zero, zero, zero, jnp.zeros(len(theta), theta.dtype))
    nll, size, slope, curvature, cross = weighted_sums(columns, data, theta, total, row)
    model, at = at_alpha(model, jnp.exp(log_alpha)), at._replace(theta=theta, direction=at.direction[:-1])
    sums = information_pass(model, columns, data, at)
    curvature = jnp.maximum(jnp.abs(curvature), 1e-6 * sums.weight)
    if orthogonal:
        system = jax.scipy.linalg.block_diag(factor_pass(model, columns, data, at), jnp.sqrt(curvature))
    else:
        cross = cross * shrink(sums.system, cross, curvature)
        system = jnp.block([[sums.system, cross[:, None]], [cross[None], curvature[None, None]]])
    return sums._replace(nll=nll, size=size, score=jnp.append(sums.score, slope), system=system)


def shrink(system: Array, cross: Array, curvature: Array) -> Array:
    """By how much to multiply `cross` so that the joint system is positive definite, as away from the optimum it need
    not be: 1 where cross' system^-1 cross is below 0.9 times the curvature. 0 where it cannot be told.
    """
    factor = factor_by_cholesky(system, Penalty(jnp.zeros_like(cross), None), jnp.zeros_like(curvature), cross == cross)
    share = cross @ solve(factor, cross) / curvature
    return jnp.where(share >= 0, jnp.minimum(1, jnp.sqrt(0.9 / jnp.maximum(share, 0.9))), 0)


def joint_run(task: Task, joint: Joint, orthogonal: bool) -> Joint:
    """Steps to the end, or to where Cholesky fails."""
    ridge = jnp.append(theta_penalty(task, joint.columns).diagonal, 0)
    rules = Rules(Penalty(ridge, None), task.tol, task.max_steps, None, False, None, jnp.asarray(False))
    bias = jnp.append(bias_marks(joint.columns, joint.state.theta[:-1]), jnp.zeros((1, 1), bool), axis=0)
    sums_at = partial(joint_sums, task.model, joint.columns, task.data, orthogonal)
    return joint._replace(state=newton_run(rules, joint.state, bias, sums_at, orthogonal))


@by_rows
@quick_jit
def first_joint_run(task: Task, base: Solution) -> Joint:
    """From the fit at alpha = 0 to the joint optimum; lanes that are not overdispersed end where they are."""
    model, data, family = task.model, task.data, task.model.family
    columns = measure(data, model.predictor.bias, jnp.any(task.l2 > 0))  # type: ignore[union-attr]
    theta = to_theta(columns, base.params)

    def row(z: Array, eta: Array, y: Array) -> tuple[Array, ...]:
        slope = jax.grad(lambda alpha: complete_nll(model, alpha, eta, y))(jnp.zeros_like(eta))
        mean = family.mean(eta)
        poisson, one = (replace(family, alpha=alpha).variance(mean) for alpha in (0.0, 1.0))
        return slope, (y - mean) ** 2 - poisson, one - poisson

    zero = jnp.zeros((), theta.dtype)
    slope, excess, unit = weighted_sums(columns, data, theta, (zero, zero, zero), row)
    moment = excess / jnp.where(unit > 0, unit, 1)
    start = jnp.log(jnp.where(moment > 1e-3, moment, 0.1))
    usable = (base.status == Status.CONVERGED) | (base.status == Status.RANK_DEFICIENT)
    status = jnp.where(usable, jnp.where(slope < 0, RUNNING, Status.BOUNDARY), base.status).astype(jnp.int32)
    state = newton_init(jnp.append(theta, start[None, None], axis=0), status, start=False, rehearsals=0)
    state = state._replace(kept=jnp.append(~to_theta_marks(base.aliased).reshape(-1), True))
    return joint_run(task, Joint(columns, base, state), orthogonal=False)


@by_rows
@quick_jit
def second_joint_run(task: Task, joint: Joint) -> Joint:
    """On by QR from where Cholesky has failed."""
    ill = joint.state.status == ILL
    status = jnp.where(ill, RUNNING, joint.state.status)
    ended = joint_run(task, joint._replace(state=joint.state._replace(status=status)), orthogonal=True)
    return chosen(ill, ended, joint)


@by_rows
@quick_jit
def joint_verdict(task: Task, joint: Joint) -> Overdispersed:
    """What the end of a run means; the loss is the objective at the alpha that was found."""
    base, state, columns = joint.base, joint.state, joint.columns
    ran = (state.status == Status.CONVERGED) | (state.status == Status.MAX_STEPS) | (state.status == Status.NONFINITE)
    theta = jnp.where(state.status == Status.CONVERGED, state.trial, state.theta)
    kept = state.kept[:-1].reshape(theta[:-1].shape)
    found = to_params(columns, jnp.where(kept, theta[:-1], 0), base.params)
    params = chosen(ran, found, base.params)
    alpha = jnp.where(ran, jnp.exp(theta[-1, 0]), 0)
    loss, sums = objective(at_alpha(task.model, alpha), params, clean(task.data), task.l2)
    optimality = jnp.max(jnp.abs(state.score)) / jnp.maximum(1, jnp.abs(state.loss))
    deficient = (state.status == Status.CONVERGED) & (base.status == Status.RANK_DEFICIENT)
    solution = base._replace(
        params=params,
        loss=jnp.where(ran, loss, base.loss),
        deviance=jnp.where(ran, sums.deviance, base.deviance),
        optimality=jnp.where(ran, optimality, base.optimality),
        steps=base.steps + state.steps,
        passes=base.passes + 2 * state.passes + 2,
        status=jnp.where(deficient, Status.RANK_DEFICIENT, state.status).astype(jnp.int32),
    )
    return Overdispersed(solution, alpha)


def overdispersed_runs(task: Task) -> Overdispersed:
    """The runs from memory, and the verdict."""
    base = newton_solution(task._replace(model=at_alpha(task.model, jnp.zeros((), task.data.x.dtype))))
    joint = first_joint_run(task, base)
    joint = rarely(joint.state.status, ILL, lambda joint: second_joint_run(task, joint), joint)
    return joint_verdict(task, joint)


# Differentiable by the implicit function theorem.
overdispersed_solution = jax.custom_jvp(staged(overdispersed_runs, by_rows(jax.jit(overdispersed_runs))))


def complete_objective(model: Model, params: Any, alpha: Array, data: Data, l2: Array) -> Array:
    """The objective with complete log-likelihoods, by which alpha is found."""

    def part(rows: Data) -> tuple[Array, ...]:
        eta = linear_predictor(model, params, rows.x, rows.offset)
        nll = jax.vmap(partial(complete_nll, model, alpha))(eta, rows.y)
        return weighted(rows, (nll, jnp.ones_like(nll)))

    total, weight = row_sums(part, clean(data))
    return total / jnp.where(weight == 0, 1, weight) + penalty(params, l2)


@overdispersed_solution.defjvp
def _overdispersed_tangent(primals: tuple[Task], tangents: tuple[Task]) -> tuple[Overdispersed, Overdispersed]:
    (task,), (moved,) = primals, tangents
    found = overdispersed_solution(task)
    params, loss, deviance, alpha = joint_tangent(task, found, (moved.data, moved.l2))
    solution = without_tangent(found.solution)._replace(params=params, loss=loss, deviance=deviance)
    return found, Overdispersed(solution, alpha)


@by_rows
@quick_jit
def joint_tangent(task: Task, found: Overdispersed, moves: tuple[Data, Array]) -> tuple[Any, Array, Array, Array]:
    """Tangents of the parameters, the loss, the deviance and alpha, for those of the data and l2."""
    solution, model, bias = found.solution, task.model, task.model.predictor.bias  # type: ignore[union-attr]
    columns = jax.lax.stop_gradient(measure(task.data, bias, jnp.any(task.l2 > 0)))
    like = jax.tree.map(jnp.zeros_like, solution.params)
    theta = to_theta(columns, solution.params)
    flat = jnp.append(theta.reshape(-1), found.alpha)

    def params_of(flat: Array) -> Any:
        return to_params(columns, flat[:-1].reshape(theta.shape), like)

    def f(flat: Array, data: Data, l2: Array) -> Array:
        return complete_objective(model, params_of(flat), flat[-1], data, l2)

    def ends(flat: Array, data: Data, l2: Array) -> tuple[Array, Array]:
        loss, sums = objective(at_alpha(model, flat[-1]), params_of(flat), clean(data), l2)
        return loss, sums.deviance

    free = jnp.append(~to_theta_marks(solution.aliased).reshape(-1), found.alpha > 0)
    inputs = (task.data, task.l2)
    tangent = implicit_tangent(f, flat, inputs, moves, free, None)
    _, (loss, deviance) = jax.jvp(ends, (flat, *inputs), (tangent, *moves))
    return params_of(tangent), loss, deviance, tangent[-1]
