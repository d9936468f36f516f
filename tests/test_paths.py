"""`fit_path` and `cross_validate`: each fit is the net's own, glmnet's rules, folds as weights, transformations."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import check_derivatives

import glmjax as gj

N, D = 60, 5
MODELS = {
    "poisson": gj.glm(gj.poisson()),
    "bernoulli": gj.glm(gj.bernoulli()),
    "categorical": gj.glm(gj.categorical(3)),
}


def problem(name, seed=0):
    model = MODELS[name]
    k_x, k_y, k_w = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(k_x, (N, D)) * jnp.array([[1.0, 0.3, 3.0, 1.0, 1.0]]) + 0.5
    params = gj.init(model, k_w, D, bound=0.8)
    y = gj.sample(model, params, x, k_y)
    return model, gj.make_data(x, y, family=model.family, weight=1 + np.arange(N) % 3, offset=0.1 * x[:, 0])


def lane(fits, at):
    return jax.tree.map(lambda leaf: leaf[at], fits)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("standardize", [False, True])
def test_each_fit_of_a_path_is_the_nets_own(name, standardize):
    model, data = problem(name)
    factor = np.array([1.0, 1.0, 0.5, 0.0, 2.0])
    factor = factor if model.family.n_outputs is None else np.repeat(factor[:, None], 3, axis=1)
    path = gj.fit_path(model, data, n_penalties=12, smallest=1e-3, l1_ratio=0.8, factor=factor,
                       standardize=standardize, tol=1e-12)  # fmt: skip
    gj.check(path.fit)
    for i in (1, 3, 11):
        at = lane(path.fit, i)
        alone = gj.fit_elastic_net(model, data, l1=at.l1, l2=at.l2, standardize=standardize)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9), at.params, alone.params)
        np.testing.assert_allclose(at.loss, alone.loss, rtol=1e-12)
        np.testing.assert_array_equal(at.params.w == 0, alone.params.w == 0)
    # the first penalty is the least that leaves nothing but what is unpenalized, and they fall evenly in the logarithm
    assert np.all((np.asarray(path.fit.params.w)[0] == 0) | (factor == 0))
    less = gj.fit_elastic_net(model, data, l1=0.999 * path.fit.l1[0], l2=0.999 * path.fit.l2[0],
                              standardize=standardize)  # fmt: skip
    assert np.any((np.asarray(less.params.w) != 0) & (factor > 0))
    np.testing.assert_allclose(np.diff(np.log(path.penalty)), np.log(1e-3) / 11)


def test_the_largest_penalty_is_the_steepest_slope_of_the_null_model():
    model, data = problem("poisson")
    mean = data.weight @ data.y / (data.weight @ jnp.exp(data.offset)) * jnp.exp(data.offset)
    slope = np.abs((data.weight * (data.y - mean)) @ data.x) / data.weight.sum()
    path = gj.fit_path(model, data, n_penalties=1, l1_ratio=0.5, factor=2.0)
    np.testing.assert_allclose(path.penalty, slope.max() / (0.5 * 2), rtol=1e-10)


def test_paths_under_vmap_jit_and_derivatives():
    model, data = problem("poisson")
    penalties = jnp.array([0.3, 0.1, 0.03])

    @jax.jit
    @chex.assert_max_traces(1)
    def run(model, y, penalties):
        return gj.fit_path(model, data._replace(y=y), penalties=penalties, tol=1e-12).fit.params

    many = jax.vmap(run, (None, 0, None))(model, jnp.stack([data.y, data.y[::-1]]), penalties)
    alone = gj.fit_path(model, data, penalties=penalties, tol=1e-12).fit.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-10, atol=1e-11), many, alone)
    run(gj.glm(gj.poisson()), data.y, 0.9 * penalties)

    def validation(log_penalties, weight):
        rows = data._replace(weight=weight)
        fits = gj.fit_path(model, rows, penalties=jnp.exp(log_penalties), l1_ratio=0.5, tol=1e-13).fit
        return jnp.sum(jax.vmap(lambda params: gj.loss(model, params, data))(fits.params) * jnp.array([1.0, 2.0, 3.0]))

    check_derivatives(validation, (jnp.log(penalties), data.weight))


@pytest.fixture(scope="module")
def validated():
    model, data = problem("bernoulli")
    folds = np.arange(N) % 4
    return (
        model,
        data,
        folds,
        gj.cross_validate(model, data, None, folds=folds, n_penalties=10, l1_ratio=0.9, tol=1e-10),
    )


def test_cross_validation_is_what_it_says(validated):
    model, data, folds, cv = validated
    gj.check(cv.fit)
    gj.check(cv.fold_fits)
    weights = np.asarray(data.weight)
    for k in range(4):
        inside = np.where(folds == k, weights, 0)
        path = gj.fit_path(model, data._replace(weight=jnp.asarray(weights - inside)), penalties=cv.penalty,
                           l1_ratio=0.9, tol=1e-10)  # fmt: skip
        held = data._replace(weight=jnp.asarray(inside))
        for i in (0, 9):
            params = lane(path.fit.params, i)
            np.testing.assert_allclose(cv.scores[k, i], gj.deviance(model, params, held) / inside.sum(), rtol=1e-7)
    held = np.array([weights[folds == k].sum() for k in range(4)])
    scores = np.asarray(cv.scores)
    mean = held @ scores / held.sum()
    error = np.sqrt(held @ (scores - mean) ** 2 / held.sum() / 3)
    np.testing.assert_allclose(cv.mean, mean)
    np.testing.assert_allclose(cv.std_error, error)
    assert cv.best == np.argmin(mean)
    assert cv.one_se == np.flatnonzero(mean <= mean.min() + error[np.argmin(mean)])[0]
    assert cv.one_se <= cv.best


def test_a_metric_of_ones_own_and_folds_by_a_key(validated):
    model, data, folds, cv = validated
    again = gj.cross_validate(model, data, None, folds=folds, penalties=cv.penalty, l1_ratio=0.9, tol=1e-10,
                              metric=wrong)  # fmt: skip
    params = lane(again.fold_fits.params, (1, 5))
    held = np.where(folds == 1, np.asarray(data.weight), 0)
    eta = np.asarray(gj.linear_predictor(model, params, data.x, data.offset))
    np.testing.assert_allclose(again.scores[1, 5], held @ ((eta > 0) != np.asarray(data.y)) / held.sum())
    drawn = gj.cross_validate(model, data, jax.random.key(1), folds=4, penalties=cv.penalty, l1_ratio=0.9, tol=1e-10)
    assert drawn.scores.shape == cv.scores.shape
    assert not np.allclose(drawn.scores, cv.scores)


def wrong(model, params, data):
    eta = gj.linear_predictor(model, params, data.x, data.offset)
    return data.weight @ ((eta > 0) != (data.y > 0)).astype(eta.dtype) / data.weight.sum()


def test_a_bad_fold_spoils_no_other():
    """One whose rows are separated without it, beside others: with an l1 all are finite, and unpenalized it says so."""
    model = gj.glm(gj.bernoulli())
    x = np.r_[np.linspace(-1, 1, 30), -2.0, 2.0][:, None]
    y = np.r_[(np.linspace(-1, 1, 30) > 0).astype(float), 1.0, 0.0]
    folds = np.r_[np.arange(30) % 3, 3, 3]
    data = gj.make_data(x, y)
    cv = gj.cross_validate(model, data, None, folds=folds, penalties=[0.1, 0.0])
    status = np.asarray(cv.fold_fits.status)
    assert status[3, 1] == gj.Status.SEPARATED
    assert np.all(status[:3] == gj.Status.CONVERGED)
    assert np.all(status[:, 0] == gj.Status.CONVERGED)


DATA = gj.Data(jnp.zeros((6, 2)).at[:, 0].set(jnp.arange(6.0)), jnp.array([0.0, 1, 0, 1, 0, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l1_ratio": 1.5}, "l1_ratio must be 0 to 1, got 1.5"),
        ({"l1_ratio": -0.1}, "l1_ratio must be a finite number, 0 or more, got -0.1"),
        ({"penalties": [0.1, 0.2]}, "penalties must fall from the largest"),
        ({"penalties": []}, "penalties must be (m,), one or more numbers, got shape (0,)"),
        ({"penalties": [0.1, -0.2]}, "penalties[1] = -0.2; it must be finite, 0 or more"),
        ({"smallest": 1.0}, "smallest must be below 1, got 1.0"),
        ({"n_penalties": 0}, "n_penalties must be 1 or more, got 0"),
        ({"factor": np.ones(3)}, "factor must be one number or broadcast to the shape (2,) of w, got (3,)"),
        ({"folds": 7}, "folds = 7 is more than the 6 rows; use at most 6"),
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"folds": np.zeros(6, int)}, "folds must be labels 0 to K - 1 of 2 folds or more, got 0 to 0"),
        ({"folds": np.arange(5)}, "folds must be a number, or (6,) whole numbers; got int64 of (5,)"),
        ({"folds": np.array([0, 0, 0, 2, 2, 2])}, "fold 1 has no rows of positive weight"),
        ({"folds": np.array([0, 1, 0, 1, 0, 0])}, "without fold 0 all targets are 1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gj.cross_validate(MODELS["bernoulli"], DATA, jax.random.key(0), **{"folds": 2, **arguments})


def test_a_key_is_asked_for():
    with pytest.raises(TypeError, match=r"key must be a JAX random key, such as jax.random.key\(0\), where rows are"):
        gj.cross_validate(MODELS["bernoulli"], DATA, None, folds=3)
