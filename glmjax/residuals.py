"""Residuals: what each row's target is off its mean, in five scales. Any model that predicts has them, layers included.

With r and h the score and the expected information of a row's nll in eta, m the mean and V its variance function,

    (y - m) / sqrt(V) = -r / sqrt(h)        (y - m) / (dm/deta) = -r / h        up to the sign of dm/deta

and the right-hand sides have all digits in the tails, where m rounds to 0 or 1.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .data import Data, clean
from .distributions import Family, score_and_information
from .inputs import check_key, check_number, per_row
from .models import Model, check_problem, in_dtype, linear_predictor
from .tails import log_normal_quantile


def response_residuals(model: Model, params: Any, data: Data) -> Array:
    """`y - mean`, (n,) or (n, k), in units of the target; of a binomial the proportion's, of classes [y = k] - p_k.

    All residuals are of one copy of a row, whatever its weight; of no meaning for a row of weight 0 that holds what
    cannot be computed with.

    Args:
        model: from `glm` or `mlp`; of a fit `fit.model`.
        params: from `init` or `fit.params`.
        data: from `make_data`.

    Returns:
        One number a row; (n, k) for k normal outputs, (n, K) for K classes.

    Raises:
        ValueError: shapes that do not fit.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.4.
    """
    return _of_rows(_response, model, params, data)


def pearson_residuals(model: Model, params: Any, data: Data) -> Array:
    """`(y - mean) / sqrt(V(mean) / precision)`, at dispersion 1, as R's; their squares add up to `pearson_chi2`.

    A binomial row of n trials has `(s - n p) / sqrt(n p (1 - p))`; classes have `([y = k] - p_k) / sqrt(p_k)`, (n, K).
    Arguments, shapes and errors are those of `response_residuals`.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.4.
    """
    return _of_rows(_pearson, model, params, data)


def deviance_residuals(model: Model, params: Any, data: Data) -> Array:
    """`sign(y - mean) sqrt(precision d)`, d the unit deviance: their squares add up to `deviance`, as R's.

    Arguments, shapes and errors are those of `response_residuals`; classes have none, since they have no order.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.4.
    """
    _refuse_classes(model)
    return _of_rows(_deviance, model, params, data)


def working_residuals(model: Model, params: Any, data: Data) -> Array:
    """`(y - mean) / (dmean / deta)`, in units of eta: by how much the last step of IRLS has missed each row, as R's.

    Arguments, shapes and errors are those of `response_residuals`; classes have none, since they have no order.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    _refuse_classes(model)
    return _of_rows(_working, model, params, data)


def quantile_residuals(
    key: Array, model: Model, params: Any, data: Data, dispersion: float | Array | None = None
) -> Array:
    """Randomized quantile residuals `Phi^-1(u)`, u uniform between `P(T < y)` and `P(T <= y)`: standard normal where
    the model is right, whatever the family.

    By logarithms of both tails, so that a target of any finite log-probability has a finite residual, with about 12
    digits in float64 (gamma shapes below 0.001 and inverse Gaussian targets far above the mean have fewer). A target
    that its distribution cannot give, such as a count of 2.5, has NaN.

    Args:
        key: a JAX random key; normal, gamma and inverse Gaussian targets do not use it.
        model, params, data: as in `response_residuals`.
        dispersion: of families that have one, above 0; None is the model's own, as `sample` has it: after a fit
            deviance / n. R's statmod takes Pearson's, `inference(data, fit).dispersion`. Divided by `data.precision`.

    Returns:
        (n,), or (n, k) for k normal outputs.

    Raises:
        ValueError: a family without a distribution function (quasi families, Tweedie, classes); a dispersion or a
            precision where the family has no dispersion; shapes that do not fit.
        TypeError: no key.

    Reference: Dunn and Smyth, Journal of Computational and Graphical Statistics 5 (1996).
    """
    if key is None:
        raise TypeError("key must be a JAX random key, such as jax.random.key(0): u is drawn")
    check_key(key)
    check_problem(model, data)
    if model.family.dispersion is None:
        for name, value in (("dispersion", dispersion), ("precision", data.precision)):
            if value is not None:
                raise ValueError(f"the {model.family.name} family has no dispersion, so {name} has no meaning; drop it")
        dispersion = 1.0
    elif dispersion is None:
        dispersion = model.family.dispersion
    check_number(dispersion, "dispersion", above=0)
    shape = data.x.shape[:1] if model.family.n_outputs is None else (data.x.shape[0], model.family.n_outputs)
    dtype = data.x.dtype
    # Not 0: what has no probability at all is no draw.
    u = jax.random.uniform(key, shape, dtype, minval=float(jnp.finfo(dtype).tiny))
    return _of_rows(_quantile, model, params, data, jnp.broadcast_to(jnp.asarray(dispersion, dtype), shape), u)


def _of_rows(row: Callable[..., Array], model: Model, params: Any, data: Data, *parts: Array) -> Array:
    """`row(family, eta, y, precision, *parts)` of each row, and of each output where they are independent."""
    check_problem(model, data)
    return _each(row, in_dtype(model, data.x.dtype), params, data, *parts)


@partial(jax.jit, static_argnums=0)
def _each(row: Callable[..., Array], model: Model, params: Any, data: Data, *parts: Array) -> Array:
    family, rows = model.family, clean(data)
    eta = linear_predictor(model, params, rows.x, rows.offset)
    precision = jnp.ones(eta.shape[:1], eta.dtype) if rows.precision is None else rows.precision
    if family.n_outputs is None or family.n_classes:
        return jax.vmap(partial(row, family))(eta, rows.y, precision, *parts)
    single = partial(row, replace(family, n_outputs=None, target_shape=()))
    precision = jnp.broadcast_to(per_row(precision, eta), eta.shape)
    return jax.vmap(jax.vmap(single))(eta, rows.y, precision, *parts)


def _refuse_classes(model: Model) -> None:
    if isinstance(model, Model) and model.family.n_classes:
        raise ValueError(
            "classes have no order, and so no residual with a sign; use response_residuals or pearson_residuals, one "
            "number a class, or calibration"
        )


def slope_sign(family: Family, eta: Array) -> Array:
    """1 where the mean rises with eta, also where its slope rounds to 0; -1 where it falls."""
    return jnp.where(jax.grad(family.mean)(eta) < 0, -jnp.ones_like(eta), 1)


def _response(family: Family, eta: Array, y: Array, precision: Array) -> Array:
    mean = family.mean(eta)
    if family.n_classes:
        return (jnp.arange(family.n_classes, dtype=y.dtype) == y).astype(mean.dtype) - mean
    return (y[0] / (y[0] + y[1]) if y.ndim else y) - mean


def _pearson(family: Family, eta: Array, y: Array, precision: Array) -> Array:
    if family.n_classes:
        return _response(family, eta, y, precision) * jnp.sqrt(precision / family.mean(eta))
    r, h = score_and_information(family, eta, y)
    exact = r == 0
    return -jnp.where(exact, 0, r * jnp.sqrt(precision / jnp.where(exact, 1, h))) * slope_sign(family, eta)


def _deviance(family: Family, eta: Array, y: Array, precision: Array) -> Array:
    r, _ = score_and_information(family, eta, y)
    return -jnp.sign(r) * slope_sign(family, eta) * jnp.sqrt(precision * family.deviance(eta, y))


def _working(family: Family, eta: Array, y: Array, precision: Array) -> Array:
    r, h = score_and_information(family, eta, y)
    exact = r == 0
    return -jnp.where(exact, 0, r / jnp.where(exact, 1, h))


def _quantile(family: Family, eta: Array, y: Array, precision: Array, dispersion: Array, u: Array) -> Array:
    masses = family.masses(eta, y, dispersion / precision)
    below = jnp.logaddexp(masses.below, jnp.log(u) + masses.at)
    above = jnp.logaddexp(masses.above, jnp.log1p(-u) + masses.at)
    size = log_normal_quantile(jnp.minimum(below, above))
    return jnp.where(below < above, size, -size)
