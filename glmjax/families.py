"""The GLM table: one row a family, each written once as a negative log-likelihood of the linear predictor.

| row         | mean of the target    | negative log-likelihood, up to terms free of eta | fitted to     |
| ----------- | --------------------- | ------------------------------------------------ | ------------- |
| normal      | eta                   | (t - eta)^2 / 2 + log(2 pi) / 2                  | real numbers  |
| Bernoulli   | 1 / (1 + exp(-eta))   | log(1 + exp(eta)) - t eta                        | 0 and 1       |
| categorical | softmax(eta)          | log(sum(exp(eta))) - eta_t                       | classes 0..K-1|
| Poisson     | exp(eta)              | exp(eta) - t eta                                 | counts        |

Each is the canonical form of an exponential family, so its derivative with respect to eta is `mean - t`, in every
row (Nelder and Wedderburn, 1972). No derivative is written here: score and curvature come from `jax.grad`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .distributions import Distribution, Family
from .inputs import check_count, check_number
from .links import LINKS, check_link

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _inverse_link(family: Family, eta: Array) -> Array:
    return LINKS[family.link].inverse(eta)


# normal ---------------------------------------------------------------------------------------------------------------


def _normal_nll(family: Family, eta: Array, y: Array) -> Array:
    return 0.5 * jnp.sum((y - eta) ** 2) + HALF_LOG_2PI * (family.n_outputs or 1)


def _normal_deviance(family: Family, eta: Array, y: Array) -> Array:
    return jnp.sum((y - eta) ** 2)


def _normal_variance(family: Family, mean: Array) -> Array:
    return jnp.ones_like(mean) if mean.ndim == 0 else jnp.eye(mean.shape[0], dtype=mean.dtype)


def _normal_support(family: Family, y: Any) -> Any:
    return y - y == 0  # false for NaN and infinity


def _normal_sample(family: Family, key: Array, eta: Array) -> Array:
    sigma = jnp.sqrt(jnp.asarray(family.dispersion, eta.dtype))
    return eta + sigma * jax.random.normal(key, eta.shape, eta.dtype)


_NORMAL = Distribution(
    nll=_normal_nll,
    mean=_inverse_link,
    deviance=_normal_deviance,
    variance=_normal_variance,
    support=_normal_support,
    sample=_normal_sample,
    domain="a finite number",
)


def normal(n_outputs: int | None = None, link: str = "identity", dispersion: float = 1.0) -> Family:
    """Normal family: `t ~ N(eta, dispersion)`, one target or `n_outputs` independent ones of equal variance.

    nll = |t - eta|^2 / 2 + n_outputs log(2 pi) / 2, the Gaussian one at dispersion 1: its minimizer is that of the
    mean squared error, and of the Gaussian likelihood at any sigma^2. A fit puts the maximum-likelihood sigma^2,
    deviance / (sum(weight) * outputs), into `fit.model.family.dispersion`.

    Raises `ValueError` for `n_outputs` below 2 (leave it None for one output), a dispersion not above 0 or an unknown
    link.
    """
    if n_outputs is not None:
        n_outputs = check_count(n_outputs, "n_outputs (None for one output and y of shape (n,))", at_least=2)
    check_number(dispersion, "dispersion", above=0)
    link = check_link(link, ("identity",), "normal")
    shape = () if n_outputs is None else (n_outputs,)
    return Family("normal", link, _NORMAL, n_outputs=n_outputs, target_shape=shape, dispersion=dispersion)


# Bernoulli ------------------------------------------------------------------------------------------------------------


def _bernoulli_nll(family: Family, eta: Array, y: Array) -> Array:
    # The two log-sigmoids keep every digit in both tails, where softplus(eta) - y * eta would cancel.
    return -(y * jax.nn.log_sigmoid(eta) + (1 - y) * jax.nn.log_sigmoid(-eta))


def _bernoulli_deviance(family: Family, eta: Array, y: Array) -> Array:
    entropy = jax.scipy.special.entr(y) + jax.scipy.special.entr(1 - y)  # 0 but for proportions
    return 2 * (_bernoulli_nll(family, eta, y) - entropy)


def _bernoulli_variance(family: Family, mean: Array) -> Array:
    return mean * (1 - mean)


def _bernoulli_support(family: Family, y: Any) -> Any:
    return (y >= 0) & (y <= 1)


def _bernoulli_sample(family: Family, key: Array, eta: Array) -> Array:
    return jax.random.bernoulli(key, _inverse_link(family, eta)).astype(eta.dtype)


_BERNOULLI = Distribution(
    nll=_bernoulli_nll,
    mean=_inverse_link,
    deviance=_bernoulli_deviance,
    variance=_bernoulli_variance,
    support=_bernoulli_support,
    sample=_bernoulli_sample,
    domain="0 or 1, or a proportion between them (recode labels -1 and 1 by (y + 1) / 2, labels 1 and 2 by y - 1)",
)


def bernoulli(link: str = "logit") -> Family:
    """Bernoulli family: `P(t = 1) = sigmoid(eta)`, so eta is the log-odds; logistic regression.

    nll = log(1 + exp(eta)) - t eta. Targets are 0 and 1; a proportion in [0, 1] is accepted, as a quasi-likelihood.

    Raises `ValueError` for an unknown link.
    """
    return Family("bernoulli", check_link(link, ("logit",), "bernoulli"), _BERNOULLI)


# categorical ----------------------------------------------------------------------------------------------------------


def _logits(family: Family, eta: Array) -> Array:
    """All K logits: `eta` itself, or `eta` with the reference class's 0 put in its place (last axis)."""
    if family.reference is None:
        return eta
    zero = jnp.zeros((*eta.shape[:-1], 1), eta.dtype)
    return jnp.concatenate([eta[..., : family.reference], zero, eta[..., family.reference :]], axis=-1)


def _categorical_nll(family: Family, eta: Array, y: Array) -> Array:
    # log(1 + sum over the other classes of exp(eta_j - eta_t)): differences first, so that a constant added to all
    # logits drops out, and softplus last, so that a loss far below eps keeps its digits.
    logits = _logits(family, eta)
    own = jnp.arange(logits.shape[0], dtype=y.dtype) == y
    log_odds_against = jnp.where(own, -jnp.inf, logits - jnp.sum(jnp.where(own, logits, 0)))
    nll = jax.nn.softplus(jax.nn.logsumexp(log_odds_against))
    return jnp.where(jnp.any(own), nll, jnp.nan)  # a label that is no class must not pass for a number


def _categorical_mean(family: Family, eta: Array) -> Array:
    return jax.nn.softmax(_logits(family, eta))


def _categorical_deviance(family: Family, eta: Array, y: Array) -> Array:
    return 2 * _categorical_nll(family, eta, y)


def _categorical_variance(family: Family, mean: Array) -> Array:
    return jnp.diag(mean) - jnp.outer(mean, mean)


def _categorical_support(family: Family, y: Any) -> Any:
    return (y >= 0) & (y < family.n_classes) & (y // 1 == y)


def _categorical_sample(family: Family, key: Array, eta: Array) -> Array:
    return jax.random.categorical(key, _logits(family, eta)).astype(eta.dtype)


_CATEGORICAL = Distribution(
    nll=_categorical_nll,
    mean=_categorical_mean,
    deviance=_categorical_deviance,
    variance=_categorical_variance,
    support=_categorical_support,
    sample=_categorical_sample,
    domain="a whole number from 0 to n_classes - 1",
)


def categorical(n_classes: int, reference: int | None = None, link: str = "softmax") -> Family:
    """Categorical family: `P(t = k) = softmax(eta)_k`; multiclass logistic regression. Targets are 0..n_classes-1.

    nll = log(sum(exp(eta))) - eta_t. With `reference=None` there is a logit a class: overparametrized, since a
    constant added to all logits changes nothing. With `reference=r` class r's logit is fixed at 0 and eta holds the
    other n_classes - 1, the log-odds against class r: the same probabilities, and parametrized once.

    Raises `ValueError` for `n_classes` below 2, a reference that is no class, or an unknown link.
    """
    n_classes = check_count(n_classes, "n_classes", at_least=2)
    reference = None if reference is None else check_count(reference, "reference", at_least=0)
    if reference is not None and reference >= n_classes:
        raise ValueError(f"reference={reference} is outside 0..{n_classes - 1}; give one of the classes, or None")
    n_outputs = n_classes - (reference is not None)
    link = check_link(link, ("softmax",), "categorical")
    return Family("categorical", link, _CATEGORICAL, n_outputs=n_outputs, n_classes=n_classes, reference=reference)


# Poisson --------------------------------------------------------------------------------------------------------------


def _poisson_nll(family: Family, eta: Array, y: Array) -> Array:
    return jnp.exp(eta) - y * eta


def _poisson_deviance(family: Family, eta: Array, y: Array) -> Array:
    # 2 (y log(y / mean) - (y - mean)) = 2 y (expm1(r) - r), r = eta - log(y): no cancellation at large counts.
    positive = y > 0
    r = eta - jnp.log(jnp.where(positive, y, 1))
    return 2 * jnp.where(positive, y * (jnp.expm1(r) - r), jnp.exp(eta))


def _poisson_variance(family: Family, mean: Array) -> Array:
    return mean


def _poisson_support(family: Family, y: Any) -> Any:
    return (y >= 0) & (y - y == 0)


def _poisson_sample(family: Family, key: Array, eta: Array) -> Array:
    return jax.random.poisson(key, _inverse_link(family, eta)).astype(eta.dtype)


_POISSON = Distribution(
    nll=_poisson_nll,
    mean=_inverse_link,
    deviance=_poisson_deviance,
    variance=_poisson_variance,
    support=_poisson_support,
    sample=_poisson_sample,
    domain="a count, 0 or more",
)


def poisson(link: str = "log") -> Family:
    """Poisson family: counts with mean and variance exp(eta); exposure enters as the offset log(exposure).

    nll = exp(eta) - t eta. Targets are counts; other numbers from 0 up are accepted, as a quasi-likelihood.

    Raises `ValueError` for an unknown link.
    """
    return Family("poisson", check_link(link, ("log",), "poisson"), _POISSON)
