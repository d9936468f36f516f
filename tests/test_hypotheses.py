"""Tests of hypotheses, against statsmodels, R's definitions and each other; pseudo-R2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import problem

import glmjax as gj


def nested(name):
    """A model's data, its fit, that without the last two features, and their tables."""
    model, _, data = problem(name, full=True, seed=1)
    fewer = data._replace(x=data.x[:, :1])
    fits = gj.fit_newton(model, data), gj.fit_newton(model, fewer)
    return data, fewer, *fits, gj.inference(data, fits[0]), gj.inference(fewer, fits[1])


def test_least_squares_tests_are_the_exact_f_tests():
    """For the normal family Wald's and the likelihood ratio's F are both the textbook's, in R's `anova`."""
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3))
    y = x[:, 0] + 0.2 * x[:, 1] + rng.normal(size=40)
    wide, narrow = (sm.OLS(y, sm.add_constant(part)).fit() for part in (x, x[:, :1]))
    f, p, df = wide.compare_f_test(narrow)
    model, data, fewer = gj.glm(gj.normal()), gj.make_data(x, y), gj.make_data(x[:, :1], y)
    fit, restricted = gj.fit_newton(model, data), gj.fit_newton(model, fewer)
    table, other = gj.inference(data, fit), gj.inference(fewer, restricted)
    for test in (gj.wald(table, jnp.eye(4)[2:]), gj.likelihood_ratio(table, other)):
        np.testing.assert_allclose(test, (f, df, 36, p), rtol=1e-9)
    # Rao's: the explained sum of squares over the restricted fit's variance.
    score = (narrow.ssr - wide.ssr) / (narrow.ssr / 38)
    found = gj.score_test(fewer, restricted, x[:, 1:])
    np.testing.assert_allclose(found, (score / 2, 2, 38, scipy.stats.f.sf(score / 2, 2, 38)), rtol=1e-9)
    assert float(gj.deviance_r2(fit.model, fit.params, data)) == pytest.approx(wide.rsquared, rel=1e-10)
    assert float(gj.cox_snell_r2(fit.model, fit.params, data)) == pytest.approx(wide.rsquared, rel=1e-10)


def test_logistic_tests_as_statsmodels_has_them():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(4)
    x = rng.normal(size=(80, 3))
    y = (rng.random(80) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    theirs = sm.GLM(y, sm.add_constant(x), sm.families.Binomial()).fit(tol=1e-14)
    narrow = sm.GLM(y, sm.add_constant(x[:, :1]), sm.families.Binomial()).fit(tol=1e-14)
    model, data, fewer = gj.glm(gj.bernoulli()), gj.make_data(x, y), gj.make_data(x[:, :1], y)
    fit, restricted = gj.fit_newton(model, data), gj.fit_newton(model, fewer)
    table, other = gj.inference(data, fit), gj.inference(fewer, restricted)
    contrast = np.array([[0, 1, -1, 0], [0, 0, 1, 1]])
    test, wanted = gj.wald(table, contrast, [0.5, 0.1]), theirs.wald_test((contrast, [0.5, 0.1]), scalar=True)
    np.testing.assert_allclose([test.statistic, test.p_value], [wanted.statistic, wanted.pvalue], rtol=1e-8)
    drop = narrow.deviance - theirs.deviance
    np.testing.assert_allclose(
        gj.likelihood_ratio(table, other), (drop, 2, np.inf, scipy.stats.chi2.sf(drop, 2)), rtol=1e-9
    )
    wanted = narrow.score_test(exog_extra=x[:, 1:])
    found = gj.score_test(fewer, restricted, x[:, 1:])
    np.testing.assert_allclose([found.statistic, found.p_value], np.squeeze(wanted)[:2], rtol=1e-8)
    logit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14)
    assert float(gj.mcfadden_r2(fit.model, fit.params, data)) == pytest.approx(logit.prsquared, rel=1e-9)
    wanted = 1 - np.exp(2 * (logit.llnull - logit.llf) / 80)
    assert float(gj.cox_snell_r2(fit.model, fit.params, data)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", ["categorical-reference", "poisson"])
def test_score_tests_by_their_definition(name):
    data, fewer, fit, restricted, *_ = nested(name)
    k = fit.model.family.n_outputs or 1
    pad = jnp.zeros((2, *restricted.params.w.shape[1:]))
    at = restricted.params._replace(w=jnp.concatenate([restricted.params.w, pad]))
    total = float(jnp.sum(data.weight * data.precision))
    slope = jax.grad(lambda p: total * gj.loss(fit.model, p, data))(at)
    u = np.concatenate([np.asarray(slope.b).reshape(1, -1), np.asarray(slope.w).reshape(3, -1)]).T.reshape(-1)
    wanted = u @ np.linalg.solve(gj.fisher_information(fit.model, at, data), u)
    found = gj.score_test(fewer, restricted, data.x[:, 1:])
    np.testing.assert_allclose(found, (wanted, 2 * k, np.inf, scipy.stats.chi2.sf(wanted, 2 * k)), rtol=1e-7)


def test_an_estimated_alpha_is_compared_by_likelihoods():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = rng.poisson(rng.gamma(1, np.exp(x[:, 0])))
    model, tables = gj.glm(gj.negative_binomial()), []
    for d in (3, 2):
        data = gj.make_data(x[:, :d], y)
        tables.append(gj.inference(data, gj.fit_newton(model, data)))
    test = gj.likelihood_ratio(*tables)
    assert float(test.statistic) == pytest.approx(2 * float(tables[0].log_likelihood - tables[1].log_likelihood))
    plain = gj.inference(data, gj.fit_newton(gj.glm(gj.poisson()), data))
    with pytest.raises(ValueError, match="cannot be compared"):
        gj.likelihood_ratio(tables[0], plain)


def test_what_has_no_answer_is_nan_or_refused():
    data, fewer, _, restricted, table, other = nested("poisson")
    assert np.isnan(gj.wald(table, jnp.ones((2, 4))).p_value)
    assert np.isnan(gj.likelihood_ratio(other, table).p_value)
    assert np.isnan(gj.score_test(fewer, restricted, 2 * fewer.x).p_value)
    twice = data._replace(x=jnp.concatenate([data.x, data.x[:, :1]], axis=1))
    aliased = gj.inference(twice, gj.fit_newton(gj.glm(gj.poisson()), twice))
    assert np.isnan(gj.wald(aliased, jnp.eye(5)[4]).p_value)
    test, wanted = gj.wald(aliased, jnp.eye(5)[1:4]), gj.wald(table, jnp.eye(4)[1:])
    assert float(test.statistic) == pytest.approx(float(wanted.statistic), rel=1e-9)
    for call, sentence in (
        (lambda: gj.wald(table, jnp.eye(3)), r"hypothesis must be \(r, 4\)"),
        (lambda: gj.wald(table, jnp.eye(4), [1.0, 2.0]), r"value must be one number or \(4,\)"),
        (lambda: gj.score_test(fewer, gj.fit_newton(gj.glm(gj.poisson()), fewer, l2=1.0), data.x), "a fit with l2"),
        (lambda: gj.score_test(fewer, restricted, data.x[:5]), r"columns must be \(24, m\)"),
        (lambda: gj.score_test(data, gj.fit_newton(gj.glm(gj.poisson()), data, max_steps=1), data.x), "MAX_STEPS"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_lanes_are_single_tests():
    model, _, data = problem("poisson", full=True, seed=1)
    fewer = data._replace(x=data.x[:, :1])
    ys = jnp.stack([data.y, data.y + 1, data.y * 2])

    def tests(y):
        wide, narrow = data._replace(y=y), fewer._replace(y=y)
        restricted = gj.fit_newton(model, narrow)
        table, other = gj.inference(wide, gj.fit_newton(model, wide)), gj.inference(narrow, restricted)
        return (
            gj.wald(table, jnp.eye(4)[2:]),
            gj.likelihood_ratio(table, other),
            gj.score_test(narrow, restricted, data.x[:, 1:]),
        )

    lanes = jax.vmap(tests)(ys)
    for i, y in enumerate(ys):
        for one, wanted in zip(jax.tree.leaves(lanes), jax.tree.leaves(tests(y)), strict=True):
            np.testing.assert_allclose(one[i], wanted, rtol=1e-8)


def test_networks_have_pseudo_r2(key):
    model, params, data = problem("bernoulli", "mlp", full=True)
    for r2 in (gj.deviance_r2, gj.mcfadden_r2, gj.cox_snell_r2):
        assert np.isfinite(r2(model, params, data))
    null = -float(gj.null_deviance(model, data)) / 2  # of 0 and 1
    wanted = 1 - float(gj.log_likelihood(model, params, data)) / null
    assert float(gj.mcfadden_r2(model, params, data)) == pytest.approx(wanted, rel=1e-9)
