"""`fit_elastic_net`: the conditions of optimality and exact zeros, peers and glmnet, bounds, transformations, verdicts."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import check_derivatives
from reference import flat, needs_reference, published, read

import glmjax as gj

N, D = 40, 4
FAMILIES = {
    "normal": gj.normal(),
    "bernoulli": gj.bernoulli(),
    "poisson": gj.poisson(),
    "gamma": gj.gamma(),
    "categorical": gj.categorical(3),
    "categorical-reference": gj.categorical(3, reference=0),
}
GLMNET = {case["name"]: case for case in read("glm_cases.json") if case["penalty"]}


def problem(name, seed=0):
    """A model, and data drawn from it with weights and an offset; all have one shape, so that little is compiled."""
    model = gj.glm(FAMILIES[name])
    k_x, k_y, k_w = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(k_x, (N, D)) * jnp.array([[1.0, 0.3, 3.0, 1.0]]) + jnp.array([[0.0, 2.0, 0.0, -1.0]])
    params = gj.init(model, k_w, D, bound=0.4)
    y = gj.sample(model, params, x, k_y)
    y = jnp.maximum(y, 0.05) if name == "gamma" else y
    return model, gj.make_data(x, y, family=model.family, weight=1 + np.arange(N) % 3, offset=0.1 * x[:, 0] ** 2)


@jax.jit
def value_and_slope(model, params, data):
    return jax.value_and_grad(lambda p: gj.loss(model, p, data))(params)


def same(found, wanted, rtol=1e-12, atol=0.0):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, wanted)


def columnwise(value, model):
    """One number a column, (d,), in w's shape."""
    k = model.family.n_outputs
    value = np.broadcast_to(np.asarray(value, float), (D,))
    return value if k is None else np.repeat(value[:, None], k, axis=1)


def unmet(model, fit, data, l1, l2, lower=-np.inf, upper=np.inf):
    """By how much the conditions of optimality are not met, from `jax.grad` of the loss and their definition."""
    slope = value_and_slope(model, fit.params, data)[1]
    w = np.asarray(fit.params.w)
    smooth = np.asarray(slope.w) + l2 * w
    low, high = smooth + np.where(w > 0, l1, -l1), smooth + np.where(w >= 0, l1, -l1)  # the derivative left and right
    zero = np.abs(slope.b).max() if slope.b is not None else 0.0
    assert np.all((w >= lower) & (w <= upper))
    return max(np.where(w > lower, low, 0).max(), np.where(w < upper, -high, 0).max(), zero)


# the optimum ----------------------------------------------------------------------------------------------------------


PENALTIES = [(0.0, 0.1), (0.02, 0.0), (0.1, 0.02), ((0.3, 0.0, 0.1, 0.01), (0.0, 0.1, 0.0, 0.0))]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_conditions_of_optimality(name):
    model, data = problem(name)
    for penalties in PENALTIES:
        l1, l2 = (columnwise(penalty, model) for penalty in penalties)
        fit = gj.check(gj.fit_elastic_net(model, data, l1=l1, l2=l2))
        assert unmet(model, fit, data, l1, l2) < 1e-11
        assert fit.optimality < 1e-11
        assert fit.steps <= 30  # Fisher scoring alone takes more than 100 for the gamma family
        w = np.asarray(fit.params.w)
        same(fit.loss, value_and_slope(model, fit.params, data)[0] + np.sum(l1 * np.abs(w) + 0.5 * l2 * w**2))
    # all weights are 0 from the steepest slope of the null model on, and one of them is not below it
    null = gj.fit_elastic_net(model, data, l1=columnwise(1e3, model), l2=columnwise(0.0, model))
    np.testing.assert_array_equal(null.params.w, 0)
    largest = np.abs(value_and_slope(model, null.params, data)[1].w).max()
    for share, count in ((1 + 1e-6, 0), (1 - 1e-6, 1)):
        edge = gj.fit_elastic_net(model, data, l1=columnwise(share * largest, model), l2=columnwise(0.0, model))
        assert edge.status == gj.Status.CONVERGED
        assert np.count_nonzero(edge.params.w) == count
    if name == "poisson":
        mean = (data.weight @ data.y) / (data.weight @ jnp.exp(data.offset))
        same(null.params.b, jnp.log(mean), 1e-11)


@pytest.mark.parametrize("name", ["poisson", "categorical"])
def test_without_l1_it_is_newtons_ridge(name):
    model, data = problem(name)
    l2 = columnwise(0.1, model)
    fit, newton = gj.fit_elastic_net(model, data, l1=0 * l2, l2=l2), gj.fit_newton(model, data, l2=l2)
    same(fit.params, newton.params, 1e-9, 1e-10)
    same(fit.loss, newton.loss)


@pytest.fixture(scope="module")
def base():
    model, data = problem("poisson")
    return model, data, gj.fit_elastic_net(model, data, l1=0.1, l2=0.02)


def test_where_it_starts_does_not_matter(base):
    model, data, fit = base
    far = gj.check(gj.fit_elastic_net(model, data, l1=0.1, l2=0.02, params=gj.Dense(jnp.full(D, 0.5), jnp.array(-2.0))))
    same(far.params, fit.params, 1e-10)
    again = gj.check(gj.fit_elastic_net(model, data, l1=0.1, l2=0.02, params=fit.params))
    assert again.steps <= 1
    same(again.params, fit.params, 1e-11)


def test_standardize_is_rescaled_columns(base):
    model, data, _ = base
    fit = gj.check(gj.fit_elastic_net(model, data, l1=0.1, l2=0.02, standardize=True))
    share = data.weight / data.weight.sum()
    deviation = jnp.sqrt(share @ (data.x - (share @ data.x)[None]) ** 2)
    scaled = gj.fit_elastic_net(model, data._replace(x=data.x / deviation[None]), l1=0.1, l2=0.02)
    same(fit.params.w * deviation, scaled.params.w, 1e-10)
    assert np.count_nonzero(fit.params.w) < D
    assert float(fit.l1) == 0.1  # as it was given


def test_weight_2_is_two_copies(base):
    """Rows 38 and 39 stand in for copies of rows 1 and 4, which have weight 2."""
    model, data, _ = base
    once = data._replace(weight=data.weight.at[38:].set(0))
    first, second = jnp.array([1, 4]), jnp.array([38, 39])
    twice = jax.tree.map(lambda part: part.at[second].set(part[first]), data)
    twice = twice._replace(weight=data.weight.at[jnp.concatenate([first, second])].set(1.0))
    fits = [gj.check(gj.fit_elastic_net(model, rows, l1=0.1, l2=0.02, standardize=True)) for rows in (once, twice)]
    same(fits[0].params, fits[1].params, 1e-10)
    for garbage in (np.nan, np.inf, 1e300):  # and rows of weight 0 are none
        bad = (part.at[38:].set(garbage) for part in (once.x, once.y))
        bad = gj.Data(*bad, once.weight, once.offset.at[38:].set(garbage))
        same(gj.fit_elastic_net(model, bad, l1=0.1, l2=0.02, standardize=True).params, fits[0].params, 1e-10)


def test_adding_to_the_offset_moves_the_bias_alone(base):
    model, data, fit = base
    other = gj.check(gj.fit_elastic_net(model, data._replace(offset=data.offset + 5.0), l1=0.1, l2=0.02))
    same(other.params, fit.params._replace(b=fit.params.b - 5), 1e-10)


def test_no_columns():
    fit = gj.check(
        gj.fit_elastic_net(gj.glm(gj.poisson()), gj.make_data(np.zeros((4, 0)), [0.0, 1.0, 2.0, 3.0]), l1=0.1)
    )
    same(fit.params.b, np.log(1.5))


def test_float32(base):
    model, data, fit = base
    single = gj.fit_elastic_net(model, jax.tree.map(lambda part: part.astype(jnp.float32), data), l1=0.1, l2=0.02)
    assert (single.status, single.params.w.dtype) == (gj.Status.CONVERGED, jnp.float32)
    same(single.params.w, fit.params.w.astype(jnp.float32), 1e-4)
    np.testing.assert_array_equal(single.params.w == 0, fit.params.w == 0)


# peers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(40, 4), (20, 50)])
def test_scikit_learns_least_squares(n, d):
    from sklearn.linear_model import ElasticNet

    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) + 1
    y = x[:, :3] @ [1.0, -2.0, 0.5] + rng.normal(size=n)
    weight = 1.0 + np.arange(n) % 3
    model, data = gj.glm(gj.normal()), gj.make_data(x, y, weight=weight)
    for size, share in ((0.1, 1.0), (0.3, 0.5)):
        peer = ElasticNet(alpha=size, l1_ratio=share, tol=1e-15, max_iter=1_000_000)
        peer.fit(x, y, sample_weight=weight)
        fit = gj.check(gj.fit_elastic_net(model, data, l1=size * share, l2=size * (1 - share)))
        same(fit.params, gj.Dense(peer.coef_, peer.intercept_), 1e-6, 1e-8)
        np.testing.assert_array_equal(fit.params.w == 0, peer.coef_ == 0)
        assert unmet(model, fit, data, size * share, size * (1 - share)) < 1e-12


def test_scikit_learns_logistic_lasso():
    from sklearn.linear_model import LogisticRegression

    model, data = problem("bernoulli")
    data = data._replace(offset=0 * data.offset)
    total = float(data.weight.sum())
    peer = LogisticRegression(C=1 / (total * 0.05), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=1_000_000)
    peer.fit(np.asarray(data.x), np.asarray(data.y), sample_weight=np.asarray(data.weight))
    fit = gj.check(gj.fit_elastic_net(model, data, l1=columnwise(0.05, model), l2=columnwise(0.0, model)))
    same(fit.params, gj.Dense(peer.coef_[0], peer.intercept_[0]), 1e-6, 1e-8)


def strengths(penalty):
    """glmnet's penalty, as the reference words it, as (l1, l2)."""
    if "alpha=" in penalty and "lambda=" in penalty:
        alpha, size = (float(penalty.split(f"{name}=")[1].split(",")[0]) for name in ("alpha", "lambda"))
        return size * alpha, size * (1 - alpha)
    return (0.5, 0.5) if "_1" in penalty else (0.0, 1.0)


@needs_reference
@pytest.mark.parametrize("name", GLMNET or ["none"])
def test_glmnet(name):
    case = GLMNET[name]
    found = published(case)
    coef = np.asarray(case["expected"]["coef"])
    x = np.asarray(found.data.x)
    model = gj.glm(found.model.family, bias=coef.shape[-1] > x.shape[1])
    l1, l2 = strengths(case["penalty"])
    fit = gj.check(gj.fit_elastic_net(model, found.data, l1=l1, l2=l2))
    assert unmet(model, fit, found.data, l1, l2) < 1e-12
    spread = case["max_rel_diff"]["coef"]
    np.testing.assert_allclose(flat(fit.params), coef, rtol=1.01 * spread + 1e-9, atol=1e-12)
    # the reproduction is closer to the optimum
    np.testing.assert_allclose(flat(fit.params), case["reproduced"]["coef"], rtol=1e-6, atol=1e-12)


# bounds ---------------------------------------------------------------------------------------------------------------


def test_nonnegative_least_squares_is_scipys():
    from scipy.optimize import nnls

    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 8))
    y = x @ [1.0, -1.0, 0.5, 0.0, -0.5, 2.0, 0.0, 0.1] + rng.normal(size=30)
    fit = gj.check(gj.fit_elastic_net(gj.glm(gj.normal(), bias=False), gj.make_data(x, y), l1=0.0, lower=0.0))
    wanted = nnls(x, y)[0]
    np.testing.assert_allclose(fit.params.w, wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(fit.params.w == 0, wanted == 0)


def test_bounds(base):
    model, data, _ = base
    free = gj.fit_elastic_net(model, data, l1=0.01).params.w
    cases = [
        (np.zeros(D), np.full(D, np.inf)),
        (np.full(D, -np.inf), np.full(D, -0.05)),  # 0 is not allowed
        (np.full(D, 0.1), np.full(D, 0.2)),
        (np.asarray(free) + np.array([-1, 0.01, -1, -0.1]), np.asarray(free) + np.array([1, 0.1, 0, 1])),
    ]
    for lower, upper in cases:
        fit = gj.check(gj.fit_elastic_net(model, data, l1=0.01, l2=0.02, lower=lower, upper=upper))
        assert unmet(model, fit, data, 0.01, 0.02, lower, upper) < 1e-11
        assert np.any((fit.params.w == lower) | (fit.params.w == upper))
    held = np.array([-np.inf, 0.3, -np.inf, -np.inf]), np.array([np.inf, 0.3, np.inf, np.inf])
    fit = gj.check(gj.fit_elastic_net(model, data, l1=0.01, lower=held[0], upper=held[1]))
    assert fit.params.w[1] == 0.3
    rest = data._replace(x=data.x.at[:, 1].set(0), offset=data.offset + 0.3 * data.x[:, 1])
    same(
        fit.params.w[jnp.array([0, 2, 3])],
        gj.fit_elastic_net(model, rest, l1=0.01).params.w[jnp.array([0, 2, 3])],
        1e-9,
    )


def test_bounds_of_classes():
    model, data = problem("categorical")
    lower, upper = np.full((D, 3), -0.1), np.array([0.2, 0.3, np.inf])[None]
    fit = gj.check(gj.fit_elastic_net(model, data, l1=0.01, lower=lower, upper=upper))
    assert unmet(model, fit, data, 0.01, 0.0, lower, upper) < 1e-11
    same(fit.params.b.sum(), 0.0, atol=1e-13)


# transformations ------------------------------------------------------------------------------------------------------


def test_jit_is_eager_and_new_numbers_trace_nothing_anew(base):
    _, data, _ = base
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compiled(model, data, l1, l2, tol):
        return gj.fit_elastic_net(model, data, l1=l1, l2=l2, tol=tol)

    for l1, l2, tol in ((0.05, 0.0, 1e-12), (0.2, 0.1, 1e-13)):
        model = gj.glm(gj.poisson())
        eager = gj.fit_elastic_net(model, data, l1=l1, l2=l2, tol=tol)
        same(compiled(model, data, l1, l2, tol), eager, 1e-10, 1e-11)


def test_lanes_are_solo_fits(base):
    """Over l1, l2, a bound and y at once; one lane without counts, one with bad targets, one with a bad penalty."""
    model, data, _ = base
    ys = jnp.stack([data.y, data.y[::-1], 0 * data.y, -data.y - 1, data.y, data.y])
    l1, l2 = jnp.array([0.01, 0.1, 0.1, 0.1, -1.0, 10.0]), jnp.array([0.0, 0.1, 0.1, 0.1, 0.0, 0.0])
    upper = jnp.array([jnp.inf, 0.05, jnp.inf, jnp.inf, jnp.inf, jnp.inf])

    def one(y, l1, l2, upper):
        return gj.fit_elastic_net(model, data._replace(y=y), l1=l1, l2=l2, upper=upper)

    fits = jax.vmap(one)(ys, l1, l2, upper)
    names = [gj.Status(status).name for status in fits.status.tolist()]
    assert names == ["CONVERGED", "CONVERGED", "SEPARATED", "INVALID_TARGET", "INVALID_INPUT", "CONVERGED"]
    assert fits.infinite.b.tolist() == [False, False, True, False, False, False]
    assert not np.any(fits.infinite.w)
    for lane in (0, 1, 5):
        solo = one(ys[lane], l1[lane], l2[lane], upper[lane])
        lane_params = jax.tree.map(lambda leaf, lane=lane: leaf[lane], fits.params)
        same(lane_params, solo.params, 1e-10)
        np.testing.assert_array_equal(lane_params.w == 0, solo.params.w == 0)
    with pytest.raises(RuntimeError, match=r"SEPARATED \(lanes 2\)"):
        gj.check(fits)


def test_derivatives_equal_central_differences(base):
    """One coefficient is 0 and one at its bound; by every number, backward."""
    model, data, _ = base

    @jax.jit
    def fit(x, y, weight, offset, l1, l2, upper):
        rows = gj.Data(x, y, weight, offset)
        return gj.fit_elastic_net(model, rows, l1=l1, l2=l2, upper=upper, standardize=True, tol=1e-14)

    def value(*at):
        found = fit(*at)
        return found.params.w @ jnp.cos(jnp.arange(float(D))) + found.params.b + found.loss

    at = (data.x, data.y + 0.1, data.weight, data.offset, jnp.full(D, 0.2), jnp.array([0.1, 0.2, 0.3, 0.4]))
    free = fit(*at, jnp.full(D, 9.0)).params.w
    at = (*at, jnp.where(jnp.arange(D) == jnp.argmax(jnp.abs(free)), 0.5 * jnp.abs(free) * jnp.sign(free), 9.0))
    found = fit(*at).params.w
    assert np.any(found == 0)
    assert np.any(found == at[-1])
    check_derivatives(value, at)


def test_derivatives_of_k_logits_by_penalty():
    """Forward; zeros stay, and the biases still sum to 0."""
    model, data = problem("categorical")

    @jax.jit
    def params(l1):
        return gj.fit_elastic_net(model, data, l1=l1, tol=1e-14).params

    found = jax.jvp(params, (0.05,), (1.0,))[1]
    numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, params(0.05 + 1e-5), params(0.05 - 1e-5))
    same(found, numeric, 1e-7, 1e-8)
    at = params(0.05).w
    assert 0 < np.count_nonzero(at) < at.size
    np.testing.assert_array_equal(found.w[at == 0], 0)
    same(found.b.sum(), 0.0, atol=1e-13)


# verdicts -------------------------------------------------------------------------------------------------------------


def test_one_class_has_no_finite_bias():
    model, data = problem("bernoulli")
    l1, l2 = columnwise(0.1, model), columnwise(0.0, model)
    fit = gj.fit_elastic_net(model, data._replace(y=0 * data.y), l1=l1, l2=l2)
    assert fit.status == gj.Status.SEPARATED
    assert fit.infinite.b
    assert not np.any(fit.infinite.w)
    # a column that separates the classes is held by its penalty, and not without one
    sides = data._replace(y=(data.x[:, 0] > 0).astype(float))
    assert gj.fit_elastic_net(model, sides, l1=l1, l2=l2).status == gj.Status.CONVERGED
    open_ended = gj.fit_elastic_net(model, sides, l1=l1 * (np.arange(D) > 0), l2=l2)
    assert open_ended.status == gj.Status.SEPARATED
    assert open_ended.infinite.w.tolist() == [True, False, False, False]


def test_other_ends(base):
    model, data, _ = base
    fit = gj.fit_elastic_net(model, data, l1=0.1, l2=0.02, max_steps=1)
    assert (fit.status, fit.steps) == (gj.Status.MAX_STEPS, 1)
    far = gj.Dense(jnp.full(D, 1e4), jnp.array(0.0))
    assert gj.fit_elastic_net(model, data, l1=0.05, params=far).status == gj.Status.NONFINITE
    assert gj.fit_elastic_net(model, data._replace(weight=0 * data.weight), l1=0.05).status == gj.Status.INVALID_INPUT


BAD = [
    ({"l1": -1.0}, ValueError, "l1 must be a finite number, 0 or more, got -1"),
    ({"l1": np.ones(3)}, ValueError, r"l1 must be one number or broadcast to the shape \(4,\)"),
    ({"l1": np.array([0.0, 1.0, np.nan, 0.0])}, ValueError, r"l1\[2\] = nan"),
    ({"l1": 0.1, "l2": -1.0}, ValueError, "l2 must be a finite number, 0 or more, got -1"),
    ({"l1": 0.1, "lower": 1.0, "upper": 0.0}, ValueError, r"lower\[0\] = 1.0 is above upper\[0\] = 0.0"),
    ({"l1": 0.1, "lower": np.nan}, ValueError, "lower must be numbers, -inf for no bound, got nan"),
    ({"l1": 0.1, "upper": -np.inf}, ValueError, "upper must be numbers, inf for no bound, got -inf"),
    ({"l1": 0.1, "upper": np.ones(3)}, ValueError, r"upper must be one number or broadcast to the shape \(4,\)"),
    ({"l1": 0.1, "tol": 0.0}, ValueError, "tol must be a finite number above 0"),
    ({"l1": 0.1, "max_steps": 0}, ValueError, "max_steps must be 1 or more, got 0"),
    ({"l1": 0.1, "params": gj.Dense(jnp.zeros(2), jnp.zeros(()))}, ValueError, "the parameters are for 2 features"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(base, options, error, message):
    model, data, _ = base
    with pytest.raises(error, match=message):
        gj.fit_elastic_net(model, data, **options)


def test_bad_models(base):
    _, data, _ = base
    with pytest.raises(ValueError, match=r"does not estimate alpha; use fit_newton"):
        gj.fit_elastic_net(gj.glm(gj.negative_binomial()), data, l1=0.1)
    with pytest.raises(ValueError, match="for an mlp use fit_lbfgs or fit_sgd"):
        gj.fit_elastic_net(gj.mlp(gj.poisson(), (3,)), data, l1=0.1)
    with pytest.raises(TypeError, match="need a model from glm or mlp"):
        gj.fit_elastic_net(gj.poisson(), data, l1=0.1)
