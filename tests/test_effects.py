"""Marginal effects, contrasts and elasticities, against statsmodels, closed forms and the delta method by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import D, problem

import glmjax as gj


def slope_of(model, x, j):
    """The average marginal effect of feature j at rows x."""
    e = jnp.zeros_like(x).at[:, j].set(1)
    return lambda params: jax.jvp(lambda x: gj.predict(model, params, x), (x,), (e,))[1].mean(axis=0)


def slopes_of(model, x):
    """Of all features, (d,), as a function of the parameters."""
    return lambda params: jnp.stack([slope_of(model, x, j)(params) for j in range(x.shape[1])])


@pytest.mark.parametrize("name", ["logit", "probit", "poisson"])
def test_marginal_effects_are_those_of_statsmodels(name):
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    family = {"logit": gj.bernoulli(), "probit": gj.bernoulli("probit"), "poisson": gj.poisson()}[name]
    rate = np.exp(0.3 * x[:, 0])
    y = rng.poisson(rate) if name == "poisson" else rng.random(80) < rate / (1 + rate)
    theirs = {"logit": sm.Logit, "probit": sm.Probit, "poisson": sm.Poisson}[name](y.astype(float), sm.add_constant(x))
    theirs = theirs.fit(disp=0, tol=1e-14, method="newton")
    model, data = gj.glm(family), gj.make_data(x, y.astype(float))
    fit = gj.fit_newton(model, data)
    # statsmodels takes the observed information: not Fisher's where the link is not canonical.
    places = (("overall", data.x), ("mean", data.x.mean(axis=0)[None]))
    for at, rows in places[: 1 if name == "probit" else 2]:  # probit's takes long to compile
        found = gj.average(data, fit, slopes_of(model, rows), covariance=gj.observed)
        wanted = theirs.get_margeff(at=at)
        np.testing.assert_allclose(found.estimate, wanted.margeff, rtol=1e-8)
        np.testing.assert_allclose(found.std_error, wanted.margeff_se, rtol=1e-7)
        np.testing.assert_allclose(found.p_value, wanted.pvalues, rtol=1e-6)
        np.testing.assert_allclose(jnp.stack([found.lower, found.upper], axis=1), wanted.conf_int(), rtol=1e-7)
    if name == "probit":
        return
    elastic = theirs.get_margeff(method="eyex")

    def elasticity(params):
        moves = jnp.zeros_like(data.x).at[:, 0].set(data.x[:, 0])
        return jax.jvp(lambda x: jnp.log(gj.predict(model, params, x)), (data.x,), (moves,))[1].mean()

    found = gj.average(data, fit, elasticity, covariance=gj.observed)
    np.testing.assert_allclose(
        [found.estimate, found.std_error], [elastic.margeff[0], elastic.margeff_se[0]], rtol=1e-7
    )


def test_normal_effects_are_coefficients_with_t():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, D))
    data, model = gj.make_data(x, x[:, 0] + rng.normal(size=20)), gj.glm(gj.normal())
    fit = gj.fit_newton(model, data)
    table, effect = gj.inference(data, fit), gj.average(data, fit, slopes_of(model, data.x))
    for field in effect._fields:
        np.testing.assert_allclose(getattr(effect, field), getattr(table, field)[1:], rtol=1e-10)

    # A mean of predictions: the closed form s^2 z'(Z'Z)^-1 z at z = (1, mean x), which is s^2 / n.
    def middle(params):
        return gj.predict(model, params, data.x).mean()

    mean = gj.average(data, fit, middle, level=0.9)
    s = float(jnp.sqrt(table.dispersion / 20))
    np.testing.assert_allclose([mean.estimate, mean.std_error], [data.y.mean(), s], rtol=1e-10)
    np.testing.assert_allclose(mean.upper - mean.estimate, scipy.stats.t.ppf(0.95, 16) * s, rtol=1e-9)
    known = gj.average(data, fit, middle, dispersion=5.0)  # and the normal's quantile
    np.testing.assert_allclose(known.std_error, 0.5, rtol=1e-10)
    np.testing.assert_allclose(known.upper - known.estimate, scipy.stats.norm.ppf(0.975) * 0.5, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "covariance"),
    [("categorical-reference", gj.fisher), ("poisson", gj.hc0), ("poisson", gj.clustered(np.arange(24) // 3))],
    ids=["fisher", "hc0", "clustered"],
)
def test_errors_are_the_delta_methods(name, covariance):
    """J C J' with J by differences of flat coefficients, C the table's; f of two axes."""
    model, _, data = problem(name, full=True, seed=1)
    fit = gj.fit_newton(model, data)
    table = gj.inference(data, fit, covariance=covariance)
    treated, untreated = data.x.at[:, 0].set(1), data.x.at[:, 0].set(0)

    def contrast(params):
        gap = gj.predict(model, params, treated) - gj.predict(model, params, untreated)
        return jnp.stack([gap.mean(axis=0), gap[0]])

    k = model.family.n_outputs or 1
    at = np.asarray(table.estimate)

    def of_flat(flat):
        parts = jnp.asarray(flat).reshape(k, D + 1)
        w, b = parts[:, 1:].T, parts[:, 0]
        return np.asarray(contrast(gj.Dense(w, b) if k > 1 else gj.Dense(w[:, 0], b[0]))).ravel()

    jacobian = np.stack([(of_flat(at + s) - of_flat(at - s)) / 2e-5 for s in 1e-5 * np.eye(len(at))], axis=1)
    wanted = np.sqrt(np.diag(jacobian @ np.asarray(table.covariance) @ jacobian.T))
    found = gj.average(data, fit, contrast, covariance=covariance)
    assert found.estimate.shape == ((2,) if k == 1 else (2, 3))
    np.testing.assert_allclose(found.estimate.ravel(), of_flat(at), rtol=1e-12)
    np.testing.assert_allclose(found.std_error.ravel(), wanted, rtol=1e-7)
    z = np.asarray(found.estimate / found.std_error)
    np.testing.assert_allclose(found.p_value, 2 * scipy.stats.norm.sf(np.abs(z)), rtol=1e-9)


def test_coefficients_that_have_no_error_spoil_those_that_depend_on_them_only():
    model, _, data = problem("bernoulli", seed=2)
    model, fit = gj.glm(gj.bernoulli()), gj.fit_newton(model, data)

    def effects(params):
        return jnp.append(gj.predict(model, params, data.x[:3, : params.w.size]), params.w[0])

    twice = data._replace(x=jnp.concatenate([data.x, data.x[:, :1]], axis=1))
    aliased = gj.fit_newton(model, twice)
    assert aliased.status == gj.Status.RANK_DEFICIENT
    wide = lambda params: jnp.append(gj.predict(model, params, twice.x[:3]), params.w)  # noqa: E731
    found, wanted = gj.average(twice, aliased, wide), gj.average(data, fit, effects)
    np.testing.assert_allclose(found.std_error[:4], wanted.std_error, rtol=1e-8)
    assert (found.estimate[-1], found.std_error[-1]) == (0, 0)

    group = jnp.asarray([1.0] * 6 + [0.0] * 18)  # a group without events
    split = data._replace(x=jnp.concatenate([data.x[:, :1], group[:, None]], axis=1), y=data.y.at[:6].set(0))
    separated = gj.fit_newton(model, split)
    assert separated.status == gj.Status.SEPARATED

    def both(params):
        return jnp.concatenate([params.w, gj.predict(model, params, split.x[4:8])])

    found = gj.average(split, separated, both)
    np.testing.assert_array_equal(np.isnan(found.std_error), [False, True, True, True, False, False])
    rest = split._replace(x=split.x[6:, :1], y=split.y[6:])
    wanted = gj.average(rest, gj.fit_newton(model, rest), lambda p: jnp.append(p.w, gj.predict(model, p, rest.x[:2])))
    np.testing.assert_allclose(found.std_error[jnp.asarray([0, 4, 5])], wanted.std_error, rtol=1e-5)


def mean_at(model, x, params):
    return gj.predict(model, params, x).mean()


def test_lanes_compile_once_and_are_single_ones():
    model, _, data = problem("poisson", full=True, seed=1)
    ys = jnp.stack([data.y, data.y + 1, -data.y - 1])

    @chex.assert_max_traces(n=3)
    def one(y, x):
        rows = data._replace(y=y)
        return gj.average(rows, gj.fit_newton(model, rows), jax.tree_util.Partial(mean_at, model, x))

    lanes = jax.jit(jax.vmap(one, (0, None)))
    lanes(ys, 2 * data.x)
    found = lanes(ys, data.x)  # the trace of the first call; each eager call below is one more
    for i, y in enumerate(ys[:2]):
        for part, wanted in zip(found, one(y, data.x), strict=True):
            np.testing.assert_allclose(part[i], wanted, rtol=1e-8)
    assert all(np.isnan(part[2]) for part in found)  # a target that no count is


def test_what_is_refused():
    model, _, data = problem("poisson", seed=1)
    fit, net = gj.fit_newton(model, data), problem("poisson", "mlp")[0]
    for call, error, sentence in (
        (lambda: gj.average(data, fit, 3.0), TypeError, "f must be a function, got 3.0"),
        (lambda: gj.average(data, fit.params, mean_at), TypeError, "fit must be a Fit"),
        (lambda: gj.average(data, fit, mean_at, covariance="hc3"), TypeError, "covariance must be an estimator"),
        (lambda: gj.average(data, fit, lambda p: {"b": p.b}), TypeError, "f must return one array of real numbers"),
        (lambda: gj.average(data, fit, lambda p: p.w > 0), TypeError, "got bool"),
        (lambda: gj.average(data, fit, lambda p: p.b, level=95), ValueError, "level must be above 0 and below 1"),
        (lambda: gj.average(data, gj.fit_newton(model, data, max_steps=1), mean_at), ValueError, "MAX_STEPS"),
        (lambda: gj.average(data, fit._replace(model=net), mean_at), ValueError, "bootstrap"),
    ):
        with pytest.raises(error, match=sentence):
            call()
