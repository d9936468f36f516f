"""Minibatch stochastic gradient descent, for every model: init, epochs, finish; `fit_sgd` is the three in one.

Until `epochs` are run or patience runs out: shuffle the rows; for each minibatch B, step along the gradient of the
objective of B; watch the loss. Whole epochs run inside one compiled program, under `vmap` too.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .data import Data, clean
from .inputs import check_count, check_number
from .lanes import any_lane
from .losses import objective, targets_supported, with_dispersion
from .meshes import check_alike, device_count, device_gradient, mesh_of
from .minibatches import in_epochs, shuffled, take
from .models import Model, check_problem, in_dtype, init
from .results import Fit, History, Status
from .rows import by_rows
from .settings import Optimizer, Settings, check_run, make_settings, update, valid


class SGDState(NamedTuple):
    """An SGD run between epochs, a pytree to look at, save and go on from; `params` are the current ones.

    `status` is `COMPLETED` while the run may go on. `best`, the parameters at the lowest watched loss, is None
    without patience; `stale` counts epochs since then. `loss` and `watched` are the last epoch's `History` entries.
    """

    settings: Settings
    params: Any
    optimizer_state: Any
    key: Array | None
    status: Array
    epoch: Array
    step: Array
    passes: Array
    loss: Array
    watched: Array
    best: Any
    best_loss: Array
    stale: Array


def sgd_step(model: Model, params: Any, batch: Data, learning_rate: float | Array, l2: float | Array = 0.0) -> Any:
    """The lecture's update on one minibatch: `params - learning_rate * gradient of loss(model, params, batch, l2)`.

    For a GLM the gradient is the minibatch mean of `(y(x) - t) x`. Returns parameters; raises as `loss` does, and
    for a learning rate that is not above 0.
    """
    check_number(learning_rate, "learning_rate", above=0)
    check_number(l2, "l2", at_least=0)
    check_problem(model, batch)
    dtype = batch.x.dtype
    return _step(in_dtype(model, dtype), params, batch, jnp.asarray(learning_rate, dtype), jnp.asarray(l2, dtype))


@jax.jit
def _step(model: Model, params: Any, batch: Data, learning_rate: Array, l2: Array) -> Any:
    gradient = jax.grad(lambda p: objective(model, p, clean(batch), l2)[0])(params)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)


def sgd_init(
    model: Model,
    data: Data,
    key: Array | None,
    *,
    params: Any = None,
    optimizer: Optimizer = optax.sgd,
    learning_rate: float | Array = 0.1,
    batch_size: int = 32,
    l2: float | Array = 0.0,
    patience: int | None = None,
) -> SGDState:
    """The state before the first epoch; arguments and errors are those of `fit_sgd`."""
    settings, params = make_settings(model, data, key, params, optimizer, learning_rate, batch_size, l2, patience)
    return init_run(settings, data, key, params)


def sgd_epochs(
    state: SGDState, data: Data, epochs: int, *, order: Array | None = None, validation: Data | None = None
) -> SGDState:
    """Run `epochs` more; the same run in pieces as in one, to the bit. Further arguments are those of `fit_sgd`."""
    epochs = check_count(epochs, "epochs")
    check_problem(state.settings.model, data)
    order, validation = check_run(state.settings.model, data, state.key, order, validation)
    return run_epochs(state, data, order, validation, epochs)[0]


def sgd_finish(state: SGDState, data: Data) -> Fit:
    """The `Fit` of a run as it stands: one more pass for the loss and its gradient; `history` is None."""
    check_problem(state.settings.model, data)
    return finish_run(state, data, None)


def fit_sgd(
    model: Model,
    data: Data,
    key: Array | None,
    *,
    params: Any = None,
    optimizer: Optimizer = optax.sgd,
    learning_rate: float | Array = 0.1,
    batch_size: int = 32,
    epochs: int = 10,
    l2: float | Array = 0.0,
    order: Array | None = None,
    validation: Data | None = None,
    patience: int | None = None,
) -> Fit:
    """Fit by minibatch SGD on `loss(model, params, data, l2)`, until `epochs` are run or patience runs out.

    Pure: `jax.vmap` it over keys, learning rates, l2, data or parameters (patience then holds for each lane), or
    differentiate it.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        key: JAX random key for the initial weights and the shuffling; None where nothing is drawn: with `order`, and
            `params` or a GLM, which starts at 0.
        params: initial parameters; None draws them with `init`.
        optimizer: module-level function from a learning rate to an optax transformation: `optax.sgd`,
            `optax.adam`, or one of your own with momentum or a schedule. A lambda or a `functools.partial` made
            anew at each call would compile anew.
        learning_rate: above 0.
        batch_size: rows a minibatch; the last of an epoch is smaller where they don't divide. More rows than there
            are is all of them.
        epochs: passes through the data, 1 or more.
        l2: ridge penalty, 0 or more.
        order: the exact minibatches instead of shuffled ones, (steps, batch_size) row numbers, -1 for no row; it
            sets the batch size. An epoch goes through it once; if it holds those of all epochs
            (epochs * ceil(n / batch_size)), it is gone through once in all.
        validation: data to watch the loss of, without the penalty.
        patience: stop after so many epochs without a lower watched loss, and return the parameters at the lowest:
            on `validation`, else the objective on `data` itself. None runs all epochs and returns the last.

    Returns:
        `Fit` with status COMPLETED, STOPPED_EARLY, NONFINITE (diverged), INVALID_TARGET or INVALID_INPUT, and a
        `History`.

    Raises:
        ValueError: numbers out of range, shapes that do not fit; TypeError: an optax instance for the factory, no
            key where one is needed.

    Reference: Robbins and Monro (1951), A stochastic approximation method; Bottou, Curtis and Nocedal (2018).
    """
    epochs = check_count(epochs, "epochs")
    check_alike(mesh_of(data), epochs=epochs)
    settings, params = make_settings(model, data, key, params, optimizer, learning_rate, batch_size, l2, patience)
    order, validation = check_run(settings.model, data, key, order, validation)
    return _fit(settings, data, key, params, order, validation, epochs)


@partial(by_rows, static_argnums=(6,))
@partial(jax.jit, static_argnames="epochs")
def _fit(
    settings: Settings, data: Data, key: Array | None, params: Any, order: Any, validation: Data | None, epochs: int
) -> Fit:
    state = init_run(settings, data, key, params)
    state, history = run_epochs(state, data, order, validation, epochs)
    return finish_run(state, data, history)


@by_rows
@jax.jit
def init_run(settings: Settings, data: Data, key: Array | None, params: Any) -> SGDState:
    """The state before the first epoch."""
    dtype = data.x.dtype
    # Key 0 draws the weights, key e + 1 shuffles epoch e: the same whether a run goes in one piece or several.
    if params is None:  # without a key only what starts at zero
        params = init(settings.model, None if key is None else jax.random.fold_in(key, 0), data.x.shape[1], dtype=dtype)
    status = jnp.where(targets_supported(settings.model, data), Status.COMPLETED, Status.INVALID_TARGET)
    status = jnp.where(valid(settings, data), status, Status.INVALID_INPUT).astype(jnp.int32)
    zero, nan = jnp.zeros((), jnp.int32), jnp.full((), jnp.nan, dtype)
    return SGDState(
        settings=settings,
        params=params,
        optimizer_state=settings.optimizer(settings.learning_rate).init(params),
        key=key,
        status=status,
        epoch=zero,
        step=zero,
        passes=zero,
        loss=nan,
        watched=nan,
        best=None if settings.patience is None else params,
        best_loss=jnp.full((), jnp.inf, dtype),
        stale=zero,
    )


@partial(by_rows, static_argnums=(4,))
@partial(jax.jit, static_argnames="epochs")
def run_epochs(
    state: SGDState, data: Data, order: Array | None, validation: Data | None, epochs: int
) -> tuple[SGDState, History]:
    """So many more epochs, and what is seen of each."""
    data = clean(data)
    if validation is not None:
        known = (state.status != Status.COMPLETED) | targets_supported(state.settings.model, validation)
        state = state._replace(status=jnp.where(known, state.status, Status.INVALID_TARGET).astype(jnp.int32))
        validation = clean(validation)
    n, batch_size = len(data.x) * device_count(), state.settings.batch_size
    parts = None if order is None else in_epochs(order, n, epochs)
    ragged = parts is not None or n % batch_size != 0

    def epoch(state: SGDState, i: Array) -> tuple[SGDState, History]:
        running = state.status == Status.COMPLETED

        def run(state: SGDState) -> SGDState:
            if parts is None:
                assert state.key is not None  # checked on entry
                batches = shuffled(jax.random.fold_in(state.key, state.epoch + 1), n, batch_size)
            else:
                batches = parts[i % parts.shape[0]]
            new = _epoch(state, data, batches, ragged, validation)
            return jax.tree.map(partial(jnp.where, running), new, state)

        state = jax.lax.cond(any_lane(running), run, lambda state: state, state)
        return state, History(*(jnp.where(running, v, jnp.nan) for v in (state.loss, state.watched)))

    return jax.lax.scan(epoch, state, jnp.arange(epochs))


def _epoch(state: SGDState, data: Data, batches: Array, ragged: bool, validation: Data | None) -> SGDState:
    """One epoch over the given minibatches, (steps, batch_size) row numbers, and what patience makes of it."""
    settings, carry = state.settings, (state.params, state.optimizer_state)
    (params, optimizer_state), (values, weights) = jax.lax.scan(
        lambda carry, rows: update(settings, carry, take(data, rows, ragged)), carry, batches
    )
    total = jnp.sum(weights)
    state = state._replace(
        params=params,
        optimizer_state=optimizer_state,
        epoch=state.epoch + 1,
        step=state.step + batches.shape[0],
        passes=state.passes + 1,
        loss=jnp.sum(values * weights) / jnp.where(total == 0, 1, total),
    )
    if validation is not None:
        return judged(state, objective(settings.model, params, validation, jnp.zeros_like(settings.l2))[0])
    if settings.patience is not None:
        watched = objective(settings.model, params, data, settings.l2)[0]
        return judged(state._replace(passes=state.passes + 1), watched)
    return judged(state, None)


def judged(state: SGDState, watched: Array | None) -> SGDState:
    """What becomes of a run after an epoch, by its loss and the watched one, None where there is nothing to watch."""
    settings, finite = state.settings, jnp.isfinite(state.loss)
    if watched is not None:
        state, finite = state._replace(watched=watched), finite & jnp.isfinite(watched)
    status = jnp.where(finite, Status.COMPLETED, Status.NONFINITE).astype(jnp.int32)
    if settings.patience is None:
        return state._replace(status=status)
    better = state.watched < state.best_loss
    stale = jnp.where(better, 0, state.stale + 1)
    stop = (status == Status.COMPLETED) & (stale >= settings.patience)
    return state._replace(
        status=jnp.where(stop, Status.STOPPED_EARLY, status).astype(jnp.int32),
        best=jax.tree.map(partial(jnp.where, better), state.params, state.best),
        best_loss=jnp.where(better, state.watched, state.best_loss),
        stale=stale,
    )


@by_rows
@jax.jit
def finish_run(state: SGDState, data: Data, history: History | None) -> Fit:
    """The `Fit` of a run as it stands."""
    settings, data = state.settings, clean(data)
    params = state.params if settings.patience is None else state.best
    (loss, sums), gradient = jax.value_and_grad(objective, 1, has_aux=True)(settings.model, params, data, settings.l2)
    state = state._replace(passes=state.passes + 1)
    return sgd_fit(state, params, data, loss, sums.deviance, device_gradient(gradient), history)


def sgd_fit(state: SGDState, params: Any, data: Data, loss: Array, deviance: Array, gradient: Any, history: Any) -> Fit:
    """What `fit_sgd` returns of a run as it stands: its parameters, and their loss, deviance and gradient."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0) for g in jax.tree.leaves(gradient)]))
    ended_well = (state.status == Status.COMPLETED) | (state.status == Status.STOPPED_EARLY)
    return Fit(
        model=with_dispersion(state.settings.model, data, deviance),
        params=params,
        loss=loss,
        optimality=largest / jnp.maximum(1, jnp.abs(loss)),
        steps=state.step,
        passes=state.passes,
        status=jnp.where(ended_well & ~jnp.isfinite(loss), Status.NONFINITE, state.status).astype(jnp.int32),
        rcond=None,
        aliased=None,
        infinite=None,
        l1=jnp.zeros_like(state.settings.l2),
        l2=state.settings.l2,
        history=history,
    )
