"""Cross-validation of elastic-net paths: folds as weights, all of them and the fit to all rows as one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data
from .inputs import check_count, is_traced, read_array
from .losses import deviance
from .models import Model, check_problem
from .paths import Mixture, make_mixture, make_penalties, path_fit
from .programs import quick_jit
from .results import Fit

Metric = Callable[[Model, Any, Data], Array]


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
            the mean deviance by default. A function that is made anew for each call is compiled anew.
        Others as in `fit_path`; the penalties are those that suit all rows.

    Returns:
        `CrossValidation`. A fit that failed has a status in `fold_fits`; where its score is NaN, so is the mean, and
        that penalty is not chosen.

    Raises:
        ValueError: more folds than rows, or fewer than 2; folds that leave an empty fold, or one class to fit to;
            what `fit_path` raises.

    Reference: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, section 7.10.
    """
    check_problem(model, data)
    mixture = make_mixture(model, data, l1_ratio, factor, standardize, lower, upper, tol, max_steps)
    fold, count = make_folds(model, data, key, folds)
    penalty = make_penalties(model, data, mixture, penalties, n_penalties, smallest)
    return run_folds(model, data, mixture, penalty, fold, count, standardize, metric)


@partial(quick_jit, static_argnums=(5, 6, 7))
def run_folds(
    model: Model,
    data: Data,
    mixture: Mixture,
    penalty: Array,
    fold: Array,
    count: int,
    standardize: bool,
    metric: Metric,
) -> CrossValidation:
    """Paths on all rows and on those outside of each fold, and what the rows inside say."""
    mixture = mixture._replace(standardize=standardize)
    weight = jnp.ones(data.x.shape[0], data.x.dtype) if data.weight is None else data.weight.astype(data.x.dtype)
    inside = jnp.where(fold[None] == jnp.arange(count)[:, None], weight[None], 0)
    used = jnp.concatenate([weight[None], weight[None] - inside])

    def path(used: Array) -> Fit:
        return path_fit(mixture.net(model, data._replace(weight=used)), penalty, *mixture.penalties(1))

    fits = jax.vmap(path)(used)
    whole, others = jax.tree.map(lambda leaf: leaf[0], fits), jax.tree.map(lambda leaf: leaf[1:], fits)

    def score(fitted: Model, params: Any, inside: Array) -> Array:
        return metric(fitted, params, data._replace(weight=inside))

    scores = jax.vmap(jax.vmap(score, (0, 0, None)))(others.model, others.params, inside)
    held = jnp.sum(inside, axis=1)
    mean = held @ scores / jnp.sum(held)
    error = jnp.sqrt(held @ (scores - mean[None]) ** 2 / jnp.sum(held) / (count - 1))
    best = jnp.argmin(jnp.where(jnp.isnan(mean), jnp.inf, mean))
    one_se = jnp.argmax(mean <= mean[best] + error[best])  # the first, and penalties fall
    return CrossValidation(penalty, scores, mean, error, best, one_se, whole, others)


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
