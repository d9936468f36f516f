"""An elastic net to fit: its arguments checked, its terms in standardized columns, its derivative.

    minimize  sum(weight nll) / sum(weight) + sum(l1 |w|) + sum(l2 w^2) / 2,   lower <= w <= upper,  biases free

The runs are those of `proximal`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, as_matrix, measure, to_params, to_theta
from .coordinates import Terms
from .data import Data, clean, row_weight
from .implicit import implicit_tangent
from .inputs import is_traced
from .linear import Task, centered, check_alpha_given, check_penalty, free_shift, make_task
from .losses import objective
from .meshes import check_alike, mesh_of
from .models import Model
from .predictors import Dense
from .programs import quick_jit
from .rows import by_rows, row_sums


class Net(NamedTuple):
    """An elastic net to fit, checked and in x's dtype; `l1` and the bounds are shaped like w."""

    task: Task
    l1: Array
    lower: Array
    upper: Array


def measure_net(net: Net) -> Columns:
    """Standardized columns in which penalties and bounds stay separable: without a bias nothing is centered."""
    return measure(net.task.data, net.task.model.predictor.bias, jnp.asarray(True))  # type: ignore[union-attr]


def per_theta(columns: Columns, w: Array, fill: float) -> Array:
    """A number for each of w as one for each of theta, (p, k); biases have `fill`."""
    w = as_matrix(w)
    bias = columns.constant is None
    return jnp.concatenate([jnp.full((1, w.shape[1]), fill, w.dtype), w]) if bias else w


def theta_terms(net: Net, columns: Columns) -> Terms:
    """Penalties and bounds as they act on theta."""
    unit = columns.scale[:, None]
    shape = (net.l1.shape[0], net.task.model.family.n_outputs or 1)
    l1, l2 = net.l1.reshape(shape) / unit, net.task.l2.reshape(shape) / unit**2
    lower, upper = net.lower.reshape(shape) * unit, net.upper.reshape(shape) * unit
    parts = (per_theta(columns, *part) for part in ((l1, 0), (l2, 0), (lower, -jnp.inf), (upper, jnp.inf)))
    return Terms(*(part.reshape(-1) for part in parts))


@by_rows
def deviations(data: Data) -> Array:
    """Weighted standard deviations of the columns of x, (d,), dividing by the sum of weights; 1 for a constant one."""
    data = clean(data)
    count, total = row_sums(weighted_totals, data)
    mean = total / jnp.where(count > 0, count, 1)
    return deviations_of(count, mean, row_sums(lambda rows: weighted_squares(rows, mean), data))


def weighted_totals(rows: Data) -> tuple[Array, Array]:
    """The sum of weights, and that of weight * x, (d,)."""
    weight = _weights(rows)
    return jnp.sum(weight), weight @ rows.x


def weighted_squares(rows: Data, mean: Array) -> Array:
    """The sum of weight * (x - mean)^2, (d,)."""
    return _weights(rows) @ (rows.x - mean[None]) ** 2


def deviations_of(count: Array, mean: Array, squares: Array) -> Array:
    """What the sums over all rows make of the deviations."""
    square = squares / jnp.where(count > 0, count, 1)
    flat = square <= (8 * jnp.finfo(mean.dtype).eps * mean) ** 2
    return jnp.where(flat, 1, jnp.sqrt(jnp.where(flat, 1, square)))


def _weights(rows: Data) -> Array:
    weight = row_weight(rows)
    return jnp.ones(rows.x.shape[:1], rows.x.dtype) if weight is None else weight


def standardized(net: Net, spread: Array) -> Net:
    """The net whose penalties act on columns scaled to deviations of 1; `spread` (d,) are what they are."""
    spread = spread.reshape(-1, *[1] * (net.l1.ndim - 1))
    return net._replace(l1=net.l1 * spread, task=net.task._replace(l2=net.task.l2 * spread**2))


def _bound(value: Any, name: str, like: Array, fill: float) -> Array:
    """A bound broadcast to w; raises for other shapes and for NaN."""
    if value is None:
        return jnp.full(like.shape, fill, like.dtype)
    try:
        fits = np.broadcast_shapes(np.shape(value), like.shape) == like.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be one number or broadcast to the shape {like.shape} of w, got {np.shape(value)}"
        )
    if not is_traced(value) and np.any(np.isnan(value) | (np.asarray(value) == -fill)):
        raise ValueError(f"{name} must be numbers, {fill} for no bound, got {value}")
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def make_net(
    model: Model,
    data: Data,
    params: Dense | None,
    l1: Any,
    l2: Any,
    standardize: bool,
    lower: Any,
    upper: Any,
    tol: Any,
    max_steps: Any,
    default_tol: float,
) -> Net:
    """Check what an elastic net is given, and bring it to x's dtype; raises as `fit_elastic_net` says."""
    task = make_task(model, data, params, l2, tol, max_steps, default_tol)
    check_alpha_given(model)
    check_penalty(l1, "l1", task.l2.shape)
    low, high = _bound(lower, "lower", task.l2, -np.inf), _bound(upper, "upper", task.l2, np.inf)
    if not is_traced(low, high) and np.any(np.asarray(low > high)):
        index = tuple(int(i) for i in np.argwhere(np.asarray(low > high))[0])
        place = ", ".join(map(str, index))
        raise ValueError(f"lower[{place}] = {low[index]} is above upper[{place}] = {high[index]}; swap or widen them")
    check_alike(mesh_of(data), l1=l1, standardize=standardize, lower=lower, upper=upper)
    sparse = jnp.broadcast_to(jnp.asarray(l1, task.l2.dtype), task.l2.shape)
    net = Net(task, sparse, low, high)
    return standardized(net, deviations(task.data)) if standardize else net


@by_rows
@quick_jit
def net_tangent(net: Net, params: Dense, moves: tuple) -> tuple[Dense, Array, Array]:
    """Tangents of the parameters, the loss and the deviance, for those of model, data, l1, l2, lower and upper."""
    columns = jax.lax.stop_gradient(measure_net(net))
    like, theta = jax.tree.map(jnp.zeros_like, params), to_theta(columns, params)
    sign = jnp.sign(params.w)

    def f(flat: Array, model: Model, data: Data, l1: Array, l2: Array, shift: Array) -> tuple[Array, Array]:
        at = to_params(columns, (flat + shift).reshape(theta.shape), like)
        loss, sums = objective(model, at, clean(data), l2)
        return loss + jnp.sum(l1 * sign * at.w), sums.deviance

    # Coefficients at a bound move with it, and push the others: `shift` is their tangent.
    *others, lower, upper = moves
    at_lower, at_upper = params.w == net.lower, params.w == net.upper
    held = jnp.where(at_lower, lower, 0) + jnp.where(at_upper & ~at_lower, upper, 0)
    width = per_theta(columns, jnp.broadcast_to(columns.scale, params.w.T.shape).T, 1)
    held = (per_theta(columns, held, 0) * width).reshape(-1)
    free = ~(at_lower | at_upper) & ((params.w != 0) | (net.l1 == 0))
    free = per_theta(columns, free, True)

    task = net.task
    inputs = (task.model, task.data, net.l1, task.l2, jnp.zeros_like(held))
    gauge = None
    if free_shift(task.model):
        # Rows of theta along which the objective stays the same when a constant is added to all classes.
        pull, ridge = (per_theta(columns, part, 0) for part in (net.l1 * sign, task.l2))
        flat_rows = jnp.all(free & (ridge == 0), axis=1) & (jnp.abs(jnp.sum(pull, axis=1)) <= 1e-12)
        k = theta.shape[1]
        rows = jnp.kron(jnp.eye(len(theta)), jnp.ones((1, k)) / np.sqrt(k)).astype(theta.dtype)
        gauge = jnp.where(flat_rows[:, None], rows, 0)
    flat = theta.reshape(-1)
    tangent = implicit_tangent(lambda *at: f(*at)[0], flat, inputs, (*others, held), free.reshape(-1), gauge)
    _, (loss, deviance) = jax.jvp(f, (flat, *inputs), (tangent, *others, held))
    return centered(task.model, to_params(columns, (tangent + held).reshape(theta.shape), like)), loss, deviance
