"""Families of sizes: gamma, inverse Gaussian and Tweedie, as functions of the log of the mean."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .counts import draw_counts
from .distributions import Distribution, Family, Masses
from .inputs import check_number, is_traced
from .links import LINKS, check_link
from .numerics import HALF_LOG_2PI, expm1_excess, log1mexp, log_normal_cdf, log_peak, power_integral
from .tails import log_gamma_tails


def _log_mean(family: Family, eta: Array) -> Array:
    """log(mean); NaN outside the link's domain, which the nll then is too."""
    log_mean = LINKS[family.link].log_mean(eta)
    return jnp.where(jnp.isinf(log_mean), jnp.nan, log_mean)


def _slope(family: Family, eta: Array) -> Array:
    """The derivative of log(mean): the information is its square times mean^2 / variance."""
    return jax.grad(LINKS[family.link].log_mean)(eta)


def _link_of_size(family: Family, y: Array) -> Array:
    """The link of the target, where it would leave the range of numbers the last one inside."""
    eta, limits = LINKS[family.link].forward(y), jnp.finfo(y.dtype)
    return eta if family.link == "log" else jnp.clip(eta, limits.tiny, limits.max)


def _positive(family: Family, y: Any) -> Any:
    return (y > 0) & (y - y == 0)


_POSITIVE = "a number above 0 (where there are zeros consider tweedie or a shift)"


# gamma ----------------------------------------------------------------------------------------------------------------


def _gamma_nll(family: Family, eta: Array, y: Array) -> Array:
    log_mean = _log_mean(family, eta)
    return y * jnp.exp(-log_mean) + log_mean


def _gamma_information(family: Family, eta: Array, y: Array) -> Array:
    return _slope(family, eta) ** 2


def _gamma_deviance(family: Family, eta: Array, y: Array) -> Array:
    return 2 * expm1_excess(jnp.log(y) - _log_mean(family, eta))  # y / mean - 1 - log(y / mean)


def _gamma_variance(family: Family, mean: Array) -> Array:
    return mean * mean


def _gamma_sample(family: Family, key: Array, eta: Array) -> Array:
    dispersion = jnp.asarray(family.dispersion, eta.dtype)
    shape = jnp.broadcast_to(1 / dispersion, eta.shape)
    return jnp.exp(_log_mean(family, eta)) * dispersion * jax.random.gamma(key, shape, eta.shape, eta.dtype)


def _gamma_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    shape = 1 / dispersion
    return log_peak(shape) + jnp.log(shape) - jnp.log(y) - 0.5 * shape * _gamma_deviance(family, eta, y)


def _gamma_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    log_y, shape = jnp.log(y), 1 / dispersion
    x = shape * jnp.exp(log_y - _log_mean(family, eta))
    below, above = log_gamma_tails(shape, x, log_y + _gamma_log_likelihood(family, eta, y, dispersion))
    return Masses(below, jnp.full_like(y, -jnp.inf), above)


_GAMMA = Distribution(
    nll=_gamma_nll,
    deviance=_gamma_deviance,
    variance=_gamma_variance,
    support=_positive,
    sample=_gamma_sample,
    domain=_POSITIVE,
    information=_gamma_information,
    start=_link_of_size,
    log_likelihood=_gamma_log_likelihood,
    masses=_gamma_masses,
)


def gamma(link: str = "log", dispersion: float = 1.0) -> Family:
    """Gamma family: positive numbers with variance dispersion * mean^2, a constant coefficient of variation.

    nll = t / mean + log(mean), that at dispersion 1. Targets are above 0, in any unit.

    Args:
        link: "log" (mean exp(eta)), "inverse" (mean 1 / eta, eta > 0; the canonical one) or "identity" (eta > 0).
        dispersion: phi, free of units; the gamma distribution's shape is 1 / phi. `sample` uses it.

    Raises:
        ValueError: a dispersion not above 0, an unknown link.

    McCullagh and Nelder, Generalized Linear Models (1989), chapter 8.
    """
    check_number(dispersion, "dispersion", above=0)
    return Family("gamma", check_link(link, ("log", "inverse", "identity"), "gamma"), _GAMMA, dispersion=dispersion)


# inverse Gaussian -----------------------------------------------------------------------------------------------------


def _inverse_gaussian_nll(family: Family, eta: Array, y: Array) -> Array:
    rate = jnp.exp(-_log_mean(family, eta))
    return (0.5 * y * rate - 1) * rate


def _inverse_gaussian_information(family: Family, eta: Array, y: Array) -> Array:
    slope = _slope(family, eta)
    return slope * jnp.exp(-_log_mean(family, eta)) * slope


def _inverse_gaussian_deviance(family: Family, eta: Array, y: Array) -> Array:
    return jnp.expm1(jnp.log(y) - _log_mean(family, eta)) ** 2 / y  # (y - mean)^2 / (y mean^2)


def _inverse_gaussian_variance(family: Family, mean: Array) -> Array:
    return mean**3


def _inverse_gaussian_sample(family: Family, key: Array, eta: Array) -> Array:
    # Michael, Schucany and Haas (1976): one of the two roots of a chi-squared equation, mean * g and mean / g.
    mean = jnp.exp(_log_mean(family, eta))
    key_root, key_choice = jax.random.split(key)
    w = 0.5 * jnp.asarray(family.dispersion, eta.dtype) * mean * jax.random.normal(key_root, eta.shape, eta.dtype) ** 2
    g = 1 / (1 + w + jnp.sqrt(w) * jnp.sqrt(w + 2))
    first = jax.random.uniform(key_choice, eta.shape, eta.dtype) * (1 + g) <= 1
    return mean * jnp.where(first, g, 1 / g)


def _inverse_gaussian_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    log_density = -0.5 * jnp.log(dispersion) - HALF_LOG_2PI - 1.5 * jnp.log(y)
    return log_density - 0.5 * _inverse_gaussian_deviance(family, eta, y) / dispersion


def _inverse_gaussian_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    # P(T > y) = Phi(-z) - exp(2 / (phi mean)) Phi(-w): y / mean times eps is what is lost of it
    rate = jnp.exp(-_log_mean(family, eta))
    root = jnp.sqrt(1 / (dispersion * y))
    z = root * jnp.expm1(jnp.log(y) + jnp.log(rate))
    log_z, log_w = log_normal_cdf(-z), 2 * rate / dispersion + log_normal_cdf(-root * (y * rate + 1))
    above = log_z + log1mexp(jnp.minimum(log_w - log_z, 0))
    return Masses(jnp.logaddexp(log_normal_cdf(z), log_w), jnp.full_like(y, -jnp.inf), above)


_INVERSE_GAUSSIAN = Distribution(
    nll=_inverse_gaussian_nll,
    deviance=_inverse_gaussian_deviance,
    variance=_inverse_gaussian_variance,
    support=_positive,
    sample=_inverse_gaussian_sample,
    domain=_POSITIVE,
    information=_inverse_gaussian_information,
    start=_link_of_size,
    log_likelihood=_inverse_gaussian_log_likelihood,
    masses=_inverse_gaussian_masses,
)


def inverse_gaussian(link: str = "log", dispersion: float = 1.0) -> Family:
    """Inverse Gaussian family: positive numbers with variance dispersion * mean^3, more skewed than the gamma.

    nll = t / (2 mean^2) - 1 / mean, that at dispersion 1. Targets are above 0, in any unit.

    Args:
        link: "log" (mean exp(eta)), or with eta > 0 "inverse_squared" (mean eta^-1/2; the canonical one), "inverse"
            (mean 1 / eta) or "identity".
        dispersion: phi = 1 / lambda, in units of 1 / target. `sample` uses it.

    Raises:
        ValueError: a dispersion not above 0, an unknown link.

    Chhikara and Folks, The Inverse Gaussian Distribution (1989); sampled as Michael, Schucany and Haas (1976).
    """
    check_number(dispersion, "dispersion", above=0)
    link = check_link(link, ("log", "inverse_squared", "inverse", "identity"), "inverse_gaussian")
    return Family("inverse_gaussian", link, _INVERSE_GAUSSIAN, dispersion=dispersion)


# Tweedie --------------------------------------------------------------------------------------------------------------


def _power(family: Family, dtype: Any) -> Array:
    return jnp.asarray(family.power, dtype)


def _tweedie_nll(family: Family, eta: Array, y: Array) -> Array:
    # In mean^a - 1 over a, which is log(mean) at a = 0, so that powers 1 (Poisson) and 2 (gamma) are no exceptions.
    power, log_mean = _power(family, eta.dtype), _log_mean(family, eta)
    absent = (y == 0) & (log_mean > -jnp.inf)  # 0 * inf is 0 at means that are almost 0, and NaN outside the domain
    linear = jnp.where(absent, 0, y * power_integral(1 - power, jnp.where(absent, 0, log_mean)))
    return power_integral(2 - power, log_mean) - linear


def _tweedie_information(family: Family, eta: Array, y: Array) -> Array:
    slope = _slope(family, eta)
    return slope * jnp.exp((2 - _power(family, eta.dtype)) * _log_mean(family, eta)) * slope


def _tweedie_deviance(family: Family, eta: Array, y: Array) -> Array:
    # 2 y^(2 - p) (E(2 - p, r) - E(1 - p, r)), E(a, r) = expm1(a r) / a, r = log(mean) - log(y), and r taken off both
    # first: what is left is of order r^2, so nothing cancels near the data.
    power, log_mean = _power(family, eta.dtype), _log_mean(family, eta)
    positive = y > 0
    log_y = jnp.log(jnp.where(positive, y, 1))
    r = jnp.where(positive, log_mean - log_y, 0)

    def excess(a: Array) -> Array:
        return jnp.where(a == 0, 0.5 * a * r * r, expm1_excess(a * r) / jnp.where(a == 0, 1, a))

    some = jnp.exp((2 - power) * log_y) * (excess(2 - power) - excess(1 - power))
    # No density at 0 and below unless p < 2; there the term in y alone is 0, but for the normal's y^2 / 2.
    a, b = jnp.where(power == 1, 1, 1 - power), jnp.where(power == 2, 1, 2 - power)
    linear = jnp.where(y == 0, 0, y * jnp.exp(a * jnp.where(y == 0, 0, log_mean)) / a)
    none = jnp.where(power == 0, 0.5 * y * y, 0) - linear + jnp.exp(b * log_mean) / b
    return 2 * jnp.where(positive, some, none)


def _tweedie_variance(family: Family, mean: Array) -> Array:
    return jnp.exp(_power(family, mean.dtype) * jnp.log(mean))


def _tweedie_support(family: Family, y: Any) -> Any:
    power = family.power
    return (y - y == 0) & ((power <= 0) | (y > 0) | ((power < 2) & (y == 0)))


def _tweedie_sample(family: Family, key: Array, eta: Array) -> Array:
    # A Poisson number N of gamma sizes; N gamma sizes of one scale are one gamma of N times the shape.
    if not is_traced(family.power) and not 1 < float(family.power) < 2:
        raise ValueError(
            f"cannot sample a tweedie of power {family.power}: only those between 1 and 2, Poisson sums of gammas; "
            "0, 1, 2 and 3 are normal(), poisson(), gamma() and inverse_gaussian()"
        )
    power, dispersion = _power(family, eta.dtype), jnp.asarray(family.dispersion, eta.dtype)
    log_mean = _log_mean(family, eta)
    key_number, key_size = jax.random.split(key)
    rate = jnp.exp((2 - power) * log_mean) / (dispersion * (2 - power))
    number = draw_counts(key_number, rate)
    shape = jnp.where(number > 0, number, 1) * (2 - power) / (power - 1)
    scale = dispersion * (power - 1) * jnp.exp((power - 1) * log_mean)
    size = scale * jax.random.gamma(key_size, shape, eta.shape, eta.dtype)
    return jnp.where((power > 1) & (power < 2) & (number >= 0), jnp.where(number > 0, size, 0), jnp.nan)


def _tweedie_start(family: Family, y: Array) -> Array:
    return _link_of_size(family, jnp.where(y > 0, y, 0.1))  # as R's statmod


_TWEEDIE = Distribution(
    nll=_tweedie_nll,
    deviance=_tweedie_deviance,
    variance=_tweedie_variance,
    support=_tweedie_support,
    sample=_tweedie_sample,
    domain="a number that its power allows: 0 or more for powers from 1 to 2, above 0 from 2 on, any below 0",
    information=_tweedie_information,
    start=_tweedie_start,
)


def tweedie(power: float, link: str = "log", dispersion: float = 1.0) -> Family:
    """Tweedie family: variance dispersion * mean^power; between 1 and 2 sums of claims, with exact zeros.

    nll = mean^(2 - power) / (2 - power) - t mean^(1 - power) / (1 - power), less its value at mean 1, so that powers
    1 and 2 are the limits log(mean). Its log-likelihood is a series and not computed: NaN. Powers 0, 1, 2 and 3 are
    the normal, Poisson, gamma and inverse Gaussian. Targets are 0 or more for powers in [1, 2), above 0 from 2 on,
    any for powers of 0 and less; the mean is positive whatever the power.

    Args:
        power: 0 or less, or 1 or more; a number of the family that may be traced, and differentiated by.
        link: "log" (mean exp(eta)), or with eta > 0 "identity", "inverse", "inverse_squared" or "sqrt".
        dispersion: phi, in units of target^(2 - power). `sample`, for powers between 1 and 2, uses it.

    Raises:
        ValueError: a power between 0 and 1, where no distribution has that variance; a dispersion not above 0; an
            unknown link.

    Jorgensen, Exponential dispersion models (Journal of the Royal Statistical Society B, 1987).
    """
    check_number(power, "power", above=-np.inf)
    if not is_traced(power) and 0 < float(power) < 1:
        raise ValueError(f"power must be 0 or less, or 1 or more, got {power}: no distribution has variance mean^power")
    check_number(dispersion, "dispersion", above=0)
    link = check_link(link, ("log", "identity", "inverse", "inverse_squared", "sqrt"), "tweedie")
    return Family("tweedie", link, _TWEEDIE, dispersion=dispersion, power=power)
