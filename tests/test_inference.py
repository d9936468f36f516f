"""Standard errors, tests and intervals: published ones, and those that the definitions give."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from problems import N, check_derivatives, problem
from reference import digits, needs_reference, nist, published, read

import glmjax as gj

PUBLISHED = {case["name"]: case for case in read("glm_cases.json") if not case["penalty"] and "bse" in case["expected"]}
NIST = {case["name"]: case for case in read("nist_strd.json")}


def clusters_of(case):
    import pandas as pd
    import statsmodels.api as sm

    space = {"np": np, "pd": pd, "sm": sm}
    exec(case["build"], space)
    return space["group"]


@needs_reference
@pytest.mark.parametrize("name", PUBLISHED or ["none"])
def test_published_standard_errors(name):
    """As far as others reproduced the published digits: R's, Stata's and GLM.jl's."""
    case = PUBLISHED[name]
    built = published(case)
    fit, options, factor = gj.fit_newton(built.model, built.data), {}, 1.0
    if name == "ships_poisson_cluster":
        options = {"covariance": gj.clustered(clusters_of(case))}
    elif name == "cpunish_poisson_hc1":  # Stata's factor for maximum likelihood is n / (n - 1)
        options, factor = {"covariance": gj.hc0}, np.sqrt(17 / 16)
    elif name == "committee_negbin_log_alpha1":  # published with a quasi-likelihood's dispersion
        options = {"dispersion": gj.pearson_dispersion}
    elif built.model.family.estimates_alpha:
        options = {"covariance": gj.observed}
    table = gj.inference(built.data, fit, **options)
    expected, spread = case["expected"], case["max_rel_diff"]
    order = list(built.raw["order"])
    if built.model.family.estimates_alpha:
        order.append(-1)
        assert table.names[-1] == "alpha"
    np.testing.assert_allclose(
        factor * table.std_error, np.asarray(expected["bse"])[order], rtol=2 * spread["bse"] + 1e-9
    )
    fields = {"scale": "dispersion", "loglik": "log_likelihood"}
    for field in ("scale", "loglik", "deviance", "null_deviance", "pearson_chi2", "df_resid", "aic", "bic"):
        if expected.get(field) is not None:
            found = getattr(table, fields.get(field, field))
            assert found == pytest.approx(expected[field], rel=2 * spread.get(field, 0) + 1e-9), field


BARS = {"Norris": 12, "NoInt1": 12, "Longley": 10, "Filip": 7, "Wampler4": 9}


@needs_reference
@pytest.mark.parametrize("name", NIST or ["none"])
def test_nists_certified_standard_deviations(name):
    built = nist(NIST[name])
    table = gj.inference(built.data, gj.fit_newton(built.model, built.data))
    if name == "Wampler1":  # the fit is exact, and they are 0: here rounding is left, of targets up to 4e6
        assert np.all(np.asarray(table.std_error) < 1e-8)
        return
    assert digits(table.std_error, built.raw["sd"]) >= BARS[name]
    assert digits(jnp.sqrt(table.dispersion), built.raw["residual_sd"]) >= min(BARS[name] + 1, 12)
    assert table.df_resid == built.raw["df_resid"]


def robust_in_fractions(data, excess):
    """sqrt(diag(A sum(e^2 x x') A)), A = (X'X)^-1 and e = residual times excess(leverage), of least squares, exactly."""
    x = [[Fraction(1), *map(Fraction, row)] for row in np.asarray(data.x).tolist()]
    y, q = [Fraction(t) for t in np.asarray(data.y).tolist()], range(len(x[0]))
    system = [[sum(row[i] * row[j] for row in x) for j in q] + [Fraction(int(i == j)) for j in q] for i in q]
    for i in q:  # Gauss and Jordan
        system[i] = [value / system[i][i] for value in system[i]]
        for r in q:
            if r != i:
                system[r] = [a - system[r][i] * b for a, b in zip(system[r], system[i], strict=True)]
    inverse = [row[len(q) :] for row in system]
    moves = [[sum(a * b for a, b in zip(line, row, strict=True)) for line in inverse] for row in x]
    coef = [sum(move[i] * t for move, t in zip(moves, y, strict=True)) for i in q]
    total = np.zeros(len(q))
    for row, move, t in zip(x, moves, y, strict=True):
        e = t - sum(a * b for a, b in zip(row, coef, strict=True))
        e *= excess(sum(a * b for a, b in zip(row, move, strict=True)))
        total += [float((e * part) ** 2) for part in move]
    return np.sqrt(total)


@needs_reference
@pytest.mark.parametrize(("name", "bar"), [("Longley", 11), ("Filip", 7)])
def test_robust_errors_keep_their_digits_on_ill_conditioned_rows(name, bar):
    """Against exact fractions: Filip's system has no digit left in z, and is summed in root's coordinates."""
    built = nist(NIST[name])
    fit = gj.fit_newton(built.model, built.data)
    one = gj.clustered(np.arange(len(built.data.x)))
    factor = np.sqrt(1 - 1 / len(built.data.x))
    for estimator, excess, scale in (
        (gj.hc0, lambda h: 1, 1),
        (gj.hc3, lambda h: 1 / (1 - h), 1),
        (one, lambda h: 1, factor),
    ):
        table = gj.inference(built.data, fit, covariance=estimator)
        assert digits(scale * table.std_error, robust_in_fractions(built.data, excess)) >= bar
    assert digits(gj.inference(built.data, fit, covariance=gj.observed).std_error, built.raw["sd"]) >= bar


# definitions -----------------------------------------------------------------------------------------------------------


def vector(params):
    w = params.w[:, None] if params.w.ndim == 1 else params.w
    return jnp.concatenate([params.b.reshape(1, -1), w]).T.reshape(-1)


def params_of(flat, like):
    parts = flat.reshape(-1, like.w.shape[0] + 1)
    return gj.Dense(parts[:, 1:].T.reshape(like.w.shape), parts[:, 0].reshape(like.b.shape))


class Pieces:
    """Scores of single copies (n, q), their information roots, H and the rest, by autodiff and NumPy."""

    def __init__(self, data, fit):
        family, k = fit.model.family, fit.model.family.n_outputs or 1
        u = np.concatenate([np.ones((len(data.x), 1)), np.asarray(data.x)], axis=1)
        eta = gj.linear_predictor(fit.model, fit.params, data.x, data.offset)
        r = np.asarray(jax.vmap(jax.grad(family.nll))(eta, data.y)).reshape(-1, k)
        h = np.asarray(jax.vmap(family.information)(eta, data.y)).reshape(-1, k, k)
        self.weight = np.ones(len(u)) if data.weight is None else np.asarray(data.weight)
        precision = np.ones(len(u)) if data.precision is None else np.asarray(data.precision)
        self.design = np.stack([np.kron(np.eye(k), row) for row in u])  # (n, k, q)
        self.r, self.h = precision[:, None] * r, precision[:, None, None] * h
        self.information = np.einsum("n,nkl,nkq,nlr->qr", self.weight, self.h, self.design, self.design)
        ridge = (self.weight * precision).sum() * np.asarray(
            vector(jax.tree.map(jnp.zeros_like, fit.params)._replace(w=jnp.broadcast_to(fit.l2, fit.params.w.shape)))
        )
        self.hessian = self.information + np.diag(ridge)
        self.inverse = np.linalg.inv(self.hessian)
        self.n, self.p = self.weight.sum(), np.trace(self.inverse @ self.information)

    def sandwich(self, r):
        s = np.einsum("nk,nkq->nq", r, self.design)
        return self.inverse @ (s.T @ (self.weight[:, None] * s)) @ self.inverse

    def stretched(self, power):
        def row(r, h, z):
            rest = np.eye(len(r)) - h @ z @ self.inverse @ z.T
            return (np.linalg.inv(rest) if power == 1 else np.linalg.inv(np.real(scipy.linalg.sqrtm(rest)))) @ r

        return np.stack([row(*each) for each in zip(self.r, self.h, self.design, strict=True)])

    def clustered(self, groups):
        s = np.einsum("n,nk,nkq->nq", self.weight, self.r, self.design)
        sums = np.stack([s[groups == g].sum(axis=0) for g in np.unique(groups)])
        count = len({g for g, w in zip(groups, self.weight, strict=True) if w > 0})
        return count / (count - 1) * self.inverse @ sums.T @ sums @ self.inverse


GROUPS = np.arange(N) % 7
DEFINITIONS = {
    "fisher": (gj.fisher, lambda a, phi: phi * a.inverse @ a.information @ a.inverse),
    "bayesian": (gj.bayesian, lambda a, phi: phi * a.inverse),
    "hc0": (gj.hc0, lambda a, phi: a.sandwich(a.r)),
    "hc1": (gj.hc1, lambda a, phi: a.n / (a.n - a.p) * a.sandwich(a.r)),
    "hc2": (gj.hc2, lambda a, phi: a.sandwich(a.stretched(0.5))),
    "hc3": (gj.hc3, lambda a, phi: a.sandwich(a.stretched(1))),
    "clustered": (gj.clustered(GROUPS), lambda a, phi: a.clustered(GROUPS)),
    "observed": (gj.observed, lambda a, phi: phi * a.inverse @ a.information @ a.inverse),  # links here are canonical
}


def every(data, fit, names=tuple(DEFINITIONS)):
    """The tables by each estimator; as one program, since they have most of it in common."""
    return {name: gj.inference(data, fit, covariance=DEFINITIONS[name][0]) for name in names}


tables_of = jax.jit(every)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("name", ["normal", "normal-3", "bernoulli", "categorical-reference", "poisson"])
def test_covariances_are_those_of_their_definitions(name, l2):
    model, _, data = problem(name, full=True, seed=1)
    fit = gj.check(gj.fit_newton(model, data, l2=l2))
    pieces = Pieces(data, fit)
    tables = tables_of(data, fit)
    for estimator, (_, definition) in DEFINITIONS.items():
        table = tables[estimator]
        wanted = definition(pieces, float(table.dispersion))
        np.testing.assert_allclose(table.covariance, wanted, rtol=1e-8, atol=1e-11 * np.abs(wanted).max())
        np.testing.assert_allclose(table.std_error, np.sqrt(np.diag(wanted)), rtol=1e-9)
        assert table.edf == pytest.approx(pieces.p, rel=1e-10)
    k = model.family.n_outputs or 1
    assert table.df_resid == pytest.approx(k * pieces.n - pieces.p)
    assert table.aic == pytest.approx(2 * (pieces.p + (model.family.dispersion is not None) - table.log_likelihood))


@pytest.mark.parametrize("estimator", [gj.fisher, gj.hc3, gj.clustered(np.repeat(GROUPS, np.arange(N) % 4))])
def test_a_weight_is_so_many_copies(estimator):
    model, _, data = problem("poisson", full=True)
    rows = np.repeat(np.arange(N), np.arange(N) % 4)
    many = jax.tree.map(lambda part: part[rows], data._replace(weight=None))
    whole = gj.inference(many, gj.fit_newton(model, many), covariance=estimator)
    estimator = gj.clustered(GROUPS) if isinstance(estimator, jax.tree_util.Partial) else estimator
    table = gj.inference(data, gj.fit_newton(model, data), covariance=estimator)
    for one, other in zip(jax.tree.leaves(table), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_least_squares_as_statsmodels_has_it(key):
    sm = pytest.importorskip("statsmodels.api")
    x = jax.random.normal(key, (30, 3))
    y = x[:, 0] + jnp.exp(x[:, 1]) * jax.random.normal(jax.random.fold_in(key, 1), (30,))
    theirs = sm.OLS(np.asarray(y), sm.add_constant(np.asarray(x))).fit()
    data = gj.make_data(x, y)
    fit = gj.fit_newton(gj.glm(gj.normal()), data)
    table = gj.inference(data, fit)
    for ours, other in (
        (table.std_error, theirs.bse),
        (table.statistic, theirs.tvalues),
        (table.p_value, theirs.pvalues),
        (jnp.stack([table.lower, table.upper], axis=1), theirs.conf_int()),
        (table.log_likelihood, theirs.llf),
        (table.aic, theirs.aic + 2),  # statsmodels does not count the variance, R does
        (1 - table.deviance / table.null_deviance, theirs.rsquared),
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-9)
    for name in ("HC0", "HC1", "HC2", "HC3"):
        robust = gj.inference(data, fit, covariance=getattr(gj, name.lower()))
        np.testing.assert_allclose(robust.std_error, getattr(theirs, f"{name}_se"), rtol=1e-9)


def differences(gradient, at, step=1e-3):
    """The derivative of a gradient by central differences of fourth order: cheaper to compile than a Hessian."""

    def change(direction, by):
        return gradient(jnp.asarray(at + by * direction)) - gradient(jnp.asarray(at - by * direction))

    rows = [(8 * change(e, step) - change(e, 2 * step)) / (12 * step) for e in np.eye(len(at))]
    return np.asarray(rows)


def test_observed_information_is_the_inverse_of_the_covariance(key):
    x = jax.random.normal(key, (60, 2))
    data = gj.make_data(x, (x[:, 0] + jax.random.normal(jax.random.fold_in(key, 1), (60,)) > 0).astype(float))
    fit = gj.fit_newton(gj.glm(gj.bernoulli("probit")), data)
    inverse = np.linalg.inv(gj.observed_information(fit.model, fit.params, data))
    table = gj.inference(data, fit, covariance=gj.observed)
    np.testing.assert_allclose(table.covariance, inverse, rtol=1e-9, atol=1e-12)
    assert np.abs(table.std_error - gj.inference(data, fit).std_error).max() > 1e-3


@pytest.mark.parametrize("family", [gj.negative_binomial(), gj.negative_binomial1()], ids=lambda family: family.name)
def test_an_estimated_alpha(family, key):
    x = jax.random.normal(key, (200, 3))  # the shape in which other files estimate alpha: programs are shared
    k_rate, k_count = jax.random.split(key)
    counts = jax.random.poisson(k_count, jnp.exp(x[:, 0]) * jax.random.gamma(k_rate, 1.5, (200,))).astype(float)
    data = gj.make_data(x, counts)
    fit = gj.fit_newton(gj.glm(family), data)
    at = jnp.append(vector(fit.params), fit.model.family.alpha)

    def nll(at):
        family = gj.Family(**{**vars(fit.model.family), "alpha": at[-1]})
        return -gj.log_likelihood(gj.glm(family), params_of(at[:-1], fit.params), data)

    hessian = differences(jax.jit(jax.grad(nll)), np.asarray(at))
    inverse = np.linalg.inv(hessian)
    # Of negative_binomial1 the observed information is the Fisher one: it has no other.
    own = family.name == "negative_binomial"
    table = gj.inference(data, fit, covariance=gj.observed if own else gj.fisher)
    np.testing.assert_allclose(table.covariance, inverse, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(table.estimate, at, rtol=1e-14)
    assert table.aic == pytest.approx(2 * 5 - 2 * table.log_likelihood)
    if own:  # block by block
        fisher = gj.inference(data, fit)
        block = np.linalg.inv(gj.fisher_information(fit.model, fit.params, data))
        np.testing.assert_allclose(fisher.covariance[:-1, :-1], block, rtol=1e-9, atol=1e-12)
        assert np.all(fisher.covariance[-1, :-1] == 0)
        assert fisher.std_error[-1] == pytest.approx(float(hessian[-1, -1]) ** -0.5, rel=1e-9)


def test_an_alpha_at_its_bound_has_no_error(key):
    x = jax.random.normal(key, (200, 3))
    poisson = gj.make_data(x, jax.random.poisson(key, 4.0, (200,)).astype(float) // 2 + 3)
    fit = gj.fit_newton(gj.glm(gj.negative_binomial()), poisson)
    assert fit.status == gj.Status.BOUNDARY
    table = gj.inference(poisson, fit)
    plain = gj.inference(poisson, gj.fit_newton(gj.glm(gj.poisson()), poisson))
    np.testing.assert_allclose(table.std_error[:-1], plain.std_error, rtol=1e-8)
    assert np.isnan(table.std_error[-1])


def test_dispersions():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(50, 2))
    data = gj.make_data(x, rng.gamma(3, np.exp(x[:, 0])), precision=rng.integers(1, 4, 50))
    fit = gj.fit_newton(gj.glm(gj.gamma()), data)
    tables = {
        f: gj.inference(data, fit, dispersion=f)
        for f in (gj.pearson_dispersion, gj.deviance_dispersion, gj.likelihood_dispersion)
    }
    default = gj.inference(data, fit)
    assert default.dispersion == tables[gj.pearson_dispersion].dispersion == pytest.approx(default.pearson_chi2 / 47)
    assert tables[gj.deviance_dispersion].dispersion == pytest.approx(default.deviance / 47)
    found = tables[gj.likelihood_dispersion].dispersion

    def value(phi):
        family = gj.Family(**{**vars(fit.model.family), "dispersion": phi})
        return gj.log_likelihood(gj.glm(family), fit.params, data)

    assert abs(jax.grad(value)(found)) < 1e-8 * abs(value(found)) / found
    np.testing.assert_allclose(
        tables[gj.likelihood_dispersion].std_error, default.std_error * np.sqrt(found / default.dispersion), rtol=1e-12
    )
    known = gj.inference(data, fit, dispersion=0.25)
    assert known.df == np.inf
    np.testing.assert_allclose(known.p_value, 2 * scipy.stats.norm.sf(np.abs(known.statistic)), rtol=1e-11)
    np.testing.assert_allclose(default.p_value, 2 * scipy.stats.t.sf(np.abs(default.statistic), 47), rtol=1e-11)
    for level in (0.5, 0.999):
        table = gj.inference(data, fit, level=level)
        reach = scipy.stats.t.ppf((1 + level) / 2, 47) * table.std_error
        np.testing.assert_allclose(table.upper - table.estimate, reach, rtol=1e-9)
    counts = gj.make_data(x, rng.poisson(rng.gamma(1, 3, 50)))
    quasi, plain = (gj.fit_newton(gj.glm(f), counts) for f in (gj.quasi_poisson(), gj.poisson()))
    one, other = gj.inference(counts, quasi), gj.inference(counts, plain, dispersion=gj.pearson_dispersion)
    np.testing.assert_allclose(one.p_value, other.p_value, rtol=1e-12)
    assert np.isnan(one.aic)
    assert not np.isnan(other.aic)


# lanes that have no answer, and those that have part of one -------------------------------------------------------------


def test_aliased_coefficients_are_nan_and_the_rest_right(key):
    model, _, data = problem("poisson", full=True)
    twice = data._replace(x=jnp.concatenate([data.x[:, :2], data.x[:, :1] + data.x[:, 1:2], data.x[:, 2:]], axis=1))
    wholes = tables_of(data, gj.fit_newton(model, data))
    for name in ("fisher", "hc3", "observed"):
        table, whole = every(twice, gj.fit_newton(model, twice), names=[name])[name], wholes[name]
        for field in ("estimate", "std_error", "p_value", "lower"):
            assert np.isnan(getattr(table, field)[3])
            np.testing.assert_allclose(np.delete(getattr(table, field), 3), getattr(whole, field), rtol=1e-9)
        assert np.all(np.isnan(table.covariance[3]))
        for field in ("aic", "df_resid", "edf", "deviance"):
            assert float(getattr(table, field)) == pytest.approx(float(getattr(whole, field)), rel=1e-12)


def test_separated_coefficients_have_no_error_and_the_others_that_of_the_limit():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(60, 2)), np.arange(60) < 12]
    y = np.where(x[:, 2] > 0, 1.0, rng.random(60) < 0.5)
    data = gj.make_data(x, y)
    fit = gj.fit_newton(gj.glm(gj.bernoulli()), data)
    assert fit.status == gj.Status.SEPARATED
    table = gj.inference(data, fit)
    assert np.isnan(table.std_error[3])
    assert table.estimate[3] == np.inf
    rest = gj.make_data(x[12:, :2], y[12:])
    wanted = gj.inference(rest, gj.fit_newton(gj.glm(gj.bernoulli()), rest))
    np.testing.assert_allclose(table.std_error[:3], wanted.std_error, rtol=1e-6)


def test_a_lane_without_an_answer_is_nan_and_spoils_no_other():
    model, _, data = problem("poisson", full=True)
    ys = jnp.stack([data.y, -1 - data.y, data.y + 1])
    fits = jax.vmap(lambda y: gj.fit_newton(model, data._replace(y=y)))(ys)
    assert fits.status[1] == gj.Status.INVALID_TARGET
    tables = jax.vmap(lambda y, fit: gj.inference(data._replace(y=y), fit))(ys, fits)
    numbers = tables._replace(model=None, rows=None, status=None, steps=None)
    assert all(np.all(np.isnan(leaf[1])) for leaf in jax.tree.leaves(numbers))
    assert tables.status.tolist() == fits.status.tolist()
    np.testing.assert_array_equal(tables.rows, np.sum(data.weight))
    for lane in (0, 2):
        one = data._replace(y=ys[lane])
        alone = gj.inference(one, gj.fit_newton(model, one))
        for leaf, wanted in zip(jax.tree.leaves(tables), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(leaf[lane], wanted, rtol=1e-9, atol=1e-12)


def _unconverged(data):
    return gj.fit_newton(gj.glm(gj.poisson()), data, max_steps=1)


REFUSED = [
    (_unconverged, "the fit ended MAX_STEPS"),
    (lambda data: gj.fit_sgd(gj.glm(gj.poisson()), data, jax.random.key(0), epochs=1), "go on by fit_newton"),
    (lambda data: gj.fit_newton(gj.glm(gj.categorical(9)), data), r"categorical\(9, reference=0\)"),
    (lambda data: gj.fit_newton(gj.glm(gj.categorical(9)), data, l2=0.1), r"categorical\(9, reference=0\)"),
    (lambda data: gj.fit_elastic_net(gj.glm(gj.poisson()), data, l1=0.1), "use bootstrap, or refit"),
    (
        lambda data: gj.fit_lbfgs(
            gj.mlp(gj.poisson(), (2,)), data, params=gj.init(gj.mlp(gj.poisson(), (2,)), jax.random.key(0), 3)
        ),
        "weights of an mlp",
    ),
    (
        lambda data: jax.vmap(lambda y: gj.fit_newton(gj.glm(gj.poisson()), data._replace(y=y)))(
            jnp.stack([data.y, data.y])
        ),
        "jax.vmap inference",
    ),
]


@pytest.mark.parametrize(("fitted", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_refusals_say_what_to_do(fitted, sentence):
    _, _, data = problem("poisson")
    data = data._replace(y=jnp.minimum(data.y, 8))
    with pytest.raises(ValueError, match=sentence):
        gj.inference(data, fitted(data))


def test_arguments_are_checked():
    model, _, data = problem("poisson")
    fit = gj.fit_newton(model, data)
    for options, error, sentence in (
        ({"level": 95}, ValueError, "0.95 is 95%"),
        ({"covariance": "hc3"}, TypeError, r"gj\.hc3, got 'hc3'"),
        ({"dispersion": 0.0}, ValueError, "above 0"),
        ({"covariance": gj.clustered(np.arange(5))}, ValueError, r"groups must be \(24,\)"),
    ):
        with pytest.raises(error, match=sentence):
            gj.inference(data, fit, **options)
    with pytest.raises(TypeError, match="fit must be a Fit"):
        gj.inference(fit, data)
    with pytest.raises(ValueError, match="one label only"):
        gj.clustered(np.ones(24, int))
    with pytest.raises(ValueError, match="are for 3 features, got x with 2"):
        gj.inference(data._replace(x=data.x[:, :2]), fit)


# transformations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "categorical-reference", "bernoulli"])
def test_lanes_are_single_tables(name):
    """Outcomes that share x, in enough lanes to share its products; weights and x of their own."""
    model, params, data = problem(name, full=True)
    lanes = 7
    keys = jax.random.split(jax.random.key(1), lanes)
    ys = jnp.stack([gj.sample(model, params, data.x, key, data.offset) for key in keys])
    xs = data.x[None] + 0.1 * jax.random.normal(keys[0], (lanes, *data.x.shape))
    weights = data.weight[None] + jnp.arange(float(lanes))[:, None]
    names = gj.inference(data, gj.fit_newton(model, data)).names

    some = partial(every, names=("fisher", "observed", "hc2", "clustered"))
    for axes, batch in (
        (gj.Data(None, 0, None, None, None), data._replace(y=ys)),
        (gj.Data(0, 0, 0, None, None), data._replace(x=xs, y=ys, weight=weights)),
    ):
        fits = jax.vmap(lambda d: gj.fit_newton(model, d), (axes,))(batch)
        tables = jax.jit(jax.vmap(some, (axes, 0)))(batch, fits)
        for lane in (0, 1):
            one = gj.Data(*(part[lane] if axis == 0 else part for part, axis in zip(batch, axes, strict=True)))
            alone = tables_of(one, jax.tree.map(lambda leaf: leaf[lane], fits))  # noqa: B023
            for key, table in tables.items():
                assert table.names == names
                for leaf, wanted in zip(jax.tree.leaves(table), jax.tree.leaves(alone[key]), strict=True):
                    np.testing.assert_allclose(leaf[lane], wanted, rtol=1e-9, atol=1e-11, err_msg=key)


def test_new_numbers_are_no_new_trace():
    import chex

    model, _, data = problem("poisson", full=True)

    @jax.jit
    @chex.assert_max_traces(1)
    def table(data, fit, covariance, level):
        return gj.inference(data, fit, covariance=covariance, level=level).std_error

    for shift in (0, 1):
        moved = data._replace(y=data.y + shift)
        fit = gj.fit_newton(model, moved, l2=0.1 * shift)
        table(moved, fit, gj.clustered((np.arange(N) + 3 * shift) % 7), 0.9 + 0.05 * shift)


@pytest.mark.parametrize("estimator", [gj.fisher, gj.hc3], ids=["fisher", "hc3"])
def test_derivatives(estimator):
    model, _, data = problem("normal", full=True)

    def value(x, y, l2):
        moved = data._replace(x=x, y=y)
        table = gj.inference(moved, gj.fit_newton(model, moved, l2=l2), covariance=estimator)
        return jnp.sum(jnp.sin(table.upper)) + jnp.sum(table.p_value) + table.aic

    def plain(x, y, l2):
        moved = data._replace(x=x, y=y)
        table = gj.inference(moved, gj.fit_newton(model, moved, l2=l2), covariance=estimator, dispersion=0.3)
        return jnp.sum(jnp.sin(table.upper)) + jnp.sum(table.p_value) + table.aic

    check_derivatives(plain, (data.x, data.y, jnp.array(0.2)))
    sloped = jax.jit(jax.value_and_grad(value, argnums=2))
    (_, slope), (above, _), (below, _) = (sloped(data.x, data.y, jnp.array(0.2 + step)) for step in (0, 1e-5, -1e-5))
    assert slope == pytest.approx(float(above - below) / 2e-5, rel=1e-5)  # t's degrees of freedom move: see tails


@pytest.mark.parametrize("estimator", [gj.fisher, gj.hc0, gj.hc3], ids=["fisher", "hc0", "hc3"])
def test_many_lanes_never_hold_a_copy_of_x_each(estimator):
    lanes, n, d = 128, 16384, 24
    x = jax.random.normal(jax.random.key(0), (n, d))
    data = gj.make_data(x, (x[:, 0] > 0).astype(float))
    fit = gj.fit_newton(gj.glm(gj.bernoulli()), data, l2=0.1)
    fits = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), fit)
    ys = jnp.broadcast_to(data.y, (lanes, n))
    run = jax.jit(jax.vmap(lambda y, f: gj.inference(data._replace(y=y), f, covariance=estimator)))
    held = run.lower(ys, fits).compile().memory_analysis().temp_size_in_bytes
    assert held < lanes * n * d * 8 / 2
