"""`fit_lbfgs`: Newton's answer on linear models, wide ones, full-batch MLPs, transformations, verdicts."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import check_derivatives

import glmjax as gj

N, D = 40, 3
FAMILIES = {
    "poisson": gj.poisson(),
    "bernoulli": gj.bernoulli(),
    "gamma": gj.gamma(),
    "categorical": gj.categorical(3),
    "categorical-reference": gj.categorical(3, reference=0),
}
PENALTIES = [0.0, 0.1, (0.1, 0.0, 2.0)]


def problem(name, seed=0):
    """A model, and data drawn from it with weights and an offset; all have one shape, so that little is compiled."""
    model = gj.glm(FAMILIES[name])
    k_x, k_y, k_w = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(k_x, (N, D))
    params = gj.init(model, k_w, D, bound=0.6)
    y = gj.sample(model, params, x, k_y)
    y = jnp.maximum(y, 0.05) if name == "gamma" else y
    return model, gj.make_data(x, y, family=model.family, weight=1 + np.arange(N) % 3, offset=0.1 * x[:, 0] ** 2)


@jax.jit
def slope_of_loss(model, params, data):
    return jax.grad(lambda p: gj.loss(model, p, data))(params)


def gradient(model, params, data, l2=0.0):
    """The largest entry of the loss's gradient; a penalty a coefficient is added by hand."""
    g = slope_of_loss(model, params, data)
    layers = [(g, params)] if isinstance(g, gj.Dense) else zip(g, params, strict=True)
    pairs = [(slope.b, slope.w + jnp.asarray(l2).reshape(-1, *[1] * (p.w.ndim - 1)) * p.w) for slope, p in layers]
    return max(float(jnp.max(jnp.abs(part))) for pair in pairs for part in pair)


def same(found, wanted, rtol=1e-12, atol=0.0):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, wanted)


def broadcast(l2, params):
    """A penalty a coefficient in w's shape."""
    l2 = jnp.asarray(l2)
    return l2 if l2.ndim == 0 else jnp.broadcast_to(l2.reshape(-1, *[1] * (params.w.ndim - 1)), params.w.shape)


# linear models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_newtons_answer(name):
    model, data = problem(name)
    like = gj.init(model, None, D)
    for penalty in PENALTIES:
        l2 = broadcast(penalty, like)
        fit, newton = gj.check(gj.fit_lbfgs(model, data, l2=l2)), gj.fit_newton(model, data, l2=l2)
        same(fit.params, newton.params, 1e-9, 1e-10)
        same(fit.loss, newton.loss, 1e-13, 1e-13)
        assert fit.optimality < 1e-11
        assert gradient(model, fit.params, data, penalty) < 1e-11
        assert fit.passes >= fit.steps + 1
    if name == "gamma":
        same(fit.model.family.dispersion, newton.model.family.dispersion, rtol=1e-10)


@pytest.fixture(scope="module")
def base():
    model, data = problem("poisson")
    return model, data, gj.fit_lbfgs(model, data)


def test_where_it_starts_does_not_matter(base):
    model, data, fit = base
    far = gj.check(gj.fit_lbfgs(model, data, params=gj.Dense(jnp.array([1.0, -2.0, 0.5]), jnp.array(-3.0))))
    np.testing.assert_allclose(far.params.w, fit.params.w, rtol=1e-10)
    again = gj.check(gj.fit_lbfgs(model, data, params=fit.params))
    assert again.steps <= 1
    np.testing.assert_allclose(again.params.w, fit.params.w, rtol=1e-11)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_units_do_not_matter(base, shift):
    """Columns far from 0 take another, more careful pass."""
    model, data, fit = base
    scale = jnp.array([1e6, 1e-6, 1.0])
    other = gj.check(gj.fit_lbfgs(model, data._replace(x=(data.x + shift) * scale[None])))
    np.testing.assert_allclose(other.params.w * scale, fit.params.w, rtol=1e-9 if shift else 1e-10)
    np.testing.assert_allclose(
        other.params.b + shift * fit.params.w.sum(), fit.params.b, rtol=0, atol=1e-10 * (1 + shift)
    )


def test_weight_2_is_two_copies(base):
    """Rows 38 and 39 stand in for copies of rows 1 and 4, which have weight 2."""
    model, data, _ = base
    once = data._replace(weight=data.weight.at[38:].set(0))
    from_to = jnp.array([1, 4]), jnp.array([38, 39])
    twice = jax.tree.map(lambda part: part.at[from_to[1]].set(part[from_to[0]]), data)
    twice = twice._replace(weight=data.weight.at[jnp.concatenate(from_to)].set(1.0))
    fits = [gj.check(gj.fit_lbfgs(model, rows)) for rows in (once, twice)]
    np.testing.assert_allclose(fits[0].params.w, fits[1].params.w, rtol=1e-10)
    same(fits[0].loss, fits[1].loss, rtol=1e-12)


def test_a_row_of_weight_0_is_no_row(base):
    model, data, _ = base
    without = gj.fit_lbfgs(model, jax.tree.map(lambda part: part[:-1], data))
    data = data._replace(weight=data.weight.at[-1].set(0))
    for garbage in (np.nan, np.inf, 1e300):
        bad = gj.Data(
            *(part.at[-1].set(garbage) for part in (data.x, data.y)), data.weight, data.offset.at[-1].set(garbage)
        )
        fit = gj.check(gj.fit_lbfgs(model, bad))
        np.testing.assert_allclose(fit.params.w, without.params.w, rtol=1e-10)
        same(fit.loss, without.loss, rtol=1e-12)


def test_adding_to_the_offset_moves_the_bias_alone(base):
    model, data, fit = base
    other = gj.check(gj.fit_lbfgs(model, data._replace(offset=data.offset + 5.0)))
    np.testing.assert_allclose(other.params.w, fit.params.w, rtol=1e-10)
    np.testing.assert_allclose(other.params.b, fit.params.b - 5, rtol=1e-10)


def test_one_past_step_is_memory_enough(base):
    model, data, fit = base
    short = gj.check(gj.fit_lbfgs(model, data, memory=1))
    np.testing.assert_allclose(short.params.w, fit.params.w, rtol=1e-10)
    assert short.passes > fit.passes


def test_no_columns():
    fit = gj.check(gj.fit_lbfgs(gj.glm(gj.poisson()), gj.make_data(np.zeros((4, 0)), [0.0, 1.0, 2.0, 3.0])))
    same(fit.params.b, np.log(1.5))


def test_float32(base):
    model, data, fit = base
    data = jax.tree.map(lambda part: part.astype(jnp.float32), data)
    single = gj.check(gj.fit_lbfgs(model, data))
    assert single.params.w.dtype == jnp.float32
    np.testing.assert_allclose(single.params.w, fit.params.w, rtol=1e-4)
    group = data._replace(x=data.x.at[:8, 2].set(9.0), y=data.y.at[:8].set(0) + 1)  # no separation
    assert gj.fit_lbfgs(model, group).status == gj.Status.CONVERGED
    assert gj.fit_lbfgs(model, data._replace(y=0 * data.y)).status == gj.Status.SEPARATED


# wide ones ------------------------------------------------------------------------------------------------------------


def test_more_columns_than_rows():
    """Ridge has its dual form; without a penalty the interpolant of the smallest standardized coefficients is found."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 60)), rng.normal(size=20)
    model, data = gj.glm(gj.normal()), gj.make_data(x, y)
    z = x - x.mean(axis=0)
    ridge = gj.check(gj.fit_lbfgs(model, data, l2=0.1))
    dual = z.T @ np.linalg.solve(z @ z.T + 20 * 0.1 * np.eye(20), y - y.mean())
    np.testing.assert_allclose(ridge.params.w, dual, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ridge.params.b, y.mean() - x.mean(axis=0) @ dual, rtol=1e-8)
    plain = gj.check(gj.fit_lbfgs(model, data))
    np.testing.assert_allclose(gj.predict(model, plain.params, x), y, atol=1e-9)
    unit = np.abs(z).max(axis=0)
    smallest = np.linalg.pinv(z / unit) @ (y - y.mean()) / unit
    np.testing.assert_allclose(plain.params.w, smallest, rtol=1e-7, atol=1e-9)


def test_more_columns_than_are_certified_by_newtons_step():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 1100)), (np.arange(30) % 2).astype(float)
    model, data = gj.glm(gj.bernoulli()), gj.make_data(x, y)
    ridge = gj.check(gj.fit_lbfgs(model, data, l2=0.1))
    assert gradient(model, ridge.params, data, 0.1) < 1e-10
    assert gj.fit_lbfgs(model, data).status == gj.Status.SEPARATED
    one_class = gj.fit_lbfgs(model, data._replace(y=0 * data.y), l2=0.1)  # the bias is free
    assert one_class.status == gj.Status.SEPARATED


# MLPs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    model = gj.mlp(gj.categorical(3), (5,), "tanh")
    data = problem("categorical")[1]
    start = gj.init(model, jax.random.key(1), D)
    return model, data, start, gj.fit_lbfgs(model, data, params=start, l2=0.01)


def test_an_mlp_in_full_batch(network):
    model, data, start, fit = network
    gj.check(fit)
    assert fit.loss < gj.loss(model, start, data, 0.01) - 0.1
    same(fit.loss, gj.loss(model, fit.params, data, 0.01), rtol=1e-13)
    assert fit.optimality <= np.finfo(float).eps ** 0.5
    same(gradient(model, fit.params, data, 0.01), fit.optimality * max(1, fit.loss), 1e-3)
    tight = gj.check(gj.fit_lbfgs(model, data, params=start, l2=0.01, tol=1e-11))
    assert gradient(model, tight.params, data, 0.01) < 1e-10
    assert tight.loss <= fit.loss


def test_the_same_start_gives_the_same_bits(network):
    model, data, start, fit = network
    again = gj.fit_lbfgs(model, data, params=start, l2=0.01)
    jax.tree.map(np.testing.assert_array_equal, again, fit)


def test_a_vmap_over_starts(network):
    model, data, start, fit = network
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, jnp.nan * leaf]), start)
    fits = jax.vmap(lambda params: gj.fit_lbfgs(model, data, params=params, l2=0.01))(starts)
    assert [gj.Status(s).name for s in fits.status.tolist()] == ["CONVERGED", "CONVERGED", "NONFINITE"]
    same(fits.loss[0], fit.loss, rtol=1e-8)


def test_a_linear_network_is_the_linear_model():
    """Its loss has no other minima, so the one found is the GLM's."""
    model, data = problem("poisson")
    network = gj.mlp(gj.poisson(), (3,), "identity")
    fit = gj.fit_lbfgs(network, data, params=gj.init(network, jax.random.key(0), D), tol=1e-10)
    assert fit.status == gj.Status.CONVERGED
    same(fit.loss, gj.fit_newton(model, data).loss, 0, 1e-12)


def test_an_mlp_has_no_derivative(network):
    model, data, start, _ = network
    with pytest.raises(ValueError, match=r"fit_lbfgs of an mlp has no derivative.*stop_gradient"):
        jax.grad(lambda l2: gj.fit_lbfgs(model, data, params=start, l2=l2).loss)(0.01)
    with pytest.raises(ValueError, match=r"an mlp needs params to start from: pass params=gj.init\(model, key, 3\)"):
        gj.fit_lbfgs(model, data)
    with pytest.raises(ValueError, match="l2 must be one number"):
        gj.fit_lbfgs(model, data, params=start, l2=jnp.ones(3))


# transformations ------------------------------------------------------------------------------------------------------


def test_jit_is_eager_and_new_numbers_trace_nothing_anew(base):
    _, data, _ = base
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compiled(model, data, l2, tol):
        return gj.fit_lbfgs(model, data, l2=l2, tol=tol)

    for l2, tol in ((0.0, 1e-10), (0.1, 1e-11)):
        model = gj.glm(gj.poisson())
        eager = gj.fit_lbfgs(model, data, l2=l2, tol=tol)
        same(compiled(model, data, l2, tol), eager, 1e-9, 1e-9)


def test_lanes_are_solo_fits(base):
    """Over y, weight, offset and l2 at once; one lane separated, one with bad targets, one without weight."""
    model, data, _ = base
    ys = jnp.stack([data.y, data.y[::-1], 0 * data.y, -data.y - 1, data.y + 1, data.y])
    weights = jnp.stack([data.weight, 1 + 0 * data.weight, data.weight, data.weight, data.weight % 2, 0 * data.weight])
    offsets = 0.1 * jnp.arange(6.0)[:, None] * data.x[:, 0][None]
    l2 = jnp.array([0.0, 0.1, 0.0, 0.0, 1.0, 0.0])

    def one(y, weight, offset, l2):
        return gj.fit_lbfgs(model, data._replace(y=y, weight=weight, offset=offset), l2=l2)

    fits = jax.vmap(one)(ys, weights, offsets, l2)
    names = [gj.Status(status).name for status in fits.status.tolist()]
    assert names == ["CONVERGED", "CONVERGED", "SEPARATED", "INVALID_TARGET", "CONVERGED", "INVALID_INPUT"]
    for lane in (0, 1, 4):
        solo = one(ys[lane], weights[lane], offsets[lane], l2[lane])
        np.testing.assert_allclose(fits.params.w[lane], solo.params.w, rtol=1e-9)
        same(fits.loss[lane], solo.loss, rtol=1e-13)


def test_derivatives_equal_central_differences(base):
    model, data, _ = base

    @jax.jit
    def value(x, y, weight, offset, l2):
        fit = gj.fit_lbfgs(model, gj.Data(x, y, weight, offset), l2=l2, tol=1e-14)
        return fit.params.w @ jnp.cos(jnp.arange(3.0)) + fit.params.b + fit.loss

    at = (data.x, data.y + 0.1, data.weight, data.offset, jnp.array([0.1, 0.02, 0.3]))
    check_derivatives(value, at)


def test_derivatives_of_k_logits_by_penalty():
    """Forward; the biases still sum to 0."""
    model, data = problem("categorical")

    @jax.jit
    def params(l2):
        return gj.fit_lbfgs(model, data, l2=l2, tol=1e-14).params

    found = jax.jvp(params, (0.1,), (1.0,))[1]
    numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, params(0.1 + 1e-5), params(0.1 - 1e-5))
    same(found, numeric, 1e-7, 1e-8)
    np.testing.assert_allclose(found.b.sum(), 0, atol=1e-13)


# verdicts -------------------------------------------------------------------------------------------------------------


def status(model, data, **options):
    return gj.Status(int(gj.fit_lbfgs(model, data, **options).status)).name


def test_separated_classes_never_converge():
    model, data = problem("bernoulli")
    sides = (data.x @ jnp.array([1.0, -1.0, 0.5]) > 0).astype(float)
    group = data._replace(x=data.x.at[:, 2].set((jnp.arange(N) < 8).astype(float)))
    empty = group._replace(y=jnp.where(group.x[:, 2] == 1, 0, data.y))  # quasi-complete: the others overlap
    for rows in (data._replace(y=sides), empty, data._replace(y=0 * data.y)):
        assert status(model, rows) == "SEPARATED"
        assert status(model, rows, max_steps=2) == "MAX_STEPS"
    assert status(model, group) == "CONVERGED"
    assert status(model, data._replace(y=sides), l2=1e-4) == "CONVERGED"
    # large, and finite: all but two rows are on their sides
    far = data._replace(x=20 * data.x, y=sides.at[:2].set(1 - sides[:2]))
    assert status(model, far) == status_of_newton(model, far) == "CONVERGED"


def status_of_newton(model, data):
    return gj.Status(int(gj.fit_newton(model, data).status)).name


def test_a_group_without_events_never_converges():
    model, data = problem("poisson")
    group = (jnp.arange(N) < 8).astype(float)
    rows = data._replace(x=data.x.at[:, 2].set(group), y=jnp.where(group == 1, 0, data.y + 1))
    assert status(model, rows) == "SEPARATED"
    assert status(model, rows._replace(y=0 * data.y)) == "SEPARATED"
    assert status(model, rows, l2=jnp.array([0.0, 0.0, 0.01])) == "CONVERGED"


def test_separation_where_the_line_search_ends_before_the_gradient():
    """Of many random problems some end so; none with a direction of recession has converged."""
    rng = np.random.default_rng(0)
    model, n, lanes = gj.glm(gj.categorical(3, reference=2)), 16, 60
    xs, ys = rng.integers(0, 3, (lanes, n, D)).astype(float), rng.integers(0, 3, (lanes, n)).astype(float)
    fits = jax.vmap(lambda x, y: gj.fit_lbfgs(model, gj.Data(x, y)))(xs, ys)
    truth = [gj.check_separation(model, gj.make_data(x, y)).separated for x, y in zip(xs, ys, strict=True)]
    assert 10 < sum(truth) < 50
    wanted = [gj.Status.SEPARATED if separated else gj.Status.CONVERGED for separated in truth]
    np.testing.assert_array_equal(fits.status, wanted)


@pytest.mark.parametrize("name", ["categorical", "categorical-reference"])
def test_an_absent_class_never_converges(name):
    model, data = problem(name)
    absent = data._replace(y=jnp.where(data.y == 2, 1, data.y))
    assert status(model, absent) == "SEPARATED"
    assert status(model, absent, l2=jnp.full((D, model.family.n_outputs), 0.1)) == "SEPARATED"  # by its bias


def test_a_start_that_is_not_finite_is_no_optimum(base, network):
    model, data, _ = base
    assert status(model, data, params=gj.Dense(jnp.full(3, 1e4), jnp.array(0.0))) == "NONFINITE"
    model, data, start, _ = network
    assert status(model, data, params=jax.tree.map(lambda leaf: leaf * jnp.nan, start), l2=0.01) == "NONFINITE"


def test_max_steps(base):
    model, data, _ = base
    fit = gj.fit_lbfgs(model, data, max_steps=2)
    assert (fit.status, fit.steps) == (gj.Status.MAX_STEPS, 2)
    with pytest.raises(RuntimeError, match=r"optimality \d.*raise max_steps"):
        gj.check(fit)


BAD = [
    ({"l2": -1.0}, ValueError, "l2 must be a finite number, 0 or more, got -1"),
    ({"l2": np.ones(4)}, ValueError, r"l2 must be one number or broadcast to the shape \(3,\)"),
    ({"tol": 0.0}, ValueError, "tol must be a finite number above 0"),
    ({"max_steps": 0}, ValueError, "max_steps must be 1 or more, got 0"),
    ({"memory": 0}, ValueError, "memory must be 1 or more, got 0"),
    ({"memory": 2.5}, TypeError, "memory must be a whole number"),
    ({"params": gj.Dense(jnp.zeros(2), jnp.zeros(()))}, ValueError, "the parameters are for 2 features"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(base, options, error, message):
    model, data, _ = base
    with pytest.raises(error, match=message):
        gj.fit_lbfgs(model, data, **options)


def test_bad_models(base):
    _, data, _ = base
    with pytest.raises(ValueError, match=r"does not estimate alpha; use fit_newton"):
        gj.fit_lbfgs(gj.glm(gj.negative_binomial()), data)
    with pytest.raises(ValueError, match="nothing to fit"):
        gj.fit_lbfgs(gj.glm(gj.poisson(), bias=False), data._replace(x=data.x[:, :0]))
    with pytest.raises(TypeError, match="need a model from glm or mlp"):
        gj.fit_lbfgs(gj.poisson(), data)
