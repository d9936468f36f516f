"""Many networks as one program: seeds, and grids of learning rates and penalties."""

from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from .data import Data
from .inputs import check_number, is_traced
from .models import Model
from .results import Fit
from .settings import Optimizer
from .sgd import fit_sgd


def fit_seeds(
    model: Model,
    data: Data,
    keys: Array,
    *,
    optimizer: Optimizer = optax.sgd,
    learning_rate: float | Array = 0.1,
    batch_size: int = 32,
    epochs: int = 10,
    l2: float | Array = 0.0,
    order: Array | None = None,
    validation: Data | None = None,
    patience: int | None = None,
) -> Fit:
    """`fit_sgd` from every key, as one compiled program; the data are held once. Every field has the seeds first.

    It is `jax.vmap` of `fit_sgd` over `keys`; with several learning rates or penalties, of those too: a grid, in which
    every combination has the same seeds, with axes (learning rates, penalties, seeds), those of single numbers left
    out. Keys laid over devices make it run on all of them:
    `jax.device_put(keys, NamedSharding(Mesh(jax.devices(), ("seed",)), PartitionSpec("seed")))`.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        keys: JAX random keys, (seeds,): `jax.random.split(jax.random.key(0), 64)`.
        learning_rate: one, or (rates,) of them.
        l2: one, or (penalties,) of them.
        optimizer, batch_size, epochs, validation, patience: as in `fit_sgd`, for all lanes.
        order: as in `fit_sgd`: then all seeds see the same minibatches, and differ by their initial weights only.
            The first layer of all seeds becomes one matrix product, which is faster; the spread over seeds no
            longer contains that of the shuffling (a GLM that starts at 0 has none left).

    Returns:
        `Fit` with a leading axis of seeds, before it those of the grid; each lane has its own status.

    Raises:
        ValueError: `keys` is not an array of keys, rates or penalties that are not one or a sequence; and as `fit_sgd`.
    """
    if getattr(keys, "ndim", 0) == 0 or len(keys) == 0:
        found = f"shape {keys.shape}" if hasattr(keys, "shape") else repr(keys)
        raise ValueError(f"keys must be (seeds,) random keys, jax.random.split(key, seeds); got {found}")

    check_line(learning_rate, "learning_rate", above=0)
    check_line(l2, "l2", at_least=0)

    def one(learning_rate: Any, l2: Any, key: Array) -> Fit:
        return fit_sgd(
            model,
            data,
            key,
            optimizer=optimizer,
            learning_rate=learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            l2=l2,
            order=order,
            validation=validation,
            patience=patience,
        )

    run = jax.vmap(one, (None, None, 0))
    if np.ndim(l2):
        run = jax.vmap(run, (None, 0, None))
    if np.ndim(learning_rate):
        run = jax.vmap(run, (0, None, None))
    rate, penalty = (np.asarray(value) if isinstance(value, list | tuple) else value for value in (learning_rate, l2))
    return run(rate, penalty, keys)


def check_line(value: Any, name: str, *, above: float | None = None, at_least: float | None = None) -> None:
    """Raise unless `value` is a number in range, or a line of them."""
    if np.ndim(value) == 0:
        check_number(value, name, above=above, at_least=at_least)
        return
    if np.ndim(value) > 1 or np.shape(value)[0] == 0:
        raise ValueError(f"{name} must be one number or a line of them, got shape {np.shape(value)}")
    if not is_traced(value):
        for i, one in enumerate(np.asarray(value)):
            check_number(one, f"{name}[{i}]", above=above, at_least=at_least)
