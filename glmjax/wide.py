"""`streaming.fit_lbfgs`: L-BFGS over a source, for wide linear models and for MLPs; the steps of memory."""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from .checkpoints import Log, open_log
from .columns import Columns
from .data import Data, clean
from .inputs import check_count
from .lbfgs import (
    Doubt,
    bias_sums,
    doubt,
    lbfgs_task,
    linear_conclusion,
    linear_pass,
    linear_rules,
    linear_start,
    network_conclusion,
    network_pass,
    network_rules,
    network_start,
)
from .linear import Solution, Task, as_fit, check_alpha_given
from .models import Model
from .predictors import Linear
from .programs import quick_jit
from .quasinewton import GradientSums, LBFGSState, lbfgs_step, trial
from .reading import add, end, fold, open_reader
from .recession import (
    MOVED,
    Question,
    Search,
    any_aside,
    any_rises,
    ask,
    farthest,
    normal_product,
    search_init,
    search_step,
    way_of,
)
from .results import Fit
from .rows import by_rows
from .sources import ROWS
from .streamed import measured, standing, survey


def fit_lbfgs(
    model: Model,
    source: Iterable[Data],
    *,
    params: Any = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 500,
    memory: int = 10,
    rows: int = ROWS,
    progress: bool = False,
    checkpoint: str | os.PathLike | None = None,
    every: float = 1.0,
) -> Fit:
    """Fit to rows beyond memory by L-BFGS: wide linear models and MLPs, what `glmjax.fit_lbfgs` finds, to rounding.

    Some 30 to 60 passes, where `streaming.fit_newton` takes five: for what is too wide for that. The first pass checks
    the rows and measures the columns, a linear model's second one tells its bias. A step takes one, now and then a few.
    A linear model's last one looks for rows that may be separated; only where there are some, conjugate gradients of
    at most 200 passes show whether the estimate exists.

    Args:
        model: from `glm` or `mlp`.
        source, rows, progress, checkpoint, every: as for `streaming.fit_newton`.
        params, l2, tol, max_steps, memory: as for `glmjax.fit_lbfgs`.

    Returns:
        `Fit`, as `glmjax.fit_lbfgs` has it; `passes` are all reads of the source.

    Raises:
        ValueError, TypeError, OSError: as `streaming.fit_newton` and `glmjax.fit_lbfgs`.

    Reference: Nocedal and Wright (2006), Numerical Optimization, section 7.2.
    """
    check_alpha_given(model)
    memory = check_count(memory, "memory")
    reader = open_reader(source, model.family, rows, progress)
    call = {"solver": "fit_lbfgs", "model": model, "params": params, "l2": l2, "tol": tol, "memory": memory}
    log = open_log(reader, checkpoint, every, max_steps, **call)
    found = survey(log, model.family)
    data = standing(reader, found)
    task = lbfgs_task(model, data, params, l2, tol, max_steps)
    if isinstance(model.predictor, Linear):
        columns = measured(task, found)
        solution = linear(log, task, columns, found.weight, memory)
    else:
        solution = network(log, task, memory)
    log.close()
    solution = solution._replace(passes=jnp.asarray(reader.passes, jnp.int32))
    return end(reader, as_fit(task.model, data, solution, 0.0, l2))


def linear(log: Log, task: Task, columns: Columns, weight: Array, memory: int) -> Solution:
    """The run of a linear model, and the verdict."""
    begun = None
    if task.params is None and columns.constant is None:
        begun = log.fold("bias", partial(_bias, task.model), add)

    def step(state: LBFGSState) -> LBFGSState:
        at = _trial(state)
        sums = fold(log.chunks(), lambda chunk: _linear_pass(task.model, columns, chunk, at), add)
        return _linear_step(task, columns, state, sums)

    state = log.run("steps", _linear_start(task, columns, begun, memory), step)
    asked = _doubt(task, columns, state)
    separated = recedes(log, task, columns, asked, weight) if asked.near else jnp.asarray(False)
    return _linear_conclusion(task, columns, state, separated)


def recedes(log: Log, task: Task, columns: Columns, doubted: Doubt, weight: Array) -> Array:
    """Whether the estimate does not exist: the question of `recession`, asked over the chunks."""
    model, asked = task.model, _ask(doubted, weight)
    if not log.fold("aside", lambda chunk: _any_aside(model, columns, chunk, asked), jnp.logical_or):
        return jnp.asarray(False)

    def product(v: Array, chunk: Data) -> Array:
        return _product(model, columns, chunk, asked, v)

    def step(state: Search) -> Search:
        return _search_step(state, fold(log.chunks(), partial(product, state.direction), add))

    first = log.fold("product", partial(product, asked.theta), add)
    u = way_of(asked, log.run("search", search_init(first), step, limited=False))
    most = log.fold("farthest", lambda chunk: _farthest(model, columns, chunk, u), jnp.maximum)
    if most <= MOVED:
        return jnp.asarray(False)
    return ~log.fold("rises", lambda chunk: _any_rises(model, columns, chunk, u, most), jnp.logical_or)


def network(log: Log, task: Task, memory: int) -> Solution:
    """The run of an MLP."""

    def step(state: LBFGSState) -> LBFGSState:
        at = _trial(state)
        sums = fold(log.chunks(), lambda chunk: _network_pass(task.model, task.params, chunk, at), add)
        return _network_step(task, state, sums)

    return network_conclusion(task, log.run("steps", network_start(task, memory), step))


@by_rows
@quick_jit
def _linear_pass(model: Model, columns: Columns, chunk: Data, u: Array) -> GradientSums:
    return linear_pass(model, columns, chunk, u.reshape(-1, model.family.n_outputs or 1))


@quick_jit
def _linear_step(task: Task, columns: Columns, state: LBFGSState, sums: GradientSums) -> LBFGSState:
    return lbfgs_step(linear_rules(task, columns), state, sums)


@by_rows
@quick_jit
def _network_pass(model: Model, like: Any, chunk: Data, u: Array) -> GradientSums:
    return network_pass(model, clean(chunk), u, ravel_pytree(like)[1])


@quick_jit
def _network_step(task: Task, state: LBFGSState, sums: GradientSums) -> LBFGSState:
    return lbfgs_step(network_rules(task), state, sums)


@quick_jit
def _ask(doubted: Doubt, weight: Array) -> Question:
    return ask(doubted.theta, doubted.free, doubted.share, weight)


_bias, _trial, _doubt = by_rows(quick_jit(bias_sums)), jax.jit(trial), quick_jit(doubt)
_linear_start, _linear_conclusion = quick_jit(linear_start, static_argnums=3), quick_jit(linear_conclusion)
_any_aside, _product, _farthest, _any_rises = (
    by_rows(quick_jit(part)) for part in (any_aside, normal_product, farthest, any_rises)
)
_search_step = quick_jit(search_step)
