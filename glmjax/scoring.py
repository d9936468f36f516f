"""Prediction on the host in NumPy: nothing is compiled, so that a row is scored in microseconds and in any shape."""

from typing import Any, NamedTuple

import jax
import numpy as np

from .bare import MEANS, eta_of, mean_of
from .distributions import mean_of_link
from .families import categorical
from .inputs import is_traced, read_array
from .models import Model
from .predictors import ACTIVATIONS, Dense, Linear


class Scorer(NamedTuple):
    """A model and its parameters as plain NumPy: layers (w, b), w (..., d, k) and b (..., k) or None, and names."""

    layers: tuple[tuple[np.ndarray, np.ndarray | None], ...]
    activation: str
    single: bool
    link: str
    reference: int | None


def numpy_scorer(model: Model, params: Any) -> Scorer:
    """What NumPy needs of a model to predict; leading axes of the parameters are lanes.

    Raises:
        ValueError: a mean that is no link's, an activation of one's own, parameters of another model.
        TypeError: no model, traced parameters.
    """
    if not isinstance(model, Model):
        raise TypeError(f"need a model from glm or mlp, got {type(model).__name__}")
    if is_traced(params):
        raise TypeError("the parameters are traced, and NumPy has no numbers of them; inside of jit use predict")
    family, predictor = model.family, model.predictor
    classes = family.distribution is categorical(2).distribution
    if not (family.distribution.mean is mean_of_link or classes) or family.link not in MEANS:
        raise ValueError(f"the {family.name} family has a mean of its own, which NumPy does not know; use predict")
    activation = "identity" if isinstance(predictor, Linear) else predictor.activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is a function, which NumPy does not know; use predict")
    single, linear = family.n_outputs is None, isinstance(predictor, Linear)
    layers = (params,) if linear else params
    depth = 1 if isinstance(predictor, Linear) else 1 + len(predictor.hidden)
    if linear != isinstance(params, Dense) or len(layers) != depth or not all(isinstance(a, Dense) for a in layers):
        kind = "Dense(w, b)" if linear else f"a tuple of {depth} Dense(w, b)"
        raise ValueError(f"params must be {kind}, as init makes them for this model, got {params!r}")
    leaves = jax.tree.leaves(params)
    lanes = {
        np.shape(leaf)[: np.ndim(leaf) - rank + (single and i == depth - 1)]
        for i, layer in enumerate(layers)
        for leaf, rank in zip(layer, (2, 1), strict=True)
        if leaf is not None
    }
    if len(lanes) != 1:
        raise ValueError(f"params have shapes {[np.shape(leaf) for leaf in leaves]}, with lanes that differ")
    dtype = np.float32 if max(np.asarray(leaf).dtype.itemsize for leaf in leaves) <= 4 else np.float64
    arrays = [(np.asarray(w, dtype), None if b is None else np.asarray(b, dtype)) for w, b in layers]
    if single:
        w, b = arrays[-1]
        arrays[-1] = w[..., None], None if b is None else b[..., None]
    return Scorer(tuple(arrays), activation, single, family.link, family.reference)


def numpy_predict(model: Model, params: Any, x: Any, offset: Any = None) -> np.ndarray:
    """`predict` in NumPy, equal to it to rounding, in the parameters' dtype whatever JAX's: nothing is compiled.

    Args:
        model: from `glm` or `mlp`; a family whose mean is its link's, an activation known by name.
        params: from `init` or `fit.params`; leading axes of all of them are lanes, as `fit_seeds` has.
        x: (n, d); NumPy, JAX, pandas, polars, Arrow or lists.
        offset: (n,) or None.

    Returns:
        The mean: (n,) or (n, k) after the lanes.

    Raises:
        ValueError: as `predict`, and for what NumPy does not know; `TypeError`: what is not real numbers.
    """
    scorer = numpy_scorer(model, params)
    return mean_of(_eta(scorer, x, offset), scorer.link, scorer.reference)


def numpy_linear_predictor(model: Model, params: Any, x: Any, offset: Any = None) -> np.ndarray:
    """`linear_predictor` in NumPy; arguments and errors are those of `numpy_predict`."""
    return _eta(numpy_scorer(model, params), x, offset)


def _eta(scorer: Scorer, x: Any, offset: Any) -> np.ndarray:
    x, _ = read_array(x, "x")
    offset = None if offset is None else read_array(offset, "offset")[0]
    return eta_of(scorer.layers, scorer.activation, scorer.single, x, offset)
