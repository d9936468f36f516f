"""`fit_lbfgs`: limited-memory BFGS on all rows, for wide linear models, and for MLPs in full batch.

Linear models work in standardized columns, MLPs in their parameters as they are. A linear model without parameters to
start from starts at the best bias for the family's start, and once its gradient is small it still has to show that its
estimate exists: where classes are separated the gradient goes to 0 as well. The steps are those of `quasinewton`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from .columns import Columns, measure, raw_gradient, standardize, to_params
from .data import Data, clean
from .implicit import without_tangent
from .inputs import check_count, check_number
from .irls import starting_theta
from .lanes import any_lane
from .linear import (
    Solution,
    Task,
    as_fit,
    as_task,
    centered,
    check_alpha_given,
    empty_params,
    entry_status,
    free_shift,
    make_task,
    optimum_tangent,
    theta_penalty,
)
from .losses import Sums, chunk_sums, penalty
from .models import Model, check_problem
from .passes import Point, derivatives, score_pass
from .predictors import Linear
from .programs import quick_jit
from .quasinewton import GradientSums, LBFGSState, Rules, lbfgs_init, lbfgs_run
from .recession import recedes
from .results import RUNNING, Fit, Status
from .rows import by_rows, chunk_rows, row_fold, row_sums

SHARE = 1000  # of the tolerance: the share of a separated row in the gradient of a run that has converged is below it


def linear_pass(model: Model, columns: Columns, data: Data, theta: Array) -> GradientSums:
    """The sums of a linear model at theta, (p, k)."""

    def update(total: GradientSums, rows: Data, new: Array) -> GradientSums:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        parts = derivatives(model, rows, new, z @ theta)
        part = GradientSums(
            nll=jnp.sum(parts.nll),
            size=jnp.sum(jnp.abs(parts.nll)),
            weight=jnp.sum(parts.weight),
            deviance=jnp.sum(parts.deviance),
            gradient=(parts.r.T @ z).T.reshape(-1),
        )
        return jax.tree.map(jnp.add, total, part)

    def careful() -> GradientSums:
        zero = jnp.zeros((), theta.dtype)
        none = GradientSums(zero, zero, zero, zero, jnp.zeros(theta.size, theta.dtype))
        return row_fold(update, none, data, chunk_rows(2 * len(theta)))

    def fast() -> GradientSums:
        sums = score_pass(model, columns, data, Point(theta, theta, jnp.asarray(False)))
        return GradientSums(sums.nll, sums.size, sums.weight, sums.deviance, sums.score)

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


def bias_sums(model: Model, data: Data) -> tuple[Array, Array]:
    """What tells the bias of the family's start: sums over the rows, (k,) each."""
    k, dtype = model.family.n_outputs or 1, data.x.dtype

    def update(total: tuple[Array, Array], rows: Data, new: Array) -> tuple[Array, Array]:
        rows = clean(rows)
        parts = derivatives(model, rows, new, jnp.zeros((len(rows.x), k), dtype), jnp.asarray(True))
        return total[0] + jnp.sum(parts.r, axis=0), total[1] + jnp.sum(jnp.diagonal(parts.h, axis1=1, axis2=2), axis=0)

    return row_fold(update, (jnp.zeros(k, dtype), jnp.zeros(k, dtype)), data)


def linear_start(task: Task, columns: Columns, sums: tuple[Array, Array] | None, memory: int) -> LBFGSState:
    """The state before the first pass: at the parameters given, or at zeros but for the bias that `sums` tell, a
    weighted mean of the family's start where that is finite.
    """
    theta = starting_theta(task, columns)
    if sums is not None:
        bias = -sums[0] / jnp.where(sums[1] > 0, sums[1], 1)
        theta = theta.at[0].set(jnp.where(jnp.all(jnp.isfinite(bias)), bias, 0))
        theta = theta - jnp.mean(theta, axis=1, keepdims=True) if free_shift(task.model) else theta
    return lbfgs_init(theta.reshape(-1), entry_status(task, RUNNING), memory)


def linear_rules(task: Task, columns: Columns) -> Rules:
    """What does not change during the run of a linear model."""
    return Rules(theta_penalty(task, columns).diagonal, task.tol, task.max_steps)


class Doubt(NamedTuple):
    """Of a linear run that has ended: theta (p, k), which of it is not penalized, whether its gradient is so small that
    separation has to be ruled out, and the share up to which rows are set aside for that.
    """

    theta: Array
    free: Array
    near: Array
    share: Array


def doubt(task: Task, columns: Columns, state: LBFGSState) -> Doubt:
    """What is to be asked of `recession`."""
    shape = (-1, task.model.family.n_outputs or 1)
    free = theta_penalty(task, columns).diagonal == 0
    size, left = jnp.maximum(1, jnp.abs(state.loss)), jnp.max(jnp.abs(state.gradient), initial=0)
    # Where rows are separated the line search may see no loss to gain before the gradient is at its tolerance.
    ended = (state.status == Status.CONVERGED) | (state.status == Status.MAX_STEPS)
    near, share = ended & (left <= jnp.sqrt(task.tol) * size), SHARE * jnp.maximum(task.tol * size, left)
    return Doubt(state.at.reshape(shape), free.reshape(shape), near, share)


def linear_conclusion(task: Task, columns: Columns, state: LBFGSState, separated: Array) -> Solution:
    """What the state at the end of a run means."""
    theta = state.at.reshape(-1, task.model.family.n_outputs or 1)
    like = empty_params(task.model, task.data.x.shape[1], task.data.x.dtype)
    slope = raw_gradient(columns, state.gradient.reshape(theta.shape))
    return Solution(
        params=centered(task.model, to_params(columns, theta, like)),
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(jnp.abs(slope), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=jnp.where(separated, Status.SEPARATED, state.status).astype(jnp.int32),
    )


@partial(by_rows, static_argnums=(1,))
@partial(quick_jit, static_argnums=1)
def solve_linear(task: Task, memory: int) -> Solution:
    """The run of a linear model from memory, and the verdict."""
    model, data = task.model, task.data
    columns = measure(data, model.predictor.bias, jnp.any(task.l2 > 0))  # type: ignore[union-attr]
    begun = bias_sums(model, data) if task.params is None and columns.constant is None else None
    shape, start = (-1, model.family.n_outputs or 1), linear_start(task, columns, begun, memory)
    rules = linear_rules(task, columns)
    state = lbfgs_run(rules, start, lambda u: linear_pass(model, columns, data, u.reshape(shape)))
    theta, free, near, share = doubt(task, columns, state)
    asked = partial(recedes, model, columns, data, theta, free, share)
    away = jax.lax.cond(any_lane(near), asked, lambda: jnp.asarray(False))
    return linear_conclusion(task, columns, state, near & away)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def linear_solution(task: Task, memory: int) -> Solution:
    """`solve_linear`, differentiable by the implicit function theorem."""
    return solve_linear(task, memory)


@linear_solution.defjvp
def _linear_tangent(memory: int, primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    (task,), (moved,) = primals, tangents
    solution = linear_solution(task, memory)
    free = jnp.ones(solution.params.w.size + (0 if solution.params.b is None else solution.params.b.size), bool)
    params, loss, deviance = optimum_tangent(task, solution, free, (moved.model, moved.data, moved.l2))
    return solution, without_tangent(solution)._replace(params=params, loss=loss, deviance=deviance)


def network_rules(task: Task) -> Rules:
    """What does not change during the run of an MLP."""
    u, unravel = ravel_pytree(task.params)
    l2 = jax.grad(lambda u: jnp.sum(jax.grad(lambda u: penalty(unravel(u), task.l2))(u)))(u)  # l2 for w, 0 for b
    return Rules(l2, task.tol, task.max_steps)


def network_start(task: Task, memory: int) -> LBFGSState:
    """The state before the first pass."""
    return lbfgs_init(ravel_pytree(task.params)[0], entry_status(task, RUNNING), memory)


def network_conclusion(task: Task, state: LBFGSState) -> Solution:
    """What the state at the end of a run means."""
    return Solution(
        params=ravel_pytree(task.params)[1](state.at),
        loss=state.loss,
        deviance=state.deviance,
        optimality=jnp.max(jnp.abs(state.gradient), initial=0) / jnp.maximum(1, jnp.abs(state.loss)),
        steps=state.steps,
        passes=state.passes,
        status=state.status,
    )


@partial(by_rows, static_argnums=(1,))
@partial(quick_jit, static_argnums=1)
def solve_network(task: Task, memory: int) -> Solution:
    """The run of an MLP from memory."""
    model, data = task.model, clean(task.data)
    unravel = ravel_pytree(task.params)[1]
    start = network_start(task, memory)
    state = lbfgs_run(network_rules(task), start, lambda u: network_pass(model, data, u, unravel))
    return network_conclusion(task, state)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def network_solution(task: Task, memory: int) -> Solution:
    """`solve_network`, whose derivative is refused."""
    return solve_network(task, memory)


@network_solution.defjvp
def _network_tangent(memory: int, primals: tuple[Task], tangents: tuple[Task]) -> tuple[Solution, Solution]:
    raise ValueError(
        "fit_lbfgs of an mlp has no derivative, since its optimum is not unique; put jax.lax.stop_gradient around its "
        "arguments, or differentiate fit_sgd"
    )


def lbfgs_task(model: Model, data: Data, params: Any, l2: Any, tol: Any, max_steps: Any) -> Task:
    """Check what `fit_lbfgs` is given, and bring it to x's dtype."""
    eps = float(jnp.finfo(data.x.dtype).eps)
    if isinstance(model.predictor, Linear):
        return make_task(model, data, params, l2, tol, max_steps, default_tol=eps**-0.25)
    if params is None:
        d = data.x.shape[1]
        raise ValueError(f"an mlp needs params to start from: pass params=gj.init(model, key, {d})")
    check_number(l2, "l2", at_least=0)
    return as_task(model, data, params, l2, (), tol, max_steps, default_tol=eps**-0.5)


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
        ValueError: an MLP without `params`, an alpha that is to be estimated, numbers out of range, shapes that do not
            fit; a derivative of an MLP's fit.

    Reference: Nocedal and Wright (2006), Numerical Optimization, section 7.2; Lewis and Overton (2013).
    """
    check_problem(model, data)
    check_alpha_given(model)
    memory = check_count(memory, "memory")
    task = lbfgs_task(model, data, params, l2, tol, max_steps)
    solve = linear_solution if isinstance(model.predictor, Linear) else network_solution
    return as_fit(task.model, task.data, solve(task, memory), 0.0, l2)
