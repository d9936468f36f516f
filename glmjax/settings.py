"""What an SGD run does: its model, optimizer and numbers, checked and brought to one dtype; and the step they make."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from .data import Data, valid_rows
from .inputs import check_count, check_key, check_number, is_traced
from .losses import objective
from .meshes import check_alike, device_gradient, mesh_of
from .minibatches import check_order
from .models import Model, check_params, check_problem, in_dtype

Optimizer = Callable[[Any], optax.GradientTransformation]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "learning_rate", "l2", "patience"],
    meta_fields=["optimizer", "batch_size"],
)
@dataclass(frozen=True)
class Settings:
    """What an SGD run does, whatever state it is in: static descriptions, and numbers as leaves."""

    model: Model
    optimizer: Optimizer
    batch_size: int
    learning_rate: Array
    l2: Array
    patience: Array | None


def make_settings(
    model: Model,
    data: Data,
    key: Array | None,
    params: Any,
    optimizer: Optimizer,
    learning_rate: float | Array,
    batch_size: int,
    l2: float | Array,
    patience: int | None,
) -> tuple[Settings, Any]:
    """The settings and the initial parameters, checked; raises as `fit_sgd` says.

    Every number is brought to x's dtype, so that a new value of another type is no new trace.
    """
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function from a learning rate to an optax transformation, such as optax.adam itself "
            f"and not optax.adam(0.1); got {type(optimizer).__name__}"
        )
    check_key(key)
    check_number(learning_rate, "learning_rate", above=0)
    check_number(l2, "l2", at_least=0)
    check_problem(model, data)
    n, d = data.x.shape
    dtype = data.x.dtype
    batch_size = min(check_count(batch_size, "batch_size"), n)
    if patience is not None and not is_traced(patience):
        patience = check_count(patience, "patience")
    if params is not None:
        check_params(model, params, d)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    numbers = {"learning_rate": learning_rate, "batch_size": batch_size, "l2": l2, "patience": patience}
    check_alike(mesh_of(data), model=model, key=key, params=params, **numbers)
    settings = Settings(
        model=in_dtype(model, dtype),
        optimizer=optimizer,
        batch_size=batch_size,
        learning_rate=jnp.asarray(learning_rate, dtype),
        l2=jnp.asarray(l2, dtype),
        patience=None if patience is None else jnp.asarray(patience, jnp.int32),
    )
    return settings, params


def valid(settings: Settings, data: Data) -> Array:
    """Whether all numbers are in range, as the host has checked where it could see them; rows of weight 0 aside."""
    rate, l2 = settings.learning_rate, settings.l2
    numbers = (rate > 0) & jnp.isfinite(rate) & (l2 >= 0) & jnp.isfinite(l2)
    if settings.patience is not None:
        numbers &= settings.patience >= 1
    return valid_rows(data) & numbers


def check_run(
    model: Model, data: Data, key: Array | None, order: Any, validation: Data | None
) -> tuple[Array | None, Data | None]:
    """Check what an epoch is run with: the minibatches and the validation data."""
    if validation is not None:
        check_problem(model, validation)
        if validation.x.shape[1] != data.x.shape[1]:
            raise ValueError(f"validation has {validation.x.shape[1]} features, data {data.x.shape[1]}")
    if order is None:
        if key is None:
            raise TypeError("key must be a JAX random key, such as jax.random.key(0), where rows are shuffled")
        return None, validation
    return check_order(order, data.x.shape[0]), validation


def update(settings: Settings, carry: tuple[Any, Any], batch: Data) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
    """One step on a minibatch, from and to (parameters, the optimizer's state); its objective, and sum(weight)."""
    params, optimizer_state = carry
    value_and_gradient = jax.value_and_grad(objective, argnums=1, has_aux=True)
    (value, sums), gradient = value_and_gradient(settings.model, params, batch, settings.l2)
    optimizer = settings.optimizer(settings.learning_rate)
    updates, optimizer_state = optimizer.update(device_gradient(gradient), optimizer_state, params)
    return (optax.apply_updates(params, updates), optimizer_state), (value, sums.weight)
