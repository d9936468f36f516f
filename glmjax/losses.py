"""The objective every solver minimises, and the deviance: the smallest passes over the rows."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .data import Data, clean, row_weight
from .inputs import check_number
from .models import Model, check_problem, linear_predictor
from .predictors import Dense
from .rows import row_sums


class Sums(NamedTuple):
    """What one pass adds up: sum(weight * nll), sum(weight * unit deviance) and sum(weight)."""

    nll: Array
    deviance: Array
    weight: Array


def chunk_sums(model: Model, params: Any, rows: Data) -> Sums:
    """The `Sums` of some rows. A row of weight 0 is inert: neither its value nor its derivatives count."""
    family = model.family
    eta = linear_predictor(model, params, rows.x, rows.offset)
    y = rows.y.astype(eta.dtype)
    weight = row_weight(rows)
    if weight is None:
        weight = jnp.ones(eta.shape[:1], eta.dtype)  # a constant, which the compiler folds away
    else:
        weight = weight.astype(eta.dtype)
        counts = weight != 0  # NaN weights count, and show
        # Masked before the family sees them: behind it, 0 * inf would be NaN, in the derivative even so.
        eta = jnp.where(counts.reshape((-1,) + (1,) * (eta.ndim - 1)), eta, 0)
        y = jnp.where(counts.reshape((-1,) + (1,) * (y.ndim - 1)), y, 1)
    nll, unit_deviance = jax.vmap(family.nll)(eta, y), jax.vmap(family.deviance)(eta, y)
    return Sums(jnp.sum(weight * nll), jnp.sum(weight * unit_deviance), jnp.sum(weight))


def penalty(params: Any, l2: Array) -> Array:
    """`l2 / 2 * sum(w^2)` over the weights of all layers; biases are free."""
    layers = [params] if isinstance(params, Dense) else params
    return 0.5 * l2 * sum(jnp.sum(layer.w**2) for layer in layers)


def objective(model: Model, params: Any, data: Data, l2: Array) -> tuple[Array, Sums]:
    """The objective of `loss`, and the sums it came from; the rows are taken as they are (see `clean`)."""
    sums = row_sums(lambda rows: chunk_sums(model, params, rows), data)
    # No weight at all (a minibatch of inert rows) is no loss, not 0 / 0.
    mean = sums.nll / jnp.where(sums.weight == 0, 1, sums.weight)
    return mean + penalty(params, l2), sums


def loss(model: Model, params: Any, data: Data, l2: float | Array = 0.0) -> Array:
    """The objective: `sum(weight * nll) / sum(weight) + l2 / 2 * sum(w^2)`, at dispersion 1, biases free.

    The one formula, whichever solver minimises it (`weight` times `precision` where the data have one). Its gradient
    is `jax.grad(loss, argnums=1)`; for a GLM that is the mean of `(y(x) - t) x`.

    Args:
        model: from `glm` or `mlp`.
        params: from `init` or `fit.params`.
        data: from `make_data`.
        l2: ridge penalty on the weights of every layer, 0 or more.

    Returns:
        A number, ().

    Raises:
        ValueError: shapes that do not fit, a negative `l2`.
    """
    check_number(l2, "l2", at_least=0)
    check_problem(model, data)
    return _loss(model, params, data, jnp.asarray(l2, data.x.dtype))


def deviance(model: Model, params: Any, data: Data) -> Array:
    """`sum(weight * d)`, d the unit deviance: twice the log-likelihood short of the saturated model's, (); as R's.

    Arguments and errors are those of `loss`.
    """
    check_problem(model, data)
    return _deviance(model, params, data)


@jax.jit
def _loss(model: Model, params: Any, data: Data, l2: Array) -> Array:
    return objective(model, params, clean(data), l2)[0]


@jax.jit
def _deviance(model: Model, params: Any, data: Data) -> Array:
    return row_sums(lambda rows: chunk_sums(model, params, rows), clean(data)).deviance


def with_dispersion(model: Model, data: Data, sums: Sums) -> Model:
    """The model with its family's dispersion at the maximum-likelihood estimate, where the family has one."""
    family = model.family
    if family.dispersion is None:
        return model
    rows = jnp.asarray(data.x.shape[0], data.x.dtype) if data.weight is None else jnp.sum(data.weight)
    estimate = sums.deviance / (rows * (family.n_outputs or 1))
    return replace(model, family=replace(family, dispersion=estimate))
