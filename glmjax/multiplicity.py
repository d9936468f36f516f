"""p-values of many tests at once, adjusted so that they may be held against one level."""

import jax
import jax.numpy as jnp
from jax import Array


def holm(p_value: Array) -> Array:
    """Holm's: `max over j <= i of (m - j + 1) p_(j)`, at most 1; whatever depends on what, P(any false) <= level.

    Args:
        p_value: (m, ...), adjusted over the first axis, as lanes of a `vmap`; NaN are no tests, and stay.

    Reference: Holm, Scandinavian Journal of Statistics 6 (1979); R's `p.adjust`.
    """
    ordered, order, rank, count = _ordered(p_value)
    return _back(jax.lax.cummax(jnp.minimum((count - rank + 1) * ordered, 1), axis=0), order)


def benjamini_hochberg(p_value: Array) -> Array:
    """Benjamini and Hochberg's: `min over j >= i of m / j p_(j)`: holds the share of false discoveries, on average.

    For tests that are independent or depend positively. Arguments are those of `holm`.

    Reference: Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995).
    """
    ordered, order, rank, count = _ordered(p_value)
    scaled = jnp.where(jnp.isnan(ordered), 1, jnp.minimum(count / rank * ordered, 1))
    least = jax.lax.cummin(scaled, axis=0, reverse=True)
    return _back(jnp.where(jnp.isnan(ordered), jnp.nan, least), order)


def _ordered(p_value: Array) -> tuple[Array, Array, Array, Array]:
    """The p-values from the least on, NaN last; whose they are; their ranks from 1; and how many there are."""
    order = jnp.argsort(p_value, axis=0)
    ordered = jnp.take_along_axis(p_value, order, 0)
    rank = jnp.arange(1, len(p_value) + 1, dtype=p_value.dtype).reshape(-1, *[1] * (p_value.ndim - 1))
    return ordered, order, rank, jnp.sum((~jnp.isnan(p_value)).astype(p_value.dtype), axis=0, keepdims=True)


def _back(values: Array, order: Array) -> Array:
    """Values by rank, brought to where they came from."""
    return jnp.take_along_axis(values, jnp.argsort(order, axis=0), 0)
