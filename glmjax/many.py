"""Many fits as one program."""

from typing import Any

import jax
import optax
from jax import Array

from .data import Data
from .models import Model
from .recipes import Optimizer
from .results import Fit
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

    It is `jax.vmap` of `fit_sgd` over `keys`. Keys laid over devices make it run on all of them:
    `jax.device_put(keys, NamedSharding(Mesh(jax.devices(), ("seed",)), PartitionSpec("seed")))`.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        keys: JAX random keys, (seeds,): `jax.random.split(jax.random.key(0), 64)`.
        optimizer, learning_rate, batch_size, epochs, l2, validation, patience: as in `fit_sgd`, for all seeds.
        order: as in `fit_sgd`: then all seeds see the same minibatches, and differ by their initial weights only.
            The first layer of all seeds becomes one matrix product, which is faster; the spread over seeds no
            longer contains that of the shuffling.

    Returns:
        `Fit` with a leading axis of seeds; each lane has its own status.

    Raises:
        ValueError: `keys` is not an array of keys; and as `fit_sgd`.
    """
    typed = jax.dtypes.issubdtype(getattr(keys, "dtype", None), jax.dtypes.prng_key)
    if getattr(keys, "ndim", 0) != (1 if typed else 2) or len(keys) == 0:
        raise ValueError(f"keys must be (seeds,) random keys, jax.random.split(key, seeds); got {_describe(keys)}")

    def one(key: Array) -> Fit:
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

    return jax.vmap(one)(keys)


def _describe(keys: Any) -> str:
    return f"shape {keys.shape} of {keys.dtype}" if hasattr(keys, "shape") else repr(keys)
