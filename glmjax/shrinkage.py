"""`streaming.fit_elastic_net`: proximal Newton over a source; the steps of memory."""

import os
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from .checkpoints import Log, open_log
from .columns import Columns, bias_marks, columns_of_extent
from .data import Data, clean
from .descent import ProximalState, point, proximal_step
from .linear import Solution, as_fit, check_alpha_given
from .models import Model
from .nets import Net, deviations_of, make_net, standardized, weighted_squares, weighted_totals
from .passes import LinearSums, add_sums, information_pass
from .predictors import Dense
from .programs import quick_jit
from .proximal import net_answer, net_limits, net_rules, net_start, no_limits
from .reading import add, end, fold, open_reader
from .results import Fit, Status
from .rotations import RESTING, resting_factor
from .rows import by_rows, row_sums
from .sources import ROWS
from .streamed import Survey, stack, standing, survey


def fit_elastic_net(
    model: Model,
    source: Iterable[Data],
    *,
    l1: float | Array,
    l2: float | Array = 0.0,
    params: Dense | None = None,
    standardize: bool = False,
    lower: float | Array | None = None,
    upper: float | Array | None = None,
    tol: float | None = None,
    max_steps: int = 100,
    rows: int = ROWS,
    progress: bool = False,
    checkpoint: str | os.PathLike | None = None,
    every: float = 1.0,
) -> Fit:
    """Fit an elastic net with bounds to rows beyond memory: what `glmjax.fit_elastic_net` finds, to rounding.

    The first pass checks the rows and measures the columns, two more measure their deviations where `standardize`. A
    Newton step takes one pass; two more mark what goes to infinity where the rows are separated.

    Args:
        model: from `glm`; its information matrix must fit in memory.
        source, rows, progress, checkpoint, every: as for `streaming.fit_newton`.
        l1, l2, params, standardize, lower, upper, tol, max_steps: as for `glmjax.fit_elastic_net`.

    Returns:
        `Fit`, as `glmjax.fit_elastic_net` has it; `passes` are all reads of the source.

    Raises:
        ValueError, TypeError, OSError: as `streaming.fit_newton` and `glmjax.fit_elastic_net`.

    Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via
    coordinate descent, Journal of Statistical Software 33.
    """
    check_alpha_given(model)
    reader = open_reader(source, model.family, rows, progress)
    call = {"solver": "fit_elastic_net", "model": model, "params": params, "l1": l1, "l2": l2, "tol": tol}
    call |= {"standardize": str(standardize), "lower": lower, "upper": upper}
    log = open_log(reader, checkpoint, every, max_steps, **call)
    found = survey(log, model.family)
    data = standing(reader, found)
    net = make_net(model, data, params, l1, l2, False, lower, upper, tol, max_steps, default_tol=1024.0)
    if standardize:
        net = standardized(net, deviations(log))
    solution = solve(log, net, _measured(model, found))
    log.close()
    solution = solution._replace(passes=jnp.asarray(reader.passes, jnp.int32))
    return end(reader, as_fit(net.task.model, data, solution, l1, l2))


def deviations(log: Log) -> Array:
    """Weighted standard deviations of the columns of x, (d,), by two passes."""
    count, total = log.fold("totals", _totals, add)
    mean = total / jnp.where(count > 0, count, 1)
    return deviations_of(count, mean, log.fold("squares", lambda chunk: _squares(chunk, mean), add))


def solve(log: Log, net: Net, columns: Columns) -> Solution:
    """The run, and the verdict."""
    model = net.task.model

    def step(state: ProximalState) -> ProximalState:
        at = point(state)
        sums = fold(log.chunks(), lambda chunk: _information(model, columns, chunk, at), _add_sums)
        return _step(net, columns, state, sums)

    state = log.run("steps", _start(net, columns), step)
    if state.status != Status.SEPARATED:
        return _answer(net, columns, state, no_limits(net))
    at = point(state)
    moved = log.fold("reach", lambda chunk: _information(model, columns, chunk, at).reach, jnp.maximum)
    r = log.fold("resting", lambda chunk: _resting(model, columns, chunk, at, RESTING * moved), stack)
    return _answer(net, columns, state, _limits(net, columns, state, r))


def _measured(model: Model, found: Survey) -> Columns:
    """The columns, as memory's `measure_net` finds them."""
    bias = model.predictor.bias  # type: ignore[union-attr]
    return _columns(found.extent, True, bias, jnp.asarray(True))


@quick_jit
def _start(net: Net, columns: Columns) -> ProximalState:
    return net_start(net, columns, net_rules(net, columns))


@quick_jit
def _step(net: Net, columns: Columns, state: ProximalState, sums: LinearSums) -> ProximalState:
    return proximal_step(net_rules(net, columns), state, sums, bias_marks(columns, state.theta))


@quick_jit
def _limits(net: Net, columns: Columns, state: ProximalState, r: Array) -> Dense:
    return net_limits(net, columns, net_rules(net, columns), state, r)


@quick_jit
def _answer(net: Net, columns: Columns, state: ProximalState, infinite: Dense) -> Solution:
    return net_answer(net, columns, net_rules(net, columns), state, infinite)


@by_rows
@jax.jit
def _totals(chunk: Data) -> tuple[Array, Array]:
    return row_sums(weighted_totals, clean(chunk))


@by_rows
@jax.jit
def _squares(chunk: Data, mean: Array) -> Array:
    return row_sums(partial(weighted_squares, mean=mean), clean(chunk))


_information, _resting = by_rows(quick_jit(information_pass)), by_rows(quick_jit(resting_factor))
_add_sums = quick_jit(add_sums)
_columns = quick_jit(columns_of_extent, static_argnums=(1, 2))
