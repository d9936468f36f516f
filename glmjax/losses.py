"""The objective every solver minimizes, and the deviance: the smallest passes over the rows."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .data import Data, clean, row_weight
from .distributions import score_and_information
from .inputs import check_number, per_row
from .meshes import device_sum
from .models import Model, check_problem, in_dtype, linear_predictor
from .predictors import Dense
from .rows import by_rows, row_sums


class Sums(NamedTuple):
    """What one pass adds up: sum(weight * nll), sum(weight * unit deviance) and sum(weight)."""

    nll: Array
    deviance: Array
    weight: Array


def chunk_sums(model: Model, params: Any, rows: Data) -> Sums:
    """The `Sums` of some rows. A row of weight 0 is inert but for the derivative by that weight."""
    family = model.family
    eta = linear_predictor(model, params, rows.x, rows.offset)
    y = rows.y
    weight = row_weight(rows)
    if weight is None:
        weight = jnp.ones(eta.shape[:1], eta.dtype)  # a constant, which the compiler folds away
    else:
        # A row of weight 0 whose loss is not finite is taken out before the family sees it: behind it 0 * inf would
        # be NaN, in the derivative even so. The others stay, for the derivative with respect to their weight.
        out = (weight == 0) & ~jnp.isfinite(jax.vmap(family.nll)(jax.lax.stop_gradient(eta), y))
        eta, y = jnp.where(per_row(out, eta), 0, eta), jnp.where(per_row(out, y), 1, y)
    nll, unit_deviance = jax.vmap(family.nll)(eta, y), jax.vmap(family.deviance)(eta, y)
    return Sums(jnp.sum(weight * nll), jnp.sum(weight * unit_deviance), jnp.sum(weight))


def targets_supported(model: Model, data: Data) -> Array:
    """Whether every target lies in the family's support, rows of weight 0 aside."""
    supported = model.family.support(jnp.asarray(data.y).astype(data.x.dtype))
    if data.weight is not None:
        supported |= per_row(data.weight == 0, supported)
    # `all` over many rows is compiled as a tree of loops.
    return device_sum(jnp.sum((~supported).astype(jnp.int32), dtype=jnp.int32)) == 0


def penalty(params: Any, l2: Array) -> Array:
    """`sum(l2 / 2 * w^2)` over the weights of all layers, l2 broadcast to each w; biases are free."""
    layers: Any = [params] if isinstance(params, Dense) else params
    squares = [jnp.sum(jnp.broadcast_to(l2, layer.w.shape) * layer.w**2) for layer in layers]
    return 0.5 * sum(squares[1:], squares[0])


def objective(model: Model, params: Any, data: Data, l2: Array) -> tuple[Array, Sums]:
    """The objective of `loss`, and the sums it came from; the rows are taken as they are (see `clean`)."""
    sums = row_sums(lambda rows: chunk_sums(model, params, rows), data)
    # No weight at all (a minibatch of inert rows) is no loss, not 0 / 0.
    mean = sums.nll / jnp.where(sums.weight == 0, 1, sums.weight)
    return mean + penalty(params, l2), sums


def loss(model: Model, params: Any, data: Data, l2: float | Array = 0.0) -> Array:
    """The objective: `sum(weight * nll) / sum(weight) + l2 / 2 * sum(w^2)`, at dispersion 1, biases free.

    The one formula, whichever solver minimizes it (`weight` times `precision` where the data have one). Its gradient
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
    return _loss(in_dtype(model, data.x.dtype), params, data, jnp.asarray(l2, data.x.dtype))


def deviance(model: Model, params: Any, data: Data) -> Array:
    """`sum(weight * d)`, d the unit deviance: twice the log-likelihood short of the saturated model's, (); as R's.

    Arguments and errors are those of `loss`.
    """
    check_problem(model, data)
    return _deviance(in_dtype(model, data.x.dtype), params, data)


def log_likelihood(model: Model, params: Any, data: Data) -> Array:
    """`sum(weight * log p(y | eta))`, all its terms, at the family's own numbers, (); of a fit, pass `fit.model`.

    That carries the dispersion (deviance / n, as R's `logLik` of normal, gamma and inverse Gaussian fits) and an
    estimated alpha. A `precision` divides the dispersion of its row; where the dispersion is fixed at 1 it multiplies
    the row, and what it gives is a quasi-likelihood. NaN for quasi families and Tweedie, which have no likelihood.

    Arguments and errors are those of `loss`.
    """
    check_problem(model, data)
    return _log_likelihood(in_dtype(model, data.x.dtype), params, data)


def pearson_chi2(model: Model, params: Any, data: Data) -> Array:
    """`sum(weight (y - mean)^2 / V(mean))`, Pearson's chi-squared, (); of classes over all K of them.

    It is `r^2 / h`, with score and expected information of each row's nll in eta, which has all digits in the tails.
    Arguments and errors are those of `loss`.
    """
    check_problem(model, data)
    return _pearson_chi2(in_dtype(model, data.x.dtype), params, data)


def goodness_sums(model: Model, params: Any, data: Data) -> tuple[Array, Array, Array]:
    """Deviance, Pearson's chi-squared and log-likelihood, each a sum over the rows."""
    return deviance(model, params, data), pearson_chi2(model, params, data), log_likelihood(model, params, data)


@by_rows
@jax.jit
def _pearson_chi2(model: Model, params: Any, data: Data) -> Array:
    family = model.family

    def of_row(eta: Array, y: Array) -> Array:
        if family.n_classes:
            return jnp.expm1(family.nll(eta, y))  # (1 - p) / p, p the probability of the row's own class
        r, h = score_and_information(family, eta, y)
        h = jnp.diag(h) if eta.ndim else h
        return jnp.sum(jnp.where(r == 0, 0, r * r / jnp.where(r == 0, 1, h)))

    def part(rows: Data) -> Array:
        eta = linear_predictor(model, params, rows.x, rows.offset)
        values, weight = jax.vmap(of_row)(eta, rows.y), row_weight(rows)
        return jnp.sum(values if weight is None else jnp.where(weight == 0, 0, weight * values))

    return row_sums(part, clean(data))


@by_rows
@jax.jit
def _log_likelihood(model: Model, params: Any, data: Data) -> Array:
    family = model.family

    def part(rows: Data) -> Array:
        eta = linear_predictor(model, params, rows.x, rows.offset)
        one = jnp.ones(eta.shape[:1], eta.dtype)
        weight = one if rows.weight is None else rows.weight
        precision = one if rows.precision is None else rows.precision
        dispersion = one if family.dispersion is None else family.dispersion / precision
        values = jax.vmap(family.log_likelihood)(eta, rows.y, dispersion)
        values = values * precision if family.dispersion is None else values
        return jnp.sum(jnp.where(weight == 0, 0, weight * values))

    return row_sums(part, clean(data))


@by_rows
@jax.jit
def _loss(model: Model, params: Any, data: Data, l2: Array) -> Array:
    return objective(model, params, clean(data), l2)[0]


@by_rows
@jax.jit
def _deviance(model: Model, params: Any, data: Data) -> Array:
    return row_sums(lambda rows: chunk_sums(model, params, rows), clean(data)).deviance


def with_dispersion(model: Model, data: Data, total: Array) -> Model:
    """The model with its family's dispersion at `total` deviance / n, where the family has one."""
    family = model.family
    if family.dispersion is None:
        return model
    rows = jnp.asarray(data.x.shape[0], data.x.dtype) if data.weight is None else jnp.sum(data.weight)
    estimate = total / (device_sum(rows) * (family.n_outputs or 1))
    return replace(model, family=replace(family, dispersion=estimate))
