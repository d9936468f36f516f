"""Tail probabilities of the t, chi-squared and F distributions, with all their digits far out, and t's quantile; the
logarithms of the gamma and beta distributions' tails, which have digits where the tails themselves are 0.

Degrees of freedom are any positive numbers; infinite ones make t the normal, and F the chi-squared over its own.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import betainc, gammaincc, gammaln, ndtr, ndtri

from .numerics import expm1_excess, log1mexp, log1p_expm1_gap, log_normal_cdf


def two_sided_tail(t: Array, df: Array | None) -> Array:
    """`P(|T| > |t|)` of Student's t, I_x(df / 2, 1 / 2) at x = df / (df + t^2); of the normal where df is None."""
    if df is None:
        return 2 * ndtr(-jnp.abs(t))
    nu = jnp.broadcast_to(jnp.where(df > 0, df, jnp.nan), t.shape)
    return betainc(nu / 2, jnp.full_like(nu, 0.5), nu / (nu + t * t))


def chi2_tail(x: Array, df: Array) -> Array:
    """`P(X > x)` of the chi-squared distribution."""
    return gammaincc(df / 2, x / 2)


def f_tail(f: Array, df: Array, df_resid: Array) -> Array:
    """`P(F > f)` of the F distribution; with infinite `df_resid` that `df f` is beyond chi-squared."""
    finite = jnp.isfinite(df_resid)
    nu = jnp.where(finite & (df_resid > 0), df_resid, 1)
    ratio = betainc(nu / 2, df / 2, nu / (nu + df * f))
    return jnp.where(df_resid > 0, jnp.where(finite, ratio, chi2_tail(df * f, df)), jnp.nan)


def two_sided_quantile(tail: Array, df: Array | None) -> Array:
    """The q with `P(|T| > q) = tail`, T as in `two_sided_tail`.

    By Newton's method on log P in u = log q, where it is concave: from the right steps come down to the root, and from
    the left the first one leads there. Few degrees of freedom start where P's power law has its root.
    """
    normal = -ndtri(tail / 2)
    if df is None:
        return normal
    nu = jnp.where(df > 0, df, jnp.nan)
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi)

    def step(_: int, u: Array) -> Array:
        q = jnp.exp(u)
        p = two_sided_tail(q, nu)
        density = jnp.exp(constant - (nu + 1) / 2 * jnp.log1p(q * q / nu))
        move = (jnp.log(p) - jnp.log(tail)) * p / (2 * q * density)
        return u + jnp.clip(move, -3, 3)  # where the density is as good as 0

    law = (constant + (nu + 1) / 2 * jnp.log(nu) + jnp.log(2 / nu) - jnp.log(tail)) / nu
    return jnp.exp(jax.lax.fori_loop(0, 12, step, jnp.where(nu < 4, law, jnp.log(normal))))


def log_normal_quantile(log_p: Array) -> Array:
    """The x with `log(Phi(x)) = log_p`, up to log(1/2), by Newton's method on the logarithm, which is almost square.

    Its derivative is 1 / Mills' ratio, for which Birnbaum's bound stands: it has all digits far out.
    """
    far = log_p < -5
    size = -2 * jnp.where(far, log_p, -5)
    start = jnp.where(far, -jnp.sqrt(size - jnp.log(2 * jnp.pi * size)), ndtri(jnp.exp(log_p)))

    def step(_: int, x: Array) -> Array:
        return x - (log_normal_cdf(x) - log_p) * 4 / (jnp.sqrt(x * x + 8) - 3 * x)

    return jnp.where(log_p == -jnp.inf, -jnp.inf, jax.lax.fori_loop(0, 6, step, start))


# The trapezoidal rule in v for integrals over s = exp(v - exp(-v)) from 0 up, of what is about exp(-s) or exp(-s^2).
_STEP = 0.06
_V = np.arange(-3.6, 4.4, _STEP)
_NODES = np.exp(_V - np.exp(-_V))
_WEIGHTS = _STEP * _NODES * (1 + np.exp(-_V))


def _log_integral(a: Array, slope: Array, x: Array, excess: Callable[[Array], Array], upper: Array) -> Array:
    """Log of the integral of `exp(slope t - x excess(t))` over t from 0 up where `upper`, else from 0 down to where it
    falls as exp(a t); `excess` is t^2 / 2 near 0, and concave is what is in the exponential.
    """
    steep = jnp.where(upper, -slope, slope)
    scale = 2 / (steep + jnp.sqrt(steep * steep + 2 * x)) + jnp.where(upper, 0, 1 / a)
    t = (jnp.where(upper, scale, -scale))[..., None] * _NODES.astype(scale.dtype)
    t = jnp.minimum(t, 60)  # exp(t) is a number in every dtype, and nothing is left of the integral
    height = jnp.exp(slope[..., None] * t - x[..., None] * excess(t))
    return jnp.log(scale * jnp.sum(_WEIGHTS.astype(scale.dtype) * height, axis=-1))


def log_gamma_tails(a: Array, x: Array, log_density: Array) -> tuple[Array, Array]:
    """Logarithms of the gamma distribution of shape `a` below and above `x`.

    With `log_density = log(x^a exp(-x) / Gamma(a))`, that of log X, a tail is the density times an integral without
    cancellation; what is written is the smaller tail, or nearly, and the other one is its complement.
    """
    upper = x >= jnp.maximum(a, 1)
    tail = jnp.minimum(log_density + _log_integral(a, a - x, x, expm1_excess, upper), 0)
    rest = log1mexp(tail)
    return jnp.where(upper, rest, tail), jnp.where(upper, tail, rest)


def log_beta_tails(a: Array, b: Array, p: Array, q: Array, log_density: Array) -> tuple[Array, Array]:
    """Logarithms of the beta distribution of shapes `a` and `b`, one of them 1 or more, below and above p = 1 - q.

    With `log_density = log(p^a q^b / B(a, b))`, that of X's log-odds, as `log_gamma_tails`, its limit at small p.
    """
    turned = p > q
    a, b, p, q = (jnp.where(turned, *pair) for pair in ((b, a), (a, b), (q, p), (p, q)))
    x = (a + b) * p
    upper = x >= jnp.maximum(a, 1)
    integral = _log_integral(a, a * q - b * p, x, partial(log1p_expm1_gap, p[..., None]), upper)
    tail = jnp.minimum(log_density + integral, 0)
    rest = log1mexp(tail)
    upper = upper != turned
    return jnp.where(upper, rest, tail), jnp.where(upper, tail, rest)
