"""Newton's method over a source: the steps of memory, each from a pass over chunks; the first pass is a survey."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .checkpoints import Log
from .columns import Columns, Extent, bias_marks, columns_of_extent, extent_of, merge_extents
from .data import Data, row_weight
from .distributions import Family
from .factors import independent, penalized_rows
from .inputs import largest
from .irls import conclude, starting_theta
from .linear import Task, as_fit, endless, make_task, theta_penalty
from .meshes import device_sum
from .models import Model, glm, in_dtype
from .newton import target_totals
from .passes import LinearSums, Point, add_sums, information_pass
from .predictors import Dense
from .programs import quick_jit
from .reading import Reader, add, fold
from .results import RUNNING, Fit, Status
from .rotations import RESTING, factor_pass, resting_factor, stacked_qr
from .rows import by_rows
from .steps import BLOCK, ILL, NewtonState, Rules, newton_init, newton_step, point, watched_point


class Survey(NamedTuple):
    """What the first pass finds: extents of the columns, sums of weight and of weight * precision, and of targets."""

    extent: Extent
    copies: Array
    weight: Array
    targets: tuple[Array, Array]


@by_rows
@quick_jit
def _survey(family: Family, chunk: Data, bare: Data) -> Survey:
    copies: Any = chunk.weight
    weight: Any = row_weight(chunk)
    copies, weight = device_sum((jnp.sum(copies), jnp.sum(weight)))
    return Survey(extent_of(bare), copies, weight, target_totals(family, chunk))


@jax.jit
def _merge(one: Survey, other: Survey) -> Survey:
    return add(one, other)._replace(extent=merge_extents(one.extent, other.extent))


def survey(log: Log, family: Family) -> Survey:
    """The first pass."""
    reader = log.reader

    def part(chunk: Data) -> Survey:
        family_in = in_dtype(glm(family), chunk.x.dtype).family  # which is not known before the first chunk is
        return _survey(family_in, chunk, reader.bare(chunk))

    found = log.fold("survey", part, _merge, bare=False)
    low, high = found.extent.low, found.extent.high
    if not (jnp.isfinite(found.weight) & jnp.all((low > -largest(low.dtype)) & (high < largest(low.dtype)))):
        reader.blame()
    if found.copies == 0:
        raise ValueError("weight is 0 in every row; at least one row must count")
    return found


def standing(reader: Reader, found: Survey) -> Data:
    """One row that counts as all of them, for what takes no more of the data than its shapes and how many there are."""
    return jax.tree.map(lambda leaf: leaf[:1], reader.first[0])._replace(weight=found.copies[None])


@quick_jit
def measured(task: Task, found: Survey) -> Columns:
    """The columns, as memory's `measure` finds them."""
    bias = task.model.predictor.bias  # type: ignore[union-attr]
    return columns_of_extent(found.extent, True, bias, jnp.any(task.l2 > 0))


_add_sums = quick_jit(add_sums)
factor_of = by_rows(quick_jit(factor_pass))
_resting = by_rows(quick_jit(resting_factor))
stack = quick_jit(stacked_qr)


@quick_jit
def _at(state: NewtonState) -> tuple[Point, Point]:
    return watched_point(state), point(state)


class Programs(NamedTuple):
    """A pass over a chunk and the step from what all chunks come to, compiled."""

    information: Callable[[Model, Columns, Data, Point], LinearSums]
    step: Callable[[Task, Columns, NewtonState, LinearSums], NewtonState]


def programs(product: Any, block: int | None, orthogonal: bool) -> Programs:
    """Those that compute systems in the dtype `product`, or that take their triangular factors."""

    def information(model: Model, columns: Columns, chunk: Data, at: Point) -> LinearSums:
        return information_pass(model, columns, chunk, at, 1, block, product)

    def step(task: Task, columns: Columns, state: NewtonState, sums: LinearSums) -> NewtonState:
        penalty, no = theta_penalty(task, columns), jnp.asarray(False)
        rules = Rules(penalty, task.tol, task.max_steps, None, False, product, no)
        return newton_step(rules, state, sums, bias_marks(columns, state.theta), orthogonal)

    return Programs(by_rows(quick_jit(information)), quick_jit(step))


# A step needs few digits of its system, and all of the score; where few are not enough it asks for more.
NARROW, WIDE, ORTHOGONAL = programs(jnp.float32, BLOCK, False), programs(None, None, False), programs(None, None, True)


@quick_jit
def _resume(task: Task, columns: Columns, state: NewtonState, r: Array) -> NewtonState:
    """By QR from where Cholesky has failed; the factor decides which columns are dependent."""
    r = r / jnp.sqrt(jnp.where(state.weight > 0, state.weight, 1))
    kept = penalized_rows(r, theta_penalty(task, columns))
    kept = independent(kept, max(1e-11, 64 * float(jnp.finfo(r.dtype).eps)))
    return state._replace(kept=kept, status=jnp.full_like(state.status, RUNNING))


@quick_jit
def _endless(task: Task, columns: Columns, r: Array, kept: Array) -> Dense:
    return endless(task, columns, r, kept, theta_penalty(task, columns))


_conclude = quick_jit(conclude)


@quick_jit
def _begin(task: Task, columns: Columns, start: Any) -> NewtonState:
    return newton_init(starting_theta(task, columns), jnp.asarray(RUNNING, jnp.int32), start, 0)


Chunks = Callable[[], Iterable[Data]]


def run(task: Task, columns: Columns, log: Log, chunks: Chunks, start: Any, begin: Any = None) -> NewtonState:
    """Steps to the end, or to where Cholesky fails; one pass over the chunks each."""
    state = log.run("narrow", start, partial(step, task, columns, chunks, NARROW), begin)
    if state.status == ILL:
        state = state._replace(status=jnp.full_like(state.status, RUNNING))
        state = log.run("wide", state, partial(step, task, columns, chunks, WIDE))
    return state


def step(task: Task, columns: Columns, chunks: Chunks, using: Programs, state: NewtonState) -> NewtonState:
    """One pass, and the step from it."""
    at = _at(state)[0]
    sums = fold(chunks(), lambda chunk: using.information(task.model, columns, chunk, at), _add_sums)
    return using.step(task, columns, state, sums)


def orthogonal_run(task: Task, columns: Columns, log: Log, state: NewtonState) -> NewtonState:
    """On by QR, to the end."""

    def factor(at: Point, chunk: Data) -> Array:
        return factor_of(task.model, columns, chunk, at)

    def both(at: Point, chunk: Data) -> tuple[LinearSums, Array]:
        return ORTHOGONAL.information(task.model, columns, chunk, at), factor(at, chunk)

    def combine(one: tuple[LinearSums, Array], other: tuple[LinearSums, Array]) -> tuple[LinearSums, Array]:
        return _add_sums(one[0], other[0]), stack(one[1], other[1])

    def step(state: NewtonState) -> NewtonState:
        sums, r = fold(log.chunks(), partial(both, _at(state)[0]), combine)
        return ORTHOGONAL.step(task, columns, state, sums._replace(system=r))

    r = log.fold("factor", partial(factor, _at(state)[1]), stack)
    return log.run("orthogonal", _resume(task, columns, state, r), step)


def rehearsed(task: Task, columns: Columns, log: Log) -> NewtonState:
    """The state after the first pass over all rows: taken where the first chunks alone have their optimum, and all over
    again at the family's start where they have none, or one that is far off.
    """
    reader, start = log.reader, _begin(task, columns, jnp.asarray(task.params is None))
    share = reader.count // (32 * len(reader.first[0].x))  # in chunks: the sample is to cost little beside the rows
    sample = reader.first[: max(share, 1)]
    if task.params is not None or reader.count <= len(sample[0].x):
        return start
    found = run(task, columns, Log(reader), lambda: map(reader.bare, sample), start)
    if found.status != Status.CONVERGED:
        return start
    begin = _begin(task, columns, jnp.asarray(False))
    state = step(task, columns, log.chunks, NARROW, begin._replace(theta=found.trial, trial=found.trial))
    near = state.status != RUNNING or state.decrement <= 0.5 * jnp.sqrt(jnp.maximum(1, jnp.abs(state.loss)))
    return state if near else start


def fit_logged(model: Model, log: Log, params: Any, l2: Any, tol: Any, max_steps: Any) -> Fit:
    """The fit, from where its log stands."""
    found = survey(log, model.family)
    data = standing(log.reader, found)
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=float(jnp.finfo(data.x.dtype).eps) ** -0.15)
    columns = measured(task, found)
    start = _begin(task, columns, jnp.asarray(False))
    state = run(task, columns, log, log.chunks, start, lambda: rehearsed(task, columns, log))
    if state.status == ILL:
        state = orthogonal_run(task, columns, log, state)
    solution = _conclude(task, columns, state)
    if state.status == Status.SEPARATED:
        at, limit = _at(state)[1], RESTING * state.reach
        r = log.fold("resting", lambda chunk: _resting(task.model, columns, chunk, at, limit), stack, bare=False)
        solution = solution._replace(infinite=_endless(task, columns, r, state.kept))
    log.close()
    solution = solution._replace(passes=jnp.asarray(log.reader.passes, jnp.int32))
    return as_fit(task.model, data, solution, 0.0, l2)
