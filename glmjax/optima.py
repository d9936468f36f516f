"""A linear model where its fit ended, in coordinates in which the Hessian is the identity: what errors are made of.

    H = information + S diag(l2),   root root' = H^-1,   S the sum of the weights

A row enters by z, its standardized columns, once for each output; an estimated alpha is one more output, and has one
coefficient of its own. Sums over the rows are taken in z, where lanes of a `vmap` that share x share its products, and
then brought to root's coordinates, or where the system is ill-conditioned in these.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, measure, standardize, to_params, to_theta, to_theta_marks
from .data import Data, clean, row_weight
from .distributions import by_expectation, has_expectation, hessian
from .factors import Factor, Penalty, factor_by_cholesky, factor_by_qr, smallest_pivot
from .influence import as_vector
from .inputs import per_row
from .lanes import any_lane, chosen, lanewise
from .linear import Task, theta_penalty
from .meshes import device_sum
from .models import Model
from .overdispersion import complete_nll
from .passes import Point, derivatives, few, weighted_gram
from .predictors import Dense
from .results import Fit, Status
from .rotations import factor_pass
from .rows import chunk_rows, row_fold


class Optimum(NamedTuple):
    """A fitted model, its rows, and H's root.

    `theta` (p, k) and, of q = p k coefficients (and alpha): `kept` (q,), those that are estimated; `root` (q, q);
    `share` (q, q), that of the penalty in H, in root's coordinates: the information is what it lacks to the identity.
    `ill`: whether sums in z would lose half of the digits. `rows`, how many copies of rows there are; `edf`, the trace
    of the information in root's coordinates; `dispersion`, 1 until it is known.
    """

    model: Model
    data: Data
    params: Dense
    columns: Columns
    theta: Array
    kept: Array
    root: Array
    share: Array
    ill: Array
    rows: Array
    edf: Array
    dispersion: Array


class Forms(NamedTuple):
    """Of one copy of each row, by its outputs: score of its nll (c, m), its expected and observed information
    (c, m, m); and how many `copies` there are, (c,). Rows that do not count are 0 throughout.
    """

    score: Array
    expected: Array
    observed: Array
    copies: Array


Form = Callable[[Optimum, Forms, Array], Array]
Product = Callable[[Array, Array], Array]


def forms_of(model: Model, rows: Data, new: Array, eta: Array) -> Forms:
    """The forms of rows at their linear predictors, (c, k), without the offset."""
    family, k = model.family, eta.shape[1]
    copies = jnp.where(new, 1 if rows.weight is None else rows.weight, jnp.zeros_like(eta[:, 0]))
    single = rows._replace(weight=(copies > 0).astype(eta.dtype))
    parts = derivatives(model, single, new, eta)
    eta = eta if rows.offset is None else eta + rows.offset[:, None]

    def weighted(part: Array) -> Array:
        return jnp.where(per_row(parts.weight == 0, part), 0, per_row(parts.weight, part) * part)

    if not family.estimates_alpha:
        given = eta if family.n_outputs else eta[:, 0]
        observed = jax.vmap(lambda eta, y: hessian(family, eta, y))(given, rows.y)
        return Forms(parts.r, parts.h, weighted(observed.reshape(-1, k, k)), copies)

    alpha = jnp.asarray(family.alpha, eta.dtype)

    def of_row(eta: Array, y: Array) -> tuple[Array, ...]:
        def slopes(alpha: Array) -> tuple[Array, Array]:
            return jax.grad(lambda eta, alpha: complete_nll(model, alpha, eta, y), argnums=(0, 1))(eta, alpha)

        (_, slope), (across, own) = jax.jvp(slopes, (alpha,), (jnp.ones_like(alpha),))
        return hessian(family, eta, y), slope, across, own

    bend, slope, across, own = map(weighted, jax.vmap(of_row)(eta[:, 0], rows.y))
    score = jnp.stack([parts.r[:, 0], slope], axis=1)

    def symmetric(first: Array, off: Array) -> Array:
        return jnp.stack([first, off, off, own], axis=1).reshape(-1, 2, 2)

    observed = symmetric(bend, across)
    if not has_expectation(family):
        return Forms(score, observed, observed, copies)
    # Across eta and alpha the information is 0 on average; alpha's own is the observed one, as R's.
    return Forms(score, symmetric(parts.h[:, 0, 0], jnp.zeros_like(own)), observed, copies)


def whitened(optimum: Optimum, z: Array) -> Array:
    """By which of root's coordinates a row's outputs change, (c, m, q)."""
    p, k = optimum.theta.shape
    parts = jnp.einsum("np,pkq->nkq", z, optimum.root[: p * k].reshape(p, k, -1))
    alpha = jnp.broadcast_to(optimum.root[None, p * k :], (len(z), len(optimum.root) - p * k, parts.shape[2]))
    return jnp.concatenate([parts, alpha], axis=1)


def plain_gram(h: Array, z: Array) -> Array:
    """`weighted_gram` as it is differentiated."""
    return jnp.einsum("ln,np,nq->lpq", h, z, z, optimize=[(0, 1), (0, 1)])


def gram(form: Array, z: Array, k: int, product: Product) -> Array:
    """Sum of `form (x) z z'` over rows, (q, q), q = p k, or p + 1 with a last output that has no columns."""
    p = z.shape[1]
    if k > 1:
        return jnp.einsum("nkl,np,nq->pkql", form, z, z, optimize=[(0, 1), (0, 1)]).reshape(p * k, p * k)
    own = product(form[None, :, 0, 0], z)[0]
    if form.shape[1] == k:
        return own
    across = form[:, 0, 1] @ z
    return jnp.block([[own, across[:, None]], [across[None], jnp.sum(form[:, 1, 1])[None, None]]])


def row_scores(optimum: Optimum, rows: Data, new: Array) -> tuple[Array, Array]:
    """The gradient of weight times nll of some rows, (c, q), in coordinates of theta, and alpha; and their copies."""
    rows, k = clean(rows), optimum.theta.shape[1]
    z = standardize(optimum.columns, rows.x)
    forms = forms_of(optimum.model, rows, new, (optimum.theta.T @ z.T).T)
    score = forms.copies[:, None] * forms.score
    own = (z[:, :, None] * score[:, None, :k]).reshape(len(z), -1)
    return jnp.concatenate([own, score[:, k:]], axis=1), forms.copies


def as_pass(build: Callable[[int], Callable[..., Array]], plain: Callable[..., Array]) -> Callable[..., Array]:
    """The pass `build(lanes)`, in chunks that suit its lanes; differentiated as `plain`, whose lanes are not told."""
    run = jax.custom_jvp(lanewise(build))
    run.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return run


def row_total(form: Form, optimum: Optimum, product: Product = weighted_gram) -> Array:
    """`root' sum(copies form (x) z z') root`, (q, q), of a form (c, m, m) that is positive semidefinite in eta."""
    p, k = optimum.theta.shape

    def build(lanes: int, product: Product = product) -> Callable[[Optimum], Array]:
        width = lanes * p * k * k if few(lanes, p) else (p * (p + 1) // 2 + lanes * k * k) // 2

        def run(optimum: Optimum) -> Array:
            columns, root, ill = optimum.columns, optimum.root, any_lane(optimum.ill)

            def orthogonal(h: Array, z: Array) -> Array:
                v = whitened(optimum, z)
                return jnp.einsum("nkl,nkq,nlr->qr", h, v, v, optimize=[(0, 1), (0, 1)])

            def update(total: Array, rows: Data, new: Array) -> Array:
                rows = clean(rows)
                z = standardize(columns, rows.x)
                forms = forms_of(optimum.model, rows, new, (optimum.theta.T @ z.T).T)
                h = form(optimum, forms, z)
                h = per_row(forms.copies, h) * h
                return total + jax.lax.cond(ill, orthogonal, lambda h, z: gram(h, z, k, product), h, z)

            total = row_fold(update, jnp.zeros_like(root), optimum.data, chunk_rows(width))
            return jnp.where(ill, total, root.T @ total @ root)

        return run

    return as_pass(build, build(1, plain_gram))(optimum)


def signed_gram(h: Array, z: Array) -> Array:
    """`weighted_gram` for h of any sign."""
    return weighted_gram(jnp.maximum(h, 0), z) - weighted_gram(jnp.maximum(-h, 0), z)


def signed_total(form: Form, optimum: Optimum) -> Array:
    """`row_total` of a form of any sign."""
    return row_total(form, optimum, signed_gram)


def expected_form(optimum: Optimum, forms: Forms, z: Array) -> Array:
    """The expected information."""
    return forms.expected


def make_optimum(task: Task, fit: Fit) -> Optimum:
    """The optimum of a fit; its root is NaN where the rows do not determine the coefficients."""
    data, bias = task.data, task.model.predictor.bias  # type: ignore[union-attr]
    columns = measure(jax.lax.stop_gradient(data), bias, jnp.any(task.l2 > 0))
    weight, every = row_weight(clean(data)), jnp.asarray(len(data.x), data.x.dtype)
    total, rows = (device_sum(every if part is None else jnp.sum(part)) for part in (weight, data.weight))
    optimum, ridge = at_fit(task, fit, columns, total, rows)
    system = information_total(optimum)
    scaled, ill = by_cholesky(optimum, ridge, system)

    def factor(lanes: int) -> Callable[..., Array]:
        return partial(factor_pass, chunk=chunk_rows(4 * lanes * optimum.theta.size**2 // len(optimum.theta)))

    def by_qr() -> Factor:
        point = Point(optimum.theta, jnp.zeros_like(optimum.theta), jnp.asarray(False))
        r = as_pass(factor, factor(1))(optimum.model, columns, data, point)
        if optimum.model.family.estimates_alpha:
            r = jax.scipy.linalg.block_diag(r, jnp.sqrt(jnp.maximum(system[-1:, -1:], 0)))
        return factor_by_qr(r, Penalty(ridge, None), jnp.zeros((), ridge.dtype), optimum.kept)

    if not signed(optimum):
        scaled = jax.lax.cond(any_lane(ill), lambda: chosen(ill, by_qr(), scaled), lambda: scaled)
    return rooted(optimum, ridge, scaled, ill)


def at_fit(task: Task, fit: Fit, columns: Columns, total: Array, rows: Array) -> tuple[Optimum, Array]:
    """The optimum with the identity for its root yet, and the ridge, (q,); `total` is the rows' weight * precision."""
    model, data = replace(task.model, family=by_expectation(task.model.family)), task.data
    theta = to_theta(columns, task.params)
    zero, one = jnp.zeros((), theta.dtype), jnp.ones((), theta.dtype)
    kept = jnp.ones(theta.size, bool) if fit.aliased is None else ~to_theta_marks(fit.aliased).reshape(-1)
    ridge = total * theta_penalty(task, columns).diagonal
    if model.family.estimates_alpha:
        kept, ridge = jnp.append(kept, fit.status != Status.BOUNDARY), jnp.append(ridge, 0)
    start = jnp.eye(len(ridge), dtype=theta.dtype)
    no = jnp.asarray(False)
    return Optimum(model, data, task.params, columns, theta, kept, start, 0 * start, no, rows, zero, one), ridge


def signed(optimum: Optimum) -> bool:
    """Whether the information is the observed one, which need not be positive in a row, nor has its square root."""
    return not has_expectation(optimum.model.family)


def information_total(optimum: Optimum) -> Array:
    """Sum of the expected information over the rows, in root's coordinates."""
    return (signed_total if signed(optimum) else row_total)(expected_form, optimum)


def by_cholesky(optimum: Optimum, ridge: Array, system: Array) -> tuple[Factor, Array]:
    """H's factor, and whether the system is too ill-conditioned for it."""
    scaled = factor_by_cholesky(system, Penalty(ridge, None), jnp.zeros((), ridge.dtype), optimum.kept)
    return scaled, ~(smallest_pivot(scaled) > float(jnp.finfo(ridge.dtype).eps) ** 0.6)


def rooted(optimum: Optimum, ridge: Array, scaled: Factor, ill: Array) -> Optimum:
    """The optimum with H's root, from its factor."""
    kept, eps = optimum.kept, float(jnp.finfo(ridge.dtype).eps)
    determined = smallest_pivot(scaled) > max(1e-11, 64 * eps) ** 2
    root = jax.scipy.linalg.solve_triangular(scaled.upper, jnp.eye(len(ridge), dtype=ridge.dtype))
    root = jnp.where(determined, jnp.where(kept, scaled.scale, 0)[:, None] * root, jnp.nan)
    share = root.T @ (ridge[:, None] * root)
    edf = jnp.sum(kept.astype(root.dtype)) - jnp.trace(share)
    return optimum._replace(root=root, share=share, ill=ill, edf=edf)


def to_flat(optimum: Optimum, columns: Array) -> Array:
    """Columns (q, m) in coordinates of theta, and alpha, in those of the parameters: bias, w, class by class, alpha."""
    size, shape = optimum.theta.size, optimum.theta.shape

    def moved(column: Array) -> Array:
        params = to_params(optimum.columns, column[:size].reshape(shape), optimum.params)
        return jnp.concatenate([as_vector(params), column[size:]])

    return jax.vmap(moved)(columns.T).T
