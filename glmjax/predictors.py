"""Predictors: from features to the linear predictor. `Linear` is the GLM's, `MLP` a GLM on learned features.

Each is a static description with two functions: `init`, which draws parameters, and `apply`, a batch (n, d) to
eta, (n,) for one output (`n_outputs=None`) or (n, k).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from .links import identity

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": identity,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}


class Dense(NamedTuple):
    """Parameters of one layer, `x @ w + b`: w (d,) and b () for one output, (d, k) and (k,) for k; b may be None."""

    w: Array
    b: Array | None


def dense(params: Dense, x: Array) -> Array:
    """One layer over a batch: (n, d) to (n,) or (n, k)."""
    eta = x @ params.w
    return eta if params.b is None else eta + params.b[None]


def _draw(
    key: Array | None, sizes: tuple[int | None, ...], bounds: tuple[float | Array, ...], bias: bool, dtype: DTypeLike
) -> tuple[Dense, ...]:
    """Layers of the given sizes, weights uniform in +-bound, biases 0. One draw serves them all: each draw of its
    own would cost about a second of compilation under `vmap` on a CPU.
    """
    shapes = [tuple(size for size in pair if size is not None) for pair in pairwise(sizes)]
    lengths = [math.prod(shape) for shape in shapes]
    if key is None:
        flat = jnp.zeros(sum(lengths), dtype)
    else:
        flat = jax.random.uniform(key, (sum(lengths),), dtype, minval=-1)
    layers, start = [], 0
    for shape, length, bound in zip(shapes, lengths, bounds, strict=True):
        w = flat[start : start + length].reshape(shape) * jnp.asarray(bound, dtype)
        layers.append(Dense(w, jnp.zeros(shape[1:], dtype) if bias else None))
        start += length
    return tuple(layers)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["bias"])
@dataclass(frozen=True)
class Linear:
    """The GLM's linear predictor, `eta = x @ w + b`; parameters are one `Dense`."""

    bias: bool = True

    def init(
        self,
        key: Array | None,
        n_features: int,
        n_outputs: int | None,
        bound: float | Array | None,
        dtype: DTypeLike,
    ) -> Dense:
        """Zeros, or weights uniform in +-bound where one is given."""
        key, bound = (None, 0.0) if bound is None else (key, bound)
        return _draw(key, (n_features, n_outputs), (bound,), self.bias, dtype)[0]

    def apply(self, params: Dense, x: Array) -> Array:
        """`x @ w + b`."""
        return dense(params, x)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["hidden", "activation"])
@dataclass(frozen=True)
class MLP:
    """Hidden layers `h = activation(h @ w + b)`, then a linear head; parameters are a tuple of `Dense`.

    `activation` is a name from `ACTIVATIONS` or a module-level function.
    """

    hidden: tuple[int, ...]
    activation: str | Callable[[Array], Array] = "relu"

    def init(
        self,
        key: Array | None,
        n_features: int,
        n_outputs: int | None,
        bound: float | Array | None,
        dtype: DTypeLike,
    ) -> tuple[Dense, ...]:
        """Weights uniform in +-1/sqrt(M), M the layer's fan-in, or in +-bound where one is given; biases 0."""
        sizes = (n_features, *self.hidden)
        bounds = tuple(1 / math.sqrt(max(m, 1)) if bound is None else bound for m in sizes)
        return _draw(key, (*sizes, n_outputs), bounds, True, dtype)

    def apply(self, params: tuple[Dense, ...], x: Array) -> Array:
        """The head's linear predictor of the features that the hidden layers learned."""
        activation = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        *hidden, head = params
        for layer in hidden:
            x = activation(dense(layer, x))
        return dense(head, x)
