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
    return 2 * ndtr(-jnp.abs(t)) if df is None else _student_tail(t, jnp.broadcast_to(df, t.shape))


@jax.custom_jvp
def _student_tail(t: Array, df: Array) -> Array:
    nu = jnp.where(df > 0, df, jnp.nan)
    return betainc(nu / 2, jnp.full_like(nu, 0.5), nu / (nu + t * t))


def _density(t: Array, df: Array) -> Array:
    constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * jnp.pi)
    return jnp.exp(constant - (df + 1) / 2 * jnp.log1p(t * t / df))


def _slope_in_df(t: Array, df: Array) -> Array:
    """The tail's derivative by df, by differences: it has no closed form."""
    step = 10 * jnp.finfo(df.dtype).eps ** 0.25 * df
    return (_student_tail(t, df + step) - _student_tail(t, df - step)) / (2 * step)


@_student_tail.defjvp
def _student_tail_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    t, df = primals
    moved = -2 * jnp.sign(t) * _density(t, df) * tangents[0] + _slope_in_df(t, df) * tangents[1]
    return _student_tail(t, df), moved


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
    """The q with `P(|T| > q) = tail`, T as in `two_sided_tail`."""
    if df is None:
        return -ndtri(tail / 2)
    known = jnp.isinf(df)
    return jnp.where(known, -ndtri(tail / 2), _student_quantile(tail, jnp.where(known, 1, df)))


@jax.custom_jvp
def _student_quantile(tail: Array, df: Array) -> Array:
    # Newton's method on log P in u = log q, where it is concave: from the right steps come down to the root, and from
    # the left the first one leads there. Few degrees of freedom start where P's power law has its root.
    nu = jnp.where(df > 0, df, jnp.nan)

    def step(_: int, u: Array) -> Array:
        q = jnp.exp(u)
        p = _student_tail(q, nu)
        move = (jnp.log(p) - jnp.log(tail)) * p / (2 * q * _density(q, nu))
        return u + jnp.clip(move, -3, 3)  # where the density is as good as 0

    law = (jnp.log(_density(jnp.zeros_like(nu), nu)) + (nu + 1) / 2 * jnp.log(nu) + jnp.log(2 / nu / tail)) / nu
    start = jnp.where(nu < 4, law, jnp.log(-ndtri(tail / 2)))
    return jnp.exp(jax.lax.fori_loop(0, 12, step, start))


@_student_quantile.defjvp
def _student_quantile_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    df = primals[1]
    q = _student_quantile(*primals)
    return q, (_slope_in_df(q, df) * tangents[1] - tangents[0]) / (2 * _density(q, df))


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


# The trapezoidal rule in v for integrals over s = exp(pi / 2 sinh(v)) from 0 up (Takahasi and Mori, 1974), of what is
# about 1 until s is about 1, and falls from there on, be it as 1 / s^2.
_STEP = 0.05
_V = np.arange(-3.9, 3.9, _STEP)
_NODES = np.exp(np.pi / 2 * np.sinh(_V))
_WEIGHTS = _STEP * np.pi / 2 * np.cosh(_V) * _NODES


def _log_tail(
    a: Array, slope: Array, x: Array, excess: Callable[[Array], Array], log_density: Array
) -> tuple[Array, Array]:
    """Log-probabilities below and above the point at t = 0 of a density `exp(log_density + slope t - x excess(t))`,
    `excess` t^2 / 2 near 0, that falls as exp(a t) to the left, and has x = 1 where it begins to fall to the right.

    One side is integrated, the smaller one or nearly: all terms are above 0. The other is its complement.
    """
    # At small x the plateau is long, and the left side about x^a: taken unless 1 - x^a loses more than three digits.
    left = jnp.where(a < 1, (x < 0.01) & (a * jnp.log(x) < -1e-3), x < a)
    steep = jnp.where(left, slope, -slope)
    scale = 2 / (steep + jnp.sqrt(steep * steep + 2 * x)) + jnp.where(left, 1 / a, 0)
    plateau = ~left & (x < 1)  # of length log(1 / x), and in expm1(t) a power of it that ends at 1 / x
    scale = jnp.where(plateau, 1 / x, jnp.where(left, -scale, scale))[..., None]
    s = jnp.minimum(scale * _NODES.astype(scale.dtype), jnp.where(plateau, jnp.inf, 80)[..., None])  # exp(80) is finite
    grown = jnp.where(plateau[..., None], s, 0)
    t = jnp.where(plateau[..., None], jnp.log1p(grown), s)
    height = jnp.exp(slope[..., None] * t - x[..., None] * excess(t)) / (1 + grown)
    integral = jnp.abs(scale[..., 0]) * jnp.sum(_WEIGHTS.astype(scale.dtype) * height, axis=-1)
    tail = jnp.minimum(log_density + jnp.log(integral), 0)
    rest = log1mexp(tail)
    return jnp.where(left, tail, rest), jnp.where(left, rest, tail)


def log_gamma_tails(a: Array, x: Array, log_density: Array) -> tuple[Array, Array]:
    """Logarithms of the gamma distribution of shape `a` below and above `x`, given that of the density of log X,
    `log_density = log(x^a exp(-x) / Gamma(a))`.
    """
    return _log_tail(a, a - x, x, expm1_excess, log_density)


def log_beta_tails(a: Array, b: Array, p: Array, q: Array, log_density: Array) -> tuple[Array, Array]:
    """Logarithms of the beta distribution of shapes `a` and `b`, one of them 1 or more, below and above p = 1 - q,
    given that of the density of X's log-odds, `log_density = log(p^a q^b / B(a, b))`.
    """
    turned = p > q
    a, b, p, q = (jnp.where(turned, *pair) for pair in ((b, a), (a, b), (q, p), (p, q)))
    left, right = _log_tail(a, a * q - b * p, (a + b) * p, partial(log1p_expm1_gap, p[..., None]), log_density)
    return jnp.where(turned, right, left), jnp.where(turned, left, right)
