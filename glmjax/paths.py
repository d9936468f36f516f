"""Elastic-net paths and their cross-validation: penalties one after another, each fit started at the last one's end."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data
from .inputs import check_count, check_number, is_traced, read_array
from .linear import as_leaf, check_penalty, empty_params
from .losses import deviance, loss
from .models import Model, check_problem
from .programs import quick_jit
from .proximal import deviations, fit_elastic_net
from .results import Fit

Metric = Callable[[Model, Any, Data], Array]


class Path(NamedTuple):
    """Fits along `penalty` (m,), the largest first; every field of `fit` has the penalties first."""

    penalty: Array
    fit: Fit


class CrossValidation(NamedTuple):
    """What held-out rows say of each penalty.

    `penalty` (m,), the largest first. `scores` (folds, m): the metric of each fold's rows by the fit to all others;
    `mean` and `std_error` (m,) over the folds, weighted by their rows. `best` and `one_se`, (): the places of the
    penalty with the lowest mean, and of the largest one whose mean is within one standard error of that. `fit` is the
    path fitted to all rows, (m, ...), and `fold_fits` those to all but a fold's, (folds, m, ...): each has a status.
    """

    penalty: Array
    scores: Array
    mean: Array
    std_error: Array
    best: Array
    one_se: Array
    fit: Fit
    fold_fits: Fit


class Course(NamedTuple):
    """What is the same along a path: l1 = penalty * l1_ratio * factor, l2 = penalty * (1 - l1_ratio) * factor."""

    l1_ratio: Array
    factor: Array
    lower: Any
    upper: Any
    tol: Any
    max_steps: Any


def penalties_of(course: Course, penalty: Array) -> tuple[Array, Array]:
    """l1 and l2 of a penalty, shaped like w."""
    return penalty * course.l1_ratio * course.factor, penalty * (1 - course.l1_ratio) * course.factor


@partial(quick_jit, static_argnums=4)
def run_path(model: Model, data: Data, course: Course, penalty: Array, standardize: bool) -> Fit:
    """The fits at each of `penalty` (m,), every one started where the last finite one ended."""

    def step(start: Any, penalty: Array) -> tuple[Any, Fit]:
        l1, l2 = penalties_of(course, penalty)
        fit = fit_elastic_net(
            model, data, l1=l1, l2=l2, params=start, standardize=standardize, lower=course.lower, upper=course.upper,
            tol=course.tol, max_steps=course.max_steps,
        )  # fmt: skip
        finite = jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(fit.params)]))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), fit.params, start), fit

    start = null_params(model, data, course)
    return jax.lax.scan(step, start, penalty)[1]


def null_params(model: Model, data: Data, course: Course) -> Any:
    """Parameters of the fit without the penalized columns."""
    penalized = course.factor > 0
    low, high = (-jnp.inf, jnp.inf)
    lower, upper = (low if course.lower is None else course.lower), (high if course.upper is None else course.upper)
    return fit_elastic_net(
        model, data, l1=0.0, lower=jnp.where(penalized, 0, lower), upper=jnp.where(penalized, 0, upper)
    ).params  # fmt: skip


@partial(quick_jit, static_argnums=3)
def largest_penalty(model: Model, data: Data, course: Course, standardize: bool) -> Array:
    """The least penalty at which no penalized coefficient leaves 0, (): max_j |x_j'u| / (sum(weight) l1_ratio factor_j)
    with u the residual of the fit without them. An `l1_ratio` below 0.001 counts as that: ridge has no such penalty.
    """
    slope = jax.grad(loss, argnums=1)(model, null_params(model, data, course), data).w
    unit = deviations(data).reshape(-1, *[1] * (slope.ndim - 1)) if standardize else 1
    weight = jnp.maximum(course.l1_ratio, 1e-3) * course.factor * unit
    return jnp.max(jnp.where(course.factor > 0, jnp.abs(slope) / jnp.where(weight > 0, weight, 1), 0), initial=0)


def fit_path(
    model: Model,
    data: Data,
    *,
    penalties: Array | None = None,
    n_penalties: int = 100,
    smallest: float | None = None,
    l1_ratio: float | Array = 1.0,
    factor: float | Array = 1.0,
    standardize: bool = False,
    lower: float | Array | None = None,
    upper: float | Array | None = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Path:
    """Fit an elastic net at each of a sequence of penalties, from the largest, which leaves no column, down.

    At `penalty` the fit is `fit_elastic_net` with `l1 = penalty * l1_ratio * factor` and
    `l2 = penalty * (1 - l1_ratio) * factor`, started where the last one ended: glmnet's lambda, alpha and
    penalty.factor (which glmnet rescales to a mean of 1). Pure: `jax.vmap` it over y, weight, offset, factors.

    Args:
        model: from `glm`.
        data: from `make_data`.
        penalties: (m,), 0 or more, falling; None for `n_penalties` evenly spaced in the logarithm from the least one
            that leaves no penalized column, max_j |x_j'u| / (sum(weight) l1_ratio factor_j), u the residual of the fit
            without them, to `smallest` times that.
        n_penalties: how many.
        smallest: above 0, below 1; None is 1e-4, or 1e-2 where there are more columns than rows, as glmnet.
        l1_ratio: share of the lasso, 0 to 1; 0 is ridge, whose first penalty is that of an `l1_ratio` of 0.001.
        factor: each coefficient's own share of the penalty, 0 or more, one number or broadcast to w; 0 is unpenalized.
        standardize, lower, upper, tol, max_steps: as in `fit_elastic_net`.

    Returns:
        `Path`; every lane of its `fit` has its own status.

    Raises:
        ValueError: penalties that are not a falling sequence, an `l1_ratio` outside of 0 to 1, `smallest` outside of 0
            to 1; what `fit_elastic_net` raises.

    Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via
    coordinate descent, Journal of Statistical Software 33.
    """
    course = make_course(model, data, l1_ratio, factor, lower, upper, tol, max_steps)
    penalty = make_penalties(model, data, course, penalties, n_penalties, smallest, standardize)
    fit = run_path(model, data, course, penalty, standardize)
    l1, l2 = jax.vmap(lambda penalty: penalties_of(course, penalty))(penalty)
    return Path(penalty, fit._replace(l1=l1, l2=l2))


def make_course(
    model: Model, data: Data, l1_ratio: Any, factor: Any, lower: Any, upper: Any, tol: Any, max_steps: Any
) -> Course:
    """What a path is fitted with, checked and in x's dtype; raises as `fit_path` says."""
    check_problem(model, data)
    dtype = data.x.dtype
    check_number(l1_ratio, "l1_ratio", at_least=0)
    if not is_traced(l1_ratio) and l1_ratio > 1:
        raise ValueError(f"l1_ratio must be 0 to 1, got {l1_ratio}; it is the share of the lasso, glmnet's alpha")
    outputs = () if model.family.n_outputs is None else (model.family.n_outputs,)
    shape = (data.x.shape[1], *outputs)
    check_penalty(factor, "factor", shape)
    if tol is not None:
        check_number(tol, "tol", above=0)
        tol = as_leaf(tol, dtype)
    bounds = (None if bound is None else as_leaf(bound, dtype, np.shape(bound)) for bound in (lower, upper))
    return Course(as_leaf(l1_ratio, dtype), as_leaf(factor, dtype, shape), *bounds, tol, as_leaf(max_steps, jnp.int32))


def make_penalties(
    model: Model, data: Data, course: Course, penalties: Any, n_penalties: int, smallest: Any, standardize: bool
) -> Array:
    """The penalties given, checked, or those that suit the data, (m,)."""
    dtype = data.x.dtype
    if penalties is not None:
        if np.ndim(penalties) != 1 or np.shape(penalties)[0] == 0:
            raise ValueError(f"penalties must be (m,), one or more numbers, got shape {np.shape(penalties)}")
        check_penalty(penalties, "penalties", np.shape(penalties))
        if not is_traced(penalties) and np.any(np.diff(np.asarray(penalties)) > 0):
            raise ValueError("penalties must fall from the largest, so that each fit starts near its end; sort them")
        return as_leaf(penalties, dtype, np.shape(penalties))
    n, d = data.x.shape
    check_count(n_penalties, "n_penalties")
    smallest = (1e-2 if n < d else 1e-4) if smallest is None else smallest
    check_number(smallest, "smallest", above=0)
    if not is_traced(smallest) and smallest >= 1:
        raise ValueError(f"smallest must be below 1, got {smallest}; it is a share of the largest penalty")
    largest = largest_penalty(model, data, course, standardize)
    exponent = jnp.linspace(0, 1, n_penalties, dtype=dtype) if n_penalties > 1 else jnp.zeros(1, dtype)
    return largest * jnp.asarray(smallest, dtype) ** exponent


def mean_deviance(model: Model, params: Any, data: Data) -> Array:
    """The deviance of a row that counts once, (): `deviance / sum(weight)`."""
    total = data.x.shape[0] if data.weight is None else jnp.sum(data.weight)
    return deviance(model, params, data) / total


def cross_validate(
    model: Model,
    data: Data,
    key: Array | None,
    *,
    folds: int | Array = 10,
    metric: Metric = mean_deviance,
    penalties: Array | None = None,
    n_penalties: int = 100,
    smallest: float | None = None,
    l1_ratio: float | Array = 1.0,
    factor: float | Array = 1.0,
    standardize: bool = False,
    lower: float | Array | None = None,
    upper: float | Array | None = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> CrossValidation:
    """Score each penalty of a path on rows that were held out, every fold and the fit to all rows in one program.

    Folds are weights of 0 and 1, so that all share one x. The score of a penalty is the mean m over folds, weighted by
    their sums of weights w; its standard error is sqrt(sum(w_k (m_k - m)^2) / sum(w_k) / (folds - 1)), as glmnet's.

        chosen = jax.tree.map(lambda leaf: leaf[cv.one_se], cv.fit.params)

    Args:
        model, data: as in `fit_path`.
        key: a JAX random key, to deal the rows into folds; None where `folds` says.
        folds: how many, 2 to n; or (n,), the fold of each row, 0 to K - 1.
        metric: `metric(model, params, data)`, the lower the better, of data whose weights are 0 outside of the fold;
            the mean deviance by default.
        Others as in `fit_path`; the penalties are those that suit all rows.

    Returns:
        `CrossValidation`. A fit that failed has a status in `fold_fits`; where its score is NaN, so is the mean, and
        that penalty is not chosen.

    Raises:
        ValueError: more folds than rows, or fewer than 2; folds that leave an empty fold, or one class to fit to;
            what `fit_path` raises.

    Reference: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, section 7.10.
    """
    course = make_course(model, data, l1_ratio, factor, lower, upper, tol, max_steps)
    fold, count = make_folds(model, data, key, folds)
    penalty = make_penalties(model, data, course, penalties, n_penalties, smallest, standardize)
    fits, scores, held = run_folds(model, data, course, penalty, fold, count, standardize, metric)
    mean = held @ scores / jnp.sum(held)
    error = jnp.sqrt(held @ (scores - mean[None]) ** 2 / jnp.sum(held) / (count - 1))
    best = jnp.argmin(jnp.where(jnp.isnan(mean), jnp.inf, mean))
    one_se = jnp.argmax(mean <= mean[best] + error[best])  # the first, and penalties fall
    l1, l2 = jax.vmap(lambda penalty: penalties_of(course, penalty))(penalty)
    whole, others = (jax.tree.map(lambda leaf: leaf[part], fits) for part in (0, slice(1, None)))
    whole = whole._replace(l1=l1, l2=l2)
    others = others._replace(l1=jnp.broadcast_to(l1, (count, *l1.shape)), l2=jnp.broadcast_to(l2, (count, *l2.shape)))
    return CrossValidation(penalty, scores, mean, error, best, one_se, whole, others)


@partial(quick_jit, static_argnums=(5, 6, 7))
def run_folds(
    model: Model, data: Data, course: Course, penalty: Array, fold: Array, count: int, standardize: bool, metric: Metric
) -> tuple[Fit, Array, Array]:
    """Paths on all rows and on those outside of each fold, (1 + count, m, ...); scores (count, m); weights of folds."""
    weight = jnp.ones(data.x.shape[0], data.x.dtype) if data.weight is None else data.weight
    inside = (fold[None] == jnp.arange(count)[:, None]).astype(weight.dtype) * weight[None]
    used = weight[None] - jnp.concatenate([jnp.zeros_like(weight)[None], inside])
    fits = jax.vmap(lambda used: run_path(model, data._replace(weight=used), course, penalty, standardize))(used)
    others = jax.tree.map(lambda leaf: leaf[1:], fits)

    def score(model: Model, params: Any, inside: Array) -> Array:
        return metric(model, params, data._replace(weight=inside))

    scores = jax.vmap(jax.vmap(score, (0, 0, None)))(others.model, others.params, inside)
    return fits, scores, jnp.sum(inside, axis=1)


def make_folds(model: Model, data: Data, key: Array | None, folds: Any) -> tuple[Array, int]:
    """The fold of each row, (n,), and how many there are; raises as `cross_validate` says."""
    n = data.x.shape[0]
    if np.ndim(folds) == 0:
        count = check_count(folds, "folds", 2)
        if count > n:
            raise ValueError(f"folds = {count} is more than the {n} rows; use at most {n}")
        if key is None:
            raise TypeError("key must be a JAX random key, such as jax.random.key(0), where rows are dealt into folds")
        fold = jax.random.permutation(key, jnp.arange(n) % count)
    else:
        given, _ = read_array(folds, "folds")
        if given.shape != (n,) or given.dtype.kind not in "iu":
            raise ValueError(f"folds must be a number, or ({n},) whole numbers; got {given.dtype} of {given.shape}")
        count = int(given.max()) + 1
        if given.min() < 0 or count < 2:
            raise ValueError(f"folds must be labels 0 to K - 1 of 2 folds or more, got {given.min()} to {given.max()}")
        fold = jnp.asarray(given)
    if not is_traced(fold, data.y, data.weight):
        check_folds(model, data, np.asarray(fold), count)
    return fold, count


def check_folds(model: Model, data: Data, fold: np.ndarray, count: int) -> None:
    """Raise where a fold has no rows that count, or leaves one class to fit to."""
    counted = np.ones(len(fold), bool) if data.weight is None else np.asarray(data.weight) > 0
    y = np.asarray(data.y)
    for k in range(count):
        if not np.any(counted & (fold == k)):
            raise ValueError(f"fold {k} has no rows of positive weight; use fewer folds, or label them 0 to K - 1")
        rest = y[counted & (fold != k)]
        if not len(rest):
            raise ValueError(f"fold {k} has all rows of positive weight; nothing is left to fit to")
        classes = model.family.n_classes or (2 if model.family.name == "bernoulli" else None)
        if classes and y.ndim == 1 and np.all(rest == rest[0]):
            raise ValueError(f"without fold {k} all targets are {rest[0]:g}; deal the rows so that no fold has a class "
                             "to itself, such as sklearn.model_selection.StratifiedKFold")  # fmt: skip
