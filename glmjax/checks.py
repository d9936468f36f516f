"""Whether predictions are as sure as they say: calibration of probabilities, dispersion of counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data, clean
from .inputs import check_count, check_number
from .models import Model, check_problem, in_dtype, linear_predictor
from .programs import quick_jit
from .tails import two_sided_tail


class Calibration(NamedTuple):
    """A reliability diagram and its sums. By bins of equal width on [0, 1], (bins,): `prediction`, the mean predicted
    probability, and `frequency`, how often it came true, NaN in an empty bin; `weight`, the copies of rows, or
    trials, in it. Numbers: `expected_error`, the expected calibration error, from 0 to 1, and `brier`.
    """

    prediction: Array
    frequency: Array
    weight: Array
    expected_error: Array
    brier: Array


def calibration(model: Model, params: Any, data: Data, bins: int = 10) -> Calibration:
    """How often what a classifier predicts with probability p comes true, by bins of p.

        expected_error = sum_b(weight_b |frequency_b - prediction_b|) / sum_b(weight_b)
        brier = sum(weight |y - p|^2) / sum(weight)

    For Bernoulli and binomial models p is that of a success; for K classes that of the likeliest class, which comes
    true where it is the row's, and `brier` is of all K probabilities against 0 and 1: from 0 to 2, where two classes
    as Bernoulli have half of it. Pure; `jax.vmap` it over models and data.

    Args:
        model: from `glm` or `mlp`, of Bernoulli, binomial, quasi-binomial or categorical family.
        params: from `init` or `fit.params`.
        data: from `make_data`; better not the rows that the model was fitted to.
        bins: how many, 1 or more.

    Returns:
        `Calibration`.

    Raises:
        ValueError: another family, `bins` below 1, shapes that do not fit.

    Reference: Brier, Monthly Weather Review 78 (1950); Guo, Pleiss, Sun and Weinberger, On calibration of modern neural
    networks (2017).
    """
    check_problem(model, data)
    bins = check_count(bins, "bins")
    if not model.family.n_classes and model.family.name not in ("bernoulli", "binomial", "quasi_binomial"):
        raise ValueError(f"calibration is of predicted probabilities; the {model.family.name} family predicts none")
    return _calibration(in_dtype(model, data.x.dtype), params, data, np.arange(bins))


@jax.jit
def _calibration(model: Model, params: Any, data: Data, bins: Array) -> Calibration:
    family, rows = model.family, clean(data)
    mean = jax.vmap(family.mean)(linear_predictor(model, params, rows.x, rows.offset))
    copies = jnp.ones(len(rows.x), mean.dtype) if rows.weight is None else rows.weight
    if family.n_classes:
        classes = jnp.arange(family.n_classes, dtype=rows.y.dtype)
        own = (classes[None] == rows.y[:, None]).astype(mean.dtype)
        p, hits = jnp.max(mean, axis=1), own[jnp.arange(len(own)), jnp.argmax(mean, axis=1)]
        square, trials = jnp.sum((own - mean) ** 2, axis=1), jnp.ones_like(p)
    else:
        p, (hits, misses) = mean, rows.y.T if family.target_shape else (rows.y, 1 - rows.y)
        square, trials = hits * (1 - p) ** 2 + misses * p**2, hits + misses

    def counted(part: Array) -> Array:
        return jnp.where(copies > 0, copies * part, 0)

    place = jnp.minimum(jnp.floor(p * len(bins)), len(bins) - 1)
    within = (place[:, None] == bins.astype(p.dtype)[None]).astype(p.dtype)  # (n, bins)
    weight, predicted, came = (counted(part) @ within for part in (trials, trials * p, hits))
    some = jnp.where(weight > 0, weight, jnp.nan)
    prediction, frequency = predicted / some, came / some
    gaps = jnp.where(weight > 0, weight * jnp.abs(frequency - prediction), 0)
    return Calibration(
        prediction=prediction,
        frequency=frequency,
        weight=weight,
        expected_error=jnp.sum(gaps) / jnp.sum(weight),
        brier=jnp.sum(counted(square)) / jnp.sum(weight),
    )


class DispersionTest(NamedTuple):
    """Of the variance `mean + alpha mean^power`: `alpha`, its `statistic`, standard normal where alpha is 0, and the
    two-sided `p_value`. A statistic above 0 says overdispersion, one below 0 underdispersion.
    """

    alpha: Array
    statistic: Array
    p_value: Array


def dispersion_test(model: Model, params: Any, data: Data, power: float | Array = 2.0) -> DispersionTest:
    """Cameron and Trivedi's test whether counts vary as Poisson ones, by a regression without a constant.

        ((y - mean)^2 - y) / mean = alpha mean^(power - 1) + error,    statistic = alpha / its standard error

    As R's `AER::dispersiontest(trafo=power)`, whose p-value is one-sided: half of this one where alpha is above 0.
    Pure; `jax.vmap` it over models and data.

    Args:
        model: of Poisson (or quasi-Poisson) family, from `glm` or `mlp`.
        params: from `fit.params`.
        data: the rows that the model was fitted to.
        power: 2 tests against the negative binomial's variance, 1 against variance (1 + alpha) mean.

    Returns:
        `DispersionTest`; `alpha` in units of 1 / target^(power - 1).

    Raises:
        ValueError: another family, data with a precision, shapes that do not fit.

    Reference: Cameron and Trivedi, Journal of Econometrics 46 (1990).
    """
    check_problem(model, data)
    check_number(power, "power", above=-np.inf)
    if model.family.name not in ("poisson", "quasi_poisson"):
        raise ValueError(f"dispersion_test is of a Poisson model's counts; this one is {model.family.name}")
    if data.precision is not None:
        raise ValueError(
            "dispersion_test is of counts whose variance is their mean, and a precision divides it; drop it"
        )
    return _dispersion_test(in_dtype(model, data.x.dtype), params, data, jnp.asarray(power, data.x.dtype))


@quick_jit
def _dispersion_test(model: Model, params: Any, data: Data, power: Array) -> DispersionTest:
    rows = clean(data)
    mean = jax.vmap(model.family.mean)(linear_predictor(model, params, rows.x, rows.offset))
    copies = jnp.ones_like(mean) if rows.weight is None else rows.weight

    def total(part: Array) -> Array:
        return jnp.sum(jnp.where(copies > 0, copies * part, 0))

    excess, g = ((rows.y - mean) ** 2 - rows.y) / mean, mean ** (power - 1)
    size = total(g * g)
    alpha = total(g * excess) / size
    variance = total((excess - alpha * g) ** 2) / (jnp.sum(copies) - 1)
    statistic = alpha / jnp.sqrt(variance / size)
    return DispersionTest(alpha, statistic, two_sided_tail(statistic, None))
