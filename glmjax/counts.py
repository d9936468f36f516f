"""Families of counts: Poisson and quasi-Poisson, as functions of the log of the mean."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .distributions import Distribution, Family, Masses, no_log_likelihood, no_masses, no_sample
from .links import LINKS, check_link
from .numerics import expm1_excess, log_peak
from .tails import log_gamma_tails

COUNT_LINKS = ("log", "identity", "sqrt")


def count_log_mean(family: Family, eta: Array) -> Array:
    """log(mean); NaN or infinite outside the link's domain, and 0 times that is NaN: there no nll is a number."""
    return LINKS[family.link].log_mean(eta)


def count_support(family: Family, y: Any) -> Any:
    """Finite numbers from 0 up."""
    return (y >= 0) & (y - y == 0)


def draw_counts(key: Array, rate: Array) -> Array:
    """Poisson counts in the rate's dtype; NaN where the rate is below 0 or no number."""
    # JAX draws integers, 32 bits wide without x64: from a rate of 2^30 on a rounded normal, no longer to be told apart.
    many = rate > 2.0**30
    few = jax.random.poisson(key, jnp.where(many, 0, rate)).astype(rate.dtype)
    z = jax.random.normal(jax.random.fold_in(key, 1), rate.shape, rate.dtype)
    normal = jnp.round(rate + jnp.sqrt(rate) * z)
    return jnp.where(rate >= 0, jnp.where(many, normal, few), jnp.nan)


def count_start(family: Family, y: Array) -> Array:
    """The link of a mean near the count and above 0, as R's."""
    return LINKS[family.link].forward(y + 0.1)


def _poisson_nll(family: Family, eta: Array, y: Array) -> Array:
    return family.mean(eta) - y * count_log_mean(family, eta)


def _poisson_information(family: Family, eta: Array, y: Array) -> Array:
    slope = jax.grad(LINKS[family.link].log_mean)(eta)
    return slope * jnp.exp(count_log_mean(family, eta)) * slope


def poisson_deviance(family: Family, eta: Array, y: Array) -> Array:
    """Unit deviance 2 (y log(y / mean) - (y - mean))."""
    # 2 (y log(y / mean) - (y - mean)) = 2 y (expm1(r) - r), r = log(mean) - log(y): no cancellation at large counts.
    positive = y > 0
    log_mean = count_log_mean(family, eta)
    r = log_mean - jnp.log(jnp.where(positive, y, 1))
    return 2 * jnp.where(positive, y * expm1_excess(jnp.where(positive, r, 0)), jnp.exp(log_mean))


def _poisson_variance(family: Family, mean: Array) -> Array:
    return mean


def _poisson_sample(family: Family, key: Array, eta: Array) -> Array:
    return draw_counts(key, jnp.exp(count_log_mean(family, eta)))


def _poisson_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    return log_peak(y) - 0.5 * poisson_deviance(family, eta, y)  # log(y!) of a large count never meets y log(mean)


def _poisson_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    # P(T >= y) is the probability of a gamma variable of shape y below the mean.
    at = jnp.where(y % 1 == 0, _poisson_log_likelihood(family, eta, y, dispersion), jnp.nan)
    log_mean = count_log_mean(family, eta)
    mean = jnp.exp(log_mean)
    below = log_gamma_tails(jnp.where(y > 0, y, 1), mean, jnp.log(jnp.where(y > 0, y, 1)) + at)[1]
    above = log_gamma_tails(y + 1, mean, log_mean + at)[0]
    return Masses(jnp.where(y == 0, -jnp.inf, below), at, above)


_POISSON = Distribution(
    nll=_poisson_nll,
    deviance=poisson_deviance,
    variance=_poisson_variance,
    support=count_support,
    sample=_poisson_sample,
    domain="a count, 0 or more",
    information=_poisson_information,
    start=count_start,
    log_likelihood=_poisson_log_likelihood,
    masses=_poisson_masses,
)
_QUASI_POISSON = _POISSON._replace(sample=no_sample, log_likelihood=no_log_likelihood, masses=no_masses)


def poisson(link: str = "log") -> Family:
    """Poisson family: counts, with variance equal to the mean; exposure enters as the offset log(exposure).

    nll = mean - t log(mean). Targets are counts; other numbers from 0 up are accepted, as a quasi-likelihood.

    Args:
        link: "log" (mean exp(eta)), "identity" (eta > 0) or "sqrt" (mean eta^2, eta > 0).

    Raises:
        ValueError: an unknown link.

    McCullagh and Nelder, Generalized Linear Models (1989), chapter 6.
    """
    return Family("poisson", check_link(link, COUNT_LINKS, "poisson"), _POISSON)


def quasi_poisson(link: str = "log") -> Family:
    """Quasi-Poisson family: the Poisson's mean, with variance dispersion * mean, for overdispersed counts.

    nll = mean - t log(mean), so the fit is the Poisson one; errors grow by the dispersion. It has no distribution:
    log-likelihood is NaN, and there is nothing to sample. Targets are numbers from 0 up.

    Args:
        link: "log" (mean exp(eta)), "identity" (eta > 0) or "sqrt" (mean eta^2, eta > 0).

    Raises:
        ValueError: an unknown link.

    Wedderburn, Quasi-likelihood functions (Biometrika, 1974).
    """
    return Family("quasi_poisson", check_link(link, COUNT_LINKS, "quasi_poisson"), _QUASI_POISSON, dispersion=1.0)
