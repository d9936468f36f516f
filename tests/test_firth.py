"""Firth's method against its definition in NumPy, closed forms, and what it must not depend on."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from problems import D, check_derivatives, problem
from reference import DATA, needs_data

import glmjax as gj

BERNOULLI, POISSON = gj.glm(gj.bernoulli()), gj.glm(gj.poisson())
ENDOMETRIAL = Path(DATA or "none") / "endometrial" / "endometrial.csv"


def flat(params):
    return np.append(np.asarray(params.b), params.w) if params.b is not None else np.asarray(params.w)


def parts(data):
    """Design, targets, what rows weigh, offset, trials, in NumPy."""
    x, y = np.asarray(data.x), np.asarray(data.y)
    weight, precision = (np.ones(len(x)) if p is None else np.asarray(p) for p in (data.weight, data.precision))
    offset = np.zeros(len(x)) if data.offset is None else np.asarray(data.offset)
    trials = y.sum(axis=1) if y.ndim == 2 else np.ones(len(x))
    u = np.column_stack([np.ones(len(x)), x])
    return u, y if y.ndim == 1 else y[:, 0], weight * precision, offset, trials


def rows_at(name, at, data):
    """Mean, information and prior's share of the score of each row, and the information matrix, as textbooks have it."""
    u, _, weight, offset, trials = parts(data)
    eta = u @ at + offset
    p = np.exp(eta) if name == "poisson" else 1 / (1 + np.exp(-eta))
    h = weight * (p if name == "poisson" else trials * p * (1 - p))
    information = u.T @ (h[:, None] * u)
    leverage = h * np.einsum("np,pq,nq->n", u, np.linalg.inv(information), u)
    return p, leverage * (0.5 if name == "poisson" else 0.5 - p), information


def adjusted_score(at, name, data):
    u, y, weight, _, trials = parts(data)
    mean, share, _ = rows_at(name, at, data)
    return (weight * (y - (mean if name == "poisson" else trials * mean)) + share) @ u


def penalized_loss(model, params, data):
    """The definition of `fit.loss`, as a function that JAX differentiates."""
    u = data.x if params.b is None else jnp.concatenate([jnp.ones((len(data.x), 1)), data.x], axis=1)
    eta = gj.linear_predictor(model, params, data.x, data.offset)
    weight = jnp.ones(len(u)) if data.weight is None else data.weight
    weight = weight if data.precision is None else weight * data.precision
    information = u.T @ ((weight * jax.vmap(model.family.information)(eta, data.y))[:, None] * u)
    return gj.loss(model, params, data) - 0.5 * jnp.linalg.slogdet(information)[1] / weight.sum()


def counts(name):
    """A problem with weights, offset and precisions; binomial ones have their trials besides."""
    if name != "binomial":
        model, _, data = problem(name, full=True, seed=3)
        return model, data
    _, _, data = problem("poisson", full=True, seed=3)
    y = jnp.stack([jnp.minimum(data.y, 4), 4 - jnp.minimum(data.y, 4) + jnp.arange(24.0) % 3], axis=1)
    return gj.glm(gj.binomial()), data._replace(y=y)


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson"])
def test_the_adjusted_score_is_0(name):
    """Firth's equations, by SciPy's root finder; errors of the plain information, as logistf and brglm2 print them."""
    model, data = counts(name)
    fit = gj.fit_firth(model, data)
    assert fit.status == gj.Status.CONVERGED
    wanted = scipy.optimize.root(adjusted_score, np.zeros(D + 1), (name, data), tol=1e-13)
    assert np.abs(wanted.fun).max() < 1e-9
    np.testing.assert_allclose(flat(fit.params), wanted.x, rtol=1e-9)
    np.testing.assert_allclose(fit.loss, penalized_loss(model, fit.params, data), rtol=1e-12)
    table = gj.inference(data, fit)
    errors = np.sqrt(np.diag(np.linalg.inv(rows_at(name, wanted.x, data)[2])))
    np.testing.assert_allclose(table.std_error, errors, rtol=1e-8)
    np.testing.assert_allclose(table.log_likelihood, gj.log_likelihood(model, fit.params, data), rtol=1e-12)
    assert float(table.edf) == pytest.approx(D + 1)


@pytest.mark.parametrize(
    "model",
    [gj.glm(gj.bernoulli("cloglog")), gj.glm(gj.negative_binomial(0.7)), gj.glm(gj.poisson(), bias=False)],
    ids=["cloglog", "negative binomial", "without a bias"],
)
def test_other_models_are_at_the_maximum(model):
    _, _, data = problem("bernoulli", full=True, seed=4)
    fit = gj.fit_firth(model, data, params=gj.init(model, jax.random.key(1), D, bound=1.0))
    assert fit.status == gj.Status.CONVERGED
    value = jax.jit(lambda params: penalized_loss(model, params, data))
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(jax.grad(value)(fit.params))) < 1e-8
    np.testing.assert_allclose(fit.loss, value(fit.params), rtol=1e-12)
    for sign in (-1, 1):
        moved = jax.tree.map(lambda leaf, sign=sign: leaf + 0.01 * sign, fit.params)
        assert value(moved) > fit.loss


def test_groups_have_their_closed_forms():
    """1/2 is added to each cell of a 2 x 2 table, and to the events of a group of counts; without a group, to all."""
    group = np.repeat([0.0, 1.0], [7, 5])
    y = (np.arange(12) % 3 == 0) & (group == 0)  # the second group has no event
    s, n = np.array([3, 0]), np.array([7, 5])
    cells = [np.log((s + 0.5) / (n - s + 0.5)), np.log((s + 0.5) / n)]
    for model, wanted in zip((BERNOULLI, POISSON), cells, strict=True):
        data = gj.make_data(group[:, None], y.astype(float))
        fit = gj.fit_firth(model, data)
        assert gj.fit_newton(model, data).status == gj.Status.SEPARATED
        assert fit.status == gj.Status.CONVERGED
        np.testing.assert_allclose([fit.params.b, fit.params.b + fit.params.w[0]], wanted, rtol=1e-11)
        alone = gj.fit_firth(model, data._replace(x=0 * data.x))
        assert (alone.status, alone.aliased.w[0]) == (gj.Status.RANK_DEFICIENT, True)
        mean = gj.predict(model, alone.params, data.x[:1])[0]
        np.testing.assert_allclose([mean, alone.params.w[0]], [3.5 / (13 if model is BERNOULLI else 12), 0], rtol=1e-11)


def test_the_parametrization_does_not_matter():
    model, data = counts("bernoulli")
    turn = np.array([[2.0, 1, 0], [0, 3, -1], [1, 0, 1]]) * 1e5
    fit = gj.fit_firth(model, data)
    turned = gj.fit_firth(model, data._replace(x=data.x @ turn + 4e5))
    np.testing.assert_allclose(
        gj.predict(model, turned.params, data.x @ turn + 4e5), gj.predict(model, fit.params, data.x), rtol=1e-8
    )
    total = float(jnp.sum(data.weight * data.precision))
    assert float(fit.loss - turned.loss) == pytest.approx(np.log(np.linalg.det(turn)) / total, rel=1e-9)
    # A column that repeats others is aliased, and changes nothing.
    twice = data._replace(x=jnp.concatenate([data.x[:, :2], data.x[:, :1] - 2 * data.x[:, 1:2]], axis=1))
    aliased, rest = gj.fit_firth(model, twice), gj.fit_firth(model, data._replace(x=data.x[:, :2]))
    assert aliased.status == gj.Status.RANK_DEFICIENT
    np.testing.assert_array_equal(aliased.aliased.w, [False, False, True])
    np.testing.assert_allclose(flat(aliased.params), np.append(flat(rest.params), 0), rtol=1e-8)
    assert np.isnan(gj.inference(twice, aliased).std_error[-1])


def test_a_weight_is_copies():
    model, data = counts("poisson")
    copies = np.asarray(data.weight, int)
    rows = jax.tree.map(lambda part: jnp.repeat(part, copies, axis=0), data._replace(weight=None))
    one, other = gj.fit_firth(model, data), gj.fit_firth(model, rows)
    np.testing.assert_allclose(flat(one.params), flat(other.params), rtol=1e-9)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-12)


def test_lanes_are_single_fits_with_their_own_verdict():
    model, data = counts("bernoulli")
    ys = jnp.stack([data.y, 1 - data.y, 0 * data.y, data.y + 2, jnp.where(data.x[:, 0] > 0, 1.0, 0.0)])
    weights = jnp.stack([data.weight, data.weight, data.weight, data.weight, data.weight + 1])

    @chex.assert_max_traces(n=1)
    def fit(model, y, weight):
        return gj.fit_firth(model, data._replace(y=y, weight=weight))

    lanes = jax.jit(jax.vmap(fit, (None, 0, 0)))
    lanes(model, ys[::-1], weights)
    found = lanes(gj.glm(gj.bernoulli()), ys, weights)
    ended = [gj.Status(status).name for status in found.status.tolist()]
    assert ended == ["CONVERGED"] * 3 + ["INVALID_TARGET", "CONVERGED"]
    for i in (0, 1, 2, 4):
        single = gj.fit_firth(model, data._replace(y=ys[i], weight=weights[i]))
        np.testing.assert_allclose(found.params.w[i], single.params.w, rtol=1e-8)
        np.testing.assert_allclose(found.loss[i], single.loss, rtol=1e-12)
    few = gj.fit_firth(model, data, max_steps=2)
    assert (few.status, few.steps) == (gj.Status.MAX_STEPS, 2)
    bad = gj.fit_firth(model, data._replace(x=data.x.at[1, 0].set(jnp.nan)))
    assert bad.status == gj.Status.INVALID_INPUT


def test_it_can_be_differentiated():
    model, data = counts("bernoulli")

    def value(x, y, weight, offset):
        fit = gj.fit_firth(model, gj.Data(x, y, weight, offset))
        return fit.params.b + jnp.sum(fit.params.w * jnp.arange(1.0, D + 1)) + fit.loss

    check_derivatives(value, (data.x, 0.1 + 0.8 * data.y, data.weight + 1, data.offset))


def profile(at, j, model, data):
    """The least of the definition's F with coefficient j held, from `at`, by SciPy."""
    u, y, weight, offset, _ = parts(data)
    rest = np.arange(len(at)) != j

    def value(others):
        full = np.where(rest, 0.0, at)
        full[rest] = others
        _, _, information = rows_at(model.family.name, full, data)
        eta = u @ full + offset
        grown = np.exp(eta) if model.family.name == "poisson" else np.logaddexp(0, eta)
        slope = -adjusted_score(full, model.family.name, data)[rest]
        return weight @ (grown - y * eta) - 0.5 * np.linalg.slogdet(information)[1], slope

    found = scipy.optimize.minimize(value, at[rest], jac=True, method="BFGS", options={"gtol": 1e-9})
    at = at.copy()
    at[rest] = found.x
    return found.fun, at


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_intervals_end_where_the_penalized_likelihood_has_dropped(name):
    """Walking there from the fit, the others maximized at each step; targets that are separated, and that are not."""
    model, data = counts(name)
    ys = jnp.stack([data.y, jnp.where(data.x[:, 0] > 0, 1.0, 0.0)])

    def one(y):
        rows = data._replace(y=y)
        fit = gj.fit_firth(model, rows)
        return fit, gj.firth_intervals(rows, fit, 0.9)

    fits, found = jax.jit(jax.vmap(one))(ys)
    bar = scipy.stats.chi2.ppf(0.9, 1)
    for i, y in enumerate(ys):
        rows, start = data._replace(y=y), flat(jax.tree.map(lambda leaf, i=i: leaf[i], fits.params))
        best = profile(start, 0, model, rows)[0]
        for j in range(D + 1):
            for ends in (found.lower, found.upper):
                at = start
                for b in np.linspace(start[j], float(ends[i, j]), 6)[1:]:
                    at = np.where(np.arange(D + 1) == j, b, at)
                    least, at = profile(at, j, model, rows)
                assert 2 * (least - best) == pytest.approx(bar, rel=1e-6)
    assert np.all(found.lower < found.upper)
    assert found.names == gj.inference(data, gj.fit_newton(model, data)).names
    if name == "poisson":
        with pytest.raises(ValueError, match=r"not at the maximum of the penalized likelihood.*from fit_firth"):
            gj.firth_intervals(data, gj.fit_newton(model, data))
        with pytest.raises(TypeError, match="fit must be a Fit"):
            gj.firth_intervals(data, model)


@needs_data
@pytest.mark.parametrize("name", ["01", "09"])
def test_stored_separated_sets_have_finite_coefficients(name):
    table = np.genfromtxt(Path(DATA) / "separation" / f"{name}.csv", delimiter=",", names=True)
    x = np.column_stack([table[column] for column in table.dtype.names if column.startswith("x")])
    data = gj.make_data(x, table["y"])
    fit = gj.fit_firth(POISSON, data)
    assert fit.status == gj.Status.CONVERGED
    # Gauss's score equation at the estimate, in units of the targets.
    assert np.abs(adjusted_score(flat(fit.params), "poisson", data)).max() < 1e-8 * np.abs(table["y"]).sum()
    assert np.all(np.isfinite(gj.inference(data, fit).std_error))


@pytest.mark.skipif(not ENDOMETRIAL.exists(), reason="the data folder has no endometrial/endometrial.csv")
def test_the_published_endometrial_figures():
    """Heinze and Schemper (2002), n = 79: logistf(HG ~ NV + PI + EH)."""
    table = np.genfromtxt(ENDOMETRIAL, delimiter=",", names=True)
    data = gj.make_data(np.column_stack([table[column] for column in ("NV", "PI", "EH")]), table["HG"])
    assert gj.fit_newton(BERNOULLI, data).status == gj.Status.SEPARATED
    found = gj.inference(data, gj.fit_firth(BERNOULLI, data))
    np.testing.assert_allclose(found.estimate, [3.77456, 2.92927, -0.03475, -2.60416], atol=6e-6)
    np.testing.assert_allclose(found.std_error, [1.48869, 1.55076, 0.03958, 0.77602], atol=6e-6)


def test_what_is_refused_and_what_names_it():
    _, _, data = problem("bernoulli")
    for model, sentence in (
        (gj.glm(gj.categorical(3)), "several outputs; fit categorical data a class against another"),
        (gj.glm(gj.quasi_poisson()), "a dispersion to estimate"),
        (gj.glm(gj.negative_binomial()), "does not estimate alpha"),
        (gj.glm(gj.negative_binomial1(0.5)), "no expected information"),
        (gj.mlp(gj.bernoulli(), (2,)), "this solver is for linear models"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gj.fit_firth(model, data)
    assert "use fit_firth, whose coefficients are finite" in gj.Status.SEPARATED.sentence
