"""The likelihood times Jeffreys' prior, of a linear model with one output: what Firth's method makes large.

    F = sum(weight nll) - log(det I) / 2,   I = sum(weight h z z'),   h the Fisher information of a row
    dF / d theta = sum((weight r - m weight h' / 2) z),   m = z' I^-1 z

r and h' are derivatives by eta: under the logit link `weight h' m` is the leverage times 1 - 2 mean, under the log link
the leverage. The second derivative is near `sum((weight h - m weight (h'' - h'^2 / h) / 2) z z')`, and is that where
every row has a coefficient of its own.

A pass finds I, and a second one m by its factor.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, standardize, to_params
from .data import Data, clean, row_weight
from .distributions import Family, expected_hessian
from .factors import Factor, Penalty, factor_by_cholesky, factor_by_qr, independent, smallest_pivot, solve
from .implicit import implicit_tangent
from .inputs import per_row
from .lanes import any_lane, chosen, lanewise
from .losses import objective
from .models import Model
from .passes import LinearSums, Point, information_pass, weighted_gram
from .predictors import Dense
from .rotations import factor_pass
from .rows import chunk_rows, row_fold, row_sums


class Penalized(NamedTuple):
    """F at one theta, as a mean over the rows, in the units of the parameters; `size`, of what it was summed from;
    `score` (p,); the factors of the information, and of what steps are solved with; `noise`, the relative rounding of
    what comes of the information.
    """

    loss: Array
    size: Array
    score: Array
    information: Factor
    system: Factor
    noise: Array


def information_at(family: Family, eta: Array, y: Array) -> Array:
    """The Fisher information of one observation, as a function that may be differentiated by eta."""
    if family.distribution.information is expected_hessian:  # which holds the mean still
        return jax.hessian(family.nll)(eta, family.mean(eta))
    return family.information(eta, y)


def information_factor(
    model: Model, columns: Columns, data: Data, point: Point, sums: LinearSums, kept: Array | None
) -> tuple[Factor, Array]:
    """The factor of the mean information, and its rounding. `kept` are the columns that are independent; None finds
    them.
    """
    p, eps = sums.score.size, float(jnp.finfo(sums.score.dtype).eps)
    zero = jnp.zeros((), sums.score.dtype)
    none = Penalty(jnp.zeros_like(sums.score), None)
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    among = jnp.ones(p, bool) if kept is None else kept
    scaled = factor_by_cholesky(sums.system / total, none, zero, among)
    ill = ~(smallest_pivot(scaled) > eps**0.6) & jnp.all(jnp.isfinite(jnp.diag(sums.system)))

    def by_qr() -> Factor:
        r = factor_pass(model, columns, data, point) / jnp.sqrt(total)
        return factor_by_qr(r, none, zero, independent(r, max(1e-11, 64 * eps)) if kept is None else kept)

    factor = jax.lax.cond(any_lane(ill), lambda: chosen(ill, by_qr(), scaled), lambda: scaled)
    pivot = smallest_pivot(factor)
    return factor, eps / jnp.where(ill, jnp.sqrt(pivot), pivot)


def start_at(model: Model, columns: Columns, data: Data, theta: Array) -> tuple[Array, Array]:
    """Least squares on the family's start, (p, 1), as R's first step, and which columns are independent there."""
    point = Point(jnp.zeros_like(theta), jnp.zeros_like(theta), jnp.asarray(True))
    sums = information_pass(model, columns, data, point)
    factor, _ = information_factor(model, columns, data, point, sums, None)
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    return -solve(factor, sums.score / total).reshape(theta.shape), factor.kept


def penalized_at(model: Model, columns: Columns, data: Data, theta: Array, kept: Array) -> Penalized:
    """F, its score and systems at theta (p, 1), over the columns that are `kept`."""
    point = Point(theta, jnp.zeros_like(theta), jnp.asarray(False))
    sums = information_pass(model, columns, data, point)
    factor, noise = information_factor(model, columns, data, point, sums, kept)
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    one = jnp.eye(len(kept), dtype=theta.dtype)
    root = jnp.where(kept, factor.scale, 0)[:, None] * jax.scipy.linalg.solve_triangular(factor.upper, one)
    pull, bend = leverage_pass(model, columns, data, theta, root / jnp.sqrt(total))

    pivots = jnp.log(jnp.abs(jnp.diag(factor.upper))) - jnp.log(factor.scale) + 0.5 * jnp.log(total) + units(columns)
    half = jnp.sum(jnp.where(kept, pivots, 0))
    none = Penalty(jnp.zeros_like(pull), None)
    system = factor_by_cholesky((sums.system + bend) / total, none, jnp.zeros((), theta.dtype), kept)
    well = smallest_pivot(system) > float(jnp.finfo(theta.dtype).eps) ** 0.6
    return Penalized(
        loss=(sums.nll - half) / total,
        size=jnp.maximum((sums.size + jnp.sum(jnp.where(kept, jnp.abs(pivots), 0))) / total, 1),
        score=jnp.where(kept, sums.score + pull, 0) / total,
        information=factor,
        system=chosen(well, system, factor),
        noise=noise,
    )


def units(columns: Columns) -> Array:
    """What log(det I) / 2 has more in the parameters than in theta, for each of theta, (p,)."""
    sizes = jnp.log(jnp.abs(columns.scale))
    return sizes if columns.constant is not None else jnp.concatenate([jnp.zeros(1, sizes.dtype), sizes])


def leverage_pass(model: Model, columns: Columns, data: Data, theta: Array, root: Array) -> tuple[Array, Array]:
    """What the prior adds to the score, (p,), and to the system, (p, p); `root root'` is the inverse information."""
    p = len(theta)

    def build(lanes: int) -> Callable[..., tuple[Array, Array]]:
        def run(model: Model, columns: Columns, data: Data, theta: Array, root: Array) -> tuple[Array, Array]:
            def of_row(eta: Array, y: Array) -> tuple[Array, Array, Array]:
                slope = jax.grad(partial(information_at, model.family))
                return information_at(model.family, eta, y), slope(eta, y), jax.grad(slope)(eta, y)

            def update(total: tuple[Array, Array], rows: Data, new: Array) -> tuple[Array, Array]:
                rows = clean(rows)
                z = standardize(columns, rows.x)
                eta = z @ theta[:, 0] if rows.offset is None else z @ theta[:, 0] + rows.offset
                h, slope, bend = jax.vmap(of_row)(eta, rows.y)
                weight = row_weight(rows)
                weight = new.astype(eta.dtype) if weight is None else jnp.where(new, weight, 0)
                m = weight * jnp.sum((z @ root) ** 2, axis=1) / 2
                pull = jnp.where(weight == 0, 0, m * slope)
                steep = jnp.where(h > 0, slope * slope / jnp.where(h > 0, h, 1), 0) - bend
                curve = jnp.where(weight == 0, 0, m * jnp.maximum(steep, 0))
                return total[0] - pull @ z, total[1] + weighted_gram(curve[None], z)[0]

            start = jnp.zeros(p, theta.dtype), jnp.zeros((p, p), theta.dtype)
            return row_fold(update, start, data, chunk_rows(lanes * p))

        return run

    return lanewise(build)(model, columns, data, theta, root)


def penalized_tangent(
    model: Model, data: Data, columns: Columns, theta: Array, free: Array, moves: tuple[Model, Data]
) -> tuple[Dense, Array]:
    """Tangents of the minimizer of F and of F there, for those of the model and the data; theta is flat, (p,), and what
    is not `free` stays where it is.
    """
    like = Dense(jnp.zeros_like(columns.scale), jnp.zeros((), theta.dtype) if columns.constant is None else None)

    def f(flat: Array, model: Model, data: Data) -> Array:
        family = model.family
        rows = clean(data)
        loss, sums = objective(model, to_params(columns, flat[:, None], like), rows, jnp.zeros((), flat.dtype))

        def information(rows: Data) -> Array:
            z = standardize(columns, rows.x)
            eta = z @ flat if rows.offset is None else z @ flat + rows.offset
            h, weight = jax.vmap(partial(information_at, family))(eta, rows.y), row_weight(rows)
            h = h if weight is None else jnp.where(weight == 0, 0, weight * h)
            return z.T @ (per_row(h, z) * z)

        inner = jnp.where(free[:, None] & free[None], row_sums(information, rows), jnp.eye(len(flat), dtype=flat.dtype))
        half = 0.5 * jnp.linalg.slogdet(inner)[1] + jnp.sum(jnp.where(free, units(columns), 0))
        return loss - half / sums.weight

    tangent = implicit_tangent(f, theta, (model, data), moves, free, None)
    _, loss = jax.jvp(f, (theta, model, data), (tangent, *moves))
    return to_params(columns, tangent[:, None], like), loss
