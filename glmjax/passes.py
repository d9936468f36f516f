"""The passes of a linear model: loss, score and information as sums over the rows, in standardized columns.

For row i, with z its standardized columns and r, h the first derivative and the curvature of its nll in eta, which is
the information of most families:

    score = sum(weight r z)        information = sum(weight h z z')        factor' factor = information

The coefficients theta are (p, k); score and information are flat, (p k,) and (p k, p k).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from .columns import Columns, standardize
from .data import Data, clean, row_weight
from .inputs import per_row
from .lanes import any_lane, lanewise
from .meshes import device_slots, device_sum
from .models import Model
from .rows import chunk_rows, row_fold

NEAR = 0.1  # a change of eta that is none of a row whose loss has no minimum: those keep moving by steps of one


class LinearSums(NamedTuple):
    """What a pass adds up. `nll` and `size`, of weight * nll and its absolute value; `weight`; `deviance`, where the
    family has a dispersion to estimate, else 0; `score` (p k,); `system` (p k, p k), the information; `reach`, the
    largest change of any eta along the direction that was asked about.
    """

    nll: Array
    size: Array
    weight: Array
    deviance: Array
    score: Array
    system: Array
    reach: Array


class Point(NamedTuple):
    """Where a pass is taken: theta and a direction, (p, k), and whether eta is the family's start instead."""

    theta: Array
    direction: Array
    start: Array


class Derivatives(NamedTuple):
    """Of each row's nll by its eta, times the row's weight: value (n,), r (n, k), h (n, k, k); and the weight. The
    deviance is that of each row, or () and 0 where the family needs none.
    """

    nll: Array
    deviance: Array
    r: Array
    h: Array
    weight: Array


def derivatives(model: Model, rows: Data, new: Array, eta: Array, start: Array | None = None) -> Derivatives:
    """Loss, score and information of each row at its eta, (n, k). Rows that are not `new` or have weight 0 are 0,
    whatever they hold.

    Where `start` is true eta is the family's start, and r is such that the first Newton step from theta = 0 solves
    the least squares on it (R's first step): h (start - offset) is taken off.
    """
    family = model.family
    eta = eta if rows.offset is None else eta + rows.offset[:, None]
    if start is not None:
        begins = any_lane(start)  # once: later passes do not look for it
        near = jax.lax.cond(begins, lambda: jax.vmap(family.start)(rows.y).reshape(eta.shape), lambda: eta)
        eta = jnp.where(start, near, eta)
    given = eta if family.n_outputs else eta[:, 0]
    nll, r = jax.vmap(jax.value_and_grad(family.nll))(given, rows.y)
    h = jax.vmap(family.curvature)(given, rows.y)
    r, h = r.reshape(eta.shape), h.reshape(*eta.shape, eta.shape[1])
    if start is not None:
        working = eta if rows.offset is None else eta - rows.offset[:, None]
        r = jnp.where(start, r - jnp.einsum("nkl,nl->nk", h, working), r)
    deviance = None if family.dispersion is None else jax.vmap(family.deviance)(given, rows.y)
    weight = row_weight(rows)
    weight = new.astype(nll.dtype) if weight is None else jnp.where(new, weight, 0)

    def weighted(part: Array) -> Array:
        return jnp.where(per_row(weight == 0, part), 0, per_row(weight, part) * part)

    none = jnp.zeros((), nll.dtype)
    return Derivatives(
        weighted(nll), none if deviance is None else weighted(deviance), weighted(r), weighted(h), weight
    )


def _totals(parts: Derivatives, score: Array, system: Array, reach: Array) -> LinearSums:
    return LinearSums(
        nll=jnp.sum(parts.nll),
        size=jnp.sum(jnp.abs(parts.nll)),
        weight=jnp.sum(parts.weight),
        deviance=jnp.sum(parts.deviance),
        score=score.reshape(-1),
        system=system,
        reach=reach,
    )


def add_sums(total: LinearSums, part: LinearSums) -> LinearSums:
    """The sums of two parts of the rows."""
    return jax.tree.map(jnp.add, total, part)._replace(reach=jnp.maximum(total.reach, part.reach))


def collect_sums(sums: LinearSums) -> LinearSums:
    """The sums of all devices of a mesh, from those of each."""
    every = device_sum(sums._replace(reach=device_slots(sums.reach)))
    return every._replace(reach=jnp.max(every.reach))


def no_sums(p: int, k: int, dtype: jnp.dtype) -> LinearSums:
    """The sums of no rows."""
    zero = jnp.zeros((), dtype)
    return LinearSums(zero, zero, zero, zero, jnp.zeros(p * k, dtype), jnp.zeros((p * k, p * k), dtype), zero)


def system_of(h: Array, z: Array, product: DTypeLike | None) -> Array:
    """The information of a chunk, sum of `h (x) z z'`, computed in the dtype `product`."""
    p, k = z.shape[1], h.shape[1]
    u, h = (part.astype(product or z.dtype) for part in (z, h))
    if k == 1:
        return weighted_gram(h[None, :, 0, 0], u)[0].astype(z.dtype)
    system = jnp.einsum("nkl,np,nq->pkql", h, u, u, optimize=[(0, 1), (0, 1)])
    return system.reshape(p * k, p * k).astype(z.dtype)


def derivatives_at(
    model: Model, columns: Columns, rows: Data, new: Array, point: Point, start: Array | None
) -> tuple[Array, Derivatives]:
    """A chunk's standardized columns, and its derivatives at theta."""
    z = standardize(columns, rows.x)
    # Written so that lanes come first in memory, as in what they bring along, and rows next.
    return z, derivatives(model, rows, new, (point.theta.T @ z.T).T, start)


def information_pass(
    model: Model,
    columns: Columns,
    data: Data,
    point: Point,
    every: Array | int = 1,
    chunk: int | None = None,
    product: DTypeLike | None = None,
    asked: Array | None = None,
) -> LinearSums:
    """Loss, score and information, and how far the direction reaches; z is made a chunk at a time.

    With `every` above 1 they are those of a sample: every so manieth chunk. `product` is the dtype in which the
    information is computed. With `asked` that is a pass of its own where any lane asks for it, else 0, and what lanes
    that do not ask get is the same to the bit; no lane is at the start then. Lanes of a `vmap` that share x share its
    products, in chunks that suit them all.
    """
    p, k = point.theta.shape
    dtype = data.x.dtype

    def build(lanes: int) -> Callable[..., LinearSums]:
        width = lanes * p * k * k if few(lanes, p) else (p * (p + 1) // 2 + lanes * k * k) // 2
        size = chunk or chunk_rows(width)

        def run(
            model: Model, columns: Columns, data: Data, point: Point, every: Array | int, asked: Array | None
        ) -> LinearSums:
            most = jnp.sum(jnp.abs(point.direction))
            far = any_lane(most > NEAR)

            def fold(start: Array | None) -> LinearSums:
                def update(total: LinearSums, rows: Data, new: Array) -> LinearSums:
                    z, parts = derivatives_at(model, columns, clean(rows), new, point, start)
                    counts = per_row(parts.weight > 0, point.theta)
                    reach = jax.lax.cond(
                        far,
                        lambda: jnp.max(jnp.where(counts, jnp.abs((point.direction.T @ z.T).T), 0), initial=0),
                        lambda: jnp.zeros((), dtype),
                    )
                    system = jnp.zeros((), dtype) if asked is not None else system_of(parts.h, z, product)
                    return add_sums(total, _totals(parts, (parts.r.T @ z).T, system, reach))

                none = no_sums(p, k, dtype)
                if asked is None:
                    return row_fold(update, none, data, size, every, collect_sums)

                def add_system(total: Array, rows: Data, new: Array) -> Array:
                    z, parts = derivatives_at(model, columns, clean(rows), new, point, start)
                    return total + system_of(parts.h, z, product)

                system = jax.lax.cond(
                    any_lane(asked),
                    lambda: row_fold(add_system, none.system, data, size, every),
                    lambda: none.system,
                )
                sums = row_fold(update, none._replace(system=jnp.zeros((), dtype)), data, size, every, collect_sums)
                return sums._replace(system=system)

            if asked is not None:
                sums = fold(None)
            elif lanes == 1:
                sums = fold(point.start)
            else:  # what the start takes is large then, and a later pass is better off without looking for it
                sums = jax.lax.cond(any_lane(point.start), lambda: fold(point.start), lambda: fold(None))
            # Columns are about 1 in size at most: a small direction reaches no further than its own.
            return sums._replace(reach=jnp.where(most > NEAR, sums.reach, most))

        return run

    return lanewise(build)(model, columns, data, point, every, asked)


def few(lanes: int, p: int) -> bool:
    """Whether a product each is quicker than that with all pairs of columns, which take their time to be made."""
    return lanes <= 4 + p // 16


@jax.custom_batching.custom_vmap
def weighted_gram(h: Array, u: Array) -> Array:
    """`u' diag(h) u`, (lanes, p, p), for h (lanes, c), 0 or more, and u (c, p).

    Many lanes are one product: h times the products of all pairs of columns, each pair once. Lanes of `vmap`s,
    nested or not, that share u become lanes of h.
    """
    if len(h) == 1:
        v = jnp.sqrt(jnp.maximum(h[0], 0))[:, None] * u
        return (v.T @ v)[None]
    if few(len(h), u.shape[1]):
        v = jnp.sqrt(jnp.maximum(h, 0))[:, :, None] * u[None]
        return jnp.einsum("lcp,lcq->lpq", v, v)
    p = u.shape[1]
    first, second = np.triu_indices(p)
    place = np.zeros((p, p), np.int32)
    place[first, second] = place[second, first] = np.arange(len(first))
    return (h @ (u[:, first] * u[:, second]))[:, place]


@weighted_gram.def_vmap
def _weighted_gram_batched(axis_size: int, in_batched: list[bool], h: Array, u: Array) -> tuple[Array, bool]:
    if in_batched[1]:
        return jax.vmap(weighted_gram.fun, (0 if in_batched[0] else None, 0))(h, u), True
    out = weighted_gram(h.reshape(-1, h.shape[-1]), u)
    return out.reshape(*h.shape[:2], *out.shape[1:]), True


def score_pass(model: Model, columns: Columns, data: Data, point: Point) -> LinearSums:
    """Loss and score alone, at the speed of reading x: the columns are standardized in the coefficients.

    That costs center / scale units of rounding, so it is for columns whose center is not far outside their range.
    """
    p, k = point.theta.shape
    # Two products with all of x read it twice, and still take less time than chunks, which are copied to be used.
    # Weights may hide rows that want cleaning, and that is done a chunk at a time; so are many lanes.
    whole = data.weight is None and p >= 16

    def build(lanes: int) -> Callable[..., LinearSums]:
        width = p + 8 * k * k if lanes == 1 else (p + lanes * k * k) // 2

        def run(model: Model, columns: Columns, data: Data, point: Point) -> LinearSums:
            bias = columns.constant is None
            w = point.theta[bias:] / columns.scale[:, None]
            constant = (point.theta[0] if bias else 0) - columns.center @ w
            zero = jnp.zeros((), data.x.dtype)

            def update(total: LinearSums, rows: Data, new: Array) -> LinearSums:
                rows = clean(rows)
                eta = (rows.x @ w[:, 0])[:, None] if k == 1 else rows.x @ w
                parts = derivatives(model, rows, new, eta + constant[None])
                if lanes == 1:
                    r = blocked_product(parts.r[:, 0], rows.x)[:, None] if k == 1 else (parts.r.T @ rows.x).T
                    free = jnp.sum(parts.r, axis=0)[None]
                else:  # r is large, and read once
                    ones = jnp.ones((len(rows.x), 1), rows.x.dtype)
                    both = (parts.r.T @ jnp.concatenate([ones, rows.x], axis=1)).T
                    free, r = both[:1], both[1:]
                score = (r - columns.center[:, None] * free) / columns.scale[:, None]
                score = jnp.concatenate([free, score]) if bias else score
                return add_sums(total, _totals(parts, score, zero, zero))

            total = no_sums(p, k, data.x.dtype)
            chunk = data.x.shape[0] if whole and lanes == 1 else chunk_rows(width)
            sums = row_fold(update, total._replace(system=zero), data, chunk, collect=collect_sums)
            return sums._replace(system=total.system)

        return run

    return lanewise(build)(model, columns, data, point)


def blocked_product(r: Array, x: Array) -> Array:
    """r'x, (d,), as a sum over equal blocks of the rows: a CPU's cores share those, and not one long product."""
    n, d = x.shape
    blocks = max(k for k in range(1, max(2, n * d // 100_000)) if n % k == 0)
    return jnp.sum(jnp.einsum("bn,bnd->bd", r.reshape(blocks, n // blocks), x.reshape(blocks, n // blocks, d)), axis=0)
