"""Families of a probability: Bernoulli, binomial and quasi-binomial, in the logarithms of mean and complement."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .distributions import Distribution, Family, Masses, no_log_likelihood, no_masses, no_sample
from .lanes import any_lane
from .links import LINKS, check_link
from .numerics import expm1_excess, log1p_unit, log_peak
from .tails import log_beta_tails

_PROPORTION_LINKS = ("logit", "probit", "cloglog", "log", "identity")


def _outside(family: Family, eta: Array) -> Array | bool:
    """Whether eta gives no probability strictly between 0 and 1."""
    if family.link == "log":
        return ~(eta < 0)
    return ~((eta > 0) & (eta < 1)) if family.link == "identity" else False


def _middle(family: Family) -> float:
    """An eta inside the link's domain, for branches that are not taken."""
    return {"log": -1.0, "identity": 0.5}.get(family.link, 0.0)


def _logs(family: Family, eta: Array, s: Array, f: Array) -> tuple[Array, Array]:
    """log(p) and log(1 - p), each 0 where it does not count: 0 * -inf would be NaN, in the derivative too."""
    link, middle = LINKS[family.link], _middle(family)
    assert link.log_complement is not None
    log_p = jnp.where(s > 0, link.log_mean(jnp.where(s > 0, eta, middle)), 0)
    log_q = jnp.where(f > 0, link.log_complement(jnp.where(f > 0, eta, middle)), 0)
    return log_p, log_q


def _two_way_nll(family: Family, eta: Array, s: Array, f: Array, n: Array | float) -> Array:
    """-(s log(p) + f log(1 - p)), s + f = n."""
    if family.link == "logit":  # one exp and one log, and every digit in both tails; |eta| has derivative 1 at 0
        size = jnp.where(eta >= 0, eta, -eta)
        return n * log1p_unit(jnp.exp(-size)) + jnp.where(eta >= 0, f * eta, -s * eta)
    log_p, log_q = _logs(family, eta, s, f)
    return jnp.where(_outside(family, eta), jnp.nan, -(s * log_p + f * log_q))


def _two_way_deviance(family: Family, eta: Array, s: Array, f: Array, n: Array | float) -> Array:
    # 2 (s log(s / n p) + f log(f / n q)) = 2 sum(s (expm1(r) - r)), r = log(p) - log(s / n): both terms 0 or more, so
    # nothing cancels at proportions near p. With none of one kind it is twice the nll.
    mixed = (s > 0) & (f > 0)

    def between() -> Array:
        part, rest, whole = jnp.where(mixed, s, 1), jnp.where(mixed, f, 1), jnp.where(mixed, n, 2)
        log_p, log_q = _logs(family, eta, part, rest)
        return part * expm1_excess(log_p - jnp.log(part / whole)) + rest * expm1_excess(log_q - jnp.log(rest / whole))

    # Where no target of any row is a proportion, the logarithms are not taken.
    near = jax.lax.cond(any_lane(mixed), between, lambda: jnp.zeros_like(eta))
    near = jnp.where(_outside(family, eta), jnp.nan, near)
    return 2 * jnp.where(mixed, near, _two_way_nll(family, eta, s, f, n))


def _unit_information(family: Family, eta: Array) -> Array:
    """p'^2 / (p q) = -log(p)' log(q)', which has all digits in both tails."""
    if family.link == "logit":
        t = jnp.exp(-jnp.where(eta >= 0, eta, -eta))  # as in the nll, whose exponential it then shares
        return t / ((1 + t) * (1 + t))
    link = LINKS[family.link]
    assert link.log_complement is not None
    inside = jnp.where(_outside(family, eta), jnp.nan, eta)
    inside = jnp.minimum(inside, 7) if family.link == "cloglog" else inside  # 0 from there on, and not 0 * inf
    return -jax.grad(link.log_mean)(inside) * jax.grad(link.log_complement)(inside)


def _proportion_variance(family: Family, mean: Array) -> Array:
    return mean * (1 - mean)


# Bernoulli ------------------------------------------------------------------------------------------------------------


def _bernoulli_nll(family: Family, eta: Array, y: Array) -> Array:
    return _two_way_nll(family, eta, y, 1 - y, 1.0)


def _bernoulli_deviance(family: Family, eta: Array, y: Array) -> Array:
    return _two_way_deviance(family, eta, y, 1 - y, 1.0)


def _bernoulli_information(family: Family, eta: Array, y: Array) -> Array:
    return _unit_information(family, eta)


def _bernoulli_support(family: Family, y: Any) -> Any:
    return (y >= 0) & (y <= 1)


def _bernoulli_sample(family: Family, key: Array, eta: Array) -> Array:
    mean = jnp.where(_outside(family, eta), jnp.nan, family.mean(eta))
    return jnp.where(jnp.isnan(mean), jnp.nan, jax.random.bernoulli(key, mean).astype(eta.dtype))


def _bernoulli_start(family: Family, y: Array) -> Array:
    return LINKS[family.link].forward((y + 0.5) / 2)


def _bernoulli_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    return -_bernoulli_nll(family, eta, y)


def _bernoulli_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    log_p, log_q = _logs(family, eta, jnp.ones_like(eta), jnp.ones_like(eta))
    at = jnp.where((y == 0) | (y == 1), -_bernoulli_nll(family, eta, y), jnp.nan)
    return Masses(jnp.where(y == 1, log_q, -jnp.inf), at, jnp.where(y == 0, log_p, -jnp.inf))


_BERNOULLI = Distribution(
    nll=_bernoulli_nll,
    deviance=_bernoulli_deviance,
    variance=_proportion_variance,
    support=_bernoulli_support,
    sample=_bernoulli_sample,
    domain="0 or 1, or a proportion between them (recode labels -1 and 1 by (y + 1) / 2, labels 1 and 2 by y - 1)",
    information=_bernoulli_information,
    start=_bernoulli_start,
    log_likelihood=_bernoulli_log_likelihood,
    masses=_bernoulli_masses,
)


def bernoulli(link: str = "logit") -> Family:
    """Bernoulli family: `P(t = 1) = p(eta)`; with the logit link eta is the log-odds: logistic regression.

    nll = -(t log(p) + (1 - t) log(1 - p)). Targets are 0 and 1; a proportion in [0, 1] is accepted, as a
    quasi-likelihood.

    Args:
        link: "logit", "probit", "cloglog" (p = 1 - exp(-exp(eta))), "log" (eta < 0) or "identity" (0 < eta < 1).

    Raises:
        ValueError: an unknown link.

    McCullagh and Nelder, Generalized Linear Models (1989), chapter 4.
    """
    return Family("bernoulli", check_link(link, _PROPORTION_LINKS, "bernoulli"), _BERNOULLI)


# binomial -------------------------------------------------------------------------------------------------------------


def _binomial_nll(family: Family, eta: Array, y: Array) -> Array:
    return _two_way_nll(family, eta, y[0], y[1], y[0] + y[1])


def _binomial_deviance(family: Family, eta: Array, y: Array) -> Array:
    return _two_way_deviance(family, eta, y[0], y[1], y[0] + y[1])


def _binomial_information(family: Family, eta: Array, y: Array) -> Array:
    return (y[0] + y[1]) * _unit_information(family, eta)


def _binomial_support(family: Family, y: Any) -> Any:
    return (y >= 0) & (y - y == 0)


def _binomial_sample(family: Family, key: Array, eta: Array) -> Array:
    success = _bernoulli_sample(family, key, eta)
    return jnp.stack([success, 1 - success], axis=-1)


def _binomial_start(family: Family, y: Array) -> Array:
    limits = jnp.finfo(y.dtype)
    return LINKS[family.link].forward(jnp.clip((y[0] + 0.5) / (y[0] + y[1] + 1), limits.tiny, 1 - limits.eps))


def _binomial_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    # The saturated likelihood less half the deviance: the factorials of large counts never meet.
    saturated = log_peak(y[0]) + log_peak(y[1]) - log_peak(y[0] + y[1])
    return saturated - 0.5 * _binomial_deviance(family, eta, y)


def _binomial_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    # P(T >= s) is the probability of a beta variable of shapes s and f + 1 below p.
    s, f = y
    log_p, log_q = _logs(family, eta, jnp.ones_like(eta), jnp.ones_like(eta))
    at = jnp.where((s % 1 == 0) & (f % 1 == 0), _binomial_log_likelihood(family, eta, y, dispersion), jnp.nan)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    some, fail = jnp.where(s > 0, s, 1), jnp.where(f > 0, f, 1)
    below = log_beta_tails(some, f + 1, p, q, jnp.log(some) + log_q + at)[1]
    above = log_beta_tails(s + 1, fail, p, q, jnp.log(fail) + log_p + at)[0]
    return Masses(jnp.where(s == 0, -jnp.inf, below), at, jnp.where(f == 0, -jnp.inf, above))


_BINOMIAL = Distribution(
    nll=_binomial_nll,
    deviance=_binomial_deviance,
    variance=_proportion_variance,
    support=_binomial_support,
    sample=_binomial_sample,
    domain="a number of successes or of failures, 0 or more",
    information=_binomial_information,
    start=_binomial_start,
    log_likelihood=_binomial_log_likelihood,
    masses=_binomial_masses,
)
_QUASI_BINOMIAL = _BINOMIAL._replace(sample=no_sample, log_likelihood=no_log_likelihood, masses=no_masses)


def binomial(link: str = "logit") -> Family:
    """Binomial family: s successes and f failures of s + f trials, each a success with probability p(eta).

    nll = -(s log(p) + f log(1 - p)); the log-likelihood has the binomial coefficient too. Targets are (n, 2), counts
    of successes and of failures. The mean is p; `variance` is that of a proportion of one trial, p (1 - p). `sample`
    draws one trial a row, as (1, 0) or (0, 1): how many trials there are is no part of the model.

    Args:
        link: "logit", "probit", "cloglog" (p = 1 - exp(-exp(eta))), "log" (eta < 0) or "identity" (0 < eta < 1).

    Raises:
        ValueError: an unknown link.

    McCullagh and Nelder, Generalized Linear Models (1989), chapter 4.
    """
    return Family("binomial", check_link(link, _PROPORTION_LINKS, "binomial"), _BINOMIAL, target_shape=(2,))


def quasi_binomial(link: str = "logit") -> Family:
    """Quasi-binomial family: the binomial's mean, with dispersion times its variance, for clustered trials.

    nll = -(s log(p) + f log(1 - p)), so the fit is the binomial one; errors grow by the dispersion. It has no
    distribution: log-likelihood is NaN, and there is nothing to sample. Targets are (n, 2), successes and failures.

    Args:
        link: "logit", "probit", "cloglog" (p = 1 - exp(-exp(eta))), "log" (eta < 0) or "identity" (0 < eta < 1).

    Raises:
        ValueError: an unknown link.

    Wedderburn, Quasi-likelihood functions (Biometrika, 1974).
    """
    link = check_link(link, _PROPORTION_LINKS, "quasi_binomial")
    return Family("quasi_binomial", link, _QUASI_BINOMIAL, target_shape=(2,), dispersion=1.0)
