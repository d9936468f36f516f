"""Whether the estimate of a linear model exists, judged where its gradient is small, by passes over the rows.

It does not where there is a direction of recession: one that moves some row, and along which no row's loss rises. Small
gradients are no evidence of one, nor are large eta; it is shown itself:

1. rows, contrast by contrast, whose losses pull so little that they might be separated are set aside;
2. u, the part of theta in the null space of all others (and of the penalized coefficients), is the way that theta has
   gone on their account: theta less its projection, by conjugate gradients;
3. u is held against the definition.

No matrix is formed, so that this serves the widest models.

Reference: Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models;
Geyer (2009), Likelihood inference in exponential families and directions of recession.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, standardize
from .data import Data, clean, row_weight
from .inputs import per_row
from .lanes import any_lane
from .meshes import device_any, device_merge, device_sum
from .models import Model
from .passes import derivatives
from .rotations import contrasts
from .rows import chunk_rows, row_fold

PASSES = 200  # of conjugate gradients at most


def pulls(model: Model, rows: Data, new: Array, eta: Array) -> Array:
    """What the loss does for each of a row's `contrasts`, times the weight, (n, c): for a class that is not the row's
    own its probability, and else the information.
    """
    family, parts = model.family, derivatives(model, rows, new, eta)
    if not family.n_classes:
        return jnp.diagonal(parts.h, axis1=1, axis2=2)
    r = parts.r
    if family.reference is not None:
        r = jnp.insert(r, family.reference, -jnp.sum(r, axis=1), axis=1)
    return jnp.abs(r)


def counted(rows: Data, new: Array) -> Array:
    """Which rows are new and have a weight."""
    weight = row_weight(rows)
    return new if weight is None else new & (weight > 0)


def recedes(model: Model, columns: Columns, data: Data, theta: Array, free: Array, share: Array) -> Array:
    """Whether theta (p, k) has gone along a direction of recession, in which only coefficients that are `free` move.

    `share` is the share of a contrast in the objective's derivative up to which it is set aside.
    """
    chunk = chunk_rows(4 * theta.size)
    zero, no, weight = jnp.zeros((), theta.dtype), jnp.asarray(False), row_weight(data)
    limit = share * device_sum(jnp.asarray(len(data.x), theta.dtype) if weight is None else jnp.sum(weight))

    def aside(rows: Data, new: Array, z: Array) -> Array:
        return pulls(model, rows, new, z @ theta) <= limit

    def some(found: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        return found | jnp.any(aside(rows, new, standardize(columns, rows.x)) & counted(rows, new)[:, None])

    def normal(v: Array) -> Array:
        """C'C v, C the contrasts of the rows that stay."""
        v = jnp.where(free, v, 0)

        def update(total: Array, rows: Data, new: Array) -> Array:
            rows = clean(rows)
            z = standardize(columns, rows.x)
            forms = contrasts(model, rows.y)
            stays = ~aside(rows, new, z) & counted(rows, new)[:, None]
            change = jnp.where(stays, jnp.einsum("nck,nk->nc", forms, z @ v), 0)
            return total + z.T @ jnp.einsum("nck,nc->nk", forms, change)

        return jnp.where(free, row_fold(update, jnp.zeros_like(v), data, chunk), 0)

    def reach(u: Array, most: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        change = jnp.einsum("nck,nk->nc", contrasts(model, rows.y), standardize(columns, rows.x) @ u)
        return jnp.maximum(most, jnp.max(jnp.where(counted(rows, new)[:, None], jnp.abs(change), 0), initial=0))

    def rises(u: Array, rest: Array, found: Array, rows: Data, new: Array) -> Array:
        """Rounding moves rows that should rest, so those moved by no more than `rest` do."""
        rows = clean(rows)
        eta = standardize(columns, rows.x) @ u
        if model.family.n_classes:
            up = jnp.einsum("nck,nk->nc", contrasts(model, rows.y), eta) < -rest
        else:
            far = 1e6 / jnp.where(rest > 0, rest, 1)
            up = (jnp.abs(eta) > rest) & ~(derivatives(model, rows, new, far * eta).r * eta <= 0)
        return found | jnp.any(up & per_row(counted(rows, new), up))

    def held_against_the_definition() -> Array:
        eps = float(jnp.finfo(theta.dtype).eps)
        spread, _ = jax.scipy.sparse.linalg.cg(normal, normal(theta), tol=eps**0.75, maxiter=PASSES)
        u = jnp.where(free, theta - spread, 0)
        most = row_fold(partial(reach, u), zero, data, chunk, collect=partial(device_merge, jnp.maximum))
        return (most > 0.1) & ~row_fold(partial(rises, u, eps**0.4 * most), no, data, chunk, collect=device_any)

    return jax.lax.cond(
        any_lane(row_fold(some, no, data, chunk, collect=device_any)), held_against_the_definition, lambda: no
    )
