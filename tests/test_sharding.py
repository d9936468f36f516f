"""Rows over a mesh: the numbers, verdicts and derivatives of one device; what passes send; bad input."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import glmjax as gj
from glmjax import rows as rows_room
from glmjax import sharding
from glmjax.columns import Columns
from glmjax.passes import Point, information_pass
from glmjax.sharding import rows_mesh

RNG = np.random.default_rng(8)
N, D = 301, 3  # do not divide by two devices
X = RNG.normal(size=(N, D)) * [1, 10, 0.1] + [0, 5, 1]
OFFSET = RNG.normal(size=N) / 5
ETA = X @ [0.4, -0.05, 2.0] - 1.5 + OFFSET
WEIGHT = RNG.integers(0, 3, N).astype(float)
COUNTS = RNG.poisson(np.exp(ETA))
POISSON = gj.glm(gj.poisson())


def data_of(y=COUNTS, x=X, weighted=True):
    extra = {"weight": WEIGHT, "offset": OFFSET} if weighted else {}
    return gj.make_data(x, y, **extra)


CASES = {
    "newton": (POISSON, COUNTS, gj.fit_newton),
    "newton, dispersion": (gj.glm(gj.normal()), ETA, gj.fit_newton),
    "lbfgs, K logits": (gj.glm(gj.categorical(3)), np.minimum(COUNTS, 2), lambda m, d: gj.fit_lbfgs(m, d, l2=0.01)),
    "elastic net": (POISSON, COUNTS, lambda m, d: gj.fit_elastic_net(m, d, l1=0.05, standardize=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_fits_are_those_of_one_device(name):
    model, y, fit = CASES[name]
    data = data_of(y)
    one, two = fit(model, data), fit(model, gj.shard(data, rows_mesh(jax.devices()[:2])))
    chex.assert_trees_all_close(two.params, one.params, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-13)
    assert (two.status, two.steps, two.passes) == (one.status, one.steps, one.passes)
    if name.startswith("newton"):  # the definition, in NumPy: the score is 0 at the estimate
        residual = np.asarray(gj.predict(model, two.params, X, OFFSET)) - y
        score = np.concatenate([np.ones((N, 1)), X], axis=1).T @ (WEIGHT * residual)
        np.testing.assert_allclose(score, 0, atol=1e-8)


@pytest.mark.parametrize("covariance", [gj.fisher, gj.hc3, gj.observed])
def test_inference_is_that_of_one_device(covariance):
    data = data_of()
    fit, split = gj.fit_newton(POISSON, data), gj.shard(data)
    one, two = (gj.inference(rows, fit, covariance=covariance) for rows in (data, split))
    chex.assert_trees_all_close(two._replace(model=None), one._replace(model=None), rtol=1e-12)


def test_what_is_no_sum_over_rows_runs_as_well():
    data, groups = data_of(), np.arange(N + 1) // 10
    fit, split = gj.fit_newton(POISSON, data), gj.shard(data)
    one = gj.inference(data, fit, covariance=gj.clustered(groups[:N]))
    two = gj.inference(split, fit, covariance=gj.clustered(groups))
    np.testing.assert_allclose(two.std_error, one.std_error, rtol=1e-12)


def test_verdicts_are_those_of_one_device():
    copied = np.concatenate([X, 2 * X[:, :1] - 1], axis=1)
    separated = (X[:, 0] > 0).astype(float)
    spoiled = data_of()._replace(x=jnp.asarray(X).at[3, 1].set(jnp.nan), weight=jnp.asarray(WEIGHT).at[3].set(1))
    logistic = gj.glm(gj.bernoulli())
    for model, data, status in (
        (POISSON, data_of(x=copied), gj.Status.RANK_DEFICIENT),
        (logistic, data_of(separated, weighted=False), gj.Status.SEPARATED),
        (POISSON, spoiled, gj.Status.INVALID_INPUT),
        (logistic, data_of(), gj.Status.INVALID_TARGET),
    ):
        one, two = gj.fit_newton(model, data), gj.fit_newton(model, gj.shard(data))
        assert one.status == two.status == status
        chex.assert_trees_all_equal((one.aliased, one.infinite), (two.aliased, two.infinite))
    two = gj.fit_lbfgs(logistic, gj.shard(data_of(separated, weighted=False)))
    assert two.status == gj.Status.SEPARATED


def test_lanes_and_derivatives_are_those_of_one_device():
    data, ys = data_of(), jnp.asarray(RNG.poisson(np.exp(ETA), (3, N)).astype(float))
    whole = jax.tree.map(lambda part: part[: N - 1], data)  # as many as divide: lanes bring targets of their own
    ys, split = ys[:, : N - 1], gj.shard(whole)

    def slopes(rows):
        return lambda y, l2: gj.fit_newton(POISSON, rows._replace(y=y), l2=l2).params.w

    one, two = (jax.vmap(slopes(rows), (0, None))(ys, 0.1) for rows in (whole, split))
    np.testing.assert_allclose(two, one, rtol=1e-11)
    one, two = (jax.grad(lambda *at: slopes(rows)(*at).sum(), (0, 1))(rows.y, 0.1) for rows in (whole, split))  # noqa: B023
    chex.assert_trees_all_close(two, one, rtol=1e-10, atol=1e-14)
    params = gj.fit_newton(POISSON, whole, l2=1.0).params
    one, two = (jax.grad(gj.loss, 1)(POISSON, params, rows) for rows in (whole, split))
    chex.assert_trees_all_close(two, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_size", [32, 15])  # 15 do not divide by two devices, nor does 32 divide the rows
def test_minibatches_are_those_of_one_device(batch_size, key):
    model = gj.mlp(gj.poisson(), hidden=(4,))
    data = jax.tree.map(lambda part: part[: N - 1], data_of())
    validation = jax.tree.map(lambda part: part[:9], data)

    def run(rows):
        settings = {"learning_rate": 0.01, "batch_size": batch_size, "epochs": 3}
        return gj.fit_sgd(model, rows, key, validation=validation, patience=2, **settings)

    one, two = run(data), run(gj.shard(data))
    chex.assert_trees_all_close(two.params, one.params, rtol=1e-11)
    chex.assert_trees_all_close(two.history, one.history, rtol=1e-11)
    np.testing.assert_allclose(two.optimality, one.optimality, rtol=1e-9)
    assert two.status == one.status


def test_the_first_rows_say_whether_all_are_spread():
    @rows_room.by_rows
    def count(data, validation):
        return jnp.asarray([len(data.x), len(validation.x)])

    data = data_of()
    np.testing.assert_array_equal(count(data, gj.shard(data)), [N, N + 1])  # as many as minibatches are made of
    np.testing.assert_array_equal(count(gj.shard(data), data), [(N + 1) // 2] * 2)


def test_under_jit_the_mesh_is_that_of_set_mesh():
    data = jax.tree.map(lambda part: part[: N - 1], data_of())
    mesh = rows_mesh()
    with jax.set_mesh(mesh):
        program = jax.jit(lambda rows: gj.fit_newton(POISSON, rows).params).lower(gj.shard(data, mesh)).compile()
        two = program(gj.shard(data, mesh))
    chex.assert_trees_all_close(two, gj.fit_newton(POISSON, data).params, rtol=1e-12)
    gathered = [line for line in program.as_text().splitlines() if re.search(r"= .* all-gather(-start)?\(", line)]
    for line in gathered:  # extents and triangular factors of all devices, never rows
        sizes = [np.prod([int(n) for n in shape.split(",") if n]) for shape in re.findall(r"\w\d+\[([\d,]*)\]", line)]
        assert max(sizes) <= 2 * (D + 1) ** 2, line


def test_a_pass_sends_one_sum():
    data = gj.shard(jax.tree.map(lambda part: part[: N - 1], data_of()))
    at = jnp.zeros((D + 1, 1))
    columns, point = Columns(jnp.zeros(D), jnp.ones(D), None), Point(at, at + 1, jnp.asarray(False))

    @rows_room.by_rows
    def run(data):
        return information_pass(POISSON, columns, data, point, chunk=32)

    program = jax.jit(lambda data: run(data))
    with jax.set_mesh(data.x.sharding.mesh):
        text = program.lower(data).compile().as_text()
    assert len(re.findall(r" all-reduce(-start)?\(", text)) == 1
    assert "all-gather" not in text


def test_shard_fills_up_and_counts():
    data = gj.shard(data_of(weighted=False))
    assert data.x.shape == (N + 1, D)
    assert float(data.weight.sum()) == N
    assert float(data.weight[-1]) == 0
    assert len(data.x.sharding.device_set) == len(jax.devices())
    assert gj.shard(jax.tree.map(lambda part: part[:300], data_of(weighted=False))).weight is None


def test_bad_input_is_named():
    data = data_of()
    few = jax.tree.map(lambda part: part[:1], data._replace(weight=None))
    with pytest.raises(ValueError, match=r"mesh has 2 devices for 1 rows; use fewer"):
        gj.shard(few, rows_mesh(jax.devices()[:2]))
    with pytest.raises(ValueError, match=r'one axis "rows", got \(.x.,\)'):
        gj.shard(data, jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,)))
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
        gj.shard(data, 2)
    with pytest.raises(TypeError, match="data must be a Data from make_data, got ndarray"):
        gj.shard(X)
    with pytest.raises(TypeError, match="shard moves arrays"):
        jax.jit(gj.shard)(data)
    with pytest.raises(ValueError, match="devices is empty"):
        rows_mesh([])


def test_a_mesh_of_explicit_axes_is_taken():
    explicit = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Explicit,))
    data = gj.shard(data_of(), explicit)
    assert data.x.sharding == NamedSharding(rows_mesh(), PartitionSpec("rows"))
    assert gj.fit_newton(POISSON, data).status == gj.Status.CONVERGED


def chunked(data, rows=64):
    return [jax.tree.map(lambda part: np.asarray(part[i : i + rows]), data) for i in range(0, N, rows)]  # noqa: B023


SOLVERS = {
    "newton": (POISSON, COUNTS, gj.fit_newton, gj.streaming.fit_newton),
    "lbfgs": (POISSON, COUNTS, gj.fit_lbfgs, gj.streaming.fit_lbfgs),
    "elastic net": (
        POISSON,
        COUNTS,
        lambda m, d: gj.fit_elastic_net(m, d, l1=0.05, standardize=True),
        lambda m, s: gj.streaming.fit_elastic_net(m, s, l1=0.05, standardize=True),
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_streamed_chunks_are_spread(name):
    model, y, memory, disk = SOLVERS[name]
    data = data_of(y)
    one, two = memory(model, data), disk(model, sharding.shard_source(chunked(data)))
    chex.assert_trees_all_close(two.params, one.params, rtol=1e-10, atol=1e-12)
    assert two.status == one.status == gj.Status.CONVERGED


def test_streamed_tables_and_verdicts_of_spread_chunks():
    data = data_of()
    fit, source = gj.fit_newton(POISSON, data), sharding.shard_source(chunked(data))
    one, two = gj.inference(data, fit, covariance=gj.hc1), gj.streaming.inference(source, fit, covariance=gj.hc1)
    chex.assert_trees_all_close(two._replace(model=None), one._replace(model=None), rtol=1e-10)
    separated = data_of((X[:, 0] > 0).astype(float), weighted=False)
    two = gj.streaming.fit_newton(gj.glm(gj.bernoulli()), sharding.shard_source(chunked(separated)))
    assert two.status == gj.Status.SEPARATED
    with pytest.raises(ValueError, match="process 0 has no rows"):
        gj.streaming.fit_newton(POISSON, sharding.shard_source([]))
    once = [chunked(data)]
    with pytest.raises(ValueError, match="give each process some, each time that its source is read"):
        gj.streaming.fit_newton(
            POISSON, sharding.shard_source(gj.streaming.Source(lambda: iter(once.pop() if once else [])))
        )
    for strange, words in ((data, "must yield Data chunk by chunk"), (iter([data]), "which can be read once only")):
        with pytest.raises(TypeError, match=words):
            sharding.shard_source(strange)
    with pytest.raises(ValueError, match=r"fit_sgd takes its minibatches from one device's rows"):
        gj.streaming.fit_sgd(POISSON, source, jax.random.key(0))
