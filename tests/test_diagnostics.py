"""Residuals, influence measures, calibration and dispersion: against R, SciPy, statsmodels and sums in 130 digits."""

import shutil
import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scipy.stats
import statsmodels.api as sm
from oracle import D
from problems import problem
from statsmodels.discrete._diagnostics_count import test_poisson_dispersion as poisson_dispersion

import glmjax as gj
from glmjax.tails import log_normal_quantile

needs_r = pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
KEY = jax.random.key(11)
N = 40
RESIDUALS = {
    "response": gj.response_residuals,
    "pearson": gj.pearson_residuals,
    "deviance": gj.deviance_residuals,
    "working": gj.working_residuals,
}

# R --------------------------------------------------------------------------------------------------------------------

R_CASES = {
    "gaussian": (gj.normal(), "y ~ x1 + x2, family = gaussian()", "weights = precision"),
    "poisson": (gj.poisson(), "y ~ x1 + x2, family = poisson()", "offset = offset"),
    "binomial": (gj.binomial(), "cbind(y, f) ~ x1 + x2, family = binomial()", ""),
    "probit": (gj.bernoulli("probit"), "y ~ x1 + x2, family = binomial('probit')", ""),
    "gamma": (gj.gamma(), "y ~ x1 + x2, family = Gamma('log')", "offset = offset"),
    "gamma-inverse": (gj.gamma("inverse"), "y ~ x1 + x2, family = Gamma('inverse')", "weights = precision"),
    "inverse-gaussian": (gj.inverse_gaussian(), "y ~ x1 + x2, family = inverse.gaussian('log')", ""),
    "quasipoisson": (gj.quasi_poisson("sqrt"), "y ~ x1 + x2, family = quasipoisson('sqrt')", ""),
}


def r_problem(name):
    rng = np.random.default_rng(3)
    x, offset, precision = rng.normal(size=(N, 2)), 0.3 * rng.normal(size=N), rng.uniform(0.5, 2, N)
    mean = np.exp(0.5 + 0.3 * x @ [1, -0.5])
    f = np.zeros(N)
    if name == "binomial":
        trials = rng.integers(1, 9, N)
        y = rng.binomial(trials, mean / (1 + mean)).astype(float)
        f = trials - y
    elif name == "probit":
        y = (rng.uniform(size=N) < mean / (1 + mean)).astype(float)
    elif "poisson" in name:
        y = rng.poisson(2 * mean).astype(float)
    else:
        y = rng.gamma(4, mean / 4)
    return x, y, f, offset, precision


def r_measures(name, tmp_path):
    """What R says, columns of one table."""
    x, y, f, offset, precision = r_problem(name)
    np.savetxt(
        tmp_path / "data.csv", np.column_stack([x, y, f, offset, precision]), fmt="%.17g", delimiter=",",
        header="x1,x2,y,f,offset,precision", comments="",
    )  # fmt: skip
    _, call, more = R_CASES[name]
    code = f"""
        d <- read.csv("{tmp_path}/data.csv")
        m <- glm({call}, data = d{", " + more if more else ""}, control = glm.control(epsilon = 1e-300, maxit = 60))
        for (i in 1:30) m <- update(m, start = coef(m))  # glm stops where the deviance does not change
        kinds <- c("response", "pearson", "deviance", "working")
        table <- cbind(sapply(kinds, function(kind) residuals(m, kind)), hatvalues(m), rstandard(m, type = "pearson"),
                       rstandard(m), cooks.distance(m), dfbetas(m))
        write(format(t(table), digits = 17), stdout(), ncolumns = ncol(table))
    """
    out = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    return np.array(out.split(), float).reshape(N, -1).T


@needs_r
@pytest.mark.parametrize("name", R_CASES)
def test_residuals_and_influence_are_those_of_r(name, tmp_path):
    family, _, more = R_CASES[name]
    x, y, f, offset, precision = r_problem(name)
    data = gj.make_data(
        x,
        np.stack([y, f], axis=1) if name == "binomial" else y,
        family=family,
        offset=offset if "offset" in more else None,
        precision=precision if "precision" in more else None,
    )
    fit = gj.check(gj.fit_newton(gj.glm(family), data))
    wanted = r_measures(name, tmp_path)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    for residuals, want in zip(RESIDUALS.values(), wanted, strict=False):
        close(residuals(fit.model, fit.params, data), want)
    found = gj.influence_measures(data, fit)
    for part, want in zip(found[:4], wanted[4:8], strict=True):
        close(part, want)
    close(found.dfbetas.T, (-1 if name == "gamma-inverse" else 1) * wanted[8:])  # whose sign is wrong in R, see below


# influence measures ---------------------------------------------------------------------------------------------------


def test_normal_influence_is_that_of_refits():
    """For least squares one step is the refit: leverage and DFBETAS by their definition."""
    _, _, data = problem("normal")
    data = data._replace(weight=None)
    fit = gj.fit_newton(gj.glm(gj.normal()), data)
    found = gj.influence_measures(data, fit)
    n, x = len(data.x), np.column_stack([np.ones(len(data.x)), data.x])
    inverse = np.linalg.inv(x.T @ x)
    np.testing.assert_allclose(found.leverage, np.sum(x @ inverse * x, axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.sum(found.leverage), x.shape[1], rtol=1e-12)
    beta = np.linalg.lstsq(x, data.y, rcond=None)[0]
    s2 = np.sum((data.y - x @ beta) ** 2) / (n - 4)
    for i in range(n):
        xi, yi = np.delete(x, i, 0), np.delete(data.y, i)
        left = np.linalg.lstsq(xi, yi, rcond=None)[0]
        sigma = np.sqrt(np.sum((yi - xi @ left) ** 2) / (n - 1 - 4))
        np.testing.assert_allclose(found.dfbetas[i], (beta - left) / (sigma * np.sqrt(np.diag(inverse))), rtol=1e-9)
        moved = x @ (beta - left)
        np.testing.assert_allclose(found.cooks_distance[i], moved @ moved / (4 * s2), rtol=1e-9)


@pytest.mark.parametrize("link", ["log", "inverse"])
def test_dfbetas_point_to_the_refit(link):
    x, y, *_ = r_problem("gamma")
    data = gj.make_data(x, y)
    fit = gj.fit_newton(gj.glm(gj.gamma(link)), data)
    moves = np.asarray(gj.influence_measures(data, fit).dfbetas)
    left = gj.jackknife(fit, data).leave_one_out
    true = np.concatenate([fit.params.b[None], fit.params.w]) - np.asarray(left)
    assert np.corrcoef(moves.ravel(), (true / np.std(true, axis=0)).ravel())[0, 1] > 0.9


def test_leverages_of_an_ill_conditioned_design_keep_their_digits():
    """Columns 1, t, ..., t^9 of t from 100 to 101: the space is that of Legendre polynomials, and so are leverages."""
    u = np.linspace(-1, 1, 60)
    t = 100.5 + u / 2
    x = np.vander(t, 5, increasing=True)[:, 1:]
    good = np.polynomial.legendre.legvander(2 * (t - 100.5), 4)
    y = np.sin(5 * u)
    data = gj.make_data(x, y)
    found = gj.influence_measures(data, gj.fit_newton(gj.glm(gj.normal()), data))
    want = np.sum(np.linalg.qr(good)[0] ** 2, axis=1)
    # The powers are rounded: 100^4 eps over what is left of t^4 beside lower ones, 1e-3, moves the space by 1e-5.
    np.testing.assert_allclose(found.leverage, want, rtol=1e-5)
    np.testing.assert_allclose(np.sum(found.leverage), 5, rtol=1e-9)


def test_weights_are_copies():
    model, _, data = problem("poisson", full=True)
    data = data._replace(precision=None)
    times = np.asarray(data.weight).astype(int)
    long = jax.tree.map(lambda part: jnp.asarray(np.repeat(part, times, axis=0)), data._replace(weight=None))
    found, want = (gj.influence_measures(d, gj.fit_newton(model, d)) for d in (data, long))
    jax.tree.map(
        lambda f, w: np.testing.assert_allclose(np.repeat(f, times, axis=0), w, rtol=1e-8, atol=1e-10), found, want
    )
    test, want = (gj.dispersion_test(model, gj.fit_newton(model, d).params, d) for d in (data, long))
    np.testing.assert_allclose(np.array(test), np.array(want), rtol=1e-8)


def test_an_estimated_alpha_counts_as_given_and_aliased_coefficients_are_nan():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(200, 2))
    data = gj.make_data(np.column_stack([x, x[:, 0]]), rng.negative_binomial(1, 0.3, 200).astype(float))
    fit = gj.fit_newton(gj.glm(gj.negative_binomial()), data)
    found = gj.influence_measures(data, fit)
    given = gj.glm(gj.negative_binomial(float(fit.model.family.alpha)))
    want = gj.influence_measures(data, gj.fit_newton(given, data))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), found, want)
    assert np.all(np.isnan(found.dfbetas[:, 3]))
    assert np.all(np.isfinite(found.dfbetas[:, :3]))


def test_lanes_are_as_alone_and_failed_ones_nan():
    model, _, data = problem("poisson", full=True)
    ys = jnp.stack([data.y, data.y[::-1], jnp.full_like(data.y, -1)])
    fits = jax.vmap(lambda y: gj.fit_newton(model, data._replace(y=y)))(ys)
    lanes = jax.vmap(lambda y, fit: gj.influence_measures(data._replace(y=y), fit))(ys, fits)
    for i in range(2):
        fit, one = jax.tree.map(lambda leaf, i=i: leaf[i], fits), data._replace(y=ys[i])
        alone = gj.influence_measures(one, fit)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), [x[i] for x in lanes], list(alone))
    assert all(np.all(np.isnan(part[2])) for part in lanes)


# quantile residuals ---------------------------------------------------------------------------------------------------


def exact_masses(row, eta, y, top=None):
    """Logarithms of what is below, at and above a whole number, summed in 130 digits."""

    def at(t):
        return row.log_density(D(eta), (D(t), D(top - t)) if top else D(t), D(1)).exp()

    below = sum((at(t) for t in range(y)), D(0))
    if top:
        above = sum((at(t) for t in range(y + 1, top + 1)), D(0))
    else:
        above, t = 1 - below - at(y), y
        if above < D("1e-60"):  # what is exact to 1e-89: add up instead
            above, part = D(0), D(1)
            while part > above * D("1e-30"):
                t += 1
                part = at(t)
                above += part

    def log(part, others):  # the digits of what is nearly 1 are its complement's
        return float(oracle.log1p(-others) if others < D("0.5") else part.ln()) if part > 0 else -np.inf

    return [log(below, at(y) + above), float(at(y).ln()), log(above, below + at(y))]


COUNTS = {
    "poisson": (gj.poisson(), oracle.poisson("log"), None),
    "negative-binomial": (gj.negative_binomial(0.5), oracle.negative_binomial("log", D(0.5)), None),
    "nearly-poisson": (gj.negative_binomial(2.0**-30), oracle.negative_binomial("log", D(2.0**-30)), None),
    "mostly-zero": (gj.negative_binomial(64.0), oracle.negative_binomial("log", D(64)), None),
    "negative-binomial1": (gj.negative_binomial1(2.0), oracle.negative_binomial1("log", D(2)), None),
    "binomial": (gj.binomial(), oracle.binomial("logit"), 120),
    "cloglog": (gj.binomial("cloglog"), oracle.binomial("cloglog"), 12),
}


@pytest.mark.parametrize("name", COUNTS)
def test_masses_of_counts_have_their_digits_in_both_tails(name):
    family, row, top = COUNTS[name]
    etas = [-30.0, -5.0, -1.0, 0.5, 1.25] if top else [-20.0, -2.0, 0.0, 2.0, 5.0]
    points = [(eta, y) for eta in etas for y in (0, 1, 2, 9, 12, 70, 120) if y <= (top or 120)]
    want = np.array([exact_masses(row, eta, y, top) for eta, y in points])
    eta, y = (np.array(part, float) for part in zip(*points, strict=True))
    y = np.stack([y, top - y], axis=1) if top else y
    for dtype in (np.float64, np.float32):
        found = jax.jit(jax.vmap(family_in(family, dtype).masses))(
            *(jnp.asarray(a, dtype) for a in (eta, y, 0 * eta + 1))
        )
        limits = jnp.finfo(dtype)
        for part, exact, atol in zip(found, want.T, (limits.tiny, 4 * limits.eps, limits.tiny), strict=True):
            np.testing.assert_array_equal(np.isneginf(part), np.isneginf(exact))
            part, exact = np.asarray(part, float)[np.isfinite(exact)], exact[np.isfinite(exact)]
            # The logarithm of what is nearly 1 is a probability, and that comes from a logarithm with rounding errors.
            digits = 1 + np.maximum(0, -np.log(-exact + float(limits.tiny)))
            error = np.maximum(np.abs(part - exact) - float(atol), 0)
            error /= float(limits.eps) * digits * np.abs(exact) + float(limits.tiny)
            # Small shapes give up to three digits away to a complement.
            assert error.max() <= 1024, (dtype, part[error.argmax()], exact[error.argmax()])


def family_in(family, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), family)


SIZES = np.array([1e-8, 1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 7.0, 60.0, 1e3])


@pytest.mark.parametrize("phi", [1e-4, 0.05, 0.5, 1.0, 3.0, 60.0])
def test_masses_of_sizes_are_scipys(phi):
    eta, y, dispersion = jnp.full(SIZES.shape, 0.7), jnp.asarray(SIZES), jnp.full(SIZES.shape, phi)
    mean = np.exp(0.7)
    truths = {
        gj.gamma(): scipy.stats.gamma(1 / phi, scale=phi * mean),
        gj.inverse_gaussian(): scipy.stats.invgauss(mean * phi, scale=1 / phi),
    }
    for family, truth in truths.items():
        found = jax.jit(jax.vmap(family.masses))(eta, y, dispersion)
        with np.errstate(divide="ignore"):
            sides = truth.logcdf(SIZES), truth.logsf(SIZES)
        for part, want in zip((found.below, found.above), sides, strict=True):
            known = (want > -650) & (want < -1e-13)  # where SciPy takes logarithms of numbers that it has
            np.testing.assert_allclose(np.asarray(part)[known], want[known], rtol=1e-10)
            assert np.all(np.isfinite(part) | (np.asarray(part) < -1e300) | (want < -1e4))
        assert np.all(np.isneginf(found.at))


def test_the_normal_quantile_of_a_logarithm():
    x = -np.concatenate([np.linspace(0, 40, 101), 10.0 ** np.arange(2, 150, 10)])
    np.testing.assert_allclose(log_normal_quantile(jnp.asarray(scipy.stats.norm.logcdf(x))), x, rtol=2e-15, atol=2e-16)
    assert np.isneginf(log_normal_quantile(jnp.asarray(-jnp.inf)))


DRAWN = {
    "normal": gj.normal(dispersion=2.0),
    "normal-2": gj.normal(2, dispersion=0.5),
    "bernoulli": gj.bernoulli(),
    "poisson": gj.poisson(),
    "negative_binomial": gj.negative_binomial(0.7),
    "negative_binomial1": gj.negative_binomial1(0.7),
    "gamma": gj.gamma(dispersion=0.6),
    "inverse_gaussian": gj.inverse_gaussian(dispersion=0.4),
}


@pytest.mark.parametrize("name", DRAWN)
def test_quantile_residuals_are_standard_normal_under_the_model(name):
    model = gj.mlp(DRAWN[name], (4,), "tanh")
    keys = jax.random.split(KEY, 4)
    x = jax.random.normal(keys[0], (4000, 3))
    params = gj.init(model, keys[1], 3, bound=0.7)
    data = gj.make_data(x, gj.sample(model, params, x, keys[2]))
    found = gj.quantile_residuals(keys[3], model, params, data)
    assert found.shape == data.y.shape
    assert scipy.stats.kstest(np.asarray(found).ravel(), "norm").pvalue > 0.01
    wrong = jax.tree.map(lambda leaf: leaf + 0.3, params)
    assert (
        scipy.stats.kstest(np.asarray(gj.quantile_residuals(keys[3], model, wrong, data)).ravel(), "norm").pvalue < 1e-3
    )


def test_quantile_residuals_of_proportions_are_standard_normal():
    rng = np.random.default_rng(5)
    x, trials = rng.normal(size=(4000, 1)), rng.integers(1, 30, 4000)
    s = rng.binomial(trials, 1 / (1 + np.exp(-x[:, 0])))
    data = gj.make_data(x, np.stack([s, trials - s], axis=1).astype(float))
    params = gj.Dense(jnp.ones(1), jnp.zeros(()))
    found = gj.quantile_residuals(KEY, gj.glm(gj.binomial()), params, data)
    assert scipy.stats.kstest(np.asarray(found), "norm").pvalue > 0.01


FAR = {
    "normal": (gj.normal(), 0.5, [30.5, -29.5]),
    "poisson": (gj.poisson(), 0.0, [145.0]),
    "poisson-below": (gj.poisson(), np.log(1400.0), [300.0, 500.0]),
    "negative_binomial": (gj.negative_binomial(0.01), 0.0, [190.0]),
    "bernoulli": (gj.bernoulli(), -450.0, [1.0]),
    "gamma": (gj.gamma(), 0.0, [450.0, 1e-190]),
    "inverse_gaussian": (gj.inverse_gaussian(), 0.0, [900.0, 0.0011]),
}


@pytest.mark.parametrize("name", FAR)
def test_quantile_residuals_far_out(name):
    """Around |r| = 30 a residual lies where its tail's logarithm says."""
    family, eta, targets = FAR[name]
    model, y = gj.glm(family), jnp.array(targets)
    params = gj.Dense(jnp.zeros(1), jnp.asarray(eta))
    r = np.asarray(gj.quantile_residuals(KEY, model, params, gj.make_data(np.zeros((len(y), 1)), y)))
    assert np.all((np.abs(r) > 20) & (np.abs(r) < 40)), r
    masses = jax.vmap(lambda y: family.masses(jnp.asarray(eta), y, jnp.ones(())))(y)
    side = np.where(r > 0, masses.above, masses.below)
    reach = np.logaddexp(side, masses.at)
    tail = scipy.stats.norm.logcdf(-np.abs(r))
    slack = 1e-12 * np.abs(tail)
    assert np.all((side - slack <= tail) & (tail <= reach + slack)), (side, tail, reach)
    if name == "normal":
        np.testing.assert_allclose(r, y - eta, rtol=1e-14)


def test_dispersion_and_precision_scale_the_residual():
    model, params, data = problem("normal", full=True)
    found = gj.quantile_residuals(KEY, model, params, data, dispersion=4.0)
    want = (data.y - gj.predict(model, params, data.x, data.offset)) * jnp.sqrt(data.precision) / 2
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_targets_that_cannot_be_are_nan():
    y = jnp.array([0.0, 2.5, 3.0])
    params = gj.Dense(jnp.zeros(1), jnp.zeros(()))
    for family in (gj.poisson(), gj.negative_binomial(1.0)):
        found = gj.quantile_residuals(KEY, gj.glm(family), params, gj.make_data(np.zeros((3, 1)), y))
        np.testing.assert_array_equal(np.isnan(found), [False, True, False])


# residuals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal-3", "categorical", "categorical-reference", "bernoulli", "poisson"])
@pytest.mark.parametrize("kind", ["glm", "mlp"])
def test_squares_of_residuals_add_up(name, kind):
    model, params, data = problem(name, kind, full=True)
    pearson = gj.pearson_residuals(model, params, data)
    weight = data.weight.reshape(-1, *[1] * (pearson.ndim - 1))
    np.testing.assert_allclose(jnp.sum(weight * pearson**2), gj.pearson_chi2(model, params, data), rtol=1e-12)
    if not model.family.n_classes:
        deviance = gj.deviance_residuals(model, params, data)
        np.testing.assert_allclose(jnp.sum(weight * deviance**2), gj.deviance(model, params, data), rtol=1e-12)
        response = gj.response_residuals(model, params, data)
        np.testing.assert_array_equal(jnp.sign(deviance), jnp.sign(response))


def test_residuals_have_their_digits_where_the_mean_rounds_to_1():
    model = gj.glm(gj.bernoulli())
    data = gj.make_data([[-60.0], [60.0], [60.0]], [1.0, 0.0, 1.0])
    params = gj.Dense(jnp.ones(1), jnp.zeros(()))
    np.testing.assert_allclose(gj.pearson_residuals(model, params, data), [np.exp(30), -np.exp(30), np.exp(-30)])
    np.testing.assert_allclose(gj.working_residuals(model, params, data), [np.exp(60), -np.exp(60), 1])
    np.testing.assert_allclose(
        gj.deviance_residuals(model, params, data), [np.sqrt(120), -np.sqrt(120), np.sqrt(2) * np.exp(-30)]
    )


def test_constant_dispersion_goes_by_its_moments():
    rng = np.random.default_rng(2)
    data = gj.make_data(rng.normal(size=(30, 1)), rng.poisson(3.0, 30).astype(float))
    model, params = gj.glm(gj.negative_binomial1(0.5)), gj.Dense(jnp.array([0.2]), jnp.array(1.0))
    mean = gj.predict(model, params, data.x)
    np.testing.assert_allclose(
        gj.pearson_residuals(model, params, data), (data.y - mean) / np.sqrt(1.5 * mean), rtol=1e-12
    )
    np.testing.assert_allclose(gj.working_residuals(model, params, data), (data.y - mean) / mean, rtol=1e-12)


@pytest.mark.parametrize("residuals", [*RESIDUALS.values(), partial(gj.quantile_residuals, KEY)])
def test_residuals_of_lanes_are_as_alone(residuals):
    model, params, data = problem("poisson")
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    found = jax.jit(jax.vmap(lambda params: residuals(model, params, data)))(lanes)
    for i in range(2):
        alone = residuals(model, jax.tree.map(lambda leaf, i=i: leaf[i], lanes), data)
        np.testing.assert_allclose(found[i], alone, rtol=1e-13, atol=1e-14)


def test_a_row_of_weight_0_may_hold_anything():
    x = np.array([[0.5], [np.nan], [-1.0]])
    data = gj.make_data(x, [1.0, 2.0, 0.0], weight=[1.0, 0.0, 2.0])
    found = gj.pearson_residuals(gj.glm(gj.poisson()), gj.Dense(jnp.ones(1), jnp.zeros(())), data)
    np.testing.assert_allclose(found[::2], [(1 - np.exp(0.5)) / np.exp(0.25), -np.exp(-0.5)], rtol=1e-14)


# calibration and dispersion -------------------------------------------------------------------------------------------


def by_hand(p, hits, weight, bins):
    """Reliability by loops."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    rows = []
    for b in range(bins):
        w = weight[place == b]
        some = w.sum() > 0
        rows.append([np.sum(w * v[place == b]) / w.sum() if some else np.nan for v in (p, hits)] + [w.sum()])
    prediction, frequency, total = np.array(rows).T
    return prediction, frequency, total, np.nansum(total * np.abs(prediction - frequency)) / total.sum()


def check_calibration(found, p, hits, weight, brier):
    for part, want in zip(found[:4], by_hand(p, hits, weight, 10), strict=True):
        np.testing.assert_allclose(part, want, rtol=1e-12)
    np.testing.assert_allclose(found.brier, brier, rtol=1e-12)


def test_calibration_of_two_classes_of_trials_and_of_many():
    model, params, data = problem("bernoulli", full=True)
    p, y, weight = (np.asarray(a) for a in (gj.predict(model, params, data.x, data.offset), data.y, data.weight))
    found = gj.calibration(model, params, data)
    check_calibration(found, p, y, weight, np.average((y - p) ** 2, weights=weight))

    trials = gj.make_data(data.x, np.stack([2 * y + 1, 3 - y], axis=1), offset=data.offset, weight=data.weight)
    s, f = np.asarray(trials.y).T
    brier = np.sum(weight * (s * (1 - p) ** 2 + f * p**2)) / np.sum(weight * (s + f))
    check_calibration(gj.calibration(gj.glm(gj.binomial()), params, trials), p, s / (s + f), weight * (s + f), brier)

    model, params, data = problem("categorical", "mlp", full=True)
    p, y, weight = (np.asarray(a) for a in (gj.predict(model, params, data.x, data.offset), data.y, data.weight))
    brier = np.average(np.sum((np.eye(3)[y.astype(int)] - p) ** 2, axis=1), weights=weight)
    check_calibration(gj.calibration(model, params, data), p.max(axis=1), p.argmax(axis=1) == y, weight, brier)


def test_calibration_of_the_truth_is_good_and_lanes_are_as_alone():
    x = jax.random.normal(KEY, (20_000, 1))
    model, params = gj.glm(gj.bernoulli()), gj.Dense(jnp.array([1.5]), jnp.array(0.3))
    data = gj.make_data(x, gj.sample(model, params, x, jax.random.key(1)))
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), params)
    found = jax.vmap(lambda params: gj.calibration(model, params, data, bins=15))(lanes)
    assert found.expected_error[0] < 0.02 < 0.1 < found.expected_error[1]
    alone = gj.calibration(model, params, data, bins=15)
    jax.tree.map(lambda f, a: np.testing.assert_allclose(f[0], a, rtol=1e-12), found, alone)


def test_cameron_and_trivedis_test():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(500, 2))
    mean = np.exp(0.5 + x @ [0.4, -0.3])
    design = sm.add_constant(x)
    for y, over in ((rng.poisson(mean), False), (rng.poisson(mean * rng.gamma(2, 0.5, 500)), True)):
        data = gj.make_data(x, y.astype(float))
        fit = gj.fit_newton(gj.glm(gj.poisson()), data)
        result = sm.GLM(y, design, family=sm.families.Poisson()).fit(tol=1e-14)
        want = poisson_dispersion(result)
        found = gj.dispersion_test(fit.model, fit.params, data)
        np.testing.assert_allclose([found.statistic, found.p_value], [want.statistic[3], want.pvalue[3]], rtol=1e-7)
        # statsmodels' "CT nb1" regresses on the mean too; the definition, as AER::dispersiontest has it
        excess = ((y - result.fittedvalues) ** 2 - y) / result.fittedvalues
        found = gj.dispersion_test(fit.model, fit.params, data, power=1.0)
        np.testing.assert_allclose(found.alpha, excess.mean(), rtol=1e-7)
        np.testing.assert_allclose(found.statistic, np.sqrt(500) * excess.mean() / excess.std(ddof=1), rtol=1e-7)
        assert (found.p_value < 1e-3) == over


# refusals -------------------------------------------------------------------------------------------------------------


def _of(name, kind="glm"):
    return problem(name, kind)


POISSON, NORMAL3, SOFTMAX, BERNOULLI = (_of(name) for name in ("poisson", "normal-3", "categorical", "bernoulli"))
QUASI = (gj.glm(gj.quasi_poisson()), *POISSON[1:])
TWEEDIE = (gj.glm(gj.tweedie(1.5)), *POISSON[1:])
PRECISE = (*POISSON[:2], POISSON[2]._replace(precision=jnp.ones(24)))
BAD = {
    "classes-deviance": (lambda: gj.deviance_residuals(*SOFTMAX), ValueError, "classes have no order"),
    "classes-working": (lambda: gj.working_residuals(*SOFTMAX), ValueError, "calibration"),
    "classes-quantile": (lambda: gj.quantile_residuals(KEY, *SOFTMAX), ValueError, "no quantile residuals"),
    "quasi": (lambda: gj.quantile_residuals(KEY, *QUASI), ValueError, "moments only"),
    "tweedie": (lambda: gj.quantile_residuals(KEY, *TWEEDIE), ValueError, "series"),
    "no-key": (lambda: gj.quantile_residuals(None, *POISSON), TypeError, "key"),
    "dispersion-poisson": (lambda: gj.quantile_residuals(KEY, *POISSON, 2.0), ValueError, "no dispersion"),
    "precision-poisson": (lambda: gj.quantile_residuals(KEY, *PRECISE), ValueError, "precision has no meaning"),
    "dispersion-0": (lambda: gj.quantile_residuals(KEY, *problem("normal"), 0.0), ValueError, "above 0"),
    "shape": (
        lambda: gj.pearson_residuals(POISSON[0], POISSON[1], NORMAL3[2]),
        ValueError,
        "y must have shape",
    ),
    "no-model": (lambda: gj.response_residuals(gj.poisson(), *POISSON[1:]), TypeError, "glm or mlp"),
    "no-fit": (lambda: gj.influence_measures(POISSON[2], POISSON[1]), TypeError, "Fit"),
    "outputs": (
        lambda: gj.influence_measures(NORMAL3[2], gj.fit_newton(NORMAL3[0], NORMAL3[2])),
        ValueError,
        "outputs",
    ),
    "not-converged": (
        lambda: gj.influence_measures(POISSON[2], gj.fit_newton(POISSON[0], POISSON[2], max_steps=1)),
        ValueError,
        "MAX_STEPS",
    ),
    "calibration-counts": (lambda: gj.calibration(*POISSON), ValueError, "probabilities"),
    "calibration-bins": (lambda: gj.calibration(*BERNOULLI, bins=0), ValueError, "bins"),
    "dispersion-test-family": (lambda: gj.dispersion_test(*BERNOULLI), ValueError, "Poisson"),
    "dispersion-test-precision": (lambda: gj.dispersion_test(*PRECISE), ValueError, "precision"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals_are_sentences(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
