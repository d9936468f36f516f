"""Tail probabilities of the t, chi-squared and F distributions, with all their digits far out, and t's quantile.

Degrees of freedom are any positive numbers; infinite ones make t the normal, and F the chi-squared over its own.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc, gammaincc, gammaln, ndtr, ndtri


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
