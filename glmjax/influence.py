"""What each row does to the coefficients of a linear model, without a refit: influence values and the jackknife.

With g_i the gradient of row i's nll in the coefficients, h_i its second derivative, v_i = weight_i precision_i,
S = sum(v) and G = sum(v g), a solution of G / S + l2 w = 0 has

    d params / d weight_i = -precision_i M^-1 (g_i - G / S),    M = sum(v h) + S diag(l2)

The q coefficients are ordered as in `observed_information`: bias first and then w, class by class.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import as_matrix, measure, standardize, to_params, to_theta
from .data import Data, clean, row_weight
from .distributions import hessian
from .factors import Penalty, factor_by_cholesky
from .information import observed_information
from .inputs import is_traced
from .linear import Task, centered, make_task, theta_penalty
from .losses import loss
from .predictors import Dense, Linear
from .programs import quick_jit
from .results import Fit, Status
from .rows import chunk_rows


class Jackknife(NamedTuple):
    """What each row does to the coefficients: `influence` and `leave_one_out` (n, q), `std_error` (q,)."""

    influence: Array
    std_error: Array
    leave_one_out: Array


def jackknife(fit: Fit, data: Data, *, clusters: Any = None) -> Jackknife:
    """What each row does to a linear model's coefficients, without a refit.

    - `influence` (n, q): d coefficients / d weight_i, as this room's docstring has it; that of a row of weight 0 is
      what it would do, or 0 where it holds what cannot be computed with.
    - `std_error` (q,): the infinitesimal jackknife's, `sqrt(sum(weight influence^2))`, or of clusters
      `sqrt(sum over clusters of sum(weight influence)^2)`: robust, and without a penalty that of HC0.
    - `leave_one_out` (n, q): after one Newton step on the objective without a copy of row i (at a weight below 1,
      without the row), whose sum of weights is smaller too. With c = precision_i min(1, weight_i) it is

          params - (M - c h_i - c diag(l2))^-1 (G - c g_i + (S - c) l2 w)

      NaN for a row without which some coefficient is not determined.

    With observed information, in closed form for each row, by Woodbury's identity. Pure; `jax.vmap` it over fits and
    data. The biases of K logits keep their sum. An estimated alpha counts as given.

    Args:
        fit: of a linear model, without `l1` or bounds; `fit.l2` is part of the objective.
        data: the rows that it was fitted to.
        clusters: labels (n,), whole numbers or text; under a transformation whole numbers.

    Returns:
        `Jackknife`; all NaN where the fit is not CONVERGED, RANK_DEFICIENT or BOUNDARY. Aliased coefficients do not
        move, and have a `std_error` of NaN.

    Raises:
        ValueError: hidden layers, a fit with `l1`, shapes that do not fit, one cluster.
        TypeError: labels that are not whole numbers or text.

    Reference: Jaeckel, The infinitesimal jackknife (1972); Pregibon, Logistic regression diagnostics (1981).
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be a Fit, such as gj.fit_newton(model, data), got {type(fit).__name__}")
    sentence = no_influence(fit)
    if sentence:
        raise ValueError(f"there is no jackknife: {sentence}")
    task, n = effects_task(fit, data), data.x.shape[0]
    if is_traced(clusters):
        clusters = jnp.unique(clusters, return_inverse=True, size=n)[1]
    elif clusters is not None:
        clusters = codes_of(clusters, "clusters", n)
    return jackknife_of(task, fit, clusters)


def no_influence(fit: Fit) -> str:
    """Why the rows of a fit have no influence values, or nothing."""
    if not isinstance(fit.model.predictor, Linear):
        return "the weights of an mlp are no unique optimum; it is for linear models, glm(family)"
    if not is_traced(fit.l1) and np.any(np.asarray(fit.l1) != 0):
        return "a fit with l1 is not smooth in its rows, since zeros stay zeros; it is for fits without"
    return ""


def effects_task(fit: Fit, data: Data) -> Task:
    """What `row_effects` takes, checked."""
    return make_task(fit.model, data, fit.params, fit.l2, None, 1, default_tol=1.0)


def codes_of(labels: Any, name: str, n: int) -> np.ndarray:
    """Labels (n,) as 0, 1, 2, ...; raises unless they are labels, and of more than one cluster."""
    array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(f"{name} must be ({n},), one label a row of x, got shape {array.shape}")
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        array = array.astype(str)
    if array.dtype.kind not in "biuUS":
        remedy = "encode them by np.unique(labels, return_inverse=True)[1]"
        raise TypeError(f"{name} must be labels, whole numbers or text, got dtype {array.dtype}; {remedy}")
    found, codes = np.unique(array, return_inverse=True)
    if name == "clusters" and len(found) == 1:
        raise ValueError(f"clusters has one label only, {found[0]}; what clusters vary by takes two or more")
    return codes


@quick_jit
def jackknife_of(task: Task, fit: Fit, clusters: Array | None) -> Jackknife:
    """The jackknife in one program; `clusters` (n,) below n."""
    influence, left = row_effects(task, fit)
    weight = jnp.ones(len(left), left.dtype) if task.data.weight is None else task.data.weight
    moves = weight[:, None] * influence
    if clusters is None:
        square = jnp.sum(moves * influence, axis=0)
    else:
        square = jnp.sum(jax.ops.segment_sum(moves, clusters, len(left)) ** 2, axis=0)
    aliased = False if fit.aliased is None else as_vector(fit.aliased)
    return Jackknife(influence, jnp.where(aliased, jnp.nan, jnp.sqrt(square)), left)


def row_effects(task: Task, fit: Fit) -> tuple[Array, Array]:
    """`influence` and `leave_one_out` of a `Jackknife`.

    All in standardized columns, and there in coordinates in which M is the identity and l2's share of it diagonal:
    T'MT = 1, T' diag(l2) T = diag(shares). What is left of M without a row is then a diagonal less k columns.
    """
    model, data = task.model, clean(task.data)
    family, bias = model.family, model.predictor.bias  # type: ignore[union-attr]
    columns = measure(data, bias, jnp.any(task.l2 > 0))
    theta = to_theta(columns, task.params)
    p, k = theta.shape
    rows, at = data._replace(x=standardize(columns, data.x)[:, bias:]), as_dense(theta.T.reshape(-1), task.params)
    v = row_weight(rows)
    total = jnp.asarray(len(rows.x), theta.dtype) if v is None else jnp.sum(v)

    order = np.arange(p * k).reshape(p, k).T.reshape(-1)  # of theta by classes
    penalty = theta_penalty(task, columns)
    l2, gauge = penalty.diagonal[order], None if penalty.gauge is None else penalty.gauge[:, order]
    kept = jnp.ones(p * k, bool) if fit.aliased is None else ~as_vector(fit.aliased)
    system = Penalty(total * l2, gauge), jnp.zeros((), theta.dtype), kept
    factor = factor_by_cholesky(observed_information(model, at, rows), *system)
    root = jax.scipy.linalg.solve_triangular(factor.upper, jnp.eye(p * k, dtype=theta.dtype))
    root = jnp.where(kept, factor.scale, 0)[:, None] * root
    shares, turn = jnp.linalg.eigh(root.T @ (l2[:, None] * root))
    t = root @ turn
    mean = t.T @ as_vector(jax.grad(loss, argnums=1)(model, at, rows))  # G / S
    pull = t.T @ (l2 * as_vector(at))

    def as_moves(column: Array) -> Array:
        return as_vector(centered(model, to_params(columns, column.reshape(k, p).T, task.params)))

    back = jax.vmap(as_moves)(t.T).T

    def effects(row: Data) -> tuple[Array, Array]:
        u = jnp.concatenate([jnp.ones(1, theta.dtype), row.x]) if bias else row.x
        eta = u @ theta if row.offset is None else u @ theta + row.offset
        eta = eta if family.n_outputs else eta[0]
        g, h = jax.grad(family.nll)(eta, row.y).reshape(k), hessian(family, eta, row.y).reshape(k, k)
        weight, precision = (jnp.ones_like(total) if part is None else part for part in (row.weight, row.precision))
        inert = (weight == 0) & ~(jnp.all(jnp.isfinite(g)) & jnp.all(jnp.isfinite(h)) & jnp.isfinite(precision))
        g, h, precision = (jnp.where(inert, 0, part) for part in (g, h, precision))

        z = jnp.einsum("kpq,p->qk", t.reshape(k, p, p * k), u)  # the columns by which the row enters M
        influence = jnp.where(inert, 0, -precision) * (back @ (z @ g - mean))

        c = precision * jnp.minimum(weight, 1)
        rest = 1 - c * shares
        score = (total * (mean + pull) - c * (z @ g + pull)) / rest
        less = jnp.eye(k, dtype=g.dtype) - c * h @ (z.T @ (z / rest[:, None]))
        step = score + z / rest[:, None] @ jnp.linalg.solve(less, c * h @ (z.T @ score))
        alone = jnp.linalg.det(less) <= 64 * p * jnp.finfo(g.dtype).eps
        return influence, jnp.where(alone, jnp.nan, as_vector(task.params) - back @ step)

    influence, left = jax.lax.map(effects, rows, batch_size=min(len(rows.x), chunk_rows(4 * p * k * k)))
    good = jnp.all(fit.l1 == 0)
    good &= (fit.status == Status.CONVERGED) | (fit.status == Status.RANK_DEFICIENT) | (fit.status == Status.BOUNDARY)
    return jnp.where(good, influence, jnp.nan), jnp.where(good, left, jnp.nan)


def as_vector(params: Dense) -> Array:
    """Parameters as a vector (q,): bias first and then w, class by class."""
    w = as_matrix(params.w)
    return (w if params.b is None else jnp.concatenate([params.b.reshape(1, -1), w])).T.reshape(-1)


def as_dense(flat: Array, like: Dense) -> Dense:
    """A vector (q,) as parameters."""
    theta = flat.reshape(as_matrix(like.w).shape[1], -1).T
    if like.b is None:
        return Dense(theta.reshape(like.w.shape), None)
    return Dense(theta[1:].reshape(like.w.shape), theta[0].reshape(like.b.shape))
