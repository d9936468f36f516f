"""The bootstrap and its intervals. A resample is weights on the rows, never rows, so that all share x."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .auto import fit
from .data import Data
from .influence import as_dense, codes_of, effects_task, no_influence, row_effects
from .inputs import check_count, check_key, check_number, is_traced
from .linear import Task, as_leaf
from .models import Model, check_problem, in_dtype
from .predictors import Dense, Linear
from .programs import quick_jit
from .results import Fit, Status

LANES = 512  # resamples that are fitted together: beyond, nothing gets faster, and slow ones hold up more
NUMBERS = 1 << 25  # what they may hold together


class Bootstrap(NamedTuple):
    """Refits of resampled rows: `fit`, to the rows as they are; `params`, with the replicates first, and `status`.

    None is dropped. Coefficients of a SEPARATED replicate that go to infinity are infinite, with the sign that they had
    when the refit ended; in one that lacks a class only the bias has a sign to tell, and `strata=y` draws none such.
    Aliased coefficients are NaN, and so are all of a replicate that failed: MAX_STEPS, NONFINITE, INVALID_TARGET,
    INVALID_INPUT. `acceleration`, shaped like the parameters, is BCa's; None where rows have no influence values.
    """

    fit: Fit
    params: Any
    status: Array
    acceleration: Any


class Resample(NamedTuple):
    """How units, rows or clusters of them, are drawn. `owner`, `first`, `size` (draws,): `owner` names the unit of each
    copy, and draw j takes one of the `size[j]` copies from `first[j]` on, those of its stratum. `unit`, `stratum`,
    `weight` (n,): the unit of each row, the stratum of each unit, and how much a row counts each time that it is drawn.
    """

    owner: Array
    first: Array
    size: Array
    unit: Array
    stratum: Array
    weight: Array


def bootstrap(
    model: Model,
    data: Data,
    key: Array,
    *,
    replicates: int = 2000,
    solver: Callable[..., Fit] = fit,
    l2: float | Array = 0.0,
    strata: Any = None,
    clusters: Any = None,
) -> Bootstrap:
    """Refit to `replicates` resamples of the rows, as one compiled program.

    A resample draws sum(weight) rows, row i with probability weight_i / sum(weight) each time, and is multinomial
    weights: lanes of a `vmap` of the solver share x, a batch of them at a time. Replicate r depends on the key and on
    r alone. Refits start from the fit to all rows if that is a good one. The next steps are `percentile_interval` and
    `bca_interval`; `jax.numpy.bincount(boot.status)` counts how the refits ended.

    It may be transformed as long as `data.weight`, `strata` and `clusters` are known: how many rows are drawn is a
    shape. Inside of a transformation refits start from scratch.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`; weights are copies, so whole numbers, unless there are `clusters`.
        key: a JAX random key.
        replicates: resamples; 2,000 are few for BCa.
        solver: is called as `solver(model, data, l2=l2)` and then with `params` to start from: `fit`, `fit_newton`,
            `fit_lbfgs`, or `functools.partial` of a solver with its options. A function that is made anew for each
            call is compiled anew. BCa takes one without `l1` or bounds.
        l2: as the solver takes it.
        strata: labels (n,), whole numbers or text: as many rows are drawn from each as it has.
        clusters: labels (n,): clusters are drawn, as many as there are, with all of their rows.

    Returns:
        `Bootstrap`.

    Raises:
        ValueError: `strata` and `clusters` both, labels of another length, one cluster, weights that are not whole,
            `replicates` below 1; what the solver raises.
        TypeError: no key, labels that are not whole numbers or text, traced weights or labels.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993); Davison and Hinkley (1997).
    """
    check_problem(model, data)
    if key is None:
        raise TypeError("key must be a JAX random key, such as jax.random.key(0), got None")
    check_key(key)
    replicates = check_count(replicates, "replicates")
    if not callable(solver):
        raise TypeError(f"solver must be a function such as gj.fit_newton, got {solver!r}")
    resample = make_resample(data, strata, clusters)
    whole = solver(model, data, l2=l2)
    good = not is_traced(whole.status) and Status(int(whole.status)).usable
    q = sum(leaf.size for leaf in jax.tree.leaves(whole.params))
    system = q * min(q, 1000 if isinstance(model.predictor, Linear) else 64)
    lanes = min(LANES, max(1, NUMBERS // (data.x.shape[0] + len(resample.owner) + 4 * system)))
    model, l2 = in_dtype(model, data.x.dtype), as_leaf(l2, data.x.dtype, np.shape(l2))
    start = whole.params if good else None
    params, status = refit(solver, replicates, lanes, model, data, resample, key, l2, start)
    acceleration = None if no_influence(whole) else accelerate(effects_task(whole, data), whole, resample)
    return Bootstrap(whole, params, status, acceleration)


def make_resample(data: Data, strata: Any, clusters: Any) -> Resample:
    """How rows of the data are drawn; raises as `bootstrap` says."""
    n = data.x.shape[0]
    if strata is not None and clusters is not None:
        raise ValueError("strata and clusters are both given; give one: clusters within strata are not supported")
    if is_traced(data.weight, strata, clusters):
        raise TypeError("data.weight, strata and clusters say how many rows are drawn and must be known, got a tracer")
    weight = np.ones(n) if data.weight is None else np.asarray(data.weight, np.float64)
    if clusters is not None:
        unit, stratum = codes_of(clusters, "clusters", n), np.zeros(n, int)
        owner = np.unique(unit[weight > 0])
    else:
        bad = ~((weight >= 0) & (np.floor(weight) == weight))
        if bad.any() or not 1 <= weight.sum() < 2**31:
            found = f"weight[{np.argmax(bad)}] = {weight[np.argmax(bad)]}" if bad.any() else f"sum = {weight.sum()}"
            raise ValueError(
                f"a resample draws whole rows, weight of them, got {found}; weights are numbers of copies, 0, 1, 2, "
                "...: others are for make_data(..., precision=)"
            )
        unit, stratum = np.arange(n), np.zeros(n, int) if strata is None else codes_of(strata, "strata", n)
        order = np.argsort(stratum, kind="stable")
        owner, weight = np.repeat(order, weight[order].astype(int)), np.ones(n)
    _, first, size = np.unique(stratum[owner], return_index=True, return_counts=True)
    places = (owner, np.repeat(first, size), np.repeat(size, size), unit, stratum)
    leaves = [as_leaf(part, jnp.int32, part.shape) for part in places]
    return Resample(*[*leaves, as_leaf(weight, data.x.dtype, (n,))])


def draw(resample: Resample, key: Array) -> Array:
    """The weights of one resample, (n,)."""
    copy = resample.first + jax.random.randint(key, resample.size.shape, 0, resample.size, jnp.int32)
    return resample.weight * jnp.zeros_like(resample.weight).at[resample.owner[copy]].add(1)[resample.unit]


@partial(quick_jit, static_argnums=(0, 1, 2))
def refit(
    solver: Callable[..., Fit],
    replicates: int,
    lanes: int,
    model: Model,
    data: Data,
    resample: Resample,
    key: Array,
    l2: Array,
    start: Any,
) -> tuple[Any, Array]:
    """Parameters and status of the replicates, at most so many lanes at a time, from `start` where it is not None."""
    batches = -(-replicates // lanes)
    lanes = -(-replicates // batches)
    run = solver if start is None else partial(solver, params=start)

    def replicate(number: Array) -> tuple[Any, Array]:
        weight = draw(resample, jax.random.fold_in(key, number))
        found = run(model, data._replace(weight=weight), l2=l2)
        return outcome(found), found.status

    numbers = jnp.arange(batches * lanes, dtype=jnp.uint32).reshape(batches, lanes)
    found = jax.lax.map(jax.vmap(replicate), numbers)
    return jax.tree.map(lambda leaf: leaf.reshape(batches * lanes, *leaf.shape[2:])[:replicates], found)


def outcome(found: Fit) -> Any:
    """The parameters of one fit, infinite where they go to infinity, NaN where they are aliased or not found."""
    separated = found.status == Status.SEPARATED
    no = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), found.params)
    lost = separated if found.infinite is None else jnp.asarray(False)  # the solver does not say which go
    for status in (Status.NONFINITE, Status.MAX_STEPS, Status.INVALID_TARGET, Status.INVALID_INPUT):
        lost |= found.status == status

    def settle(value: Array, infinite: Array, aliased: Array) -> Array:
        value = jnp.where(separated & infinite, jnp.sign(value) * jnp.inf, value)
        return jnp.where(lost | aliased, jnp.nan, value)

    infinite, aliased = (no if marks is None else marks for marks in (found.infinite, found.aliased))
    return jax.tree.map(settle, found.params, infinite, aliased)


@quick_jit
def accelerate(task: Task, whole: Fit, resample: Resample) -> Dense:
    """`sum(u^3) / (6 sum(u^2)^1.5)` over what may be drawn, u its influence less the mean of its stratum."""
    n = len(resample.unit)
    influence, _ = row_effects(task, whole)
    u = jax.ops.segment_sum(resample.weight[:, None] * influence, resample.unit, n)
    copies = jnp.zeros_like(resample.weight).at[resample.owner].add(1)
    total = jax.ops.segment_sum(copies[:, None] * u, resample.stratum, n)
    count = jax.ops.segment_sum(copies, resample.stratum, n)[resample.stratum]
    u = u - total[resample.stratum] / jnp.where(count > 0, count, 1)[:, None]
    return as_dense(copies @ u**3 / (6 * (copies @ u**2) ** 1.5), task.params)


def percentile_interval(boot: Bootstrap, level: float | Array = 0.95) -> tuple[Any, Any]:
    """The central `level` of the replicates: their (1 - level) / 2 and (1 + level) / 2 quantiles, each shaped like the
    parameters.

    An end is infinite where that share of the replicates is, and NaN for a coefficient that is NaN in any replicate:
    `boot.status` says how those ended. Quantiles are interpolated as NumPy does.

    Args:
        boot: from `bootstrap`.
        level: above 0, below 1.

    Raises:
        ValueError: `level` outside of 0 to 1.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    return _percentile(boot.params, tail_of(level, boot))


def bca_interval(boot: Bootstrap, level: float | Array = 0.95) -> tuple[Any, Any]:
    """The bias-corrected and accelerated interval: lower and upper ends, each shaped like the parameters.

    Quantiles of the replicates at `Phi(z0 + (z0 + z) / (1 - a (z0 + z)))`, z the normal quantiles of
    (1 - level) / 2 and (1 + level) / 2, z0 that of the share of replicates below the estimate, ties half, and
    `a = sum(u^3) / (6 sum(u^2)^1.5)` over the influence values of rows, of clusters, or within strata. As
    `percentile_interval`, and NaN also where the estimate is NaN or infinite, or all replicates are on one side of it.
    An estimated alpha counts as given in `a`.

    Args, Returns and Raises are those of `percentile_interval`; and a ValueError for networks and fits with `l1`,
    whose rows have no influence values.

    Reference: Efron, Better bootstrap confidence intervals, JASA 82 (1987).
    """
    tail = tail_of(level, boot)
    if boot.acceleration is None:
        raise ValueError(f"there is no BCa interval: {no_influence(boot.fit)}; use percentile_interval")
    return _bca(boot, tail)


def tail_of(level: Any, boot: Bootstrap) -> Array:
    """(1 - level) / 2; raises unless the level is in range and the replicates come first."""
    check_number(level, "level")
    if not is_traced(level) and not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}; 0.95 is 95%")
    if np.ndim(boot.status) != 1:
        raise ValueError(f"boot has lanes, its status is of shape {np.shape(boot.status)}; jax.vmap over them")
    return (1 - jnp.asarray(level, jax.tree.leaves(boot.params)[0].dtype)) / 2


@quick_jit
def _percentile(params: Any, tail: Array) -> tuple[Any, Any]:
    def end(share: Array) -> Any:
        return jax.tree.map(lambda values: quantile(values, jnp.broadcast_to(share, values.shape[1:])), params)

    return end(tail), end(1 - tail)


@quick_jit
def _bca(boot: Bootstrap, tail: Array) -> tuple[Any, Any]:
    def end(share: Array) -> Any:
        def one(values: Array, at: Array, a: Array) -> Array:
            below = jnp.mean((jnp.sign(at[None] - values) + 1) / 2, axis=0)
            z0 = jax.scipy.special.ndtri(below)
            z = z0 + jax.scipy.special.ndtri(share)
            place = jax.scipy.special.ndtr(z0 + z / (1 - a * z))
            return quantile(values, jnp.where(jnp.isfinite(z0), place, jnp.nan))

        return jax.tree.map(one, boot.params, outcome(boot.fit), boot.acceleration)

    return end(tail), end(1 - tail)


def quantile(values: Array, share: Array) -> Array:
    """Quantiles over the first axis at shares of the shape of the others, between infinite values too."""
    place = share * (len(values) - 1)
    low = jnp.clip(jnp.floor(jnp.nan_to_num(place)), 0, max(len(values) - 2, 0))
    part, below, ordered = place - low, low.astype(jnp.int32)[None], jnp.sort(values, axis=0)
    a = jnp.take_along_axis(ordered, below, 0)[0]
    b = jnp.take_along_axis(ordered, jnp.minimum(below + 1, len(values) - 1), 0)[0]
    nearer = jnp.where(part < 0.5, a, b)
    exact = (part == 0) | (part == 1) | (jnp.isinf(a) & jnp.isinf(b))
    between = jnp.where(exact, nearer, (1 - part) * a + part * b)
    return jnp.where(jnp.isnan(share) | jnp.any(jnp.isnan(values), axis=0), jnp.nan, between)
