"""`streaming.fit_sgd`: minibatch SGD over rows beyond memory, in random order through a buffer.

A chunk holds the minibatches of many steps, which one compiled program takes; meanwhile a thread reads and shuffles the
next chunks. The step, and what becomes of a run after an epoch, are memory's.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .batches import show_line
from .chunking import Pages, mesh_of_source
from .data import Data, clean
from .distributions import Family
from .inputs import check_count, check_number
from .losses import Sums, chunk_sums, objective, penalty, targets_supported
from .models import Model
from .programs import quick_jit
from .reading import Reader, add, end, fold, open_reader
from .results import Fit, History, Status
from .rows import row_sums
from .settings import Optimizer, Settings, check_run, make_settings, update
from .sgd import SGDState, init_run, judged, sgd_fit
from .shuffling import Shuffle, check_rows, in_random_order, one_that_counts
from .sources import ROWS, Source, check_source

BUFFER = 16 * ROWS


def fit_sgd(
    model: Model,
    source: Iterable[Data],
    key: Array,
    *,
    params: Any = None,
    optimizer: Optimizer = optax.sgd,
    learning_rate: float | Array = 0.1,
    batch_size: int = 32,
    epochs: int = 10,
    l2: float | Array = 0.0,
    buffer: int = BUFFER,
    validation: Data | None = None,
    patience: int | None = None,
    rows: int = ROWS,
    progress: bool = False,
) -> Fit:
    """Fit any model to rows beyond memory by minibatch SGD: `glmjax.fit_sgd`, in an order of rows that a buffer allows.

    An epoch is one pass; a call of the host, not to be transformed. The order is set by the key, `buffer`, `rows` and
    the source, so that the same call gives the same bits (with the same NumPy, which draws it). A source that fits in
    the buffer gives what `glmjax.fit_sgd` finds with the same key, to rounding.

    Beyond that the shuffle is not uniform. The parts of a source that has some (row groups of `parquet_source`, slices
    of `array_source`) are visited in random order, each epoch another; other sources are read in order. Then each
    chunk that is read takes the place of random rows of the buffer: a row comes at most `buffer` rows sooner than it
    was read, and more than k * buffer later with probability exp(-(k + 1)). Read in order, the rank correlation of
    source and epoch is 0.95 with a buffer for a tenth of the rows, 0.75 for a quarter, 0.37 for half.

    So where rows are sorted by the target, minibatches are not like all rows, and an epoch ends at its last ones: of
    1000 counts, sorted, 5 epochs end 0.01 above the least loss with a buffer for all, 0.04 for half, 0.5 for a tenth,
    and 0.05 for a tenth with parts of 20 rows. A larger buffer helps, or smaller parts.

    Args:
        model: from `glm` or `mlp`.
        source: as for `streaming.fit_newton`.
        key: a JAX random key, for initial weights and shuffling.
        params, optimizer, learning_rate, batch_size, epochs, l2: as for `glmjax.fit_sgd`.
        buffer: rows that are drawn from, up to whole chunks; they are in memory, the default's 2^20 rows of 20 columns
            in 176 MB, beside some 10 chunks.
        validation, patience: as for `glmjax.fit_sgd`; the first in memory. Patience without it costs a pass an epoch.
        rows: of a chunk, up to whole minibatches.
        progress: lines on stderr for each pass and epoch.

    Returns:
        `Fit`, as `glmjax.fit_sgd` has it.

    Raises:
        ValueError: an empty source, chunks that disagree, bad values (with chunk and row); as `glmjax.fit_sgd`.
        TypeError: what is no source; no key.
        OSError: a file that cannot be read; it names file and row group.

    Reference: Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
    """
    check_source(source)
    if mesh_of_source(source) is not None:
        raise ValueError("streaming.fit_sgd takes its minibatches from one device's rows; give a source without mesh")
    epochs, rows = check_count(epochs, "epochs"), check_count(rows, "rows")
    batch_size, buffer = check_count(batch_size, "batch_size"), check_count(buffer, "buffer")
    check_number(learning_rate, "learning_rate", above=0)  # before anything is read
    check_number(l2, "l2", at_least=0)
    one = _one_row(source, model.family)
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (batch_size, *leaf.shape[1:])), one)
    settings, params = make_settings(model, many, key, params, optimizer, learning_rate, batch_size, l2, patience)
    validation = check_run(settings.model, one, key, None, validation)[1]
    reader = open_reader(source, model.family, max(rows // batch_size, 1) * batch_size, progress)
    shuffle = Shuffle(source, rows, -(-buffer // rows) * rows, Pages())
    state = _begin(settings, one, key, params, validation)
    seen = np.full((2, epochs), np.nan, one.x.dtype)
    for epoch in range(epochs):
        if state.status != Status.COMPLETED:
            break
        state = _epoch(state, reader, shuffle, validation)
        seen[:, epoch] = state.loss, state.watched
        if state.status == Status.NONFINITE and epoch == 0:
            check_rows(source, model.family)
        if progress:
            watched = "" if np.isnan(state.watched) else f", watched {state.watched:.5g}"
            show_line(f"epoch {epoch + 1} of {epochs}: loss {state.loss:.5g}{watched}")
    reader.source = source
    chosen = state.params if patience is None else state.best
    found = fold(reader.chunks(), lambda chunk: _sums(settings.model, chosen, chunk), add)
    fit = _finish(state, chosen, one, found, History(*map(jnp.asarray, seen)))
    return end(reader, fit._replace(passes=jnp.asarray(reader.passes, jnp.int32)))


def _one_row(source: Iterable[Data], family: Family) -> Data:
    """A row that stands for all where shapes are looked at."""
    one = one_that_counts(source, family)
    if one is None:
        for _ in open_reader(source, family, ROWS, False).chunks():  # raises where there are no rows at all
            pass
        raise ValueError("weight is 0 in every row; at least one row must count")
    return jax.tree.map(jnp.asarray, one)


@quick_jit
def _begin(settings: Settings, one: Data, key: Array, params: Any, validation: Data | None) -> SGDState:
    state = init_run(settings, one, key, params)
    if validation is None:
        return state
    known = (state.status != Status.COMPLETED) | targets_supported(settings.model, validation)
    return state._replace(status=jnp.where(known, state.status, Status.INVALID_TARGET).astype(jnp.int32))


def _epoch(state: SGDState, reader: Reader, shuffle: Shuffle, validation: Data | None) -> SGDState:
    """One more epoch, and what patience makes of it; the first one checks the values."""
    settings, family = state.settings, None if reader.passes else reader.family
    key = jax.random.fold_in(state.key, state.epoch + 1)  # type: ignore[arg-type]  # as in memory
    reader.source = Source(partial(in_random_order, shuffle, family, key))
    carry = jax.tree.map(jnp.copy, (state.params, state.optimizer_state))  # the next program takes its memory

    def run(item: tuple[Data, int]) -> tuple[Array, Array]:
        nonlocal carry
        chunk, count = item
        reader.first = ()  # no sample is needed
        carry, sums = _steps(settings, carry, chunk, np.int32(count))
        return sums

    try:
        sums = fold(reader.counted(), run, add, in_turn=True)
    except (TypeError, ValueError):
        if family is not None:
            check_rows(shuffle.source, family)  # in order, so that the chunk is the source's
        raise
    steps = np.int32(-(-reader.count // settings.batch_size))
    watched = None
    if settings.patience is not None and validation is None:
        reader.source = shuffle.source
        found, _, _ = fold(reader.chunks(), lambda chunk: _sums(settings.model, carry[0], chunk), add)
        watched = found
    return _judge(state, carry, sums, steps, watched, validation)


@partial(jax.jit, donate_argnums=1)
def _steps(settings: Settings, carry: Any, chunk: Data, count: Array) -> tuple[Any, tuple[Array, Array]]:
    """The steps of a chunk whose first `count` rows are the source's; sum(weight * objective), and sum(weight)."""
    batch_size = settings.batch_size
    missing = -len(chunk.x) % batch_size  # of a source of less than one chunk
    if missing:
        weight = jnp.pad(chunk.weight, (0, missing))  # type: ignore[arg-type]
        chunk = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, missing), *((0, 0),) * (leaf.ndim - 1)), "edge"), chunk)
        chunk = chunk._replace(weight=weight)
    batches = jax.tree.map(lambda leaf: leaf.reshape(-1, batch_size, *leaf.shape[1:]), chunk)

    def step(i: Array, state: Any) -> Any:
        carry, (values, total) = state
        batch = jax.tree.map(lambda leaf: leaf[i], batches)
        carry, (value, weight) = update(settings, carry, clean(batch))
        return carry, (values + value * weight, total + weight)

    zero = jnp.zeros((), chunk.x.dtype)
    return jax.lax.fori_loop(0, -(-count // batch_size), step, (carry, (zero, zero)))


@jax.jit
def _judge(
    state: SGDState, carry: Any, sums: Any, steps: Array, watched: Sums | None, validation: Data | None
) -> SGDState:
    settings, (params, optimizer_state), (values, total) = state.settings, carry, sums
    state = state._replace(
        params=params,
        optimizer_state=optimizer_state,
        epoch=state.epoch + 1,
        step=state.step + steps,
        loss=values / jnp.where(total == 0, 1, total),
    )
    if validation is not None:
        return judged(state, objective(settings.model, params, clean(validation), jnp.zeros_like(settings.l2))[0])
    return judged(state, None if watched is None else watched.nll / watched.weight + penalty(params, settings.l2))


@quick_jit
def _sums(model: Model, params: Any, chunk: Data) -> tuple[Sums, Any, Array]:
    """What a chunk adds to the loss and to its gradient, and how many rows it counts as."""

    def nll(params: Any) -> tuple[Array, Sums]:
        sums = row_sums(lambda rows: chunk_sums(model, params, rows), clean(chunk))
        return sums.nll, sums

    gradient, sums = jax.grad(nll, has_aux=True)(params)
    return sums, gradient, jnp.sum(chunk.weight)  # type: ignore[arg-type]


@quick_jit
def _finish(state: SGDState, params: Any, one: Data, found: tuple[Sums, Any, Array], history: History) -> Fit:
    """The `Fit` of a run, as memory's `finish_run` has it."""
    settings, (sums, gradient, copies) = state.settings, found
    value, slope = jax.value_and_grad(penalty)(params, settings.l2)
    loss = sums.nll / sums.weight + value
    gradient = jax.tree.map(lambda g, s: g / sums.weight + s, gradient, slope)
    return sgd_fit(state, params, one._replace(weight=copies[None]), loss, sums.deviance, gradient, history)
