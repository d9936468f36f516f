"""The minimum of a quadratic beside penalties and bounds that are separable: coordinate descent, and linear systems.

    minimize  g's + s'(H s) / 2 + sum(l1 |t|) + sum(l2 t^2) / 2,   t = base + s,   lower <= t <= upper

Sweeps of coordinate descent find which coefficients are 0 or at a bound; one linear system for the others then ends on
the minimum to rounding, or on the way to it at the first coefficient that becomes 0.

Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate
descent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .factors import Penalty, factor_by_cholesky, solve
from .lanes import any_lane

ROUNDS = 50  # of coordinate descent and a linear system
SWEEPS = 3, 20  # of coordinate descent at most, where a system follows anyhow, and where it may not be needed


class Terms(NamedTuple):
    """What stands beside the loss, for each coefficient of flat theta, (p k,)."""

    l1: Array
    l2: Array
    lower: Array
    upper: Array


def violation(terms: Terms, slope: Array, theta: Array) -> Array:
    """How steeply the objective falls when a coefficient moves either way that its bounds allow; 0 at an optimum.

    `slope` is the derivative of the smooth part, loss and l2.
    """
    left = slope + jnp.where(theta > 0, terms.l1, -terms.l1)
    right = slope + jnp.where(theta >= 0, terms.l1, -terms.l1)
    downhill = jnp.maximum(jnp.where(theta > terms.lower, left, 0), jnp.where(theta < terms.upper, -right, 0))
    return jnp.maximum(downhill, 0)


def sweeps(system: Array, terms: Terms, t: Array, slope: Array, goal: Array, most: Array) -> tuple[Array, Array]:
    """Coordinate descent, at most so many times through the coefficients t that are not 0 or will not stay so, until
    violations are down to `goal`; `slope` is the loss's, and kept up to date.
    """
    moving = (t != 0) | (violation(terms, slope + terms.l2 * t, t) > 0)
    visited = any_lane(moving)  # lanes go through the same ones in step, each past those that are not its own
    order = jnp.argsort(~visited, stable=True)

    def update(i: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, slope = at
        j = order[i]
        row, l1 = system[j], terms.l1[j]
        pull = row[j] * t[j] - slope[j]
        curvature = row[j] + terms.l2[j]
        new = jnp.where(jnp.abs(pull) <= l1, 0, pull - jnp.sign(pull) * l1) / jnp.where(curvature > 0, curvature, 1)
        new = jnp.where((curvature > 0) | (l1 > 0), jnp.clip(new, terms.lower[j], terms.upper[j]), t[j])
        new = jnp.where(moving[j], new, t[j])
        return t.at[j].set(new), slope + row * (new - t[j])

    def again(at: tuple[Array, Array, Array]) -> Array:
        t, slope, i = at
        left = jnp.max(jnp.where(moving, violation(terms, slope + terms.l2 * t, t), 0), initial=0)
        return (i < most) & (left > goal)

    def sweep(at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, slope, i = at
        return *jax.lax.fori_loop(0, count, update, (t, slope)), i + 1

    count = jnp.sum(visited)
    return jax.lax.while_loop(again, sweep, (t, slope, jnp.zeros((), jnp.int32)))[:2]


def polish(system: Array, terms: Terms, t: Array, slope: Array) -> Array:
    """Solve for the coefficients that are not 0 or at a bound, and go there, or as far as their signs and bounds hold.

    Solved for the change, so that the jitter that a singular system needs costs no digits.
    """
    p = t.shape[0]
    free = (t > terms.lower) & (t < terms.upper) & ((t != 0) | (terms.l1 == 0)) & (jnp.diag(system) + terms.l2 > 0)
    jitter = jnp.asarray(16 * p * jnp.finfo(t.dtype).eps, t.dtype)
    factor = factor_by_cholesky(system, Penalty(terms.l2, None), jitter, free)
    move = -solve(factor, slope + terms.l2 * t + terms.l1 * jnp.sign(t))
    move = jnp.where(jnp.all(jnp.isfinite(move)), move, 0)
    signed = terms.l1 > 0
    lower = jnp.where(signed & (t > 0), jnp.maximum(terms.lower, 0), terms.lower)
    upper = jnp.where(signed & (t < 0), jnp.minimum(terms.upper, 0), terms.upper)
    end = jnp.where(move < 0, lower, upper)
    share = jnp.where(move == 0, jnp.inf, (end - t) / jnp.where(move == 0, 1, move))
    length = jnp.minimum(1, jnp.min(share, initial=jnp.inf))
    return jnp.where(share <= length, end, t + length * move)


def minimize_model(
    system: Array, gradient: Array, base: Array, terms: Terms, goal: Array, running: Array, exact: Array
) -> Array:
    """The minimum of the quadratic about `base`, flat, with violations of at most `goal`; to rounding if `exact`."""

    def slope_at(t: Array) -> Array:
        return gradient + system @ (t - base)

    def left(t: Array, slope: Array) -> Array:
        return jnp.max(violation(terms, slope + terms.l2 * t, t), initial=0)

    def body(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        t, slope, _, i = state
        t, slope = sweeps(system, terms, t, slope, goal, jnp.where(exact, *SWEEPS))
        short = exact | (left(t, slope) > goal)
        t = jax.lax.cond(any_lane(short), lambda: jnp.where(short, polish(system, terms, t, slope), t), lambda: t)
        slope = slope_at(t)
        return t, slope, left(t, slope), i + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        return running & (state[2] > goal) & (state[3] < ROUNDS)

    t = jnp.clip(base, terms.lower, terms.upper)
    first = (t, slope_at(t), jnp.full((), jnp.inf, t.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, body, first)[0]


def corrected(system: Array, pairs: Array) -> Array:
    """BFGS: the system that maps each move to its change of the gradient, the newest exactly; positive definite still.

    Pairs whose curvature is far from the system's are left out: they are empty, or rounding.
    """
    return jax.lax.scan(lambda b, pair: (bfgs(b, *pair), None), system, (pairs[0], pairs[1]))[0]


def bfgs(b: Array, s: Array, y: Array) -> Array:
    """b, changed by rank 2 so that it maps s to y; as it is where the curvature of s and y is far from its own."""
    bs = b @ s
    old, new = s @ bs, s @ y
    sane = (new > 0.01 * old) & (new < 100 * old)
    old, new = jnp.where(sane, old, 1), jnp.where(sane, new, 1)
    return b + jnp.where(sane, jnp.outer(y, y) / new - jnp.outer(bs, bs) / old, 0)
