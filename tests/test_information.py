"""The information about a linear model's coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import FAMILIES, differences, problem

import glmjax as gj

MATRICES = [gj.fisher_information, gj.observed_information]


def flat(params):
    """Bias first, class by class."""
    return jnp.concatenate([jnp.atleast_2d(params.b.T).T, jnp.atleast_2d(params.w.T)], axis=1).reshape(-1)


def unflat(vector, like):
    parts = vector.reshape(-1, like.w.shape[0] + 1)
    return gj.Dense(parts[:, 1:].T.reshape(like.w.shape), parts[:, 0].reshape(like.b.shape))


@pytest.mark.parametrize("name", FAMILIES)
def test_observed_is_the_hessian_of_the_loss_and_fisher_the_same_for_canonical_links(name):
    model, params, data = problem(name, full=True)
    total = jnp.sum(data.weight * data.precision)
    hessian = total * jax.hessian(lambda v: gj.loss(model, unflat(v, params), data))(flat(params))
    for matrix in MATRICES:
        np.testing.assert_allclose(matrix(model, params, data), hessian, rtol=1e-12, atol=1e-12)


LINKS = [
    (gj.bernoulli("probit"), lambda y: y > 0),
    (gj.poisson("sqrt"), lambda y: jnp.round(jnp.abs(y))),
    (gj.gamma("log"), jnp.exp),
    (gj.negative_binomial(0.7), lambda y: jnp.round(jnp.exp(y))),
]


@pytest.mark.parametrize(("family", "target"), LINKS, ids=lambda case: getattr(case, "name", ""))
def test_for_other_links_observed_knows_the_targets_and_fisher_is_its_mean(family, target, key):
    model = gj.glm(family)
    x = jax.random.normal(key, (40, 2))
    params = gj.Dense(jnp.array([0.3, -0.2]), jnp.array(1.0))
    data = gj.make_data(x, target(x[:, 0] + x[:, 1]).astype(x.dtype))
    hessian = 40 * jax.hessian(lambda v: gj.loss(model, unflat(v, params), data))(flat(params))
    np.testing.assert_allclose(gj.observed_information(model, params, data), hessian, rtol=1e-12, atol=1e-12)
    fisher = gj.fisher_information(model, params, data)
    assert np.abs(fisher - hessian).max() > 0.1
    # The score is linear in the targets, so their mean gives the mean of the Hessian.
    expected = gj.observed_information(model, params, data._replace(y=gj.predict(model, params, x)))
    np.testing.assert_allclose(fisher, expected, rtol=1e-12)


@pytest.mark.parametrize("matrix", MATRICES)
def test_transformations_and_rows_that_do_not_count(matrix, key):
    model, params, data = problem("bernoulli", full=True)
    wanted = matrix(model, params, data)
    dirty = data._replace(x=jnp.where((data.weight == 0)[:, None], jnp.nan, data.x))
    np.testing.assert_array_equal(matrix(model, params, dirty), wanted)
    np.testing.assert_allclose(jax.jit(matrix)(model, params, data), wanted, rtol=1e-13)
    ws = jnp.stack([params.w, 2 * params.w])
    lanes = jax.vmap(lambda w: matrix(model, params._replace(w=w), data))(ws)
    for lane, w in zip(lanes, ws, strict=True):
        np.testing.assert_allclose(lane, matrix(model, params._replace(w=w), data), rtol=1e-12)

    def trace(w):
        return jnp.trace(matrix(model, params._replace(w=w), data))

    slope = jax.grad(trace)(params.w) @ jnp.ones(3)
    assert slope == pytest.approx(float(differences(trace, params.w, jnp.ones(3))), rel=1e-6)
    many = jax.tree.map(lambda part: jnp.concatenate([part] * 200), data)  # several chunks
    np.testing.assert_allclose(matrix(model, params, many), 200 * wanted, rtol=1e-11)


def test_without_a_bias_it_is_that_of_the_weights():
    model, params, data = problem("poisson")
    free = gj.glm(gj.poisson(), bias=False)
    whole = gj.fisher_information(model, params._replace(b=jnp.zeros(())), data)
    np.testing.assert_allclose(gj.fisher_information(free, gj.Dense(params.w, None), data), whole[1:, 1:], rtol=1e-12)


def test_mlps_and_other_shapes_are_refused():
    model, params, data = problem("poisson", "mlp")
    with pytest.raises(ValueError, match="an mlp's weights have no unique one"):
        gj.fisher_information(model, params, data)
    model, params, data = problem("poisson")
    with pytest.raises(ValueError, match="the parameters are for 2 features, got x with 3"):
        gj.observed_information(model, gj.Dense(params.w[:2], params.b), data)
