"""The information that the rows hold about a linear model's coefficients: the curvature of their negative
log-likelihood.

    information = sum(weight h x x'),   h = d2 nll / d eta2 (observed), or its expectation (Fisher)

x with a 1 before it for the bias. At dispersion 1, unpenalized.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from .data import Data, clean, row_weight
from .distributions import hessian
from .inputs import per_row
from .models import Model, check_params, check_problem, in_dtype, linear_predictor
from .predictors import Dense, Linear
from .rows import chunk_rows, row_sums


def fisher_information(model: Model, params: Dense, data: Data) -> Array:
    """The expected information `sum(weight E[d2 nll / d eta2] x x')`, (q, q), of a linear model's coefficients.

    Bias first and then w, class by class, as they stand in `fit.params`; at dispersion 1, the penalty left out. Its
    inverse times the dispersion is the covariance of unpenalized estimates that R prints the standard errors of. An
    alpha is taken as given; `precision` multiplies its row. That of `negative_binomial1` has no closed form: it is the
    observed one there.

    Args:
        model: from `glm`, or `fit.model`.
        params: `fit.params`.
        data: from `make_data`.

    Returns:
        A symmetric matrix, (q, q); singular for K logits, which `categorical(K, reference=0)` avoids.

    Raises:
        ValueError: a model with hidden layers, shapes that do not fit.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5; Efron and Hinkley (1978).
    """
    _check(model, params, data)
    return _fisher(in_dtype(model, data.x.dtype), params, data)


def observed_information(model: Model, params: Dense, data: Data) -> Array:
    """The observed information `sum(weight d2 nll / d eta2 x x')`, (q, q): the Hessian of `loss` times the weight.

    The same as `fisher_information` for canonical links; for others it knows the targets, and need not be positive
    definite away from the optimum. Arguments, returns and errors are those of `fisher_information`.
    """
    _check(model, params, data)
    return _observed(in_dtype(model, data.x.dtype), params, data)


@jax.jit
def _fisher(model: Model, params: Dense, data: Data) -> Array:
    return _information(model, params, data, jax.vmap(model.family.information))


@jax.jit
def _observed(model: Model, params: Dense, data: Data) -> Array:
    return _information(model, params, data, jax.vmap(lambda eta, y: hessian(model.family, eta, y)))


def _check(model: Model, params: Dense, data: Data) -> None:
    check_problem(model, data)
    if not isinstance(model.predictor, Linear):
        raise ValueError("the information is that of a linear model, glm(family); an mlp's weights have no unique one")
    check_params(model, params, data.x.shape[1])


def _information(model: Model, params: Dense, data: Data, curvature: Callable[[Array, Array], Array]) -> Array:
    bias, k = params.b is not None, model.family.n_outputs or 1
    p = data.x.shape[1] + bias

    def part(rows: Data) -> Array:
        h = curvature(linear_predictor(model, params, rows.x, rows.offset), rows.y).reshape(-1, k, k)
        weight = row_weight(rows)
        if weight is not None:
            h = jnp.where(per_row(weight == 0, h), 0, per_row(weight, h) * h)
        u = jnp.concatenate([jnp.ones((len(rows.x), 1), rows.x.dtype), rows.x], axis=1) if bias else rows.x
        # Classes first, and in each its coefficients; pairs are contracted as in the passes of Newton's method.
        return jnp.einsum("nab,np,nq->apbq", h, u, u, optimize=[(0, 1), (0, 1)]).reshape(k * p, k * p)

    return row_sums(part, clean(data), chunk_rows(p * k * k))
