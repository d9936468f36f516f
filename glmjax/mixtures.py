"""Counts more spread than Poisson's: the two negative binomials, Poisson counts whose rate is gamma distributed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .counts import COUNT_LINKS, count_log_mean, count_start, count_support, draw_counts, poisson_deviance
from .distributions import Distribution, Family, Masses, hessian
from .inputs import check_number
from .links import LINKS, check_link
from .numerics import log1p_expm1_gap, log1p_ratio, log1p_shortfall, log_peak, stirling_remainder
from .tails import log_beta_tails

# negative binomial ----------------------------------------------------------------------------------------------------


def _alpha(family: Family, dtype: Any) -> Array:
    return jnp.asarray(family.alpha, dtype)


def _nb_nll_at(alpha: Array, u: Array, y: Array) -> Array:
    """(y + 1 / alpha) log(1 + alpha exp(u)) - y u at log-mean u."""
    # Two ways: the first has Poisson's limit at alpha = 0, the second neither overflows nor takes y u from itself.
    small = jnp.exp(u) * alpha <= 0.5
    mean = jnp.exp(jnp.where(small, u, 0))
    near = (1 + alpha * y) * mean * log1p_ratio(jnp.where(small, alpha, 0) * mean) - y * u
    a = jnp.where(small, 1, alpha)
    z = jnp.where(small, 0, u) + jnp.log(a)
    correction = jnp.log1p(jnp.exp(-z))
    return jnp.where(small, near, y * (jnp.log(a) + correction) + (z + correction) / a)


def _nb_nll(family: Family, eta: Array, y: Array) -> Array:
    return _nb_nll_at(_alpha(family, eta.dtype), count_log_mean(family, eta), y)


def _nb_information(family: Family, eta: Array, y: Array) -> Array:
    # mean'^2 / variance = log(mean)'^2 / (1 / mean + alpha): finite also where the mean overflows.
    slope = jax.grad(LINKS[family.link].log_mean)(eta)
    return slope / (jnp.exp(-count_log_mean(family, eta)) + _alpha(family, eta.dtype)) * slope


def _nb_curvature(family: Family, eta: Array, y: Array) -> Array:
    # By the log of the mean the nll is convex, its second derivative (1 + alpha y) / (1 + alpha mean) times the
    # expected one. That is next to nothing where a count of 0 meets a large mean, and would send steps too far.
    alpha, u = _alpha(family, eta.dtype), count_log_mean(family, eta)
    known = (1 + alpha * y) / (1 + alpha * jnp.exp(u))
    return family.information(eta, y) * (jnp.maximum(known, 0.01) if family.link == "log" else 1)


def _nb_deviance_at(alpha: Array, u: Array, y: Array) -> Array:
    # 2 y (log(1 + k expm1(r)) / k - r), r = log(mean) - log(y), k = alpha y / (1 + alpha y); and with k near 1 the
    # same with r turned round and 1 - k in place of k, times (1 - k) / k. Far out, where exp(r) leaves the range of
    # numbers, nothing cancels in the difference of the two nll.
    positive = y > 0
    safe = jnp.where(positive, y, 1)
    r = u - jnp.log(safe)
    many = alpha * safe > 1
    odds = jnp.where(many, 1 / jnp.where(many, alpha * safe, 1), alpha * safe)
    r = jnp.where(many, -r, r)
    within = r < 20
    near = jnp.where(many, odds, 1) * log1p_expm1_gap(odds / (1 + odds), jnp.where(within, r, 0))
    far = _nb_nll_at(alpha, u, safe) - _nb_nll_at(alpha, jnp.log(safe), safe)
    some = jnp.where(within, safe * near, far)
    return 2 * jnp.where(positive, some, _nb_nll_at(alpha, u, jnp.zeros_like(y)))


def _nb_deviance(family: Family, eta: Array, y: Array) -> Array:
    return _nb_deviance_at(_alpha(family, eta.dtype), count_log_mean(family, eta), y)


def _nb_variance(family: Family, mean: Array) -> Array:
    return mean + _alpha(family, mean.dtype) * mean * mean


def _mixed_poisson(key: Array, mean: Array, shape: Array) -> Array:
    """Poisson counts whose rate is gamma distributed around `mean` with that shape; infinite is the Poisson itself."""
    key, key_rate = jax.random.split(key)
    mixed = (shape > 0) & jnp.isfinite(shape)
    safe = jnp.broadcast_to(jnp.where(mixed, shape, 1), mean.shape)
    rate = jnp.where(mixed, jax.random.gamma(key_rate, safe, mean.shape, mean.dtype) / safe, 1) * mean
    return draw_counts(key, rate)


def _nb_sample(family: Family, key: Array, eta: Array) -> Array:
    return _mixed_poisson(key, jnp.exp(count_log_mean(family, eta)), 1 / _alpha(family, eta.dtype))


def _nb_log_likelihood_at(alpha: Array, u: Array, y: Array) -> Array:
    # log(Gamma(y + r) / Gamma(r) y!) with r = 1 / alpha, by Stirling's formula, joined to what the deviance lacks of
    # the nll: only its remainders stay, smooth in alpha down to 0, and nothing of the size of y log(y).
    growth = 1 + alpha * y
    remainders = stirling_remainder(alpha / growth) - stirling_remainder(alpha)
    saturated = log_peak(y) - 0.5 * jnp.log1p(alpha * y) + remainders
    return saturated - 0.5 * _nb_deviance_at(alpha, u, y)


def _nb_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    return _nb_log_likelihood_at(_alpha(family, eta.dtype), count_log_mean(family, eta), y)


def _nb_masses_at(alpha: Array, u: Array, y: Array) -> Masses:
    # P(T <= y) is the probability of a beta variable of shapes r = 1 / alpha and y + 1 below 1 / (1 + alpha mean).
    at = jnp.where(y % 1 == 0, _nb_log_likelihood_at(alpha, u, y), jnp.nan)
    r = 1 / jnp.maximum(alpha, jnp.finfo(u.dtype).eps)  # at which it is Poisson's to the last digit
    odds = jnp.exp(u) / r
    p, q = 1 / (1 + odds), odds / (1 + odds)
    below = log_beta_tails(r, jnp.where(y > 0, y, 1), p, q, jnp.log(jnp.where(y > 0, y, 1)) + at)[0]
    above = log_beta_tails(r, y + 1, p, q, jnp.log((r + y) * q) + at)[1]
    return Masses(jnp.where(y == 0, -jnp.inf, below), at, above)


def _nb_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    return _nb_masses_at(_alpha(family, eta.dtype), count_log_mean(family, eta), y)


_NEGATIVE_BINOMIAL = Distribution(
    nll=_nb_nll,
    deviance=_nb_deviance,
    variance=_nb_variance,
    support=count_support,
    sample=_nb_sample,
    domain="a count, 0 or more",
    information=_nb_information,
    curvature=_nb_curvature,
    start=count_start,
    log_likelihood=_nb_log_likelihood,
    masses=_nb_masses,
)


def _check_alpha(alpha: Any) -> Any:
    """`alpha` as given, or 1.0 to start an estimate from."""
    if alpha is None:
        return 1.0
    check_number(alpha, "alpha (None to estimate it, poisson() for 0)", above=0)
    return alpha


def negative_binomial(alpha: float | None = None, link: str = "log") -> Family:
    """Negative binomial family (NB2): overdispersed counts with variance mean + alpha mean^2.

    nll = (t + 1 / alpha) log(1 + alpha mean) - t log(mean), Poisson's at alpha = 0. Targets are counts; other numbers
    from 0 up are accepted, as a quasi-likelihood.

    Args:
        alpha: overdispersion, above 0: R's 1 / theta, free of units; None to estimate it by maximum likelihood.
        link: "log" (mean exp(eta)), "identity" (eta > 0) or "sqrt" (mean eta^2, eta > 0).

    Raises:
        ValueError: an alpha not above 0, an unknown link.

    Lawless, Negative binomial and mixed Poisson regression (Canadian Journal of Statistics, 1987).
    """
    link = check_link(link, COUNT_LINKS, "negative_binomial")
    estimates, alpha = alpha is None, _check_alpha(alpha)
    return Family("negative_binomial", link, _NEGATIVE_BINOMIAL, estimates_alpha=estimates, alpha=alpha)


# negative binomial, constant dispersion -------------------------------------------------------------------------------


def _inverse_size(alpha: Array, u: Array) -> Array:
    """alpha exp(-u), short of where it would leave the range of numbers."""
    return alpha * jnp.exp(-jnp.maximum(u, jnp.log(jnp.finfo(u.dtype).tiny)))


def _nb1_nll(family: Family, eta: Array, y: Array) -> Array:
    # log(Gamma(y + r) / Gamma(r)) + y log(alpha) by Stirling's formula, in beta = 1 / r = alpha / mean, which may be 0,
    # and where r < y as log(Gamma(y + r) / Gamma(1 + r)) + log(r), in r, which may be 0.
    alpha, u = _alpha(family, eta.dtype), count_log_mean(family, eta)
    small = (y > 0) & (jnp.log(alpha) + jnp.log(y) > u)
    log_alpha = jnp.log(jnp.where(small, alpha, 1))
    log_r = jnp.where(small, u, 0) - log_alpha
    r, y1 = jnp.exp(log_r), jnp.where(small, y, 1)
    below = (y1 + r - 0.5) * jnp.log(y1 + r) - (r + 0.5) * jnp.log1p(r) - (y1 - 1) + log_r + y1 * log_alpha
    beta = jnp.where(small | (y == 0), 1, _inverse_size(alpha, u))
    c = beta * jnp.where(small, 0, y)
    above = (y - 0.5) * jnp.log1p(c) - y * log1p_shortfall(c) + y * u
    t, t_y = jnp.where(small, 1 / (1 + r), beta), jnp.where(small, 1 / (y1 + r), beta / (1 + c))
    rising = jnp.where(small, below, above) + stirling_remainder(t_y) - stirling_remainder(t)
    return family.mean(eta) * log1p_ratio(alpha) - rising


def _nb1_deviance(family: Family, eta: Array, y: Array) -> Array:
    return poisson_deviance(family, eta, y) / (1 + _alpha(family, eta.dtype))


def _nb1_variance(family: Family, mean: Array) -> Array:
    return mean * (1 + _alpha(family, mean.dtype))


def _nb1_sample(family: Family, key: Array, eta: Array) -> Array:
    mean = jnp.exp(count_log_mean(family, eta))
    return _mixed_poisson(key, mean, mean / _alpha(family, eta.dtype))


def _nb1_log_likelihood(family: Family, eta: Array, y: Array, dispersion: Array) -> Array:
    alpha, u = _alpha(family, eta.dtype), count_log_mean(family, eta)
    return _nb_log_likelihood_at(_inverse_size(alpha, u), u, y)


def _nb1_masses(family: Family, eta: Array, y: Array, dispersion: Array) -> Masses:
    u = count_log_mean(family, eta)
    return _nb_masses_at(_inverse_size(_alpha(family, eta.dtype), u), u, y)


_NEGATIVE_BINOMIAL1 = Distribution(
    nll=_nb1_nll,
    deviance=_nb1_deviance,
    variance=_nb1_variance,
    support=count_support,
    sample=_nb1_sample,
    domain="a count, 0 or more",
    information=hessian,
    start=count_start,
    log_likelihood=_nb1_log_likelihood,
    masses=_nb1_masses,
)


def negative_binomial1(alpha: float | None = None, link: str = "log") -> Family:
    """Negative binomial family of constant dispersion (NB1): counts with variance mean (1 + alpha).

    nll = mean log(1 + alpha) / alpha - log(Gamma(t + r) / Gamma(r)) - t log(alpha), r = mean / alpha; Poisson's at
    alpha = 0. It is no exponential family in eta: `information` is the observed one, and the unit deviance is that of
    its mean and variance, Poisson's / (1 + alpha). Targets are counts; other numbers from 0 up are accepted.

    Args:
        alpha: overdispersion, above 0 (Stata's delta); None to estimate it by maximum likelihood.
        link: "log" (mean exp(eta)).

    Raises:
        ValueError: an alpha not above 0, an unknown link.

    Cameron and Trivedi, Regression Analysis of Count Data (2013), section 3.3; Stata's `nbreg, dispersion(constant)`.
    """
    link = check_link(link, ("log",), "negative_binomial1")
    estimates, alpha = alpha is None, _check_alpha(alpha)
    return Family("negative_binomial1", link, _NEGATIVE_BINOMIAL1, estimates_alpha=estimates, alpha=alpha)
