"""Predictors and models: shapes, initialisation, mean, samples, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CASES, FAMILIES, D, N, models, problem

import glmjax as gj

SHAPES = {
    "normal": (),
    "normal-3": (3,),
    "bernoulli": (),
    "categorical": (3,),
    "categorical-reference": (2,),
    "poisson": (),
}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_shapes_of_parameters_and_predictions(name, kind, key):
    family = FAMILIES[name]
    model = models(family)[kind]
    k = SHAPES[name]
    params = gj.init(model, key, D)
    if kind == "glm":
        chex.assert_trees_all_equal_shapes(params, gj.Dense(jnp.zeros((D, *k)), jnp.zeros(k)))
    else:
        want = (gj.Dense(jnp.zeros((D, 5)), jnp.zeros(5)), gj.Dense(jnp.zeros((5, *k)), jnp.zeros(k)))
        chex.assert_trees_all_equal_shapes(params, want)
    x = jax.random.normal(key, (N, D))
    chex.assert_shape(gj.linear_predictor(model, params, x), (N, *k))
    chex.assert_shape(gj.predict(model, params, x), (N, 3) if family.n_classes else (N, *k))
    chex.assert_shape(gj.sample(model, params, x, key), (N,) if family.n_classes else (N, *k))


def test_a_glm_starts_at_zero_or_at_random_on_request(key):
    model = gj.glm(gj.categorical(4))
    chex.assert_trees_all_equal(gj.init(model, None, D), gj.Dense(jnp.zeros((D, 4)), jnp.zeros(4)))
    params = gj.init(model, key, D, bound=0.1)
    assert 0 < float(jnp.abs(params.w).max()) <= 0.1
    assert not params.b.any()


def test_mlp_weights_start_uniform_within_one_over_root_fan_in(key):
    layers = gj.init(gj.mlp(gj.poisson(), (400, 100)), key, 25)
    for layer, fan_in in zip(layers, (25, 400, 100), strict=True):
        bound = 1 / np.sqrt(fan_in)
        w = np.asarray(layer.w) / bound
        assert abs(w).max() <= 1
        assert w.size < 1000 or abs(w.std() - 1 / np.sqrt(3)) < 0.02  # the uniform's standard deviation
        assert not layer.b.any()
    assert abs(np.corrcoef(layers[0].w.ravel()[:100], layers[2].w.ravel())[0, 1]) < 0.4
    zero = gj.init(gj.mlp(gj.poisson(), (4,)), key, 3, bound=0.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(zero))


def test_init_takes_another_dtype(key):
    assert {p.dtype for p in jax.tree.leaves(gj.init(gj.mlp(gj.poisson()), key, D, dtype=jnp.float32))} == {
        np.dtype("float32")
    }


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu", jnp.sin])
def test_mlp_by_hand(activation, key):
    function = {"identity": lambda z: z, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh,
                "relu": lambda z: np.maximum(z, 0)}.get(activation, np.sin)  # fmt: skip
    model = gj.mlp(gj.normal(), (4, 6), activation)
    params = gj.init(model, key, D, bound=1.5)
    h = x = np.asarray(jax.random.normal(key, (N, D)))
    for w, b in params[:-1]:
        h = function(h @ np.asarray(w) + np.asarray(b))
    np.testing.assert_allclose(gj.predict(model, params, x), h @ params[-1].w + params[-1].b, rtol=1e-12)


def test_an_mlp_without_hidden_layers_is_the_glm(key):
    x = jax.random.normal(key, (N, D))
    params = gj.init(gj.glm(gj.poisson()), key, D, bound=1.0)
    got = gj.predict(gj.mlp(gj.poisson(), ()), (params,), x)
    np.testing.assert_array_equal(got, gj.predict(gj.glm(gj.poisson()), params, x))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_offset_is_added_to_eta(name):
    model, params, data = problem(name, full=True)
    eta = gj.linear_predictor(model, params, data.x, data.offset)
    shift = np.asarray(data.offset).reshape((-1,) + (1,) * (eta.ndim - 1))
    np.testing.assert_allclose(eta, gj.linear_predictor(model, params, data.x) + shift, rtol=1e-14)
    assert gj.predict(model, params, data.x, data.offset).shape == gj.predict(model, params, data.x).shape


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_jit_is_eager_and_vmap_is_a_loop(name, kind, key):
    model, _, data = problem(name, kind)
    stack = jax.vmap(lambda k: gj.init(model, k, D, bound=1.0))(jax.random.split(key, 3))
    for f in (
        lambda p: gj.linear_predictor(model, p, data.x),
        lambda p: gj.predict(model, p, data.x),
        lambda p: gj.sample(model, p, data.x, key),
    ):
        batch = jax.jit(jax.vmap(f))(stack)
        for i in range(3):
            one = f(jax.tree.map(lambda p, i=i: p[i], stack))
            np.testing.assert_allclose(batch[i], one, rtol=1e-12, atol=1e-14)


def test_predict_traces_once_for_equal_models_made_anew(key):
    from glmjax.models import _mean

    before = _mean._cache_size()
    for seed in range(3):
        model = gj.mlp(gj.categorical(7), (6,), "sigmoid")
        gj.predict(model, gj.init(model, jax.random.fold_in(key, seed), 2), jnp.ones((9, 2)))
    assert _mean._cache_size() == before + 1


PARAMS = gj.Dense(jnp.zeros(3), jnp.zeros(()))
MODEL = gj.glm(gj.poisson())

BAD = {
    "features": (ValueError, "the parameters are for 3 features, got x with 4", lambda: gj.predict(MODEL, PARAMS, np.ones((2, 4)))),
    "features, mlp": (ValueError, "for 3 features, got x with 4",
                      lambda: gj.predict(gj.mlp(gj.poisson(), (2,)), (gj.Dense(jnp.ones((3, 2)), jnp.ones(2)), gj.Dense(jnp.ones(2), jnp.ones(()))), np.ones((2, 4)))),
    "NaN": (ValueError, "x contains NaN at row 0, column 1", lambda: gj.predict(MODEL, PARAMS, [[0, np.nan, 0]])),
    "1-d": (ValueError, r"got shape \(3,\); use x\[None\] for one row", lambda: gj.predict(MODEL, PARAMS, np.ones(3))),
    "strings": (TypeError, "x must be numeric", lambda: gj.predict(MODEL, PARAMS, [["a", "b", "c"]])),
    "offset": (ValueError, r"offset must be \(2,\), got shape \(3,\)", lambda: gj.predict(MODEL, PARAMS, np.ones((2, 3)), np.ones(3))),
    "offset NaN": (ValueError, "offset contains NaN", lambda: gj.predict(MODEL, PARAMS, np.ones((1, 3)), [np.nan])),
    "another model's": (ValueError, r"params must be a tuple of 2 Dense\(w, b\), as init\(model, key, 3\) makes them",
                        lambda: gj.predict(gj.mlp(gj.poisson()), PARAMS, np.ones((2, 3)))),
    "another shape": (ValueError, "jax.vmap give each lane its own",
                      lambda: gj.predict(MODEL, gj.Dense(jnp.zeros((5, 3)), jnp.zeros(5)), np.ones((2, 3)))),
    "eta of 1-d x": (ValueError, "x must be a 2-d array", lambda: gj.linear_predictor(MODEL, PARAMS, jnp.ones(3))),
    "activation": (ValueError, "activation='gelu' is unknown; known: identity, sigmoid, tanh, relu", lambda: gj.mlp(gj.poisson(), (2,), "gelu")),
    "activation type": (TypeError, "activation must be a name or a function, got 3", lambda: gj.mlp(gj.poisson(), (2,), 3)),
    "hidden int": (TypeError, r"write \(50,\)", lambda: gj.mlp(gj.poisson(), 50)),
    "hidden 0": (ValueError, r"hidden\[1\] must be 1 or more, got 0", lambda: gj.mlp(gj.poisson(), (3, 0))),
    "hidden 2.5": (TypeError, r"hidden\[0\] must be a whole number, got 2.5", lambda: gj.mlp(gj.poisson(), (2.5,))),
    "eta of lists": (ValueError, "x must be a 2-d array .*, got list", lambda: gj.linear_predictor(MODEL, PARAMS, [[1.0, 2, 3]])),
    "family not called": (TypeError, r"family must be a Family, such as gj.poisson\(\), got <function", lambda: gj.glm(gj.poisson)),
    "no family": (TypeError, "family must be a Family", lambda: gj.mlp(None)),
    "another number of classes": (ValueError, r"params must have shapes \[\(3, 4\), \(4,\)\] .* got \[\(3, 3\), \(3,\)\]",
                                  lambda: gj.predict(gj.glm(gj.categorical(4)), gj.init(gj.glm(gj.categorical(3)), None, 3), np.ones((2, 3)))),
    "key a number": (TypeError, "key must be one JAX random key, such as jax.random.key.0., got 0", lambda: gj.init(gj.mlp(gj.poisson()), 0, 3)),
    "many keys": (TypeError, r"got shape \(2,\) of key<fry>; for many, jax.vmap", lambda: gj.sample(MODEL, PARAMS, np.ones((2, 3)), jax.random.split(jax.random.key(0)))),
    "no key": (TypeError, "key must be a JAX random key", lambda: gj.init(gj.mlp(gj.poisson()), None, 3)),
    "nothing to fit": (ValueError, "nothing to fit", lambda: gj.init(gj.glm(gj.poisson(), bias=False), None, 0)),
    "n_features": (ValueError, "n_features must be 0 or more", lambda: gj.init(MODEL, None, -1)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_models_and_inputs(case):
    error, message, call = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_no_features_and_a_bias_is_the_intercept_only_model():
    params = gj.init(MODEL, None, 0)
    np.testing.assert_array_equal(gj.predict(MODEL, params, np.ones((4, 0))), np.ones(4))
