"""Every family with every link against the textbook in 130 digits (`oracle`), in both tails and both precisions."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import D
from table import CASES, MEANS

import glmjax as gj

ROWS = 512  # every call has this many, so that a family compiles once a precision
ULPS = 16  # of rounding that eta and the target may be thought to have
PHI = 0.5  # the dispersion of log-likelihoods, where there is one
OUTSIDE = {  # linear predictors without a mean, by link or by family and link
    ("bernoulli", "log"): [0.0, 0.5, np.nan],
    ("binomial", "log"): [0.0, 0.5, np.nan],
    ("bernoulli", "identity"): [0.0, 1.0, -0.5, 1.5],
    ("binomial", "identity"): [0.0, 1.0, -0.5, 1.5],
    ("normal", "identity"): [np.nan],
    ("normal", "inverse"): [0.0],
    **{link: [0.0, -1.0, np.nan] for link in ("identity", "sqrt", "inverse", "inverse_squared")},
    **{link: [np.nan] for link in ("log", "logit", "probit", "cloglog")},
}
MIDDLE = {  # where a family's moments are taken
    ("bernoulli", "log"): -0.5,
    ("binomial", "log"): -0.5,
    ("bernoulli", "identity"): 0.3,
    ("binomial", "identity"): 0.3,
    **dict.fromkeys(("log", "logit", "probit", "cloglog"), 0.4),
    **dict.fromkeys(("identity", "sqrt", "inverse", "inverse_squared"), 1.25),
}
EXTREME_COUNTS = [(0.0, 0.0), (1e30, 0.0), (0.0, 1e30), (1e30, 1.0), (1e-30, 2.0), (1e38, 1e38)]


class Values(NamedTuple):
    """In `oracle.values`' order, and what the first Newton step needs."""

    nll: Any
    score: Any
    information: Any
    deviance: Any
    log_likelihood: Any
    mean: Any
    nll_at_start: Any


def _values(family, eta, y, phi):
    nll, score = jax.value_and_grad(family.nll)(eta, y)
    return Values(
        nll,
        score,
        family.information(eta, y),
        family.deviance(eta, y),
        family.log_likelihood(eta, y, phi),
        family.mean(eta),
        family.nll(family.start(y), y),
    )


_all_values = jax.jit(jax.vmap(_values, in_axes=(None, 0, 0, None)))


def with_number(case, number, dtype=float):
    family = case.family if number is None else dataclasses.replace(case.family, **{case.leaf: number})
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), family)


def evaluate(family, points, dtype=np.float64) -> Values:
    """The values at up to `ROWS` points (eta, y)."""
    padded = [*points, *[points[-1]] * (ROWS - len(points))]
    etas, targets = (jnp.asarray(np.array(part, dtype)) for part in zip(*padded, strict=True))
    got = _all_values(family, etas, targets, jnp.asarray(PHI, dtype))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[: len(points)], got)


def decimals(y):
    return tuple(map(D, y)) if isinstance(y, tuple) else D(y)


def check_against_the_textbook(case, number):
    row, points = case.row(number), case.points(number)
    phi = D(1) if case.family.dispersion is None else D(PHI)
    truth = np.array([oracle.values(row, D(eta), decimals(y), phi) for eta, y in points])  # (points, functions, 3)
    for dtype in (np.float64, np.float32):
        limits = jnp.finfo(dtype)
        slack = ULPS * float(limits.eps)
        got = evaluate(with_number(case, number, dtype), points, dtype)
        for k in range(truth.shape[1]):
            want, first, second = truth[:, k].T
            within = first < 0.01 * float(limits.max)  # as all are in float64
            assert dtype == np.float32 or np.all(within)
            underflow = float(limits.tiny / limits.eps)
            error = np.abs(got[k] - want) / (slack * first + slack**2 * second + underflow)
            error = np.where(within, np.nan_to_num(error, nan=np.inf), 0)
            worst = np.argmax(error)
            assert error[worst] <= 1, (
                f"{got._fields[k]} in {np.dtype(dtype)} with {case.leaf}={number} at (eta, y) = {points[worst]}: "
                f"{got[k][worst]}, should be {want[worst]}, error {error[worst]:.3g} of what is allowed"
            )
            if got._fields[k] == "deviance":
                assert np.all(got.deviance[within] >= 0)


def check_means(case, number):
    """The mean is the link's inverse."""
    link, etas = case.family.link, [eta for eta, _ in case.points(number)]
    mean = oracle.MEANS[link] if link in MEANS else (lambda eta: oracle.PAIRS[link](eta)[0].exp())
    truth = [oracle.derivatives(mean, D(eta)) for eta in etas]
    want, slope = np.array([[float(value), float(slope)] for value, slope, _ in truth]).T
    for dtype in (np.float64, np.float32):
        limits = jnp.finfo(dtype)
        got = evaluate(with_number(case, number, dtype), case.points(number), dtype).mean
        first = np.abs(want) + np.abs(etas * slope)
        assert np.all(np.abs(got - want) <= ULPS * float(limits.eps) * first + float(limits.tiny))


def check_domain(case, number):
    """An eta without a mean has no finite nll; every target has a start that has one."""
    for dtype, far in ((np.float64, 1e100), (np.float32, 1e15)):
        family = with_number(case, number, dtype)
        outside = OUTSIDE.get((family.name, family.link), OUTSIDE.get(family.link, []))
        points = [(eta, y) for eta in outside for y in case.targets]
        if points:
            assert not np.any(np.isfinite(evaluate(family, points, dtype).nll))
        if family.name in ("bernoulli", "binomial"):
            extreme = [0.0, 1.0, 1e-30] if family.name == "bernoulli" else EXTREME_COUNTS
        else:
            extreme = [y for y in (-far, -1.0, 0.0, 1 / far, far) if np.all(family.support(np.array(y)))]
        got = evaluate(family, [(0.5, y) for y in [*case.targets, *extreme]], dtype)
        supported = family.support(np.array([*case.targets, *extreme], dtype))
        supported = supported.reshape(len(supported), -1).all(axis=1)
        assert np.all(np.isfinite(got.nll_at_start[supported])), f"{case.leaf}={number}"


def check_moments(case, number):
    """The density sums to 1, and to the mean, the variance and the information: with any expectation of the scores."""
    family, phi = with_number(case, number), 1.0 if case.family.dispersion is None else PHI
    eta = MIDDLE.get((family.name, family.link), MIDDLE.get(family.link))
    if family.name in ("bernoulli", "binomial"):
        n = 1 if family.name == "bernoulli" else 6
        y = np.arange(n + 1.0)
        targets = list(y) if n == 1 else [(s, n - s) for s in y]
        size = 1.0
    elif family.name == "normal":
        y = np.linspace(-12, 12, ROWS)
        targets, size = list(y), y[1] - y[0]
    elif "alpha" in str(case.leaf) or family.name == "poisson":
        y = np.arange(ROWS, dtype=float)
        targets, size = list(y), 1.0
    else:
        y = np.exp(np.linspace(-18, 6, ROWS))
        targets, size = list(y), y * 24 / (ROWS - 1)
    got = evaluate(family, [(eta, target) for target in targets])
    mass = np.exp(got.log_likelihood) * size
    mean = got.mean[0]
    variance = float(jax.vmap(family.variance)(jnp.array([mean]))[0])
    trials = 1 if family.name != "binomial" else 6
    close = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(np.sum(mass), 1, **close)
    np.testing.assert_allclose(np.sum(mass * y), trials * mean, **close)
    np.testing.assert_allclose(np.sum(mass * (y - trials * mean) ** 2), trials * phi * variance, **close)
    np.testing.assert_allclose(np.sum(mass * got.score), 0, atol=1e-11)
    # E(score^2) = phi E(second derivative of the nll) = phi information, the derivative by differences of the score.
    information = np.sum(mass * got.information)
    np.testing.assert_allclose(np.sum(mass * got.score**2), phi * information, **close)
    h = 1e-4
    ahead, behind = (evaluate(family, [(eta + step, target) for target in targets]).score for step in (h, -h))
    np.testing.assert_allclose(np.sum(mass * (ahead - behind)) / (2 * h), information, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_the_table(name):
    case = CASES[name]
    for number in case.numbers:
        check_against_the_textbook(case, number)
        check_domain(case, number)
    check_means(case, case.numbers[0])
    if case.row(case.numbers[0]).log_density is not None:
        check_moments(case, case.numbers[0])


# a family of your own ------------------------------------------------------------------------------------------------


def geometric_nll(family, eta, y):
    """Failures before the first success, with mean exp(eta)."""
    return (y + 1) * jax.nn.softplus(eta) - y * eta


@pytest.mark.parametrize("solver", [gj.fit_newton, gj.fit_lbfgs, partial(gj.fit_elastic_net, l1=0.01)])
def test_a_family_of_your_own_is_one_function_and_one_line(solver):
    """Its mean, information, start and deviance follow; zeros, where the link of the target is infinite, included."""
    geometric = gj.Family("geometric", "log", gj.Distribution(geometric_nll))
    k_x, k_y = jax.random.split(jax.random.key(0))
    same, x = gj.glm(gj.negative_binomial(1.0)), jax.random.normal(k_x, (50, 2))
    y = gj.sample(same, gj.Dense(jnp.array([0.5, -0.5]), jnp.array(0.0)), x, k_y)
    assert jnp.any(y == 0)
    data = gj.make_data(x, y, family=geometric)
    fit, wanted = (gj.check(solver(model, data)) for model in (gj.glm(geometric), same))
    for found, value in zip(jax.tree.leaves(fit.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-9)
    deviances = (gj.deviance(model, fit.params, data) for model in (gj.glm(geometric), same))
    np.testing.assert_allclose(*deviances, rtol=1e-12)
    with pytest.raises(ValueError, match="no distribution to sample from"):
        gj.sample(gj.glm(geometric), fit.params, x, k_y)
