"""Symmetric systems as solvers meet them: scaled to a unit diagonal, factored by Cholesky, or by QR where that loses
digits; which columns are independent, and the condition.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

FEW = 8  # columns up to which an inverse is written down


class Factor(NamedTuple):
    """`upper' upper` is the system scaled by `scale` on both sides; columns not `kept` are those of the identity."""

    upper: Array
    scale: Array
    kept: Array


class Penalty(NamedTuple):
    """What is added to a system: a diagonal (p,), and rows (g, p) that fix directions which no row sees, or None."""

    diagonal: Array
    gauge: Array | None


def independent(rows: Array, tolerance: float) -> Array:
    """Which columns are independent of those before them: R's rule, by what is left after projecting those off.

    A column is dependent if its norm falls to `tolerance` of what it was. `rows` (m, p); returns booleans (p,).
    """
    p = rows.shape[1]

    def step(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, kept = state
        column = rows[:, j]
        rest = column - basis @ (column @ basis)
        rest = rest - basis @ (rest @ basis)  # twice is enough (Kahan and Parlett)
        norm, before = jnp.linalg.norm(rest), jnp.linalg.norm(column)
        keep = (norm > tolerance * before) & (before > 0)
        basis = basis.at[:, j].set(jnp.where(keep, rest / jnp.where(keep, norm, 1), 0))
        return basis, kept.at[j].set(keep)

    return jax.lax.fori_loop(0, p, step, (jnp.zeros_like(rows), jnp.zeros(p, bool)))[1]


def penalized_rows(r: Array, penalty: Penalty) -> Array:
    """The triangular factor of a system with its penalty's rows under it."""
    rows = [r, jnp.diag(jnp.sqrt(penalty.diagonal))]
    if penalty.gauge is not None:
        size = jnp.sqrt(penalty.gauge**2 @ (jnp.sum(r**2, axis=0) + penalty.diagonal))
        rows.append(size[:, None] * penalty.gauge)
    return jnp.concatenate(rows)


def factor_by_cholesky(system: Array, penalty: Penalty, damping: Array, kept: Array) -> Factor:
    """Factor of a system given as a symmetric matrix; NaN where it is not positive definite."""
    p = system.shape[0]
    a = system + jnp.diag(penalty.diagonal)
    if penalty.gauge is not None:
        a = a + (penalty.gauge.T * (penalty.gauge**2 @ jnp.diag(a))[None]) @ penalty.gauge
    diagonal = jnp.diag(a)
    scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
    a = a * scale[:, None] * scale[None] + damping * jnp.eye(p, dtype=a.dtype)
    a = jnp.where(kept[:, None] & kept[None], a, jnp.eye(p, dtype=a.dtype))
    return Factor(jnp.linalg.cholesky(a).T, scale, kept)


def factor_by_qr(r: Array, penalty: Penalty, damping: Array, kept: Array) -> Factor:
    """Factor of a system given as its triangular factor R."""
    p = r.shape[0]
    rows = penalized_rows(r, penalty)
    norm = jnp.sqrt(jnp.sum(rows**2, axis=0))
    scale = 1 / jnp.where(norm > 0, norm, 1)
    rows = jnp.where(kept[None], rows * scale[None], 0)
    eye = jnp.eye(p, dtype=r.dtype)
    rows = jnp.concatenate([rows, jnp.sqrt(damping) * eye, jnp.where(kept[None], 0, eye)])
    return Factor(jnp.linalg.qr(rows, mode="r"), scale, kept)


def solve(factor: Factor, b: Array) -> Array:
    """The solution of the system for right side `b`, (p,); 0 in columns that are not kept."""
    b = jnp.where(factor.kept, b * factor.scale, 0)
    half = jax.scipy.linalg.solve_triangular(factor.upper, b, trans=1)
    return jnp.where(factor.kept, jax.scipy.linalg.solve_triangular(factor.upper, half) * factor.scale, 0)


def smallest_pivot(factor: Factor) -> Array:
    """The least share of a column that those before it leave, squared; NaN where Cholesky failed."""
    return jnp.min(jnp.diag(factor.upper) ** 2)


def reciprocal_condition(upper: Array) -> Array:
    """1 / (|R| |R^-1|) of a scaled factor in the 1-norm; unit columns, as of those not kept, do not show.

    Of more than a few columns |R^-1| is Hager's estimate, as in LAPACK's `trcon`: it climbs to the column of R^-1 with
    the largest norm, and then looks at the next most promising ones.
    """
    inverse = _inverse_norm(upper) if len(upper) <= FEW else _estimated_inverse_norm(upper)
    return 1 / (jnp.max(jnp.sum(jnp.abs(upper), axis=0)) * inverse)


def _inverse_norm(upper: Array) -> Array:
    """The 1-norm of R^-1, by its rows from the last one up: for many lanes a few operations on all of them."""
    p = len(upper)
    eye = jnp.eye(p, dtype=upper.dtype)
    rows: dict[int, Array] = {}
    for i in reversed(range(p)):
        rows[i] = (eye[i] - sum(upper[i, j] * rows[j] for j in range(i + 1, p))) / upper[i, i]
    return jnp.max(sum(jnp.abs(row) for row in rows.values()))


def _estimated_inverse_norm(upper: Array) -> Array:
    p = len(upper)

    def climb(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, seen, largest = state
        y = jax.scipy.linalg.solve_triangular(upper, x)
        slope = jnp.abs(jax.scipy.linalg.solve_triangular(upper, jnp.where(y < 0, -1, 1).astype(y.dtype), trans=1))
        best = jnp.arange(p) == jnp.argmax(jnp.where(seen, -1, slope))
        return best.astype(x.dtype), seen | best, jnp.maximum(largest, jnp.sum(jnp.abs(y)))

    start = (jnp.full(p, 1 / p, upper.dtype), jnp.zeros(p, bool), jnp.zeros((), upper.dtype))
    return jax.lax.fori_loop(0, 6, climb, start)[2]
