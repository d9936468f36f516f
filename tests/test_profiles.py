"""Profile-likelihood intervals: R's figures, and the definition by fits with the coefficient held."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from problems import problem

import glmjax as gj

Z = scipy.stats.norm.isf(0.025)
I = np.arange(1, 25)  # noqa: E741
X = np.stack([np.sin(3 * I) + I / 20, (7 * I) % 11 / 5, np.cos(I)], axis=1)
SIZES = 0.4 + ((5 * I) % 13) / 3
SUCCESSES = (3 + (5 * I) % 9 + I / 8).astype(int)
GROUP = np.where(I % 2 == 1, 1.0, 0.0)
GROUPED = np.column_stack([GROUP, X[:, 1:]])
LABELS = (I * I % 7 > 2).astype(float)
NO_EVENTS = LABELS * (1 - GROUP)  # in group 1


def dobson():
    """R's glm.D93, of its manual: counts by outcome and treatment; with a row and a column of nothing besides, so that
    the program for `doctors` serves it.
    """
    counts = [18, 17, 15, 20, 10, 20, 25, 13, 12, 0]
    outcome, treatment = np.append(np.tile([1, 2, 3], 3), 0), np.append(np.repeat([1, 2, 3], 3), 0)
    x = np.stack([outcome == 2, outcome == 3, treatment == 2, treatment == 3, 0 * outcome], axis=1).astype(float)
    return gj.make_data(x, counts, family=gj.poisson(), weight=np.append(np.ones(9), 0), offset=np.zeros(10))


def doctors():
    """Deaths of British doctors by smoking and age, per person-year (Breslow and Day)."""
    deaths = [32, 104, 206, 186, 102, 2, 12, 28, 28, 31]
    years = np.array([52407, 43248, 28612, 12663, 5317, 18790, 10673, 5710, 2585, 1462])
    age = np.tile(np.arange(5), 2)
    x = np.stack([np.arange(10) < 5, *(age == a for a in range(1, 5))], axis=1).astype(float)
    return gj.make_data(x, deaths, family=gj.poisson(), weight=np.ones(10), offset=np.log(years))


def test_rs_figures():
    """`confint(glm(...))`, which interpolates: some five digits are right.

    counts <- c(18, 17, 15, 20, 10, 20, 25, 13, 12); outcome <- gl(3, 1, 9); treatment <- gl(3, 3)
    confint(glm(counts ~ outcome + treatment, family = poisson()))
    exp(confint(glm(deaths ~ smoke + age + offset(log(years)), family = poisson()), "smoke"))
    """
    model, data = gj.glm(gj.poisson()), dobson()
    found = gj.profile_intervals(data, gj.fit_newton(model, data))
    wanted = [
        [2.6958215017628859, 3.3665558134153772],
        [-0.85770183816504375, -0.062558400107820489],
        [-0.67536959741377034, 0.082440893487319533],
        [-0.39325482952822782, 0.39325482952822732],
        [-0.39325482952822782, 0.39325482952822732],
    ]
    np.testing.assert_allclose(np.stack([found.lower, found.upper], axis=1)[:5], wanted, atol=2e-5)
    assert np.isnan([found.estimate[5], found.lower[5], found.upper[5]]).all()
    assert found.names == ("b", "w[0]", "w[1]", "w[2]", "w[3]", "w[4]")
    data = doctors()
    found = gj.profile_intervals(data, gj.fit_newton(model, data))
    ends = np.exp([found.lower[1], found.estimate[1], found.upper[1]])
    np.testing.assert_allclose(ends, [1.160878440037854, 1.4255185428556596, 1.769203349468877], rtol=2e-5)


def held(data, family, index, value):
    """The least deviance with coefficient `index` held, by statsmodels."""
    sm = pytest.importorskip("statsmodels.api")
    u = np.column_stack([np.ones(len(data.x)), np.asarray(data.x)])
    rest = np.delete(np.arange(u.shape[1]), index)
    one = np.ones(len(u))
    weight, offset, precision = (
        other if part is None else np.asarray(part)
        for part, other in ((data.weight, one), (data.offset, 0 * one), (data.precision, one))
    )
    used = weight > 0
    model = sm.GLM(
        np.asarray(data.y)[used],
        u[used][:, rest],
        family(sm.families),
        offset=(offset + value * u[:, index])[used],
        freq_weights=weight[used],
        var_weights=precision[used],
    )
    return model.fit(tol=1e-15, maxiter=200).deviance


CASES = {  # a family, its targets, and the family in statsmodels
    "bernoulli": (gj.bernoulli(), LABELS, lambda f: f.Binomial()),
    "gamma": (gj.gamma(), SIZES, lambda f: f.Gamma(f.links.Log())),
    "binomial": (
        gj.binomial("probit"),
        np.stack([SUCCESSES, 16 - SUCCESSES], axis=1),
        lambda f: f.Binomial(f.links.Probit()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_deviance_at_the_ends_is_at_the_bar(name):
    ours, y, family = CASES[name]
    model, data = gj.glm(ours), gj.make_data(GROUPED, y, family=ours)
    fit = gj.check(gj.fit_newton(model, data))
    table, found = gj.inference(data, fit), gj.profile_intervals(data, fit)
    q = Z if model.family.dispersion is None else scipy.stats.t.isf(0.025, table.df)
    least = float(gj.deviance(model, fit.params, data))
    for j in range(4):
        assert found.lower[j] < found.estimate[j] < found.upper[j]
        for end in (float(found.lower[j]), float(found.upper[j])):
            drop = (held(data, family, j, end) - least) / float(table.dispersion)
            assert drop == pytest.approx(q**2, rel=1e-8)
    if model.family.dispersion is not None:  # known, the quantile is the normal one: R's `confint` of such a fit
        other = gj.profile_intervals(data, fit, dispersion=table.dispersion, level=0.9)
        drop = (held(data, family, 1, float(other.upper[1])) - least) / float(table.dispersion)
        assert drop == pytest.approx(scipy.stats.norm.isf(0.05) ** 2, rel=1e-8)


def test_of_least_squares_they_are_walds():
    model, _, data = problem("normal", full=True, seed=1)
    fit = gj.fit_newton(model, data)
    table, found = gj.inference(data, fit), gj.profile_intervals(data, fit)
    np.testing.assert_allclose(found.lower, table.lower, rtol=1e-10)
    np.testing.assert_allclose(found.upper, table.upper, rtol=1e-10)
    # So they are in columns far from 0 and of other units; one that depends on others has none.
    units = jnp.array([[1e4, 1e-6]])
    moved = (data.x[:, :2] + jnp.array([[1e4, 0.0]])) * units
    moved = data._replace(x=jnp.concatenate([moved, moved.sum(axis=1, keepdims=True)], axis=1))
    fit = gj.fit_newton(model, moved)
    found = gj.profile_intervals(moved, fit)
    table = gj.inference(moved, fit)
    np.testing.assert_allclose(found.upper[:3], table.upper[:3], rtol=1e-7)
    assert np.isnan([found.estimate[3], found.lower[3], found.upper[3]]).all()


def softmax_held(data, index, value, reference):
    """Twice the least nll of K - 1 logits with one coefficient held, by Newton's method with the textbook's Hessian."""
    u = np.column_stack([np.ones(len(data.x)), np.asarray(data.x)])
    weight = np.asarray(data.weight * data.precision)
    labels = np.eye(3)[np.asarray(data.y).astype(int)]
    classes = np.delete(np.arange(3), reference)
    flat, free = np.zeros(8), np.arange(8) != index
    flat[index] = value

    def nll(flat):
        eta = np.insert(u @ flat.reshape(2, 4).T + np.asarray(data.offset)[:, None], reference, 0, axis=1)
        log_p = eta - scipy.special.logsumexp(eta, axis=1, keepdims=True)
        return -(weight * (labels * log_p).sum(axis=1)).sum(), np.exp(log_p)

    for _ in range(60):
        value, p = nll(flat)
        p = p[:, classes]
        score = np.einsum("n,nk,np->kp", weight, p - labels[:, classes], u).reshape(-1)
        spread = p[:, :, None] * np.eye(2) - p[:, :, None] * p[:, None]
        h = np.einsum("n,nkl,np,nq->kplq", weight, spread, u, u).reshape(8, 8)
        step = np.zeros(8)
        step[free] = np.linalg.solve(h[np.ix_(free, free)], score[free])
        while nll(flat - step)[0] > value + 1e-12:
            step /= 2
        flat = flat - step
    return 2 * nll(flat)[0]


def test_classes_have_profiles_too():
    model, _, data = problem("categorical-reference", full=True, seed=1)
    fit = gj.fit_newton(model, data)
    found = gj.profile_intervals(data, fit)
    least = float(gj.deviance(model, fit.params, data))
    for j in (0, 3, 4, 6):
        for end in (found.lower[j], found.upper[j]):
            assert softmax_held(data, j, float(end), 1) - least == pytest.approx(Z**2, rel=1e-8)


# lanes, and what has no answer -------------------------------------------------------------------------------------


def test_a_separated_coefficient_has_one_end():
    """The deviance falls to that of the rows without group 1, whose intervals the other coefficients have."""
    data = gj.make_data(GROUPED, NO_EVENTS, family=gj.bernoulli())
    fit = gj.fit_newton(gj.glm(gj.bernoulli()), data)
    assert fit.status == gj.Status.SEPARATED
    found = gj.profile_intervals(data, fit)
    rest = gj.make_data(np.column_stack([np.zeros(12), GROUPED[GROUP == 0, 1:]]), NO_EVENTS[GROUP == 0])
    family = CASES["bernoulli"][2]
    least = held(rest, family, 1, 0.0)
    assert found.estimate[1] == found.lower[1] == -np.inf
    assert held(data, family, 1, float(found.upper[1])) - least == pytest.approx(Z**2, rel=1e-8)
    thin = rest._replace(x=rest.x[:, 1:])
    for j, place in ((0, 0), (2, 1), (3, 2)):
        for end in (found.lower[j], found.upper[j]):
            assert held(thin, family, place, float(end)) - least == pytest.approx(Z**2, rel=1e-8)


def test_nothing_is_known_where_all_is_separated():
    """Two features that separate the classes each: one may be held anywhere, and the other sees to it."""
    x = np.stack([I - 12.5, I - 12.5 + np.sin(I) / 4, np.cos(I)], axis=1)
    data = gj.make_data(x, (I > 12).astype(float), family=gj.bernoulli())
    found = gj.profile_intervals(data, gj.fit_newton(gj.glm(gj.bernoulli()), data))
    assert np.isinf(found.lower[1:3]).all()
    assert np.isinf(found.upper[1:3]).all()


def test_lanes_are_single_intervals_and_one_program():
    model, data = gj.glm(gj.bernoulli()), gj.make_data(GROUPED, LABELS)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def lanes(ys, l2):
        def one(y, l2):
            rows = data._replace(y=y)
            return gj.profile_intervals(rows, gj.fit_newton(model, rows, l2=l2))

        return jax.vmap(one)(ys, l2)

    ys = jnp.stack([LABELS, NO_EVENTS, LABELS + 1, LABELS])
    lanes(ys[::-1], jnp.array([0.5, 0.0, 0.0, 0.0]))
    found = lanes(ys, jnp.array([0.0, 0.0, 0.0, 0.1]))
    for i in (0, 1):
        rows = data._replace(y=ys[i])
        single = gj.profile_intervals(rows, gj.fit_newton(model, rows))
        for name in ("estimate", "lower", "upper"):
            np.testing.assert_allclose(getattr(found, name)[i], getattr(single, name), rtol=1e-8, err_msg=name)
    assert np.isnan(np.stack([found.lower[2:], found.upper[2:]])).all()  # no targets of the family; a penalty


def test_refusals_are_sentences():
    model, data = gj.glm(gj.bernoulli()), gj.make_data(GROUPED, LABELS)
    fit = gj.fit_newton(model, data)
    for change, options, sentence in (
        ({"l2": jnp.array(0.1)}, {}, "there are no profile intervals of a fit with l2"),
        ({"status": gj.Status.MAX_STEPS}, {}, "the fit ended MAX_STEPS"),
        ({"l1": jnp.array(0.1)}, {}, "l1 chose the coefficients"),
        ({"model": gj.mlp(gj.bernoulli())}, {}, "the weights of an mlp"),
        ({"model": gj.glm(gj.categorical(3))}, {}, "reference=0"),
        ({}, {"level": 1.0}, "level must be above 0 and below 1, got 1.0"),
        ({}, {"dispersion": 0.0}, "dispersion must be a finite number above 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gj.profile_intervals(data, fit._replace(**change), **options)
    with pytest.raises(TypeError, match="fit must be a Fit"):
        gj.profile_intervals(data, fit.params)
