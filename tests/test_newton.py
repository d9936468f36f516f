"""`fit_newton`: the optimum by an independent oracle and by its gradient, invariances, transformations, verdicts."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import check_derivatives, differences

import glmjax as gj
from glmjax.passes import weighted_gram

N, D = 40, 3
TRUTH = gj.Dense(jnp.array([0.5, -0.4, 0.3]), jnp.array(0.2))
FAMILIES = {
    "normal": (gj.normal(), 1.0),
    "normal-log": (gj.normal(link="log"), 1.0),
    "bernoulli": (gj.bernoulli(), 1.0),
    "bernoulli-probit": (gj.bernoulli("probit"), 1.0),
    "bernoulli-cloglog": (gj.bernoulli("cloglog"), 1.0),
    "binomial": (gj.binomial(), 1.0),
    "poisson": (gj.poisson(), 1.0),
    "poisson-sqrt": (gj.poisson("sqrt"), 0.2),
    "negative-binomial": (gj.negative_binomial(0.7), 1.0),
    "gamma": (gj.gamma(), 1.0),
    "gamma-inverse": (gj.gamma("inverse"), 0.1),
    "inverse-gaussian": (gj.inverse_gaussian(), 0.5),
    "tweedie": (gj.tweedie(1.5), 1.0),
    "categorical": (gj.categorical(3), 1.0),
    "categorical-reference": (gj.categorical(3, reference=0), 1.0),
}


def problem(name, seed=0):
    """A model, and data drawn from it with weights and an offset; domains of links other than log want a bias."""
    family, size = FAMILIES[name]
    k_x, k_y, k_w = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(k_x, (N, D))
    k = family.n_outputs
    w = size * TRUTH.w if k is None else size * jax.random.normal(k_w, (D, k))
    bias = 1.0 if family.link in ("inverse", "sqrt") else 0.2
    params = gj.Dense(w, jnp.asarray(bias) if k is None else jnp.zeros(k))
    model = gj.glm(family)
    y = gj.sample(model, params, x, k_y)
    if family.name in ("gamma", "inverse_gaussian"):
        y = jnp.maximum(y, 0.05)
    return model, gj.make_data(x, y, family=family, weight=1 + np.arange(N) % 3)


def gradient(model, params, data, l2=0.0):
    leaves = jax.tree.leaves(jax.grad(lambda p: gj.loss(model, p, data, l2))(params))
    return max(float(jnp.max(jnp.abs(leaf), initial=0)) for leaf in leaves)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimum_of_every_family(name):
    model, data = problem(name)
    fit = gj.check(gj.fit_newton(model, data))
    assert gradient(model, fit.params, data) < 1e-9
    # Fisher's matrix is positive definite there, and no small step is better
    rng = np.random.default_rng(0)
    for _ in range(5):
        near = jax.tree.map(lambda p: p + 1e-3 * rng.normal(size=p.shape), fit.params)
        assert gj.loss(model, near, data) >= fit.loss - 1e-12
    assert fit.loss == pytest.approx(float(gj.loss(model, fit.params, data)), rel=1e-12)


@pytest.mark.parametrize("name", ["normal", "bernoulli", "bernoulli-probit", "poisson", "gamma", "binomial"])
def test_statsmodels_agrees(name):
    import statsmodels.api as sm

    model, data = problem(name)
    families = sm.families
    peer = {
        "normal": families.Gaussian(),
        "bernoulli": families.Binomial(),
        "bernoulli-probit": families.Binomial(families.links.Probit()),
        "binomial": families.Binomial(),
        "poisson": families.Poisson(),
        "gamma": families.Gamma(families.links.Log()),
    }[name]
    weight = np.asarray(data.weight)
    result = sm.GLM(np.asarray(data.y), sm.add_constant(np.asarray(data.x)), peer, freq_weights=weight).fit(tol=1e-14)
    fit = gj.fit_newton(model, data)
    np.testing.assert_allclose(np.append(fit.params.b, fit.params.w), result.params, rtol=1e-8, atol=1e-10)
    assert gj.deviance(model, fit.params, data) == pytest.approx(result.deviance, rel=1e-10)


def test_ridge_has_its_closed_form():
    model, data = problem("normal")
    l2 = jnp.array([0.1, 0.0, 2.0])
    fit = gj.fit_newton(model, data, l2=l2)
    w = data.weight / data.weight.sum()
    x = data.x - (w @ data.x)[None]
    solution = jnp.linalg.solve((x * w[:, None]).T @ x + jnp.diag(l2), (x * w[:, None]).T @ data.y)
    np.testing.assert_allclose(fit.params.w, solution, rtol=1e-11)


def test_two_class_softmax_is_the_logistic_at_half_the_penalty():
    model, data = problem("bernoulli")
    two = gj.fit_newton(gj.glm(gj.categorical(2)), data, l2=0.2)
    one = gj.fit_newton(model, data, l2=0.1)
    np.testing.assert_allclose(two.params.w[:, 1] - two.params.w[:, 0], one.params.w, rtol=1e-8)
    np.testing.assert_allclose(two.params.b.sum(), 0, atol=1e-12)


# invariances ----------------------------------------------------------------------------------------------------------


def test_a_penalty_for_each_class_is_lbfgs_optimum_and_has_its_derivative():
    """Then the weights of a column do not sum to 0 over the classes; the biases do."""
    model, data = problem("categorical")
    l2 = jnp.asarray(0.05 + 0.3 * np.random.default_rng(0).random((D, 3)))
    fit, other = gj.fit_newton(model, data, l2=l2), gj.fit_lbfgs(model, data, l2=l2)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-9), fit.params, other.params)
    assert abs(fit.params.b.sum()) < 1e-12
    assert fit.steps <= 8

    def value(l2):
        params = gj.fit_newton(model, data, l2=l2).params
        return jnp.sum(jnp.sin(params.w)) + params.b[1]

    check_derivatives(value, (l2,))


@pytest.fixture(scope="module")
def base():
    model, data = problem("poisson")
    data = data._replace(offset=0.1 * data.x[:, 0] ** 2)
    return model, data, gj.fit_newton(model, data)


def test_scaling_a_column_scales_its_coefficient(base):
    model, data, fit = base
    scale = jnp.array([1e6, 1e-6, 1.0])
    scaled = gj.fit_newton(model, data._replace(x=data.x * scale[None]))
    np.testing.assert_allclose(scaled.params.w * scale, fit.params.w, rtol=1e-10)


def test_shifting_a_column_changes_the_bias_alone(base):
    model, data, fit = base
    shifted = gj.fit_newton(model, data._replace(x=data.x + jnp.array([[100.0, -7.0, 0.0]])))
    np.testing.assert_allclose(shifted.params.w, fit.params.w, rtol=1e-10)
    bias = fit.params.b - 100 * fit.params.w[0] + 7 * fit.params.w[1]
    np.testing.assert_allclose(shifted.params.b, bias, rtol=1e-10)


def test_the_order_of_rows_does_not_matter(base):
    model, data, fit = base
    order = np.random.default_rng(0).permutation(N)
    other = gj.fit_newton(model, jax.tree.map(lambda part: part[order], data))
    np.testing.assert_allclose(other.params.w, fit.params.w, rtol=1e-11)


def test_weight_k_is_k_copies(base):
    model, data, fit = base
    times = np.asarray(data.weight, int)
    copies = jax.tree.map(lambda part: jnp.repeat(part, times, axis=0), data._replace(weight=None))
    other = gj.fit_newton(model, copies)
    np.testing.assert_allclose(other.params.w, fit.params.w, rtol=1e-11)
    assert other.loss == pytest.approx(float(fit.loss), rel=1e-12)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e300, -1e30])
def test_a_row_of_weight_0_is_no_row(base, garbage):
    model, data, fit = base
    added = gj.Data(
        jnp.concatenate([data.x, jnp.full((1, D), garbage)]),
        jnp.append(data.y, garbage),
        jnp.append(data.weight, 0.0),
        jnp.append(data.offset, garbage),
    )
    other = gj.fit_newton(model, added)
    assert other.status == gj.Status.CONVERGED
    np.testing.assert_allclose(other.params.w, fit.params.w, rtol=1e-11)


def test_adding_to_the_offset_moves_the_bias_alone(base):
    model, data, fit = base
    other = gj.fit_newton(model, data._replace(offset=data.offset + 5.0))
    np.testing.assert_allclose(other.params.w, fit.params.w, rtol=1e-11)
    np.testing.assert_allclose(other.params.b, fit.params.b - 5, rtol=1e-11)


@pytest.mark.parametrize("name", ["poisson", "bernoulli", "gamma"])
def test_a_fit_from_its_own_solution_takes_one_step(name):
    model, data = problem(name)
    fit = gj.fit_newton(model, data)
    again = gj.fit_newton(model, data, params=fit.params)
    assert again.status == gj.Status.CONVERGED
    assert again.steps <= 1
    np.testing.assert_allclose(again.params.w, fit.params.w, rtol=1e-11)


# transformations ------------------------------------------------------------------------------------------------------


def test_jit_is_eager():
    model, data = problem("poisson")
    eager, compiled = gj.fit_newton(model, data, l2=0.1), jax.jit(gj.fit_newton)(model, data, l2=0.1)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), eager, compiled)


def test_lanes_are_solo_fits():
    """Over y, weight, offset and l2 at once, one lane separated, one with a bad target: no other lane changes."""
    model, data = problem("poisson")
    ys = jnp.stack([data.y, data.y[::-1], 0 * data.y, -data.y - 1, data.y + 1])
    weights = jnp.stack([data.weight, 1 + 0 * data.weight, data.weight, data.weight, data.weight % 2])
    offsets = 0.1 * jnp.arange(5.0)[:, None] * data.x[:, 0][None]
    l2 = jnp.array([0.0, 0.1, 0.0, 0.0, 1.0])

    def one(y, weight, offset, l2):
        return gj.fit_newton(model, data._replace(y=y, weight=weight, offset=offset), l2=l2)

    fits = jax.vmap(one)(ys, weights, offsets, l2)
    names = [gj.Status(status).name for status in fits.status.tolist()]
    assert names == ["CONVERGED", "CONVERGED", "SEPARATED", "INVALID_TARGET", "CONVERGED"]
    for lane in (0, 1, 4):
        solo = one(ys[lane], weights[lane], offsets[lane], l2[lane])
        np.testing.assert_allclose(fits.params.w[lane], solo.params.w, rtol=1e-11)
    assert fits.infinite.b.tolist() == [False, False, True, False, False]
    with pytest.raises(RuntimeError, match=r"(?s)SEPARATED \(lanes 2\).*INVALID_TARGET|INVALID_TARGET.*SEPARATED"):
        gj.check(fits)


@pytest.mark.parametrize("lanes", [5, 12])  # a product each, and one for all
@pytest.mark.parametrize("own", [False, True])
def test_no_bit_of_a_lane_depends_on_the_others(lanes, own):
    model, rng = gj.glm(gj.bernoulli()), np.random.default_rng(6)
    x = jnp.asarray(rng.standard_normal((lanes, 60, 2) if own else (60, 2)))
    ys = jnp.asarray(rng.integers(0, 2, (lanes, 60)).astype(float))
    weights = jnp.asarray(rng.integers(0, 3, (lanes, 60)).astype(float))
    fit = jax.jit(jax.vmap(lambda x, y, w: gj.fit_newton(model, gj.Data(x, y, w)), (0 if own else None, 0, 0)))
    fits = fit(x, ys, weights)
    apart = (x[1] if own else x)[:, 0] > 0
    bad = fit(
        x.at[0].set(jnp.nan) if own else x,
        ys.at[1].set(apart.astype(float)).at[2].set(1.0),  # one separated, one of a single class
        weights.at[0].set(jnp.nan).at[1].set(1.0),
    )
    names = [gj.Status(status).name for status in bad.status[:3].tolist()]
    assert names == ["INVALID_INPUT", "SEPARATED", "SEPARATED"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[3:], b[3:]), fits, bad)
    np.testing.assert_array_equal(fits.status[3:], gj.Status.CONVERGED)


def test_lanes_of_nested_vmaps_share_one_product_and_are_solo_fits():
    model, x = gj.glm(gj.poisson()), jnp.asarray(np.random.default_rng(3).standard_normal((700, 3)))
    ys = jnp.asarray(np.random.default_rng(4).poisson(np.exp(0.3 * x[:, 0]), (3, 700)).astype(float))
    weights = jnp.asarray(np.random.default_rng(5).multinomial(700, np.full(700, 1 / 700), 4).astype(float))

    def one(weight, y):
        return gj.fit_newton(model, gj.Data(x, y, weight))

    batch = jax.vmap(lambda weight: jax.vmap(lambda y: one(weight, y))(ys))(weights)
    for i, j in ((0, 0), (2, 1), (3, 2)):
        solo = one(weights[i], ys[j])
        np.testing.assert_allclose(batch.params.w[i, j], solo.params.w, rtol=1e-12)
        assert batch.passes[i, j] == solo.passes


def test_the_information_of_lanes_that_share_x_is_one_product(key):
    u, h = jax.random.normal(key, (700, 4)), jnp.abs(jax.random.normal(key, (2, 5, 1, 700)))
    wanted = jnp.einsum("abln,np,nq->ablpq", h, u, u)
    nested = jax.vmap(jax.vmap(weighted_gram, (0, None)), (0, None))
    np.testing.assert_allclose(nested(h, u), wanted, rtol=1e-12)
    program = str(jax.make_jaxpr(nested)(h, u))
    assert "[10,4,4]" in program  # all lanes together
    assert "5,700,4" not in program  # never lanes x rows x columns
    own = jnp.stack([u, 2 * u])
    each = jax.vmap(weighted_gram)(h[:, 0], own)
    np.testing.assert_allclose(each, [wanted[0, 0], 4 * wanted[1, 0]], rtol=1e-12)
    outer = jax.vmap(jax.vmap(weighted_gram, (0, None)), (None, 0))(h[0], own)
    np.testing.assert_allclose(outer[1], 4 * wanted[0], rtol=1e-12)


def test_an_eager_vmap_is_compiled_once():
    model, x = gj.glm(gj.poisson()), jnp.asarray(np.random.default_rng(3).standard_normal((60, 2)))
    compiled = []

    def listen(event, seconds, **_):
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(listen)

    def fits(seed):
        ys = jnp.asarray(np.random.default_rng(seed).poisson(1.0, (4, 60)).astype(float))
        return jax.vmap(lambda y: gj.fit_newton(model, gj.Data(x, y)))(ys)

    fits(0)
    assert compiled  # the event has this name
    compiled.clear()
    fits(1)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_new_numbers_and_equal_models_trace_nothing_anew():
    _, data = problem("negative-binomial")
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def fit(model, data, l2, tol):
        return gj.fit_newton(model, data, l2=l2, tol=tol).params

    for alpha, l2, tol in ((0.5, 0.0, 1e-8), (0.7, 0.1, 1e-9)):
        fit(gj.glm(gj.negative_binomial(alpha)), data, l2, tol)


@pytest.mark.parametrize("name", ["poisson", "categorical-reference"])
def test_derivatives_equal_central_differences(name):
    """Of the coefficients with respect to everything that is a number, forward and backward."""
    model, data = problem(name)
    y = data.y if name.startswith("categorical") else data.y + 0.5  # off the edge of the support
    data = data._replace(y=y, offset=0.1 * data.x[:, 1], precision=1 + 0.1 * jnp.cos(jnp.arange(float(N))))
    mix = jnp.cos(jnp.arange(50.0))

    def seen(params):
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
        return flat @ mix[: flat.size]

    @jax.jit
    def value(x, y, weight, offset, precision, l2):
        return seen(gj.fit_newton(model, gj.Data(x, y, weight, offset, precision), l2=l2, tol=1e-14).params)

    at = (data.x, data.y, data.weight, data.offset, data.precision, jnp.array(0.1))
    check_derivatives(value, at, skip=(1,) if name.startswith("categorical") else ())  # labels


def test_derivatives_of_a_batch():
    model, data = problem("poisson")
    l2 = jnp.array([0.05, 0.2])

    def total(l2):
        return gj.fit_newton(model, data, l2=l2).params.w.sum()

    batch = jax.vmap(jax.grad(total))(l2)
    np.testing.assert_allclose(batch, [differences(total, p, 1.0) for p in l2], rtol=1e-7)


# many rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60_000, 20))
    y = rng.poisson(np.exp(0.2 * x[:, :5].sum(axis=1) - 0.5)).astype(float)
    return x, y


def test_a_rehearsed_fit_ends_at_the_same_optimum(many):
    x, y = many
    model, data = gj.glm(gj.poisson()), gj.make_data(x, y)
    fit = gj.check(gj.fit_newton(model, data))
    assert gradient(model, fit.params, data) < 1e-11
    order = np.argsort(y)  # the worst order for a sample of blocks
    ordered = gj.check(gj.fit_newton(model, gj.make_data(x[order], y[order])))
    np.testing.assert_allclose(ordered.params.w, fit.params.w, rtol=1e-9, atol=1e-11)


def test_a_rehearsal_that_goes_wrong_is_not_the_end(many):
    """The sample does not see what most rows hold: all its rows of a column are 0."""
    x, y = (part.copy() for part in many)
    x[:59_000, 3] = 0
    model, data = gj.glm(gj.poisson()), gj.make_data(x, y)
    fit = gj.check(gj.fit_newton(model, data))
    assert gradient(model, fit.params, data) < 1e-10
    x[:, 4] = x[:, 5]
    with pytest.warns(UserWarning, match="RANK_DEFICIENT"):
        twice = gj.check(gj.fit_newton(model, gj.make_data(x, y)))
    assert np.flatnonzero(twice.aliased.w).tolist() == [5]


def test_a_level_without_events_in_the_sample_costs_little(many):
    """On the sample its coefficient goes to -infinity; the fit starts afresh instead of coming back from there."""
    x, y = (part.copy() for part in many)
    x[:, 3] = np.arange(len(x)) % 5 == 0
    y[(x[:, 3] == 1) & (np.arange(len(x)) // 512 % 10 == 0)] = 0
    model, data = gj.glm(gj.poisson()), gj.make_data(x, y)
    fit = gj.check(gj.fit_newton(model, data))
    assert gradient(model, fit.params, data) < 1e-11
    assert fit.passes <= 12


def test_lanes_that_rehearse_are_their_solo_fits_and_bad_ones_spoil_none():
    """Many lanes on some thousand rows rehearse on a few of them: a lane without events, one without any at a level, one
    whose sample has none there, so that it starts afresh; a NaN, half of the rows, a ridge of each lane's own.
    """
    n, lanes = 4200, 70
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    x[:, 2] = level = np.arange(n) % 5 == 0
    y = rng.poisson(np.exp(0.3 * x[:, 0] - 0.2 * x[:, 1] + 0.5 * x[:, 2] + rng.normal(size=(lanes, 1)) * 0.5)) * 1.0
    weight, offset = np.ones((lanes, n)), np.zeros((lanes, n))
    y[1] = 0
    y[2, level] = 0
    y[6, level & (np.arange(n) // 512 % 2 == 0)] = 0
    weight[3] = np.arange(n) % 2
    offset[4, 7] = np.nan
    y[5, 11] = -1
    l2 = np.where(np.arange(lanes) % 3 == 0, 0.1, 0.0)
    model = gj.glm(gj.poisson())

    def fit(y, weight, offset, l2):
        return gj.fit_newton(model, gj.Data(jnp.asarray(x), y, weight, offset), l2=l2)

    batch = jax.jit(jax.vmap(fit))
    fits = batch(y, weight, offset, l2)
    ends = {i: gj.Status(int(fits.status[i])).name for i in range(lanes)}
    bad = {1: "SEPARATED", 2: "SEPARATED", 4: "INVALID_INPUT", 5: "INVALID_TARGET"}
    assert ends == {i: bad.get(i, "CONVERGED") for i in range(lanes)}
    assert fits.infinite.w[2].tolist() == [False, False, True]
    assert fits.passes[6] > fits.passes[7]
    for i in (0, 2, 3, 6, 69):
        alone = fit(y[i], weight[i], offset[i], l2[i])
        finite = ~np.asarray(alone.infinite.w)
        np.testing.assert_allclose(fits.params.w[i][finite], alone.params.w[finite], rtol=1e-10, atol=1e-12)
        # A loss without a minimum is only approached.
        np.testing.assert_allclose(fits.loss[i], alone.loss, rtol=1e-11 if i == 2 else 1e-13)
        if i != 2:
            data = gj.Data(jnp.asarray(x), y[i], weight[i], offset[i])
            slope = jax.grad(lambda w, i=i, data=data, b=fits.params.b: gj.loss(model, gj.Dense(w, b[i]), data, l2[i]))
            assert jnp.abs(slope(fits.params.w[i])).max() < 1e-11
    well = np.setdiff1d(np.arange(lanes), [*bad, 6])
    y[[*bad, 6]], offset[4, 7] = y[0], 0  # other company, the same bits
    again = batch(y, weight, offset, l2)
    assert all(np.array_equal(a[well], b[well]) for a, b in zip(fits.params, again.params, strict=True))


# alpha ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, D))
    mean = np.exp(0.5 + x @ [0.4, -0.3, 0.0])
    return x, rng.negative_binomial(2.0, 2.0 / (2.0 + mean)).astype(float), rng.binomial(10, 0.5, 200).astype(float)


@pytest.mark.parametrize("alpha", [1.0, 80.0])
def test_strong_overdispersion_wherever_a_fit_starts(alpha):
    """Fisher scoring took 86 steps at alpha = 80, and got lost from starts far out."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    y = rng.poisson(np.exp(1 - 2 * x[:, 0]) * rng.gamma(1 / alpha, alpha, 300)).astype(float)
    model, data = gj.glm(gj.negative_binomial(alpha)), gj.make_data(x, y)
    best = gj.check(gj.fit_newton(model, data))
    assert best.steps <= 15
    gradient = jax.grad(lambda params: gj.loss(model, params, data))(best.params)
    assert max(abs(float(gradient.b)), abs(float(gradient.w[0]))) < 1e-10
    starts = gj.Dense(jnp.asarray([[10.0], [-10.0], [30.0]]), jnp.zeros(3))
    fits = jax.vmap(lambda params: gj.fit_newton(model, data, params=params))(starts)
    assert jnp.all(fits.status == gj.Status.CONVERGED)
    np.testing.assert_allclose(fits.params.w, jnp.broadcast_to(best.params.w, (3, 1)), rtol=1e-8)


@pytest.mark.parametrize("kind", [1, 2])
def test_alpha_is_statsmodels(counts, kind):
    import statsmodels.api as sm

    x, y, _ = counts
    family = {1: gj.negative_binomial1, 2: gj.negative_binomial}[kind]()
    fit = gj.check(gj.fit_newton(gj.glm(family), gj.make_data(x, y)))
    peer = sm.NegativeBinomial(y, sm.add_constant(x), loglike_method=f"nb{kind}")
    peer = peer.fit(disp=False, method="newton", maxiter=100)
    found = np.concatenate([[fit.params.b], fit.params.w, [fit.model.family.alpha]])
    np.testing.assert_allclose(found, peer.params, rtol=1e-5, atol=1e-7)
    eta = gj.linear_predictor(fit.model, fit.params, jnp.asarray(x))
    rows = jax.vmap(lambda e, t: fit.model.family.log_likelihood(e, t, 1.0))(eta, jnp.asarray(y))
    assert rows.sum() >= peer.llf - 1e-8


def test_underdispersed_counts_are_poissons_in_their_lane(counts):
    x, over, under = counts
    model, data = gj.glm(gj.negative_binomial()), gj.make_data(x, over)
    fits = jax.vmap(lambda y: gj.fit_newton(model, data._replace(y=y)))(jnp.stack([over, under]))
    assert [gj.Status(s).name for s in fits.status.tolist()] == ["CONVERGED", "BOUNDARY"]
    assert fits.model.family.alpha[0] > 0.1
    assert fits.model.family.alpha[1] == 0
    poisson = gj.fit_newton(gj.glm(gj.poisson()), gj.make_data(x, under))
    np.testing.assert_allclose(fits.params.w[1], poisson.params.w, rtol=1e-10)
    with pytest.warns(UserWarning, match="BOUNDARY"):
        gj.check(fits)


def test_alpha_is_differentiable(counts):
    x, y, _ = counts
    model, data = gj.glm(gj.negative_binomial()), gj.make_data(x, y, weight=np.ones(200))

    def alpha(l2):
        return gj.fit_newton(model, data, l2=l2).model.family.alpha

    np.testing.assert_allclose(jax.grad(alpha)(0.1), differences(alpha, 0.1, 1.0), rtol=1e-6)


# verdicts -------------------------------------------------------------------------------------------------------------


def test_dependent_columns_are_named_and_predictions_right():
    model, data = problem("poisson")
    fit = gj.fit_newton(model, data)
    x = jnp.concatenate([data.x, data.x[:, :1] - 2 * data.x[:, 1:2], jnp.full((N, 1), 3.0), jnp.zeros((N, 1))], axis=1)
    wide = gj.fit_newton(model, data._replace(x=x))
    assert wide.status == gj.Status.RANK_DEFICIENT
    assert np.flatnonzero(wide.aliased.w).tolist() == [3, 4, 5]
    np.testing.assert_allclose(wide.params.w[:3], fit.params.w, rtol=1e-9)
    np.testing.assert_array_equal(wide.params.w[3:], 0)
    with pytest.warns(UserWarning, match=r"aliased: w\[3\], w\[4\], w\[5\]"):
        gj.check(wide)


def test_fewer_rows_than_columns_are_deficient_and_fine_with_a_penalty():
    x, y = np.random.default_rng(0).normal(size=(4, 6)), np.array([1.0, 0.0, 2.0, 1.5])
    data, model = gj.make_data(x, y), gj.glm(gj.normal())
    fit = gj.fit_newton(model, data)
    assert fit.status == gj.Status.RANK_DEFICIENT
    np.testing.assert_allclose(gj.predict(model, fit.params, x), y, atol=1e-8)
    ridge = gj.check(gj.fit_newton(model, data, l2=0.1))
    assert gradient(model, ridge.params, data, 0.1) < 1e-12


def test_one_row():
    model = gj.glm(gj.normal())
    assert gj.fit_newton(model, gj.make_data([[1.0, 2.0]], [3.0])).status == gj.Status.RANK_DEFICIENT


def test_max_steps_says_what_is_left():
    model, data = problem("poisson")
    fit = gj.fit_newton(model, data, max_steps=1)
    assert fit.status == gj.Status.MAX_STEPS
    with pytest.raises(RuntimeError, match=r"optimality \d.*raise max_steps"):
        gj.check(fit)


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_columns_of_any_size(scale):
    model, data = problem("bernoulli")
    fit = gj.fit_newton(model, data)
    far = gj.fit_newton(model, data._replace(x=data.x * scale, weight=None))
    near = gj.fit_newton(model, data._replace(weight=None))
    assert far.status == fit.status == gj.Status.CONVERGED
    np.testing.assert_allclose(far.params.w * scale, near.params.w, rtol=1e-9)


BAD = [
    ({"l2": -1.0}, ValueError, "l2 must be a finite number, 0 or more, got -1"),
    ({"l2": np.array([0.1, -1.0, 0.0])}, ValueError, r"l2\[1\] = -1"),
    ({"l2": np.ones(4)}, ValueError, r"l2 must be one number or broadcast to the shape \(3,\)"),
    ({"tol": 0.0}, ValueError, "tol must be a finite number above 0"),
    ({"max_steps": 0}, ValueError, "max_steps must be 1 or more, got 0"),
    ({"max_steps": 1.5}, TypeError, "max_steps must be a whole number"),
    ({"params": gj.Dense(jnp.zeros(2), jnp.zeros(()))}, ValueError, "the parameters are for 2 features"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(options, error, message):
    model, data = problem("poisson")
    with pytest.raises(error, match=message):
        gj.fit_newton(model, data, **options)


def test_bad_models_and_data():
    data = problem("poisson")[1]
    with pytest.raises(ValueError, match="for an mlp use fit_lbfgs or fit_sgd"):
        gj.fit_newton(gj.mlp(gj.poisson(), (3,)), data)
    with pytest.raises(ValueError, match="nothing to fit"):
        gj.fit_newton(gj.glm(gj.poisson(), bias=False), data._replace(x=data.x[:, :0]))
    with pytest.raises(TypeError, match="need a model from glm or mlp"):
        gj.fit_newton(gj.poisson(), data)


def test_traced_numbers_out_of_range_are_statuses():
    model, data = problem("poisson")
    fits = jax.vmap(lambda l2: gj.fit_newton(model, data, l2=l2))(jnp.array([0.1, -1.0, jnp.nan]))
    assert [gj.Status(s).name for s in fits.status.tolist()] == ["CONVERGED", "INVALID_INPUT", "INVALID_INPUT"]


def test_fit_picks_by_model_and_shape():
    model, data = problem("poisson")
    np.testing.assert_array_equal(gj.fit(model, data).params.w, gj.fit_newton(model, data).params.w)
    sparse = gj.fit(model, data, l1=10.0)
    np.testing.assert_array_equal(sparse.params.w, 0)
    with pytest.raises(ValueError, match="pass key"):
        gj.fit(gj.mlp(gj.poisson(), (3,)), data)
    alpha = replace(model, family=gj.negative_binomial())
    assert gj.fit(alpha, data).model.family.alpha >= 0


@pytest.mark.parametrize(
    "family",
    [
        gj.poisson("sqrt"),
        gj.bernoulli("probit"),
        gj.quasi_binomial("cloglog"),
        gj.categorical(3, reference=1),
        gj.gamma("inverse"),
        gj.negative_binomial(0.7),
        gj.tweedie(1.5),
    ],
    ids=lambda family: family.name,
)
def test_null_deviance_in_closed_form_is_newtons(family):
    """Without an offset the null mean is the targets' average; with one, of zeros, it is fitted."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, 40).astype(float)
    y = {"quasi_binomial": np.stack([counts, 3 - counts], axis=1), "bernoulli": counts // 2, "gamma": counts + 1}.get(
        family.name, counts
    )
    data = gj.make_data(
        np.ones((40, 1)), y, family=family, weight=np.arange(40.0) % 3, precision=1 + np.arange(40.0) % 2
    )
    fitted = gj.null_deviance(gj.glm(family), data._replace(offset=jnp.zeros(40)))
    assert float(gj.null_deviance(gj.glm(family), data)) == pytest.approx(float(fitted), rel=1e-12)
