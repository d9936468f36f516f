"""Prediction in NumPy alone is `predict`'s, to rounding: each link, each activation, lanes, offsets, both precisions."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import CASES

import glmjax as gj
from glmjax import bare
from glmjax.links import LINKS
from glmjax.predictors import ACTIVATIONS
from glmjax.scoring import numpy_linear_predictor, numpy_predict, numpy_scorer

N, D = 12, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
OFFSET = 0.3 * RNG.normal(size=N)
FAMILIES = {name: case.family for name, case in CASES.items()}
FAMILIES |= {
    "normal-3": gj.normal(3),
    "categorical": gj.categorical(4),
    "categorical-0": gj.categorical(4, reference=0),
    "categorical-3": gj.categorical(4, reference=3),
    "quasi_poisson": gj.quasi_poisson("sqrt"),
    "quasi_binomial": gj.quasi_binomial("probit"),
}


def test_every_link_and_every_activation_is_there():
    assert set(bare.MEANS) == set(LINKS)
    assert set(bare.ACTIVATIONS) == set(ACTIVATIONS)
    assert {family.link for family in FAMILIES.values()} == set(LINKS)


def drawn(model, seed=0):
    """Random parameters, biases too."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(lambda: gj.init(model, jax.random.key(0), D, bound=1.0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.8, 0.8, leaf.shape) + (leaf.shape == ())), shapes)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_link(name):
    model = gj.glm(FAMILIES[name])
    params = drawn(model)
    wanted = np.asarray(gj.predict(model, params, X, OFFSET))
    found = numpy_predict(model, params, X, OFFSET)
    assert found.dtype == np.float64
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=0)
    eta = np.asarray(gj.linear_predictor(model, params, X, OFFSET))
    np.testing.assert_allclose(numpy_linear_predictor(model, params, X, OFFSET), eta, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("link", sorted(set(LINKS) - {"softmax"}))
def test_links_in_their_tails_without_a_warning(link):
    etas = sorted({*(eta for case in CASES.values() if case.family.link == link for eta in case.etas), -800.0, 0, 800})
    etas = np.array(etas)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bare.mean_of(etas, link)
    assert np.all(np.isfinite(found[(etas != 0) & (np.abs(etas) < 700) & (etas > 0)]))
    # JAX's own erfc is good to some 13 digits in the lower tail; ours is the C library's
    rtol = 5e-13 if link == "probit" else 1e-14
    np.testing.assert_allclose(found, LINKS[link].inverse(jnp.asarray(etas)), rtol=rtol, atol=1e-300)


def test_the_normal_cdf_to_all_digits():
    # R: print(pnorm(c(-30, -5, 0.25, 8)), digits = 17); -30 / sqrt(2), rounded, has cost 900 eps
    truth = {
        -30.0: 4.9067139271481872e-198,
        -5.0: 2.8665157187919391e-07,
        0.25: 5.9870632568292370e-01,
        8.0: 1 - 6.66e-16,
    }
    found = bare.mean_of(np.array(list(truth)), "probit")
    np.testing.assert_allclose(found, list(truth.values()), rtol=2e-13)
    np.testing.assert_allclose(found[1:], list(truth.values())[1:], rtol=4e-15)


def test_softmax_far_out():
    eta = np.array([[900.0, 0.0, -900.0], [-900.0, -900.0, -900.0]])
    np.testing.assert_array_equal(bare.mean_of(eta, "softmax"), [[1, 0, 0], [1 / 3] * 3])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    for family in (gj.poisson(), gj.categorical(3, reference=1)):
        model = gj.mlp(family, (5, 4), activation)
        params = drawn(model)
        np.testing.assert_allclose(
            numpy_predict(model, params, 3 * X, OFFSET), gj.predict(model, params, 3 * X, OFFSET), rtol=2e-14, atol=0
        )


@pytest.mark.parametrize("family", ["poisson-log", "normal-3"])
@pytest.mark.parametrize("hidden", [None, (4,)])
def test_lanes_come_first(family, hidden):
    model = gj.glm(FAMILIES[family]) if hidden is None else gj.mlp(FAMILIES[family], hidden)
    params = [[drawn(model, 3 * i + j) for j in range(3)] for i in range(2)]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(2, 3, *leaves[0].shape), *params[0], *params[1])
    found = numpy_predict(model, both, X, OFFSET)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(found[i, j], numpy_predict(model, params[i][j], X, OFFSET), rtol=1e-14)


def test_the_parameters_set_the_dtype():
    model = gj.mlp(gj.bernoulli("probit"), (4,))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), drawn(model))
    found = numpy_predict(model, narrow, X, OFFSET)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gj.predict(model, narrow, X, OFFSET), rtol=1e-6)
    wide = numpy_predict(model, drawn(model), X.astype(np.float32))
    with jax.enable_x64(False):
        np.testing.assert_array_equal(numpy_predict(model, drawn(model), X.astype(np.float32)).shape, wide.shape)
    assert wide.dtype == np.float64


def test_a_family_of_ones_own_with_a_links_mean():
    model = gj.glm(gj.Family("own", "log", gj.Distribution(nll=lambda family, eta, y: eta)))
    np.testing.assert_allclose(numpy_predict(model, drawn(model), X), gj.predict(model, drawn(model), X), rtol=1e-14)


def twice(family, eta):
    return 2 * eta


def ramp(x):
    return jnp.maximum(x, 0)


MODEL = gj.glm(gj.poisson())
PARAMS = gj.Dense(np.ones(D), np.ones(()))
OWN = gj.glm(gj.Family("own", "log", gj.Distribution(nll=twice, mean=twice)))
SMOOTH = gj.mlp(gj.poisson(), (2,), ramp)
BAD = [
    (ValueError, "the own family has a mean of its own", OWN, PARAMS, X, None),
    (ValueError, "is a function, which NumPy does not know", SMOOTH, drawn(SMOOTH), X, None),
    (ValueError, "params must be Dense(w, b), as init makes them", MODEL, (PARAMS,), X, None),
    (ValueError, "with lanes that differ", MODEL, gj.Dense(np.ones((2, D)), np.ones(3)), X, None),
    (ValueError, "x must be 2-d (n, d), got shape (3,); use x[None] for one row", MODEL, PARAMS, X[0], None),
    (ValueError, "the parameters are for 3 features, got x with 2", MODEL, PARAMS, X[:, :2], None),
    (ValueError, "x contains nan at index (1, 2) (1 in total)", MODEL, PARAMS, np.where(X == X[1, 2], np.nan, X), None),
    (ValueError, "offset must be (12,), got shape (11,)", MODEL, PARAMS, X, OFFSET[1:]),
    (ValueError, "offset contains inf at index (0,)", MODEL, PARAMS, X, np.full(N, np.inf)),
    (TypeError, "x must be numeric and real, got dtype <U1", MODEL, PARAMS, [["a", "b", "c"]], None),
    (TypeError, "need a model from glm or mlp, got str", "poisson", PARAMS, X, None),
]


@pytest.mark.parametrize(("error", "message", "model", "params", "x", "offset"), BAD)
def test_bad_input(error, message, model, params, x, offset):
    with pytest.raises(error, match=re.escape(message)):
        numpy_predict(model, params, x, offset)


def test_traced_parameters_are_refused():
    with pytest.raises(TypeError, match="the parameters are traced"):
        jax.jit(lambda params: numpy_scorer(MODEL, params))(PARAMS)


def test_the_core_needs_numpy_alone():
    """As a file of its own, in a process in which JAX is not to be had."""
    code = "import sys; sys.modules['jax'] = None; exec(open(sys.argv[1]).read()); print(mean_of(np.zeros(1), 'logit'))"
    done = subprocess.run([sys.executable, "-c", code, bare.__file__], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.5]\n"
    assert Path(bare.__file__).name == "bare.py"
