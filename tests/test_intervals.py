"""Intervals for means and for new targets, against statsmodels, definitions and SciPy; the analysis of deviance."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import problem

import glmjax as gj
from glmjax.intervals import _end

Z = scipy.stats.norm.isf(0.025)
NEW = np.array([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [-3.0, 1.0, 2.0]])
OFFSET = np.array([0.0, 0.3, -0.2])
U = np.column_stack([np.ones(3), NEW])


def test_of_least_squares_both_are_exact():
    """R's `predict(lm, interval="confidence")` and `"prediction"`."""
    sm = pytest.importorskip("statsmodels.api")
    _, _, data = problem("normal", seed=1)
    theirs = sm.OLS(np.asarray(data.y), sm.add_constant(np.asarray(data.x))).fit().get_prediction(U)
    fit = gj.fit_newton(gj.glm(gj.normal()), data)
    mean, new = gj.mean_interval(data, fit, NEW), gj.prediction_interval(data, fit, NEW)
    wanted = theirs.summary_frame()
    for found, name in ((mean, "mean_ci"), (new, "obs_ci")):
        np.testing.assert_allclose(found.mean, wanted["mean"], rtol=1e-10)
        np.testing.assert_allclose(found.lower, wanted[f"{name}_lower"], rtol=1e-10)
        np.testing.assert_allclose(found.upper, wanted[f"{name}_upper"], rtol=1e-10)


def test_means_are_by_the_linear_predictors_errors():
    model, _, data = problem("poisson", full=True, seed=1)
    fit = gj.fit_newton(model, data)
    eta = np.asarray(gj.linear_predictor(model, fit.params, jnp.asarray(NEW), jnp.asarray(OFFSET)))
    for covariance, options in ((gj.fisher, {}), (gj.fisher, {"dispersion": 2.5}), (gj.hc0, {"level": 0.8})):
        table = gj.inference(data, fit, covariance=covariance, **options)
        se = np.sqrt(np.einsum("np,pq,nq->n", U, table.covariance, U))
        q = scipy.stats.norm.isf((1 - options.get("level", 0.95)) / 2)
        found = gj.mean_interval(data, fit, NEW, offset=OFFSET, covariance=covariance, **options)
        np.testing.assert_allclose(found.mean, np.exp(eta), rtol=1e-12)
        np.testing.assert_allclose(found.lower, np.exp(eta - q * se), rtol=1e-10)
        np.testing.assert_allclose(found.upper, np.exp(eta + q * se), rtol=1e-10)


def test_probabilities_of_classes_are_moved_on_their_logits():
    model, _, data = problem("categorical-reference", full=True, seed=1)
    fit = gj.fit_newton(model, data)
    table, found = gj.inference(data, fit), gj.mean_interval(data, fit, NEW)
    flat = np.asarray(table.estimate)

    def logits(flat):
        eta = np.insert(U @ flat.reshape(2, 4).T, 1, 0, axis=1)
        p = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
        return np.log(p / (1 - p))

    step = 1e-5 * np.eye(8)
    slope = np.stack([(logits(flat + h) - logits(flat - h)) / 2e-5 for h in step], axis=-1)
    se = np.sqrt(np.einsum("nkp,pq,nkq->nk", slope, table.covariance, slope))
    at = logits(flat)
    for end, wanted in ((found.mean, at), (found.lower, at - Z * se), (found.upper, at + Z * se)):
        np.testing.assert_allclose(end, 1 / (1 + np.exp(-wanted)), rtol=1e-8)
    with pytest.raises(ValueError, match="classes have no order; mean_interval has the probabilities"):
        gj.prediction_interval(data, fit, NEW, jax.random.key(0))


ENDS = {  # a family, its linear predictor, an end, the mean there
    "inside": (gj.poisson(), 0.5, -1.0, np.exp(-1.0)),
    "below an identity": (gj.poisson("identity"), 0.5, -1.0, 0.0),
    "below a square root": (gj.poisson("sqrt"), 0.5, -0.2, 0.0),
    "below an inverse": (gj.gamma("inverse"), 0.5, -1.0, np.inf),
    "below an inverse square": (gj.inverse_gaussian("inverse_squared"), 0.5, -1.0, np.inf),
    "a share above 1": (gj.bernoulli("identity"), 0.5, 1.2, 1.0),
    "a share below 0": (gj.binomial("identity"), 0.5, -0.2, 0.0),
    "a share's logarithm above 0": (gj.binomial("log"), -0.5, 0.2, 1.0),
    "through a pole": (gj.normal(link="inverse"), 0.5, -1.0, np.inf),
    "through a pole from below": (gj.normal(link="inverse"), -0.5, 1.0, -np.inf),
    "at several outputs": (gj.normal(2), 0.5, -1.0, -1.0),
    "unknown": (gj.poisson(), 0.5, np.nan, np.nan),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_stay_among_the_means(name):
    family, eta, end, wanted = ENDS[name]
    shape = (1, family.n_outputs or 1)
    eta, end = jnp.full(shape, eta), jnp.full(shape, end)
    mean = jax.vmap(family.mean)(eta)
    np.testing.assert_allclose(_end(family, eta, mean, end), np.full(shape, wanted), rtol=1e-12)


def predictive(eta, se, cdf):
    """The distribution function of a target whose linear predictor is normal, by Gauss and Hermite."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    return weight @ cdf(eta + se * nodes) / weight.sum()


def test_new_targets_are_of_their_predictive_distribution(key):
    draws = 20_000
    room = 4 * np.sqrt(0.05 * 0.95 / draws)
    sizes = np.asarray(problem("poisson", full=True, seed=1)[2].y) + 0.5
    for model, wide in ((gj.glm(gj.poisson()), 3.0), (gj.glm(gj.gamma()), 0.4)):
        _, _, data = problem("poisson", full=True, seed=1)
        data = data if model.family.name == "poisson" else data._replace(y=jnp.asarray(sizes))
        fit = gj.fit_newton(model, data)
        table = gj.inference(data, fit, dispersion=wide)
        found = gj.prediction_interval(data, fit, NEW, key, offset=OFFSET, n_draws=draws, dispersion=wide, level=0.9)
        eta = np.log(found.mean)
        se = np.sqrt(np.einsum("np,pq,nq->n", U, table.covariance, U))
        for i in range(3):
            if model.family.name == "poisson":
                lower, upper = (
                    [predictive(eta[i], se[i], lambda at, e=e: scipy.stats.poisson.cdf(e, np.exp(at))) for e in ends]
                    for ends in ((found.lower[i] - 1, found.lower[i]), (found.upper[i] - 1, found.upper[i]))
                )
                assert found.lower[i] == np.round(found.lower[i])
                assert lower[0] - room <= 0.05 <= lower[1] + room
                assert upper[0] - room <= 0.95 <= upper[1] + room
            else:
                for end, level in ((found.lower[i], 0.05), (found.upper[i], 0.95)):
                    share = predictive(
                        eta[i], se[i], lambda at, e=end, w=wide: scipy.stats.gamma.cdf(e, 1 / w, scale=w * np.exp(at))
                    )
                    assert abs(share - level) < room


def test_the_analysis_of_deviance_is_rs():
    """`anova(m0, m1, m2, test = "Chisq")`, and "F" where the dispersion is estimated: the widest model's for all."""
    _, _, data = problem("poisson", full=True, seed=1)
    masks = [jnp.array([1.0, 0, 0]), jnp.array([1.0, 1, 0]), jnp.ones(3)]  # columns of 0 are aliased, and not counted
    for model, y in ((gj.glm(gj.poisson()), data.y), (gj.glm(gj.gamma()), data.y + 0.5)):
        rows = [data._replace(x=data.x * mask[None], y=y) for mask in masks]
        fits = [gj.fit_newton(model, each) for each in rows]
        tables = [gj.inference(each, fit) for each, fit in zip(rows, fits, strict=True)]
        found = gj.analysis_of_deviance(tables)
        deviance = np.array([gj.deviance(model, fit.params, each) for each, fit in zip(rows, fits, strict=True)])
        n = float(data.weight.sum())
        np.testing.assert_allclose(found.df_resid, n - np.array([2, 3, 4]))
        np.testing.assert_allclose(found.deviance, deviance)
        np.testing.assert_allclose(found.drop, [np.nan, *-np.diff(deviance)])
        np.testing.assert_allclose(found.df, [np.nan, 1, 1])
        drop = -np.diff(deviance)
        if model.family.dispersion is None:
            wanted = scipy.stats.chi2.sf(drop, 1)
        else:
            drop = drop / float(gj.pearson_chi2(model, fits[2].params, data._replace(y=y))) * (n - 4)
            wanted = scipy.stats.f.sf(drop, 1, n - 4)
        np.testing.assert_allclose(found.statistic, [np.nan, *drop], rtol=1e-9)
        np.testing.assert_allclose(found.p_value, [np.nan, *wanted], rtol=1e-8)
        one = gj.likelihood_ratio(tables[2], tables[1])
        np.testing.assert_allclose((found.statistic[2], found.p_value[2]), (one.statistic, one.p_value))
        both = gj.analysis_of_deviance([jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), t) for t in tables])
        np.testing.assert_allclose(both.p_value, np.stack([found.p_value, found.p_value]), rtol=1e-14)
    fewer = jax.tree.map(lambda leaf: leaf, tables[0])._replace(df_resid=tables[0].df_resid - 1)
    for given, error, sentence in (
        (tables[::-1], ValueError, r"tables\[1\] has fewer coefficients than tables\[0\]; put the smallest"),
        (tables[:1], ValueError, "need two models or more to compare, got 1"),
        ([fewer, tables[1]], ValueError, r"tables\[0\] is of 35 rows and tables\[1\] of 36"),
        (tables[0], TypeError, "tables must be a list of what inference returns, got Inference"),
        (fits, TypeError, "tables must hold what inference returns, got Fit"),
    ):
        with pytest.raises(error, match=sentence):
            gj.analysis_of_deviance(given)


def test_lanes_are_single_intervals_and_one_program(key):
    model, _, data = problem("poisson", full=True, seed=1)
    new, offset = jnp.asarray(NEW), jnp.asarray(OFFSET)

    def both(y, key):
        rows = data._replace(y=y)
        fit = gj.fit_newton(model, rows)
        return (
            gj.mean_interval(rows, fit, new, offset=offset),
            gj.prediction_interval(rows, fit, new, key, offset=offset, n_draws=100),
        )

    lanes = jax.jit(jax.vmap(chex.assert_max_traces(both, n=1)))
    keys = jax.random.split(key, 3)
    ys = jnp.stack([data.y, data.y + 1, data.y - 100])
    lanes(ys + 1, keys)
    found = lanes(ys, keys)
    for i in (0, 1):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(both(ys[i], keys[i])), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-8)
    assert all(np.isnan(leaf[2]).all() for leaf in jax.tree.leaves(found))  # no targets of the family
    # A coefficient that is infinite makes those rows unknown that have to do with it.
    fit = gj.fit_newton(model, data)
    marked = fit._replace(
        status=jnp.asarray(gj.Status.SEPARATED, jnp.int32),
        infinite=gj.Dense(jnp.array([True, False, False]), jnp.array(False)),
    )
    found = gj.mean_interval(data, marked, NEW, offset=OFFSET)
    np.testing.assert_array_equal(np.isnan(found.upper), [False, True, True])
    assert found.upper[0] == pytest.approx(float(gj.mean_interval(data, fit, NEW, offset=OFFSET).upper[0]))


def test_refusals_are_sentences():
    model, _, data = problem("poisson", full=True, seed=1)
    fit = gj.fit_newton(model, data)
    for call in (gj.mean_interval, gj.prediction_interval):
        for change, x, options, error, sentence in (
            ({"status": gj.Status.MAX_STEPS}, NEW, {}, ValueError, "the fit ended MAX_STEPS"),
            ({"model": gj.mlp(gj.poisson())}, NEW, {}, ValueError, "the weights of an mlp"),
            ({}, NEW[0], {}, ValueError, r"x must be 2-d \(n, d\), got shape \(3,\)"),
            ({}, NEW[:, :2], {}, ValueError, "the parameters are for 3 features, got x with 2"),
            ({}, NEW + np.nan, {}, ValueError, "x contains NaN at row 0, column 0"),
            ({}, NEW, {"offset": OFFSET[:2]}, ValueError, r"offset must be \(3,\), got shape \(2,\)"),
            ({}, NEW, {"level": 0}, ValueError, "level must be above 0 and below 1, got 0"),
        ):
            if call is gj.prediction_interval:
                options = {"key": jax.random.key(0), **options}
            with pytest.raises(error, match=sentence):
                call(data, fit._replace(**change), x, **options)
    quasi = fit._replace(model=gj.glm(gj.quasi_poisson()))
    for model_fit, options, error, sentence in (
        (quasi, {"key": jax.random.key(0)}, ValueError, "the quasi_poisson family has no distribution to draw"),
        (fit, {}, TypeError, "key must be a JAX random key, such as jax.random.key"),
        (fit, {"key": 3}, TypeError, "key must be one JAX random key"),
        (fit, {"key": jax.random.key(0), "n_draws": 1}, ValueError, "n_draws must be 2 or more, got 1"),
    ):
        with pytest.raises(error, match=sentence):
            gj.prediction_interval(data, model_fit, NEW, **options)
