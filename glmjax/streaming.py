"""`streaming.fit_newton` and `streaming.inference`: the same numbers from rows that memory does not hold.

A pass is a loop of the host over chunks of one shape: each goes through the pass that memory has, as one compiled
program, and what it returns is added up. The steps between passes are those of memory, which take sums and never data.
The host waits for the end of a pass only: while a chunk is computed with, the next ones are read.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from .batches import show_line
from .columns import Columns, Extent, bias_marks, columns_of_extent, extent_of, merge_extents
from .covariance import bayesian, fisher, hc0, hc1, hc2, hc3
from .data import Data, row_weight
from .distributions import Family, has_expectation
from .factors import Penalty, factor_by_qr, independent, penalized_rows
from .inferences import (
    Goodness,
    Inference,
    as_table,
    as_value,
    check_arguments,
    deviance_dispersion,
    dispersion_of,
    pearson_dispersion,
)
from .influence import effects_task
from .inputs import check_count
from .irls import conclude, starting_theta
from .linear import Task, as_fit, check_alpha_given, endless, make_task, theta_penalty
from .losses import deviance, goodness_sums
from .models import Model, glm, in_dtype
from .newton import link_of_totals, target_totals
from .optima import Optimum, at_fit, by_cholesky, information_total, rooted, signed
from .passes import LinearSums, Point, add_sums, information_pass
from .predictors import Dense
from .programs import quick_jit
from .results import RUNNING, Fit, Status
from .rotations import RESTING, factor_pass, resting_factor, stacked_qr
from .sources import ROWS, Source, array_source, check_source, device_chunks, parquet_source, parts_of
from .steps import ILL, NewtonState, Rules, newton_init, newton_step, point, watched_point

__all__ = ["Source", "array_source", "fit_newton", "inference", "parquet_source"]

Total = TypeVar("Total")
IN_FLIGHT = 4  # chunks that the device may be behind by: each keeps its rows in memory


@dataclass
class Reader:
    """A source and what its passes have in common; the host's own state: how many passes there were, and from the
    first of them the number of rows, the first chunk, and who they are checked for.
    """

    source: Iterable[Data]
    rows: int
    progress: bool
    family: Family | None
    passes: int = 0
    count: int = 0
    first: Any = None

    def chunks(self) -> Iterator[Data]:
        """A pass: its chunks on the device. The first one checks the values; the others that the rows are as many."""
        family = None if self.passes else self.family
        self.passes += 1
        count, began, shown = 0, time.monotonic(), 0.0
        for chunk, rows in device_chunks(self.source, self.rows, family):
            count += rows
            self.first = chunk if self.first is None else self.first
            yield chunk
            now = time.monotonic()
            if self.progress and sys.stderr.isatty() and now - shown > 1:
                shown = self._show(count, now - began)
        if self.passes == 1:
            self.count = count
        if count == 0 and self.count == 0:
            raise ValueError("the source is empty: it yields no rows; nothing can be fitted to no data")
        if count != self.count:
            raise ValueError(
                f"the source yields {self.count} rows the first time and {count} in pass {self.passes}; it must yield "
                "the same rows each time: a generator or an open file can be read once only; pass Source(function), "
                "whose function starts it anew"
            )
        if self.progress:
            self._show(count, time.monotonic() - began)

    def _show(self, count: int, seconds: float) -> float:
        of = "" if count == self.count else f" of {self.count}" if self.passes > 1 else " so far"
        show_line(f"pass {self.passes}: {count} rows{of}, {count / max(seconds, 1e-9):.3g} rows a second")
        return time.monotonic()


def open_reader(source: Any, family: Family, rows: int, progress: bool) -> Reader:
    """The reader of a source, checked."""
    check_source(source)
    return Reader(source, check_count(rows, "rows"), progress, family)


def fold(chunks: Iterable[Data], part: Callable[[Data], Total], combine: Callable[[Total, Total], Total]) -> Total:
    """`part` of each chunk, combined: sums are a monoid, and this is the way of adding them that disk has."""
    total: Any = None
    waiting: deque[Any] = deque()
    for chunk in chunks:
        new = part(chunk)
        total = new if total is None else combine(total, new)
        waiting.append(total)
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.popleft())  # long done where reading is what takes the time
    return total


@jax.jit
def add(one: Total, other: Total) -> Total:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, one, other)


class Survey(NamedTuple):
    """What the first pass finds: extents of the columns, sums of weight and of weight * precision, and of targets."""

    extent: Extent
    copies: Array
    weight: Array
    targets: tuple[Array, Array]


@quick_jit
def _survey(family: Family, chunk: Data) -> Survey:
    weight: Any = row_weight(chunk)
    return Survey(extent_of(chunk), jnp.sum(chunk.weight), jnp.sum(weight), target_totals(family, chunk))


@jax.jit
def _merge(one: Survey, other: Survey) -> Survey:
    return add(one, other)._replace(extent=merge_extents(one.extent, other.extent))


def survey(reader: Reader, family: Family) -> Survey:
    """The first pass."""
    # The dtype is not known before the first chunk is.
    found = fold(reader.chunks(), lambda chunk: _survey(in_dtype_of(family, chunk), chunk), _merge)
    if found.copies == 0:
        raise ValueError("weight is 0 in every row; at least one row must count")
    return found


def in_dtype_of(family: Family, chunk: Data) -> Family:
    """The family with its numbers in a chunk's dtype."""
    return in_dtype(glm(family), chunk.x.dtype).family


def standing(reader: Reader, found: Survey) -> Data:
    """One row that counts as all of them, for what takes no more of the data than its shapes and how many there are."""
    return jax.tree.map(lambda leaf: leaf[:1], reader.first)._replace(weight=found.copies[None])


@quick_jit
def _columns(task: Task, found: Survey) -> Columns:
    bias = task.model.predictor.bias  # type: ignore[union-attr]
    return columns_of_extent(found.extent, True, bias, jnp.any(task.l2 > 0))


_information = quick_jit(information_pass)
_add_sums = quick_jit(add_sums)
_factor = quick_jit(factor_pass)
_resting = quick_jit(resting_factor)
_stack = quick_jit(stacked_qr)


@quick_jit
def _at(state: NewtonState) -> tuple[Point, Point]:
    return watched_point(state), point(state)


def _rules(task: Task, columns: Columns) -> Rules:
    return Rules(theta_penalty(task, columns), task.tol, task.max_steps, None, False, None, jnp.asarray(False))


@quick_jit
def _step(task: Task, columns: Columns, state: NewtonState, sums: LinearSums) -> NewtonState:
    return newton_step(_rules(task, columns), state, sums, bias_marks(columns, state.theta))


@quick_jit
def _orthogonal_step(task: Task, columns: Columns, state: NewtonState, sums: LinearSums) -> NewtonState:
    return newton_step(_rules(task, columns), state, sums, bias_marks(columns, state.theta), orthogonal=True)


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
def _begin(task: Task, columns: Columns, start: Array) -> NewtonState:
    return newton_init(starting_theta(task, columns), jnp.asarray(RUNNING, jnp.int32), start, 0)


def run(task: Task, columns: Columns, state: NewtonState, chunks: Callable[[], Iterable[Data]]) -> NewtonState:
    """Steps from a state to the end, or to where Cholesky fails; one pass over the chunks each."""
    while state.status == RUNNING:
        state = step(task, columns, state, chunks)
    return state


def step(task: Task, columns: Columns, state: NewtonState, chunks: Callable[[], Iterable[Data]]) -> NewtonState:
    """One pass, and the step from it."""
    sums = fold(chunks(), lambda chunk: _information(task.model, columns, chunk, _at(state)[0]), _add_sums)
    return _step(task, columns, state, sums)


def orthogonal_run(
    task: Task, columns: Columns, state: NewtonState, chunks: Callable[[], Iterable[Data]]
) -> NewtonState:
    """On by QR, to the end."""

    def factor(at: Point, chunk: Data) -> Array:
        return _factor(task.model, columns, chunk, at)

    def both(at: Point, chunk: Data) -> tuple[LinearSums, Array]:
        return _information(task.model, columns, chunk, at), factor(at, chunk)

    def combine(one: tuple[LinearSums, Array], other: tuple[LinearSums, Array]) -> tuple[LinearSums, Array]:
        return _add_sums(one[0], other[0]), _stack(one[1], other[1])

    state = _resume(task, columns, state, fold(chunks(), partial(factor, _at(state)[1]), _stack))
    while state.status == RUNNING:
        sums, r = fold(chunks(), partial(both, _at(state)[0]), combine)
        state = _orthogonal_step(task, columns, state, sums._replace(system=r))
    return state


def rehearsed(task: Task, columns: Columns, reader: Reader) -> NewtonState:
    """The state after the first pass over all rows: taken where the first chunk alone has its optimum, and all over
    again at the family's start where it has none, or one that is far off.
    """
    start = _begin(task, columns, jnp.asarray(task.params is None))
    if task.params is not None or reader.count == len(reader.first.x):
        return start
    found = run(task, columns, start, lambda: [reader.first])
    if found.status != Status.CONVERGED:
        return start
    begin = _begin(task, columns, jnp.asarray(False))
    state = step(task, columns, begin._replace(theta=found.trial, trial=found.trial), reader.chunks)
    near = state.status != RUNNING or state.decrement <= 0.5 * jnp.sqrt(jnp.maximum(1, jnp.abs(state.loss)))
    return state if near else start


def fit_newton(
    model: Model,
    source: Iterable[Data],
    *,
    params: Dense | None = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
    rows: int = ROWS,
    progress: bool = False,
) -> Fit:
    """Fit a linear model to rows beyond memory by Newton's method: what `glmjax.fit_newton` finds, to rounding.

    The first pass checks the rows as `make_data` does, and measures the columns. The next ones are Newton's: from the
    optimum of the first chunk, which costs none, some three, so rows in random order serve best; more by QR where the
    system is ill-conditioned, and one more where the rows are separated. A call of the host, not to be transformed.

    Args:
        model: from `glm`; its information matrix must fit in memory.
        source: yields `Data` of NumPy arrays, of any number of rows, each time it is iterated: a list of them, from
            `array_source` or `parquet_source`, or `Source(function)`.
        params, l2, tol, max_steps: as for `glmjax.fit_newton`.
        rows: of a chunk; some of them are in memory at once.
        progress: a line on stderr for each pass.

    Returns:
        `Fit`, as `glmjax.fit_newton` has it; `passes` are all reads of the source.

    Raises:
        ValueError: an empty source, one that cannot be read twice, chunks that disagree, bad values (with chunk and
            row), a negative binomial without alpha; what `glmjax.fit_newton` raises.
        TypeError: what is no source; chunks of several dtypes.
        OSError: a file that cannot be read; it names file and row group.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    check_alpha_given(model)
    reader = open_reader(source, model.family, rows, progress)
    fit = _fit(model, reader, params, l2, tol, max_steps)
    return _end(reader, fit)


def _end(reader: Reader, value: Any) -> Any:
    if reader.progress and sys.stderr.isatty():
        print(file=sys.stderr)
    return value


def _fit(model: Model, reader: Reader, params: Any, l2: Any, tol: Any, max_steps: Any) -> Fit:
    found = survey(reader, model.family)
    data = standing(reader, found)
    task = make_task(model, data, params, l2, tol, max_steps, default_tol=float(jnp.finfo(data.x.dtype).eps) ** -0.15)
    columns = _columns(task, found)
    state = run(task, columns, rehearsed(task, columns, reader), reader.chunks)
    if state.status == ILL:
        state = orthogonal_run(task, columns, state, reader.chunks)
    solution = _conclude(task, columns, state)
    if state.status == Status.SEPARATED:
        at, limit = _at(state)[1], RESTING * state.reach
        r = fold(reader.chunks(), lambda chunk: _resting(task.model, columns, chunk, at, limit), _stack)
        solution = solution._replace(infinite=_endless(task, columns, r, state.kept))
    solution = solution._replace(passes=jnp.asarray(reader.passes, jnp.int32))
    return as_fit(task.model, data, solution, 0.0, l2)
