"""Models: a family over a predictor. Their parameters, linear predictor, mean and samples, as pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from .data import Data, check_family, check_target
from .distributions import Family
from .inputs import check_count, check_finite, check_key, float_dtype, is_traced, per_row, read_array, to_float
from .predictors import ACTIVATIONS, MLP, Linear


@partial(jax.tree_util.register_dataclass, data_fields=["family"], meta_fields=["predictor"])
@dataclass(frozen=True)
class Model:
    """A family's mean over a predictor's eta; make it with `glm` or `mlp`. Static but for the family's numbers."""

    family: Family
    predictor: Linear | MLP


def glm(family: Family, bias: bool = True) -> Model:
    """Generalized linear model: `eta = x @ w + b`; `bias=False` leaves b out (a column of ones then absorbs it)."""
    check_family(family)
    return Model(family, Linear(bool(bias)))


def mlp(family: Family, hidden: tuple[int, ...] = (50,), activation: str | Callable[[Array], Array] = "relu") -> Model:
    """Multilayer perceptron: the family's GLM on features learned by hidden layers of the given sizes.

    `activation` is "identity", "sigmoid", "tanh" or "relu", or a module-level function (a lambda made anew at each
    call would compile anew). Raises `ValueError` for an unknown name or a size below 1, `TypeError` for others.
    """
    check_family(family)
    if not isinstance(hidden, tuple | list):
        raise TypeError(f"hidden must be a tuple of layer sizes, got {hidden!r}; for one layer write (50,)")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is unknown; known: {', '.join(ACTIVATIONS)}, or pass a function")
    if not (isinstance(activation, str) or callable(activation)):
        raise TypeError(f"activation must be a name or a function, got {activation!r}")
    sizes = tuple(check_count(size, f"hidden[{i}]") for i, size in enumerate(hidden))
    return Model(family, MLP(sizes, activation))


def in_dtype(model: Model, dtype: DTypeLike) -> Model:
    """The model with its family's numbers as arrays of `dtype`, so that a new value of another type is no new trace."""
    return jax.tree.map(lambda number: jnp.asarray(number, dtype), model)


def init(
    model: Model,
    key: Array | None,
    n_features: int,
    *,
    bound: float | Array | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """Initial parameters: weights uniform in +-bound, biases 0.

    Args:
        model: from `glm` or `mlp`.
        key: a JAX random key; None will do where nothing is drawn (a GLM that starts at 0).
        n_features: columns of x.
        bound: None is the model's own: 0 for a GLM, 1/sqrt(fan-in) a layer for an MLP. A number asks for that range.
        dtype: None is JAX's default float.

    Returns:
        `Dense(w, b)` for a GLM; a tuple of `Dense`, input to output, for an MLP.

    Raises:
        ValueError: `n_features` below 0, or nothing to fit (no features and no bias); `TypeError`: no key.
    """
    n_features = check_count(n_features, "n_features", at_least=0)
    check_key(key)
    linear = isinstance(model.predictor, Linear)
    if n_features == 0 and isinstance(model.predictor, Linear) and not model.predictor.bias:
        raise ValueError("nothing to fit: x has no columns and the model no bias; give columns, or bias=True")
    if key is None and not (linear and bound is None):
        raise TypeError("key must be a JAX random key, such as jax.random.key(0), where weights are drawn at random")
    dtype = jax.dtypes.canonicalize_dtype(float) if dtype is None else dtype
    return model.predictor.init(key, n_features, model.family.n_outputs, bound, dtype)


def check_params(model: Model, params: Any, n_features: int) -> None:
    """Raise unless `params` has the tree and the shapes of this model's parameters for `n_features` columns."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    expected = jax.eval_shape(lambda k: init(model, k, n_features, bound=1.0), key)
    kind = "Dense(w, b)" if isinstance(model.predictor, Linear) else f"a tuple of {len(expected)} Dense(w, b)"
    if jax.tree.structure(params) != jax.tree.structure(expected):  # type: ignore[operator]
        raise ValueError(f"params must be {kind}, as init(model, key, {n_features}) makes them, got {params!r}")
    found, wanted = ([np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (params, expected))
    if found == wanted:
        return
    if len(found[0]) == len(wanted[0]) and found[0][0] != n_features:
        raise ValueError(f"the parameters are for {found[0][0]} features, got x with {n_features}")
    lanes = "; under jax.vmap give each lane its own" if len(found[0]) > len(wanted[0]) else ""
    raise ValueError(f"params must have shapes {wanted} for this model on {n_features} features, got {found}{lanes}")


def check_problem(model: Model, data: Data) -> None:
    """Raise unless the shapes of `data` fit together and fit the model; shapes only, so it works under `jit`."""
    if not (isinstance(model, Model) and isinstance(data, Data)):
        found = f"{type(model).__name__} and {type(data).__name__}"
        raise TypeError(f"need a model from glm or mlp and data from make_data, got {found}")
    if not jnp.issubdtype(jnp.result_type(data.x), jnp.floating):
        raise TypeError(f"data.x must be floats, got {data.x.dtype}; make the data with make_data")
    if np.ndim(data.x) != 2:
        raise ValueError(f"data.x must be (n, d), got shape {np.shape(data.x)}; make the data with make_data")
    if data.x.shape[0] == 0:
        raise ValueError("data.x has 0 rows; nothing can be fitted to no data")
    n = data.x.shape[0]
    if np.ndim(data.y) == 0 or data.y.shape[0] != n:
        raise ValueError(f"data.x has {n} rows but data.y has shape {np.shape(data.y)}")
    check_target(data.y, model.family)
    for name, value in (("weight", data.weight), ("offset", data.offset), ("precision", data.precision)):
        if value is not None and np.shape(value) != (n,):
            raise ValueError(f"data.{name} must be ({n},), got shape {np.shape(value)}")


def linear_predictor(model: Model, params: Any, x: Array, offset: Array | None = None) -> Array:
    """`eta = predictor(params, x) + offset`: (n,), or (n, k) for k outputs (the offset then goes to each).

    Args:
        model: from `glm` or `mlp`.
        params: from `init` or `fit.params`.
        x: (n, d) array.
        offset: (n,) or None.

    Raises:
        ValueError: parameters of another shape, another number of features.
    """
    if not isinstance(x, Array | np.ndarray) or x.ndim != 2:
        raise ValueError(f"x must be a 2-d array (n, d), got {type(x).__name__} of shape {np.shape(x)}")
    check_params(model, params, x.shape[1])
    eta = model.predictor.apply(params, x)
    if offset is None:
        return eta
    if np.shape(offset) != (x.shape[0],):
        raise ValueError(f"offset must be ({x.shape[0]},), got shape {np.shape(offset)}")
    return eta + per_row(offset, eta)


def predict(model: Model, params: Any, x: Any, offset: Any = None) -> Array:
    """Mean of the target given x: E[t | x], (n,) or (n, k); the K class probabilities for the categorical family.

    Args:
        model: from `glm` or `mlp`.
        params: from `init` or `fit.params`.
        x: (n, d); NumPy, JAX, pandas, polars, Arrow or lists, brought to the parameters' dtype.
        offset: (n,) or None; a model fitted with an offset wants one here too.

    Raises:
        ValueError: NaN or infinity, a shape that does not fit, another number of features than was fitted.
        TypeError: what is not real numbers.
    """
    x, offset = read_rows(params, x, offset)
    return _mean(in_dtype(model, x.dtype), params, x, offset)


def sample(model: Model, params: Any, x: Any, key: Array, offset: Any = None) -> Array:
    """Targets drawn from the fitted distribution at x: (n,), or (n, k) for the normal family with k outputs.

    The normal family draws with the variance in `model.family.dispersion`: after a fit, sample from `fit.model`.
    Arguments and errors are those of `predict`, and a JAX random key.
    """
    check_key(key)
    x, offset = read_rows(params, x, offset)
    return _sample(in_dtype(model, x.dtype), params, x, offset, key)


def read_rows(params: Any, x: Any, offset: Any) -> tuple[Array, Array | None]:
    """Features and offset, checked on the host and brought to the parameters' dtype."""
    dtype = float_dtype(jnp.result_type(*jax.tree.leaves(params)))
    x, labels = read_array(x, "x")
    if x.ndim != 2:
        raise ValueError(f"x must be 2-d (n, d), got shape {x.shape}" + ("; use x[None] for one row" * (x.ndim == 1)))
    if not is_traced(x):
        check_finite(x, "x", labels)
    if offset is not None:
        offset, _ = read_array(offset, "offset")
        if not is_traced(offset):
            check_finite(offset, "offset")
        offset = to_float(offset, "offset", dtype)
    return to_float(x, "x", dtype, labels), offset


@jax.jit
def _mean(model: Model, params: Any, x: Array, offset: Array | None) -> Array:
    return jax.vmap(model.family.mean)(linear_predictor(model, params, x, offset))


@jax.jit
def _sample(model: Model, params: Any, x: Array, offset: Array | None, key: Array) -> Array:
    return model.family.sample(key, linear_predictor(model, params, x, offset))
