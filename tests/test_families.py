"""The GLM table against independent formulas (SciPy, NumPy), in both tails and both precisions."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from problems import FAMILIES

import glmjax as gj

ETAS = np.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0])


def reference_logits(eta, reference):
    return np.insert(eta, reference, 0.0)


@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
def test_bernoulli_nll_is_scipys(y):
    got = jax.vmap(lambda eta: gj.bernoulli().nll(eta, jnp.array(y)))(jnp.array(ETAS))
    want = -(y * scipy.special.log_expit(ETAS) + (1 - y) * scipy.special.log_expit(-ETAS))
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("y", [0.0, 1.0, 7.0])
def test_poisson_nll_is_scipys_up_to_its_constant(y):
    eta = np.linspace(-5, 5, 7)
    got = jax.vmap(lambda e: gj.poisson().nll(e, jnp.array(y)))(jnp.array(eta))
    want = -scipy.stats.poisson.logpmf(y, np.exp(eta)) - scipy.special.gammaln(y + 1)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_normal_nll_is_scipys():
    eta, y = np.array([0.3, -2.0, 5.0]), np.array([1.0, 2.0, 4.5])
    np.testing.assert_allclose(
        gj.normal(3).nll(jnp.array(eta), jnp.array(y)), -scipy.stats.norm.logpdf(y, eta).sum(), rtol=1e-14
    )
    np.testing.assert_allclose(
        gj.normal().nll(jnp.array(eta[0]), jnp.array(y[0])), -scipy.stats.norm.logpdf(y[0], eta[0]), rtol=1e-14
    )


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("reference", [None, 0, 1, 2])
def test_categorical_nll_is_scipys(label, reference):
    family = gj.categorical(3, reference=reference)
    eta = np.array([0.4, -1.2, 2.0])[: family.n_outputs]
    logits = eta if reference is None else reference_logits(eta, reference)
    got = family.nll(jnp.array(eta), jnp.array(float(label)))
    np.testing.assert_allclose(got, -scipy.special.log_softmax(logits)[label], rtol=1e-14)
    np.testing.assert_allclose(family.mean(jnp.array(eta)), scipy.special.softmax(logits), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tails_keep_their_digits(dtype):
    """Where the loss is far below eps, it and its gradient are exp(-|eta|), not a rounded 0."""
    eta = jnp.array(60.0, dtype)
    small = float(np.exp(-60.0))
    rtol = 20 * float(jnp.finfo(dtype).eps)
    for family, e, y in [
        (gj.bernoulli(), eta, 1.0),
        (gj.bernoulli(), -eta, 0.0),
        (gj.categorical(2), jnp.array([60.0, 0.0], dtype), 0.0),
        (gj.categorical(2, reference=0), -eta[None], 0.0),
    ]:
        value, slope = jax.value_and_grad(family.nll)(e, jnp.array(y, dtype))
        np.testing.assert_allclose(value, small, rtol=rtol)
        np.testing.assert_allclose(jnp.max(jnp.abs(slope)), small, rtol=rtol)
    # ... and on the wrong side the loss is |eta|, the curvature is finite.
    value, slope = jax.value_and_grad(gj.bernoulli().nll)(-1000 * eta, jnp.array(1.0, dtype))
    assert value == 60000
    assert slope == -1


@pytest.mark.parametrize("name", FAMILIES)
def test_score_and_curvature_by_autodiff_are_finite_at_zero(name):
    family = FAMILIES[name]
    eta = jnp.zeros(() if family.n_outputs is None else (family.n_outputs,))
    y = jnp.ones((3,)) if name == "normal-3" else jnp.array(1.0)
    hessian = jax.hessian(family.nll)(eta, y)
    information = {"normal": 1.0, "bernoulli": 0.25, "poisson": 1.0}.get(name)
    if information is not None:
        np.testing.assert_allclose(hessian, information, rtol=1e-14)
    else:
        mean = family.mean(eta)
        keep = [k for k in range(mean.shape[0]) if k != family.reference]
        np.testing.assert_allclose(hessian, family.variance(mean)[np.ix_(keep, keep)], atol=1e-15)


@pytest.mark.parametrize("name", FAMILIES)
def test_variance_and_mean_by_sampling(name, key):
    family = FAMILIES[name]
    draws = 200_000
    eta = jnp.array(0.7) if family.n_outputs is None else jnp.linspace(-0.5, 0.7, family.n_outputs)
    t = family.sample(key, jnp.broadcast_to(eta, (draws, *eta.shape)))
    assert np.all(np.asarray(family.support(t)))
    if family.n_classes:
        t = jax.nn.one_hot(t.astype(int), family.n_classes)
    mean, variance = np.asarray(family.mean(eta)), np.asarray(family.variance(family.mean(eta)))
    spread = np.sqrt(np.diag(np.atleast_2d(variance)) / draws)
    assert np.all(np.abs(np.mean(t, axis=0) - mean) < 5 * spread)
    np.testing.assert_allclose(np.cov(t, rowvar=False), variance, atol=0.03)


def test_normal_samples_have_the_familys_dispersion(key):
    t = gj.normal(dispersion=4.0).sample(key, jnp.zeros(100_000))
    assert abs(np.var(t) - 4) < 0.1


@pytest.mark.parametrize("y", [0.0, 1.0, 5.0, 1e6])
def test_poisson_deviance_is_r_formula_and_keeps_digits_near_the_data(y):
    family = gj.poisson()
    mean = 2.5
    want = 2 * (scipy.special.xlogy(y, y / mean) - (y - mean))
    np.testing.assert_allclose(family.deviance(jnp.log(mean), jnp.array(y)), want, rtol=1e-12)
    if y > 0:  # at mean = y (1 + h) the deviance is y h^2 to first order, far below nll's rounding
        h = 1e-5
        np.testing.assert_allclose(family.deviance(jnp.log(y) + np.log1p(h), jnp.array(y)), y * h**2, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "eta", "y", "want"),
    [
        (gj.normal(), 0.5, 2.0, 2.25),
        (gj.bernoulli(), 0.0, 1.0, 2 * np.log(2)),
        (gj.bernoulli(), 0.0, 0.5, 0.0),
        (gj.poisson(), 0.0, 1.0, 0.0),
        (gj.categorical(4), np.zeros(4), 2.0, 2 * np.log(4)),
    ],
)
def test_deviance_by_hand(family, eta, y, want):
    np.testing.assert_allclose(family.deviance(jnp.array(eta), jnp.array(y)), want, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("normal", [-3.0, 0.0, 1e9], [np.nan, np.inf, -np.inf]),
        ("bernoulli", [0.0, 1.0, 0.5], [-1.0, 1.2, 2.0, np.nan]),
        ("categorical", [0.0, 1.0, 2.0], [-1.0, 3.0, 0.5, np.nan]),
        ("categorical-reference", [0.0, 1.0, 2.0], [-1.0, 3.0, 0.5, np.nan]),
        ("poisson", [0.0, 3.0, 2.5], [-1.0, np.inf, np.nan]),
    ],
)
def test_support_in_numpy_and_in_jax(name, inside, outside):
    support = FAMILIES[name].support
    with np.errstate(invalid="ignore"):
        for module in (np, jnp):
            assert module.all(support(module.array(inside)))
            assert not module.any(support(module.array(outside)))


def test_a_label_that_is_no_class_is_nan_not_a_number():
    for label in (-1.0, 3.0, 0.5, np.nan):
        assert np.isnan(gj.categorical(3).nll(jnp.zeros(3), jnp.array(label)))


def test_equal_families_made_anew_trace_once_and_numbers_are_leaves():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def nll(family, eta, y):
        return family.nll(eta, y)

    for dispersion in (1.0, 2.0, 3.0):
        nll(gj.normal(dispersion=dispersion), jnp.array(0.1), jnp.array(0.2))
    assert jax.tree.leaves(gj.normal(dispersion=2.0)) == [2.0]
    assert jax.tree.leaves(gj.poisson()) == []
    assert gj.poisson() == gj.poisson()
    assert hash(gj.poisson()) == hash(gj.poisson())
    assert "0x" not in repr(gj.poisson())


def test_a_family_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        gj.poisson().name = "other"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gj.poisson(link="sqr"), ValueError, "link='sqr' is not a link of the poisson family; known: log"),
        (lambda: gj.bernoulli(link="x"), ValueError, "known: logit"),
        (lambda: gj.normal(link="log2"), ValueError, "known: identity"),
        (lambda: gj.categorical(3, link="logit"), ValueError, "known: softmax"),
        (lambda: gj.categorical(1), ValueError, "n_classes must be 2 or more, got 1"),
        (lambda: gj.categorical(3, reference=3), ValueError, r"reference=3 is outside 0\.\.2"),
        (lambda: gj.normal(1), ValueError, r"n_outputs \(None for one output.* must be 2 or more, got 1"),
        (lambda: gj.normal(2.5), TypeError, "must be a whole number, got 2.5"),
        (lambda: gj.categorical("3"), TypeError, "n_classes must be a whole number, got '3'"),
        (lambda: gj.categorical(3, reference=-1), ValueError, "reference must be 0 or more, got -1"),
        (lambda: gj.normal(dispersion=-1.0), ValueError, "dispersion must be a finite number above 0, got -1.0"),
    ],
)
def test_bad_families(make, error, message):
    with pytest.raises(error, match=message):
        make()
