"""Links: the function that ties a family's mean to the linear predictor, `link(mean) = eta`.

A family names its link. Each is a pair of functions of one number, `forward` and its `inverse`, mean = inverse(eta),
and the logarithms of the mean and of its complement, which a likelihood is written in: they keep their digits where
the mean itself rounds to 0 or 1, and are NaN or infinite where eta belongs to no positive mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .numerics import log1m, log1mexp, log_cloglog, log_normal_cdf


def identity(eta: Array) -> Array:
    """The identity: the linear predictor is the mean."""
    return eta


def _reciprocal(value: Array) -> Array:
    return 1 / value


def _inverse_square(mean: Array) -> Array:
    return 1 / (mean * mean)


def _inverse_root(eta: Array) -> Array:
    return 1 / jnp.sqrt(eta)


def _log_of_inverse(eta: Array) -> Array:
    return -jnp.log(eta)


def _log_of_inverse_root(eta: Array) -> Array:
    return -0.5 * jnp.log(eta)


def _log_of_square(eta: Array) -> Array:
    return 2 * jnp.log(eta)


def _log_sigmoid_of_minus(eta: Array) -> Array:
    return jax.nn.log_sigmoid(-eta)


def _log_normal_cdf_of_minus(eta: Array) -> Array:
    return log_normal_cdf(-eta)


def _cloglog(mean: Array) -> Array:
    return jnp.log(-log1m(mean))


def _cloglog_mean(eta: Array) -> Array:
    return -jnp.expm1(-jnp.exp(eta))


def _minus_exp(eta: Array) -> Array:
    return -jnp.exp(eta)


class Link(NamedTuple):
    """`forward(mean) = eta` and its inverse; `log_mean(eta)` and `log_complement(eta) = log(1 - mean)` where used."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    log_mean: Callable[[Array], Array]
    log_complement: Callable[[Array], Array] | None = None


LINKS = {
    "identity": Link(identity, identity, jnp.log, log1m),
    "log": Link(jnp.log, jnp.exp, identity, log1mexp),
    "logit": Link(jax.scipy.special.logit, jax.nn.sigmoid, jax.nn.log_sigmoid, _log_sigmoid_of_minus),
    "probit": Link(jax.scipy.special.ndtri, jax.scipy.special.ndtr, log_normal_cdf, _log_normal_cdf_of_minus),
    "cloglog": Link(_cloglog, _cloglog_mean, log_cloglog, _minus_exp),
    "inverse": Link(_reciprocal, _reciprocal, _log_of_inverse),
    "inverse_squared": Link(_inverse_square, _inverse_root, _log_of_inverse_root),
    "sqrt": Link(jnp.sqrt, jnp.square, _log_of_square),
    "softmax": Link(jnp.log, jax.nn.softmax, jax.nn.log_softmax),
}


def check_link(link: Any, known: tuple[str, ...], family: str) -> str:
    """Return `link` ("-" stands for "_") if the family has it; else raise a `ValueError` that lists the ones it has."""
    name = link.replace("-", "_") if isinstance(link, str) else link
    if name not in known:
        raise ValueError(f"link={link!r} is not a link of the {family} family; known: {', '.join(known)}")
    return name
