"""What the solvers of linear models share: their arguments checked, their verdicts, the `Fit` they return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, marked, measure, to_params, to_theta
from .data import Data, clean, valid_rows
from .factors import Penalty
from .implicit import implicit_tangent
from .inputs import check_count, check_number, is_traced
from .losses import objective, targets_supported, with_dispersion
from .meshes import check_alike, mesh_of
from .models import Model, check_params, check_problem, in_dtype
from .predictors import Dense, Linear
from .programs import quick_jit
from .results import Fit, Status
from .rows import by_rows


class Task(NamedTuple):
    """A model to fit, checked and in x's dtype; `l2` is shaped like a linear model's w, () for an MLP."""

    model: Model
    data: Data
    params: Any
    l2: Array
    tol: Array
    max_steps: Array


class Solution(NamedTuple):
    """What a solver found in one lane; None where it does not look."""

    params: Any
    loss: Array
    deviance: Array
    optimality: Array
    steps: Array
    passes: Array
    status: Array
    rcond: Array | None = None
    aliased: Any = None
    infinite: Any = None


def as_fit(model: Model, data: Data, solution: Solution, l1: Any, l2: Any) -> Fit:
    """The solution as what a `fit_*` returns; `model` with its dispersion at the estimate."""
    return Fit(
        model=with_dispersion(model, data, solution.deviance),
        params=solution.params,
        loss=solution.loss,
        optimality=solution.optimality,
        steps=solution.steps,
        passes=solution.passes,
        status=solution.status,
        rcond=solution.rcond,
        aliased=solution.aliased,
        infinite=solution.infinite,
        l1=as_leaf(l1, data.x.dtype, np.shape(l1)),
        l2=as_leaf(l2, data.x.dtype, np.shape(l2)),
        history=None,
    )


def check_alpha_given(model: Model) -> None:
    """Raise if the family's alpha is to be estimated, which only `fit_newton` does."""
    if model.family.estimates_alpha:
        raise ValueError(
            f"this solver does not estimate alpha; use fit_newton, or give it: {model.family.name}(alpha), such as "
            "fit_newton(...).model.family.alpha"
        )


def check_penalty(value: Any, name: str, shape: tuple[int, ...]) -> None:
    """Raise unless `value` is numbers, 0 or more, that broadcast to the weights' shape."""
    if np.ndim(value) == 0:
        check_number(value, name, at_least=0)
        return
    try:
        fits = np.broadcast_shapes(np.shape(value), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be one number or broadcast to the shape {shape} of w, got {np.shape(value)}")
    if not is_traced(value):
        array = np.asarray(value)
        bad = ~((array >= 0) & np.isfinite(array))
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name}[{', '.join(map(str, index))}] = {array[index]}; it must be finite, 0 or more")


def as_leaf(value: Any, dtype: Any, shape: tuple[int, ...] = ()) -> Array:
    """Numbers in a dtype, broadcast; where they are known by NumPy, so that nothing is compiled for them."""
    if is_traced(value):
        return jnp.broadcast_to(jnp.asarray(value, dtype), shape)
    return jax.device_put(np.broadcast_to(np.asarray(value, dtype), shape))


def make_task(model: Model, data: Data, params: Any, l2: Any, tol: Any, max_steps: Any, default_tol: float) -> Task:
    """Check what a solver of linear models is given; raises as `fit_newton` says."""
    check_problem(model, data)
    if not isinstance(model.predictor, Linear):
        raise ValueError("this solver is for linear models, glm(family); for an mlp use fit_lbfgs or fit_sgd")
    d = data.x.shape[1]
    if d == 0 and not model.predictor.bias:
        raise ValueError("nothing to fit: x has no columns and the model no bias; give columns, or bias=True")
    outputs = () if model.family.n_outputs is None else (model.family.n_outputs,)
    return as_task(model, data, params, l2, (d, *outputs), tol, max_steps, default_tol)


def as_task(
    model: Model, data: Data, params: Any, l2: Any, shape: tuple[int, ...], tol: Any, max_steps: Any, default_tol: float
) -> Task:
    """Check the numbers, and bring all to x's dtype and l2 to `shape`; `default_tol` is in units of eps."""
    dtype = data.x.dtype
    check_penalty(l2, "l2", shape)
    if tol is not None:
        check_number(tol, "tol", above=0)
    if not is_traced(max_steps):
        max_steps = check_count(max_steps, "max_steps")
    if params is not None:
        check_params(model, params, data.x.shape[1])
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    check_alike(mesh_of(data), model=model, params=params, l2=l2, tol=tol, max_steps=max_steps)
    tol = default_tol * float(jnp.finfo(dtype).eps) if tol is None else tol
    return Task(
        model=in_dtype(model, dtype),
        data=jax.tree.map(lambda part: jnp.asarray(part).astype(dtype), data),
        params=params,
        l2=as_leaf(l2, dtype, shape),
        tol=as_leaf(tol, dtype),
        max_steps=as_leaf(max_steps, jnp.int32),
    )


def empty_params(model: Model, d: int, dtype: Any) -> Dense:
    """Parameters of zeros."""
    return model.predictor.init(None, d, model.family.n_outputs, None, dtype)  # type: ignore[return-value]


def entry_status(task: Task, running: int) -> Array:
    """`running`, or INVALID_TARGET or INVALID_INPUT where a traced number is out of range."""
    numbers = jnp.all((task.l2 >= 0) & jnp.isfinite(task.l2)) & (task.tol > 0) & (task.max_steps >= 1)
    numbers &= valid_rows(task.data)
    status = jnp.where(targets_supported(task.model, task.data), running, Status.INVALID_TARGET)
    return jnp.where(numbers, status, Status.INVALID_INPUT).astype(jnp.int32)


def theta_penalty(task: Task, columns: Columns) -> Penalty:
    """The ridge penalty as it acts on theta, and what K logits need: sums over the classes stay as they are."""
    d, bias = task.data.x.shape[1], columns.constant is None
    k = task.model.family.n_outputs or 1
    diagonal = task.l2.reshape(d, k) / columns.scale[:, None] ** 2
    if bias:
        diagonal = jnp.concatenate([jnp.zeros((1, k), diagonal.dtype), diagonal])
    p = d + bias
    if not free_shift(task.model):
        return Penalty(diagonal.reshape(-1), None)
    gauge = jnp.kron(jnp.eye(p), jnp.ones((1, k)) / np.sqrt(k)).astype(diagonal.dtype)
    # A penalty holds the sum over the classes itself, and with one for each class not at 0.
    gauge = jnp.where(jnp.any(diagonal > 0, axis=1)[:, None], 0, gauge)
    return Penalty(diagonal.reshape(-1), gauge)


def free_shift(model: Model) -> bool:
    """Whether a constant added to all outputs changes nothing: K logits."""
    return model.family.n_classes is not None and model.family.reference is None


def centered(model: Model, params: Dense) -> Dense:
    """The parameters, or their tangent, with biases of K logits that sum to 0."""
    if params.b is None or not free_shift(model):
        return params
    return params._replace(b=params.b - jnp.mean(params.b))


@by_rows
@quick_jit
def optimum_tangent(
    task: Task, solution: Solution, free: Array, moves: tuple[Model, Data, Array]
) -> tuple[Dense, Array, Array]:
    """Tangents of an optimum's parameters, loss and deviance, for those of the model, the data and l2.

    Coefficients of theta, flat, that are not `free` stay where they are.
    """
    bias = task.model.predictor.bias  # type: ignore[union-attr]
    columns = jax.lax.stop_gradient(measure(task.data, bias, jnp.any(task.l2 > 0)))
    like = jax.tree.map(jnp.zeros_like, solution.params)
    theta = to_theta(columns, solution.params)

    def f(flat: Array, model: Model, data: Data, l2: Array) -> tuple[Array, Array]:
        loss, sums = objective(model, to_params(columns, flat.reshape(theta.shape), like), clean(data), l2)
        return loss, sums.deviance

    flat, inputs = theta.reshape(-1), (task.model, task.data, task.l2)
    gauge = theta_penalty(task, columns).gauge
    tangent = implicit_tangent(lambda *at: f(*at)[0], flat, inputs, moves, free, gauge)
    _, (loss, deviance) = jax.jvp(f, (flat, *inputs), (tangent, *moves))
    return centered(task.model, to_params(columns, tangent.reshape(theta.shape), like)), loss, deviance


def endless(task: Task, columns: Columns, r: Array, kept: Array, penalty: Penalty) -> Dense:
    """Which parameters go to infinity when the rows that a direction still moves are separated; r is the
    `resting_factor` of the others.

    They are those with a component in the null space of the rows at rest: it is the span of all directions along which
    no loss rises, since near one that moves every separated row the others only have to leave the rest alone.
    """
    p, k = r.shape[0], task.model.family.n_outputs or 1
    fixed = jnp.where(kept & (penalty.diagonal == 0), 0, 1).astype(r.dtype)
    rows = [jnp.where(fixed[None] > 0, 0, r), jnp.diag(fixed * jnp.maximum(jnp.linalg.norm(r), 1))]
    if penalty.gauge is not None:
        rows.append(penalty.gauge * jnp.maximum(jnp.linalg.norm(r), 1))
    _, sizes, directions = jnp.linalg.svd(jnp.concatenate(rows), full_matrices=False)
    free = sizes <= jnp.sqrt(jnp.finfo(r.dtype).eps) * jnp.maximum(jnp.max(sizes), 1)
    null = jnp.where(free[:, None], directions, 0).reshape(p, p // k, k)
    like = empty_params(task.model, task.data.x.shape[1], r.dtype)
    components = jax.vmap(lambda v: to_params(columns, v, like))(null)
    size = jax.tree.map(lambda leaf: jnp.sqrt(jnp.sum(leaf**2, axis=0)), components)
    unit = (1 / jnp.abs(columns.scale)).reshape(-1, *[1] * (size.w.ndim - 1))
    marks = Dense(size.w > 1e-6 * unit, None)
    if size.b is not None:
        marks = marks._replace(b=size.b > 1e-6 * (1 + jnp.sum(jnp.abs(columns.center / columns.scale))))
    return marks


def as_marks(task: Task, columns: Columns, flat: Array) -> Dense:
    """Booleans about flat theta as booleans shaped like the parameters."""
    k = task.model.family.n_outputs or 1
    like = empty_params(task.model, task.data.x.shape[1], columns.center.dtype)
    return marked(columns, flat.reshape(-1, k), like)
