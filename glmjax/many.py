"""Many fits as one program."""

import jax
import optax
from jax import Array

from .data import Data
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

    It is `jax.vmap` of `fit_sgd` over `keys`. Keys laid over devices make it run on all of them:
    `jax.device_put(keys, NamedSharding(Mesh(jax.devices(), ("seed",)), PartitionSpec("seed")))`.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        keys: JAX random keys, (seeds,): `jax.random.split(jax.random.key(0), 64)`.
        optimizer, learning_rate, batch_size, epochs, l2, validation, patience: as in `fit_sgd`, for all seeds.
        order: as in `fit_sgd`: then all seeds see the same minibatches, and differ by their initial weights only.
            The first layer of all seeds becomes one matrix product, which is faster; the spread over seeds no
            longer contains that of the shuffling (a GLM that starts at 0 has none left).

    Returns:
        `Fit` with a leading axis of seeds; each lane has its own status.

    Raises:
        ValueError: `keys` is not an array of keys; and as `fit_sgd`.
    """
    if getattr(keys, "ndim", 0) == 0 or len(keys) == 0:
        found = f"shape {keys.shape}" if hasattr(keys, "shape") else repr(keys)
        raise ValueError(f"keys must be (seeds,) random keys, jax.random.split(key, seeds); got {found}")

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
