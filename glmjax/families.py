"""The normal and the categorical family, and the table of all of them: one row a family, each written once as a
negative log-likelihood of the linear predictor.

| row               | mean, default link  | variance          | nll of a target t, up to terms free of eta, m the mean |
| ----------------- | ------------------- | ----------------- | ------------------------------------------------------ |
| normal            | eta                 | phi               | (t - m)^2 / 2 + log(2 pi) / 2                          |
| Bernoulli         | 1 / (1 + exp(-eta)) | m (1 - m)         | -(t log(m) + (1 - t) log(1 - m))                       |
| binomial          | 1 / (1 + exp(-eta)) | m (1 - m) / n     | -(s log(m) + f log(1 - m)), s + f = n                  |
| categorical       | softmax(eta)        | diag(m) - m m'    | -log(m_t)                                              |
| Poisson           | exp(eta)            | m                 | m - t log(m)                                           |
| negative binomial | exp(eta)            | m + alpha m^2     | (t + 1 / alpha) log(1 + alpha m) - t log(m)            |
| gamma             | exp(eta)            | phi m^2           | t / m + log(m)                                         |
| inverse Gaussian  | exp(eta)            | phi m^3           | t / (2 m^2) - 1 / m                                    |
| Tweedie           | exp(eta)            | phi m^p           | m^(2 - p) / (2 - p) - t m^(1 - p) / (1 - p)            |

Under its canonical link the derivative of each with respect to eta is `mean - t` (Nelder and Wedderburn, 1972). No
derivative is written here or in `proportions`, `counts` and `positives`: score and curvature are `jax.grad`'s.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .distributions import Distribution, Family, Masses
from .inputs import check_count, check_number
from .links import LINKS, check_link
from .numerics import HALF_LOG_2PI, log_normal_cdf

# normal ---------------------------------------------------------------------------------------------------------------


def _normal_nll(family: Family, eta: Array, y: Array) -> Array:
    return 0.5 * jnp.sum((y - family.mean(eta)) ** 2) + HALF_LOG_2PI * (family.n_outputs or 1)


def _normal_deviance(family: Family, eta: Array, y: Array) -> Array:
    return jnp.sum((y - family.mean(eta)) ** 2)


def _normal_sample(family: Family, key: Array, eta: Array) -> Array:
    sigma = jnp.sqrt(jnp.asarray(family.dispersion, eta.dtype))
    return family.mean(eta) + sigma * jax.random.normal(key, eta.shape, eta.dtype)


def _normal_start(family: Family, y: Array) -> Array:
    # The other links have no finite eta for every target. A mean of the target's size but away from 0 is one, and
    # where it is nearly 0 so is the information (mean^2 or mean^4): such a row has no say in the first step.
    if family.link == "identity":
        return y
    least = float(jnp.finfo(y.dtype).tiny) ** 0.25
    size = jnp.maximum(jnp.abs(y), least)
    return LINKS[family.link].forward(size if family.link == "log" else jnp.where(y < 0, -size, size))


def _normal_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    constant = (0.5 * jnp.log(dispersion) + HALF_LOG_2PI) * (family.n_outputs or 1)
    return -0.5 * family.deviance(eta, y) / dispersion - constant


def _normal_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    z = (y - family.mean(eta)) / jnp.sqrt(dispersion)
    return Masses(log_normal_cdf(z), jnp.full_like(z, -jnp.inf), log_normal_cdf(-z))


_NORMAL = Distribution(
    nll=_normal_nll,
    deviance=_normal_deviance,
    sample=_normal_sample,
    start=_normal_start,
    log_likelihood=_normal_log_likelihood,
    masses=_normal_masses,
)


def normal(n_outputs: int | None = None, link: str = "identity", dispersion: float = 1.0) -> Family:
    """Normal family: `t ~ N(mean, dispersion)`, one target or `n_outputs` independent ones of equal variance.

    nll = |t - mean|^2 / 2 + n_outputs log(2 pi) / 2, the Gaussian one at dispersion 1: its minimizer is that of the
    mean squared error, and of the Gaussian likelihood at any sigma^2. A fit puts the maximum-likelihood sigma^2,
    deviance / (sum(weight) * outputs), into `fit.model.family.dispersion`. Targets are any finite numbers.

    Args:
        n_outputs: targets a row, 2 or more; None for one, y of shape (n,).
        link: "identity", "log" (mean exp(eta)) or "inverse" (mean 1 / eta).
        dispersion: sigma^2, in squared units of the target; `sample` uses it, the objective does not.

    Raises:
        ValueError: `n_outputs` below 2 (leave it None for one output), a dispersion not above 0, an unknown link.

    McCullagh and Nelder, Generalized Linear Models (1989), chapter 3.
    """
    if n_outputs is not None:
        n_outputs = check_count(n_outputs, "n_outputs (None for one output and y of shape (n,))", at_least=2)
    check_number(dispersion, "dispersion", above=0)
    link = check_link(link, ("identity", "log", "inverse"), "normal")
    shape = () if n_outputs is None else (n_outputs,)
    return Family("normal", link, _NORMAL, n_outputs=n_outputs, target_shape=shape, dispersion=dispersion)


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
    label = jax.random.categorical(key, _logits(family, eta)).astype(eta.dtype)
    return jnp.where(jnp.any(jnp.isnan(eta), axis=-1), jnp.nan, label)


def _categorical_information(family: Family, eta: Array, y: Array) -> Array:
    return jax.hessian(family.nll)(eta, y)  # canonical: the same for every class, and none is the mean


def _categorical_start(family: Family, y: Array) -> Array:
    # The log of (1 + [class t]) / (K + 1), up to a constant: log(2) for the row's own class.
    own = jnp.where(jnp.arange(family.n_classes, dtype=y.dtype) == y, jnp.log(jnp.asarray(2, y.dtype)), 0)
    return own if family.reference is None else jnp.delete(own - own[family.reference], family.reference)


def _categorical_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    return -_categorical_nll(family, eta, y)


_CATEGORICAL = Distribution(
    nll=_categorical_nll,
    mean=_categorical_mean,
    deviance=_categorical_deviance,
    variance=_categorical_variance,
    support=_categorical_support,
    sample=_categorical_sample,
    domain="a whole number from 0 to n_classes - 1",
    information=_categorical_information,
    start=_categorical_start,
    log_likelihood=_categorical_log_likelihood,
)


def categorical(n_classes: int, reference: int | None = None, link: str = "softmax") -> Family:
    """Categorical family: `P(t = k) = softmax(eta)_k`; multiclass logistic regression. Targets are 0..n_classes-1.

    nll = log(sum(exp(eta))) - eta_t. With `reference=None` there is a logit a class: overparametrized, since a
    constant added to all logits changes nothing. With `reference=r` class r's logit is fixed at 0 and eta holds the
    other n_classes - 1, the log-odds against class r: the same probabilities, and parametrized once.

    Args:
        n_classes: K, 2 or more.
        reference: the class whose logit is 0, or None.
        link: "softmax".

    Raises:
        ValueError: `n_classes` below 2, a reference that is no class, an unknown link.

    Agresti, Categorical Data Analysis (2013), chapter 8.
    """
    n_classes = check_count(n_classes, "n_classes", at_least=2)
    reference = None if reference is None else check_count(reference, "reference", at_least=0)
    if reference is not None and reference >= n_classes:
        raise ValueError(f"reference={reference} is outside 0..{n_classes - 1}; give one of the classes, or None")
    n_outputs = n_classes - (reference is not None)
    link = check_link(link, ("softmax",), "categorical")
    return Family("categorical", link, _CATEGORICAL, n_outputs=n_outputs, n_classes=n_classes, reference=reference)
