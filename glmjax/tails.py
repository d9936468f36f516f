"""Tail probabilities of the t, chi-squared and F distributions, with all their digits far out, and t's quantile.

Degrees of freedom are any positive numbers; infinite ones make t the normal, and F the chi-squared over its own.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc, gammaincc, gammaln, ndtr, ndtri


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
    return -ndtri(tail / 2) if df is None else _student_quantile(tail, df)


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
