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
from typing import NamedTuple

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
from .results import RUNNING, Status
from .rotations import contrasts
from .rows import chunk_rows, row_fold

PASSES = 200  # of conjugate gradients at most
MOVED = 0.1  # a change of eta that is more than rounding


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


class Question(NamedTuple):
    """What is asked: whether theta (p, k) has gone along a direction of recession in which only coefficients that are
    `free` move. A row's contrast is set aside up to a pull of `limit`.
    """

    theta: Array
    free: Array
    limit: Array


class Search(NamedTuple):
    """Conjugate gradients on their way to theta's projection, `found`, off the null space of the rows that stay."""

    found: Array
    residual: Array
    direction: Array
    square: Array  # of the residual, and where that is small enough
    goal: Array
    steps: Array
    status: Array


def ask(theta: Array, free: Array, share: Array, weight: Array) -> Question:
    """The question; `share` is the share of a contrast in the objective's derivative up to which it is set aside,
    `weight` the sum of all rows' weights.
    """
    return Question(theta, free, share * weight)


def _aside(model: Model, asked: Question, rows: Data, new: Array, z: Array) -> Array:
    return pulls(model, rows, new, z @ asked.theta) <= asked.limit


def any_aside(model: Model, columns: Columns, data: Data, asked: Question) -> Array:
    """Whether any contrast of any row is set aside."""

    def update(found: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        aside = _aside(model, asked, rows, new, standardize(columns, rows.x))
        return found | jnp.any(aside & counted(rows, new)[:, None])

    return row_fold(update, jnp.asarray(False), data, _chunk(asked), collect=device_any)


def normal_product(model: Model, columns: Columns, data: Data, asked: Question, v: Array) -> Array:
    """C'C v, C the contrasts of the rows that stay: a sum over the rows."""
    v = jnp.where(asked.free, v, 0)

    def update(total: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        z = standardize(columns, rows.x)
        forms = contrasts(model, rows.y)
        stays = ~_aside(model, asked, rows, new, z) & counted(rows, new)[:, None]
        change = jnp.where(stays, jnp.einsum("nck,nk->nc", forms, z @ v), 0)
        return total + z.T @ jnp.einsum("nck,nc->nk", forms, change)

    return jnp.where(asked.free, row_fold(update, jnp.zeros_like(v), data, _chunk(asked)), 0)


def farthest(model: Model, columns: Columns, data: Data, u: Array) -> Array:
    """The largest change of any contrast along u."""

    def update(most: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        change = jnp.einsum("nck,nk->nc", contrasts(model, rows.y), standardize(columns, rows.x) @ u)
        return jnp.maximum(most, jnp.max(jnp.where(counted(rows, new)[:, None], jnp.abs(change), 0), initial=0))

    every = partial(device_merge, jnp.maximum)
    return row_fold(update, jnp.zeros((), u.dtype), data, chunk_rows(4 * u.size), collect=every)


def any_rises(model: Model, columns: Columns, data: Data, u: Array, most: Array) -> Array:
    """Whether any row's loss rises along u, which moves rows by `most`: rounding moves rows that should rest, so those
    do that are moved by little of it.
    """
    rest = float(jnp.finfo(u.dtype).eps) ** 0.4 * most

    def update(found: Array, rows: Data, new: Array) -> Array:
        rows = clean(rows)
        eta = standardize(columns, rows.x) @ u
        if model.family.n_classes:
            up = jnp.einsum("nck,nk->nc", contrasts(model, rows.y), eta) < -rest
        else:
            far = 1e6 / jnp.where(rest > 0, rest, 1)
            up = (jnp.abs(eta) > rest) & ~(derivatives(model, rows, new, far * eta).r * eta <= 0)
        return found | jnp.any(up & per_row(counted(rows, new), up))

    return row_fold(update, jnp.asarray(False), data, chunk_rows(4 * u.size), collect=device_any)


def search_init(product: Array) -> Search:
    """The state before the first step; `product` is the normal product of theta."""
    square, eps = jnp.sum(product**2), float(jnp.finfo(product.dtype).eps)
    goal, none = eps**1.5 * square, jnp.zeros((), jnp.int32)
    return Search(jnp.zeros_like(product), product, product, square, goal, none, _search_status(square, goal, none))


def search_step(state: Search, product: Array) -> Search:
    """A step of conjugate gradients; `product` is the normal product of its direction."""
    length = state.square / jnp.sum(state.direction * product)
    residual = state.residual - length * product
    square, steps = jnp.sum(residual**2), state.steps + 1
    direction = residual + square / state.square * state.direction
    found = state.found + length * state.direction
    return Search(found, residual, direction, square, state.goal, steps, _search_status(square, state.goal, steps))


def _search_status(square: Array, goal: Array, steps: Array) -> Array:
    return jnp.where((square > goal) & (steps < PASSES), RUNNING, Status.CONVERGED).astype(jnp.int32)


def way_of(asked: Question, state: Search) -> Array:
    """u, the way that theta has gone on account of the rows that are set aside."""
    return jnp.where(asked.free, asked.theta - state.found, 0)


def _chunk(asked: Question) -> int:
    return chunk_rows(4 * asked.theta.size)


def recedes(model: Model, columns: Columns, data: Data, theta: Array, free: Array, share: Array) -> Array:
    """The answer from memory; arguments are those of `ask`."""
    weight = row_weight(data)
    total = jnp.asarray(len(data.x), theta.dtype) if weight is None else jnp.sum(weight)
    asked = ask(theta, free, share, device_sum(total))

    def held_against_the_definition() -> Array:
        def step(state: Search) -> Search:
            return search_step(state, normal_product(model, columns, data, asked, state.direction))

        first = search_init(normal_product(model, columns, data, asked, theta))
        u = way_of(asked, jax.lax.while_loop(lambda state: state.status == RUNNING, step, first))
        most = farthest(model, columns, data, u)
        return (most > MOVED) & ~any_rises(model, columns, data, u, most)

    return jax.lax.cond(
        any_lane(any_aside(model, columns, data, asked)), held_against_the_definition, lambda: jnp.asarray(False)
    )
