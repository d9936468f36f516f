"""The bootstrap against refits of copied rows, its intervals against SciPy and by hand; the jackknife against
differences of fits, Newton steps and sandwiches.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import differences, problem

import glmjax as gj
from glmjax import resampling
from glmjax.influence import jackknife
from glmjax.resampling import Bootstrap, bca_interval, bootstrap, percentile_interval

N = 24
KEY = jax.random.key(7)
GROUPS = np.arange(N) // 4  # of 4 rows each
COUNT = 200  # of replicates where there is no reason for another number: programs are compiled for theirs


def flat(params):
    """Bias first, class by class."""
    w = np.atleast_2d(np.asarray(params.w).T)
    return (w if params.b is None else np.concatenate([np.atleast_2d(np.asarray(params.b)).T, w], axis=1)).reshape(-1)


def unflat(vector, like):
    k, bias = (1 if like.w.ndim == 1 else like.w.shape[1]), like.b is not None
    parts = vector.reshape(k, -1)
    return gj.Dense(parts[:, bias:].T.reshape(like.w.shape), parts[:, 0].reshape(like.b.shape) if bias else None)


def lane(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def equal(found, wanted, rtol):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 100), found, wanted)


@jax.jit
def drawn(resample, numbers):
    return jax.vmap(lambda r: resampling.draw(resample, jax.random.fold_in(KEY, r)))(numbers)


def weights_of(data, strata=None, clusters=None):
    """The weights of the first replicates, (COUNT, n)."""
    return np.asarray(drawn(resampling.make_resample(data, strata, clusters), jnp.arange(COUNT)))


def copied(data, weight):
    """Rows as often as their weight says."""
    times = np.asarray(weight).astype(int)
    return jax.tree.map(
        lambda part: jnp.asarray(np.repeat(np.asarray(part), times, axis=0)), data._replace(weight=None)
    )


# resamples ------------------------------------------------------------------------------------------------------------


def test_rows_are_drawn_as_often_as_their_weights_say():
    _, _, data = problem("poisson", full=True)
    weights, total = weights_of(data), int(data.weight.sum())
    assert (weights.sum(axis=1) == total).all()
    assert (weights[:, np.asarray(data.weight) == 0] == 0).all()
    probability = np.asarray(data.weight) / total
    spread = total * probability * (1 - probability)  # of a multinomial
    np.testing.assert_allclose(weights.mean(axis=0), data.weight, atol=4 * np.sqrt(spread.max() / COUNT))
    np.testing.assert_allclose(weights.var(axis=0), spread, atol=6 * spread.max() / np.sqrt(COUNT))
    centered = (weights - weights.mean(axis=0)) / np.sqrt(COUNT)
    np.testing.assert_allclose(
        centered.T @ centered,
        total * (np.diag(probability) - np.outer(probability, probability)),
        atol=6 * spread.max() / np.sqrt(COUNT),
    )


def test_strata_keep_their_sizes_and_clusters_stay_together():
    _, _, data = problem("poisson", full=True)
    weight = np.asarray(data.weight)
    names = np.array(["b", "a", "c"])[np.random.default_rng(0).integers(0, 3, N)]
    within = weights_of(data, strata=names)
    for name in "abc":
        assert (within[:, names == name].sum(axis=1) == weight[names == name].sum()).all()
    assert len(np.unique(within, axis=0)) == COUNT
    halves = weights_of(data._replace(weight=data.weight / 2), clusters=GROUPS)  # clusters take any weights
    times = halves[:, 1::4] / (weight / 2)[1::4]  # of a row of each cluster
    np.testing.assert_array_equal(halves, times[:, GROUPS] * weight / 2)
    assert (times.sum(axis=1) == 6).all()
    assert set(np.unique(times)) >= {0, 1, 2, 3}


# refits ---------------------------------------------------------------------------------------------------------------


def poisson_boot(**options):
    """A model, data with weights and an offset, and their bootstrap, on which most tests look."""
    model, _, data = problem("poisson", full=True)
    return model, data, bootstrap(model, data, KEY, replicates=COUNT, l2=0.1, **options)


def test_replicates_are_the_fits_to_copied_rows():
    model, data, boot = poisson_boot()
    assert (boot.status == gj.Status.CONVERGED).all()
    for r, weight in enumerate(weights_of(data)[:4]):
        equal(lane(boot.params, r), gj.fit_newton(model, copied(data, weight), l2=0.1).params, 1e-9)


def least_squares(model, data, *, l2, params=None):
    """Somebody's own solver, which compiles sooner than ours."""
    u = jnp.concatenate([jnp.ones((len(data.x), 1)), data.x], axis=1)
    weighted = (u * data.weight[:, None]).T
    b = jnp.linalg.solve(weighted @ u, weighted @ data.y)
    zero, none, status = jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.asarray(gj.Status.CONVERGED, jnp.int32)
    return gj.Fit(model, gj.Dense(b[1:], b[0]), zero, zero, none, none, status, None, None, None, zero, l2, None)


def test_batches_of_lanes(monkeypatch):
    """The last batch is not full, and a replicate is the same whichever others there are."""
    monkeypatch.setattr(resampling, "LANES", 3)
    data = problem("poisson", full=True)[2]
    boot = bootstrap(gj.glm(gj.normal()), data, KEY, replicates=5, solver=least_squares)
    u = np.column_stack([np.ones(N), data.x])
    for r, weight in enumerate(weights_of(data)[:5]):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(u * root[:, None], data.y * root)[0]
        np.testing.assert_allclose(flat(lane(boot.params, r)), solution, rtol=1e-9)
    assert boot.status.shape == (5,)


def test_under_jit_and_vmap():
    data = problem("poisson", full=True)[2]

    def intervals(y):
        boot = bootstrap(gj.glm(gj.normal()), data._replace(y=y), KEY, replicates=COUNT, solver=least_squares)
        return boot.params, percentile_interval(boot, 0.8), bca_interval(boot, 0.8)

    ys = jnp.stack([data.y, data.y**2])
    lanes = jax.jit(jax.vmap(intervals))(ys)
    for i in (0, 1):
        equal(lane(lanes, i), intervals(ys[i]), 1e-9)
    with pytest.raises(TypeError, match=r"data\.weight.*must be known, got a tracer"):
        jax.jit(lambda weight: bootstrap(gj.glm(gj.normal()), data._replace(weight=weight), KEY))(data.weight)


def test_a_start_at_the_fit_to_all_rows_changes_nothing():
    model, data, boot = poisson_boot()
    resample = resampling.make_resample(data, None, None)
    cold, status = resampling.refit(gj.fit, COUNT, COUNT, model, data, resample, KEY, jnp.asarray(0.1), None)
    equal(boot.params, cold, 1e-10)
    assert (status == boot.status).all()


X = np.array([0.3, 1.1, 1.9, 2.2, 2.8, 3.5, 4.1, 4.4, 5.2, 5.9, 6.3, 7.0])
Y = np.array([0.0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1])


def test_separated_replicates_are_infinite_and_others_finite():
    model, data = gj.glm(gj.bernoulli()), gj.make_data(X[:, None], Y, family=gj.bernoulli())
    boot, weights = bootstrap(model, data, KEY, replicates=COUNT), weights_of(data)
    found = 0
    for weight, w, b, status in zip(
        *map(np.asarray, (weights, boot.params.w[:, 0], boot.params.b, boot.status)), strict=True
    ):
        zeros, ones = X[(weight > 0) & (Y == 0)], X[(weight > 0) & (Y == 1)]
        if len(ones) == 0:  # nothing says which way the slope goes, and that the bias does
            assert (status, b) == (gj.Status.SEPARATED, -np.inf)
            continue
        separated = zeros.max() <= ones.min() or ones.max() <= zeros.min()
        assert (status == gj.Status.SEPARATED) == separated
        sign = np.inf if zeros.max() <= ones.min() else -np.inf
        assert (w, b) == (sign, -sign) if separated else np.isfinite([w, b]).all()
        found += separated
    assert 5 <= found < 20
    lower, upper = percentile_interval(boot, 0.98)
    assert np.isfinite([lower.w[0], upper.b]).all()
    assert (upper.w[0], lower.b) == (np.inf, -np.inf)
    lower, upper = bca_interval(boot, 0.5)
    assert np.isfinite([lower.w[0], upper.w[0], lower.b, upper.b]).all()


def test_lanes_that_fail_are_nan_and_spoil_no_other():
    """A target outside the support, and a column without which some resamples are rank-deficient."""
    model, _, data = problem("poisson", full=True)
    rare = jnp.where((jnp.arange(N) == 1) | (jnp.arange(N) == 2), 1.0, 0.0)
    data = data._replace(x=data.x.at[:, 2].set(rare), y=(data.y + 1).at[5].set(-3.0))
    boot, weights = bootstrap(model, data, KEY, replicates=COUNT), weights_of(data)
    assert boot.fit.status == gj.Status.INVALID_TARGET  # so that refits start from scratch
    good, some = weights[:, 5] == 0, weights[:, 1:3].sum(axis=1) > 0
    assert good.sum() > 50
    assert (good & ~some).sum() > 0
    np.testing.assert_array_equal(boot.status == gj.Status.INVALID_TARGET, ~good)
    np.testing.assert_array_equal(boot.status == gj.Status.RANK_DEFICIENT, good & ~some)
    np.testing.assert_array_equal(np.isnan(boot.params.b), ~good)
    np.testing.assert_array_equal(np.isnan(boot.params.w[:, :2]).any(axis=1), ~good)
    np.testing.assert_array_equal(np.isnan(boot.params.w[:, 2]), ~(good & some))
    for r in (*np.flatnonzero(good)[:2], np.flatnonzero(good & ~some)[0]):
        alone = gj.fit_newton(model, copied(data, weights[r]))
        np.testing.assert_allclose(boot.params.w[r, :2], alone.params.w[:2], rtol=1e-9)
    for end in (*percentile_interval(boot), *bca_interval(boot)):
        assert np.isnan(flat(end)).all()


def test_other_solvers_and_networks():
    model, _, data = problem("bernoulli")
    sparse = bootstrap(model, data, KEY, replicates=5, solver=partial(gj.fit_elastic_net, l1=0.05))
    assert (sparse.params.w == 0).any()
    assert (sparse.params.w != 0).any()
    with pytest.raises(
        ValueError, match=r"no BCa interval: a fit with l1 is not smooth in its rows.*use percentile_interval"
    ):
        bca_interval(sparse)
    network, _, data = problem("bernoulli", "mlp")
    train = partial(gj.fit, key=KEY)

    def trained(y):
        boot = bootstrap(network, data._replace(y=y), KEY, replicates=5, solver=train, l2=0.1)
        assert boot.acceleration is None
        return boot.params, percentile_interval(boot)

    params, (lower, _) = jax.eval_shape(trained, data.y)
    assert (params[0].w.shape, lower[0].w.shape) == ((5, 3, 5), (3, 5))


def test_a_new_key_and_new_data_compile_nothing():
    data = problem("poisson", full=True)[2]
    other = data._replace(y=data.y + 1, x=2 * data.x, weight=data.weight[::-1])
    compiled = []

    def listen(event, seconds, **_):
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda number: number - COUNT)(1)
    assert compiled  # the event has this name

    def run(seed, data, l2):
        boot = bootstrap(gj.glm(gj.poisson()), data, jax.random.key(seed), replicates=COUNT, l2=l2)
        bca_interval(boot, 0.9), percentile_interval(boot, 0.9)
        return jackknife(boot.fit, data, clusters=GROUPS)

    run(0, data, 0.1)
    compiled.clear()
    run(1, other, np.float32(0.2))
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


# intervals ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mean():
    """The bootstrap of a mean of skewed numbers: a bias alone."""
    y = np.random.default_rng(1).exponential(size=30)
    return y, bootstrap(gj.glm(gj.normal()), gj.make_data(np.zeros((30, 0)), y), KEY, replicates=999)


def test_intervals_of_a_mean_are_scipys_on_the_same_resamples(mean):
    y, boot = mean
    weights = weights_of(gj.make_data(np.zeros((30, 0)), y))
    np.testing.assert_allclose(boot.params.b[:COUNT], weights @ y / 30, rtol=1e-12)
    assert boot.params.b.std() == pytest.approx(y.std() / np.sqrt(30), rel=0.1)
    replicates = np.asarray(boot.params.b)
    for level in (0.95, 0.5):
        # SciPy takes up the resamples of an earlier call: given ours, it draws none of its own.
        ours = scipy.stats._resampling.BootstrapResult(None, replicates, replicates.std())
        for method, interval in (("percentile", percentile_interval), ("BCa", bca_interval)):
            peer = scipy.stats.bootstrap(
                (y,), np.mean, confidence_level=level, method=method, n_resamples=0, bootstrap_result=ours
            ).confidence_interval
            ends = interval(boot, level)
            np.testing.assert_allclose([end.b for end in ends], [peer.low, peer.high], rtol=1e-12)
            assert ends[0].w.shape == (0,)


def bca_by_hand(replicates, estimate, u, level):
    """Efron's formula for one coefficient in NumPy; u are the influence values of what is drawn."""
    normal = scipy.stats.norm
    z0 = normal.ppf(np.mean(replicates < estimate) + np.mean(replicates == estimate) / 2)
    a = np.sum(u**3) / (6 * np.sum(u**2) ** 1.5)
    z = z0 + normal.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(replicates, normal.cdf(z0 + z / (1 - a * z)))


@pytest.mark.parametrize("kind", ["pairs", "strata", "clusters"])
def test_bca_is_efrons_formula(kind):
    """Influence values by differences of fits to weights, for each copy of a row, within strata, or by cluster."""
    model, data, boot = poisson_boot(**({} if kind == "pairs" else {kind: GROUPS}))

    def slope(direction):
        def moved(t):
            return flat(gj.fit_newton(model, data._replace(weight=data.weight + t * direction), l2=0.1).params)

        return differences(moved, 0.0, 1.0, 1e-4)

    copies = np.asarray(data.weight).astype(int)
    if kind == "clusters":
        u = np.stack([slope(jnp.where(group == GROUPS, data.weight, 0)) for group in range(6)])
    else:
        rows = np.stack([slope(row) if times else np.zeros(4) for row, times in zip(np.eye(N), copies, strict=True)])
        u = np.repeat(rows, copies, axis=0)
        if kind == "strata":
            group = np.repeat(GROUPS, copies)
            u = u - np.stack([u[group == g].mean(axis=0) for g in range(6)])[group]
    wanted = [
        bca_by_hand(np.asarray(replicates), estimate, influence, 0.8)
        for replicates, estimate, influence in zip(
            np.column_stack([boot.params.b, boot.params.w]).T, flat(boot.fit.params), u.T, strict=True
        )
    ]
    np.testing.assert_allclose([flat(end) for end in bca_interval(boot, 0.8)], np.transpose(wanted), rtol=1e-6)


def test_quantiles_of_infinite_replicates():
    values = np.array([[-np.inf, 1.0, 2.0, 3.0, np.inf], [-np.inf] * 3 + [np.inf] * 2, [0.0, 1.0, 2.0, 3.0, 4.0]])
    values = np.vstack([values, [[0.0, np.nan, 1.0, 2.0, 3.0], [5.0] * 4 + [np.inf]]]).T
    params = gj.Dense(jnp.asarray(values), jnp.asarray(values[:, 2]))
    boot = Bootstrap(None, params, jnp.zeros(5, jnp.int32), None)
    ends = {level: np.stack([end.w for end in percentile_interval(boot, level)]) for level in (0.5, 0.9)}
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(ends[0.5], [[1, -inf, 1, nan, 5], [3, inf, 3, nan, 5]])
    np.testing.assert_allclose(ends[0.9], [[-inf, -inf, 0.2, nan, 5], [inf, inf, 3.8, nan, inf]])
    assert percentile_interval(boot, 0.5)[0].b == 1


# jackknife ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["normal-3", "bernoulli", "categorical", "poisson"])
def test_influence_and_leave_one_out(family):
    """The derivative of the fit, and a Newton step without a copy of a row; with weights, offset, precision and l2."""
    model, _, data = problem(family, full=True)
    l2 = jnp.linspace(0.05, 0.5, 9).reshape(3, 3) if model.family.n_outputs else jnp.linspace(0.05, 0.5, 3)
    fit = gj.fit_newton(model, data, l2=l2)
    found = jackknife(fit, data)
    check_influence(model, data, l2, found.influence)
    # A row of weight 0 can only come in.
    one = [moved(model, data, l2, data.weight.at[4].set(t)) for t in (0, 2e-4)]
    np.testing.assert_allclose(found.influence[4], (one[1] - one[0]) / 2e-4, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(data.weight @ found.influence, np.zeros(found.influence.shape[1]), atol=1e-12)

    at = jnp.asarray(flat(fit.params))

    @jax.jit
    def step(weight):
        def objective(v):
            params = unflat(v, fit.params)
            return gj.loss(model, params, data._replace(weight=weight)) + jnp.sum(l2 * params.w**2) / 2

        # K logits: the shortest step, of all those that solve the singular system.
        return at - jnp.linalg.pinv(jax.hessian(objective)(at), rtol=1e-12) @ jax.grad(objective)(at)

    weight = np.asarray(data.weight)
    for i in (4, 5, 7):
        wanted = step(jnp.asarray(weight - np.eye(N)[i] * min(weight[i], 1)))
        np.testing.assert_allclose(found.leave_one_out[i], wanted, rtol=1e-10, atol=1e-10)


def moved(model, data, l2, weight):
    """The coefficients at other weights; biases of K logits are told apart by their sum, 0."""
    params = gj.fit_newton(model, data._replace(weight=weight), l2=l2).params
    free = model.family.name == "categorical"
    return flat(params._replace(b=params.b - jnp.mean(params.b)) if free else params)


def check_influence(model, data, l2, influence):
    """Along a direction of the weights it is a difference of fits."""
    direction = np.where(data.weight > 0, np.cos(np.arange(24.0)), 0)
    numeric = differences(lambda t: moved(model, data, l2, data.weight + t * direction), 0.0, 1.0)
    np.testing.assert_allclose(direction @ influence, numeric, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def poisson():
    """Rows and a fit without a penalty, and the score of each row by its closed form."""
    model, _, data = problem("poisson")
    data = data._replace(weight=jnp.ones(N))
    fit = gj.fit_newton(model, data)
    u = np.column_stack([np.ones(N), data.x])
    mean = np.exp(u @ flat(fit.params))
    bread = np.linalg.inv((u * mean[:, None]).T @ u)
    return model, data, fit, u * (np.asarray(data.y) - mean)[:, None], bread


def test_std_errors_are_the_sandwiches(poisson):
    _, data, fit, scores, bread = poisson
    found = jackknife(fit, data)
    np.testing.assert_allclose(found.influence, scores @ bread, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.std_error, np.sqrt(np.diag(bread @ scores.T @ scores @ bread)), rtol=1e-10)
    sums = np.stack([scores[group == GROUPS].sum(axis=0) for group in range(6)])
    clustered = jackknife(fit, data, clusters=np.array(list("abcdef"))[GROUPS])
    np.testing.assert_allclose(clustered.std_error, np.sqrt(np.diag(bread @ sums.T @ sums @ bread)), rtol=1e-10)
    traced = jax.jit(lambda labels: jackknife(fit, data, clusters=labels).std_error)(jnp.asarray(10 - GROUPS))
    np.testing.assert_allclose(traced, clustered.std_error, rtol=1e-10)


def test_leave_one_out_is_near_the_refits(poisson):
    model, data, fit, _, _ = poisson
    found = jackknife(fit, data).leave_one_out
    keep = jnp.asarray(1 - np.eye(N))
    exact = np.stack([flat(gj.fit_newton(model, data._replace(weight=weight)).params) for weight in keep])
    moved = np.abs(exact - flat(fit.params)).max(axis=0)
    assert (np.abs(found - exact).max(axis=0) < 0.25 * moved).all()
    assert np.median(np.abs(found - exact)) < 0.01 * moved.max()


def test_weights_are_copies(poisson):
    model, _, data = problem("poisson", full=True)
    fit = gj.fit_newton(model, data, l2=0.1)
    found, each = jackknife(fit, data), jackknife(fit, copied(data, data.weight))
    times = np.asarray(data.weight).astype(int)
    np.testing.assert_allclose(each.influence, np.repeat(found.influence, times, axis=0), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(each.leave_one_out, np.repeat(found.leave_one_out, times, axis=0), rtol=1e-9)
    np.testing.assert_allclose(each.std_error, found.std_error, rtol=1e-10)


def test_rows_that_cannot_be_computed_with_are_inert_at_weight_0(poisson):
    model, _, data = problem("poisson", full=True)
    fit = gj.fit_newton(model, data, l2=0.1)
    bad = data._replace(x=data.x.at[0].set(jnp.nan), y=data.y.at[4].set(jnp.nan), offset=data.offset.at[8].set(jnp.inf))
    clean, dirty = jackknife(fit, data), jackknife(fit, bad._replace(precision=data.precision.at[12].set(jnp.nan)))
    rows = np.isin(np.arange(N), [0, 4, 8, 12])
    assert (dirty.influence[rows] == 0).all()
    np.testing.assert_allclose(dirty.influence[~rows], clean.influence[~rows], rtol=1e-10)
    np.testing.assert_allclose(dirty.leave_one_out[rows], np.tile(flat(fit.params), (4, 1)), rtol=1e-9)
    np.testing.assert_allclose(dirty.std_error, clean.std_error, rtol=1e-10)


def test_aliased_and_determining_rows_and_fits_that_failed(poisson):
    model, data, fit, _, _ = poisson
    wanted = jackknife(fit, data)
    twice = data._replace(x=jnp.concatenate([data.x, data.x[:, :1] + data.x[:, 1:2]], axis=1))
    found = jackknife(gj.fit_newton(model, twice), twice)
    assert np.isnan(found.std_error).tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(found.influence, np.column_stack([wanted.influence, np.zeros(N)]), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.leave_one_out[:, :4], wanted.leave_one_out, rtol=1e-8)
    one = data._replace(x=data.x.at[:, 2].set(jnp.where(jnp.arange(N) == 3, 1.0, 0.0)), y=data.y + 1)
    alone = jackknife(gj.fit_newton(model, one), one)
    np.testing.assert_array_equal(np.isnan(alone.leave_one_out).all(axis=1), np.arange(N) == 3)
    np.testing.assert_allclose(alone.influence[3, :3], np.zeros(3), atol=1e-9)
    none = data._replace(y=0 * data.y)
    for part in jackknife(gj.fit_newton(model, none), none):
        assert np.isnan(part).all()


def test_without_a_bias_and_in_other_units(poisson):
    _, data, fit, _, _ = poisson
    wanted, scale = jackknife(fit, data), np.array([1e6, 1e-6, 1.0])
    moved = data._replace(x=data.x * scale[None] + np.array([[1e8, 0.0, 100.0]]))
    found = jackknife(gj.fit_newton(gj.glm(gj.poisson()), moved), moved)
    np.testing.assert_allclose(found.influence[:, 1:] * scale[None], wanted.influence[:, 1:], rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(found.std_error[1:] * scale, wanted.std_error[1:], rtol=1e-9)
    ones = data._replace(x=jnp.concatenate([jnp.ones((N, 1)), data.x], axis=1))
    free = gj.glm(gj.poisson(), bias=False)
    found = jackknife(gj.fit_newton(free, ones), ones)
    equal(found, wanted, 1e-8)


def test_lanes_jit_and_chunks(poisson):
    model, data, fit, _, _ = poisson
    ys = jnp.stack([data.y, data.y + 1, 0 * data.y])
    fits = [gj.fit_newton(model, data._replace(y=y)) for y in ys]
    lanes = jax.jit(jax.vmap(lambda fit, y: jackknife(fit, data._replace(y=y))))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits), ys
    )
    for i in (0, 1):
        equal(lane(lanes, i), jackknife(fits[i], data._replace(y=ys[i])), 1e-9)
    assert np.isnan(lanes.std_error[2]).all()  # counts of 0 only
    many = jax.tree.map(lambda part: jnp.tile(part, (900, 1)[: part.ndim]), data)  # several chunks, the last not full
    times = jackknife(fit, many)
    np.testing.assert_allclose(times.std_error * 30, jackknife(fit, data).std_error, rtol=1e-9)
    np.testing.assert_allclose(times.influence[-N:], times.influence[:N], rtol=1e-9, atol=1e-15)


def test_other_links_have_their_observed_information():
    data = problem("poisson", full=True)[2]
    model, data = gj.glm(gj.gamma()), data._replace(y=data.y + 0.5)
    check_influence(model, data, 0.1, jackknife(gj.fit_newton(model, data, l2=0.1), data).influence)


def test_float32():
    model, _, data = problem("poisson", full=True)
    wanted = jackknife(gj.fit_newton(model, data, l2=0.1), data)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda part: jnp.asarray(np.asarray(part, np.float32)), data)
        found = jackknife(gj.fit_newton(model, single, l2=0.1), single)

        def ends(y):
            boot = bootstrap(model, single._replace(y=y), KEY, replicates=5, l2=0.1)
            return boot, percentile_interval(boot), bca_interval(boot)

        numbers = jax.tree.leaves(jax.eval_shape(ends, single.y))
    assert {leaf.dtype for leaf in numbers} <= {np.dtype(np.float32), np.dtype(np.int32), np.dtype(bool)}
    np.testing.assert_allclose(found.influence, wanted.influence, rtol=1e-3, atol=1e-4)


# bad input ------------------------------------------------------------------------------------------------------------

CALLS = {
    "boot": lambda **options: bootstrap(*problem("poisson")[::2], **{"key": KEY, **options}),
    "weighted": lambda weight: bootstrap(gj.glm(gj.poisson()), problem("poisson")[2]._replace(weight=weight), KEY),
    "percentile": lambda level: percentile_interval(Bootstrap(None, gj.Dense(jnp.ones((5, 2)), None), jnp.ones(5), None), level),
    "lanes": lambda level: percentile_interval(Bootstrap(None, gj.Dense(jnp.ones((3, 5, 2)), None), jnp.ones((3, 5)), None), level),
    "bca": lambda level: bca_interval(Bootstrap(None, gj.Dense(jnp.ones((5, 2)), None), jnp.ones(5), None), level),
    "jack": lambda **options: jackknife(gj.fit_newton(*problem("poisson")[::2]), problem("poisson")[2], **options),
    "mlp": lambda: jackknife(gj.fit(*problem("poisson", "mlp")[::2], key=KEY), problem("poisson")[2]),
    "l1": lambda: jackknife(gj.fit(*problem("poisson")[::2], l1=0.1), problem("poisson")[2]),
    "params": lambda: jackknife(problem("poisson")[1], problem("poisson")[2]),
    "rows": lambda: jackknife(gj.fit_newton(*problem("poisson")[::2]), gj.make_data(np.ones((5, 2)), np.ones(5))),
}  # fmt: skip
V, T = ValueError, TypeError
BAD = [
    ("boot", {"replicates": 0}, V, "replicates must be 1 or more, got 0"),
    ("boot", {"replicates": 2.5}, T, "replicates must be a whole number, got 2.5"),
    ("boot", {"key": None}, T, r"key must be a JAX random key, such as jax.random.key\(0\), got None"),
    ("boot", {"key": 0}, T, "key must be one JAX random key.*got 0"),
    ("boot", {"solver": "newton"}, T, "solver must be a function such as gj.fit_newton, got 'newton'"),
    ("boot", {"l2": -1.0}, V, "l2 must be a finite number, 0 or more, got -1.0"),
    ("boot", {"strata": GROUPS, "clusters": GROUPS}, V, "strata and clusters are both given; give one"),
    ("boot", {"strata": GROUPS[:5]}, V, r"strata must be \(24,\), one label a row of x, got shape \(5,\)"),
    ("boot", {"clusters": GROUPS[:, None]}, V, r"clusters must be \(24,\), one label a row of x, got shape \(24, 1\)"),
    ("boot", {"strata": GROUPS + 0.5}, T, "strata must be labels, whole numbers or text, got dtype float64; encode"),
    ("boot", {"strata": [None] * N}, T, "strata must be labels.*got dtype object; encode them by np.unique"),
    ("boot", {"clusters": ["a"] * N}, V, "clusters has one label only, a; .* takes two or more"),
    ("weighted", {"weight": jnp.full(N, 0.5)}, V, r"draws whole rows.*got weight\[0\] = 0.5; .*precision="),
    ("weighted", {"weight": jnp.full(N, jnp.inf)}, V, "draws whole rows.*got sum = inf"),
    ("weighted", {"weight": jnp.ones(N).at[3].set(jnp.nan)}, V, r"got weight\[3\] = nan"),
    ("weighted", {"weight": jnp.zeros(N)}, V, "got sum = 0.0"),
    ("percentile", {"level": 95}, V, "level must be above 0 and below 1, got 95; 0.95 is 95%"),
    ("percentile", {"level": 0.0}, V, "level must be above 0 and below 1, got 0.0"),
    ("percentile", {"level": np.nan}, V, "level must be above 0 and below 1, got nan"),
    ("percentile", {"level": [0.5, 0.9]}, V, r"level must be one number, got shape \(2,\)"),
    ("bca", {"level": "95%"}, T, "level must be a number, got '95%'"),
    ("lanes", {"level": 0.9}, V, r"boot has lanes, its status is of shape \(3, 5\); jax.vmap over them"),
    ("jack", {"clusters": np.zeros(N, int)}, V, "clusters has one label only, 0"),
    ("jack", {"clusters": np.arange(3)}, V, r"clusters must be \(24,\)"),
    ("mlp", {}, V, "there is no jackknife: the weights of an mlp.*it is for linear models"),
    ("l1", {}, V, "there is no jackknife: a fit with l1 is not smooth in its rows"),
    ("params", {}, T, r"fit must be a Fit, such as gj.fit_newton\(model, data\), got Dense"),
    ("rows", {}, V, "the parameters are for 3 features, got x with 2"),
]


@pytest.mark.parametrize(("call", "options", "error", "message"), BAD)
def test_bad_input_is_named(call, options, error, message):
    with pytest.raises(error, match=message):
        CALLS[call](**options)
