"""L-BFGS and elastic nets from sources: memory's numbers, and the conditions of optimality from their definition."""

import jax
import numpy as np
import pytest

import glmjax as gj
from glmjax import streaming

N, D, ROWS = 1400, 4, 256  # six chunks, the last of which is not full
RNG = np.random.default_rng(11)
X = RNG.standard_normal((N, D)) * [1, 10, 0.1, 1] + [0, 5, 0, 1]
ETA = X @ [0.3, -0.05, 1, 0.0] + 0.2
OFFSET, WEIGHT = 0.2 * RNG.standard_normal(N), RNG.integers(0, 4, N).astype(float)
COUNTS = RNG.poisson(np.exp(ETA + OFFSET)).astype(float)
TARGETS = ETA + RNG.standard_normal(N)
LABELS = np.argmax(np.c_[0 * ETA, ETA, -ETA] + RNG.gumbel(size=(N, 3)), axis=1).astype(float)
EXPOSED = {"offset": OFFSET, "weight": WEIGHT}
CASES = {
    "normal": (gj.glm(gj.normal()), TARGETS, {}),
    "poisson": (gj.glm(gj.poisson()), COUNTS, EXPOSED),
    "classes": (gj.glm(gj.categorical(3)), LABELS, {"precision": 0.5 + RNG.random(N)}),
}
POISSON = CASES["poisson"][0]


def close(found, wanted, rtol=1e-10, atol=1e-10):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same_fit(found, wanted):
    assert gj.Status(int(found.status)) == gj.Status(int(wanted.status))
    close((found.params, found.loss, found.model, found.l1, found.l2), (wanted.params, wanted.loss, wanted.model, wanted.l1, wanted.l2))  # fmt: skip
    close(found.infinite, wanted.infinite)
    assert found.params.w.shape == wanted.params.w.shape


def slopes(case, params):
    """The derivative of the mean loss by bias and w, by hand."""
    _, y, parts = CASES[case]
    weight = parts.get("weight", 1) * parts.get("precision", np.ones(N))
    eta = X @ np.asarray(params.w) + np.asarray(params.b)
    if case == "normal":
        r = eta - y
    elif case == "poisson":
        r = np.exp(eta + OFFSET) - y
    else:
        p = np.exp(eta - eta.max(1, keepdims=True))
        r = p / p.sum(1, keepdims=True) - np.eye(3)[y.astype(int)]
    return np.c_[np.ones(N), X].T @ (weight * r.T).T / np.sum(weight)


def of(case):
    model, y, parts = CASES[case]
    return model, gj.make_data(X, y, family=model.family, **parts), streaming.array_source(X, y, rows=700, **parts)


@pytest.mark.parametrize("case", CASES)
def test_lbfgs_is_that_of_memory(case):
    model, data, source = of(case)
    l2 = {"classes": 0.1}.get(case, 0.0)
    wanted = gj.fit_lbfgs(model, data, l2=l2, tol=1e-12)
    found = streaming.fit_lbfgs(model, source, l2=l2, tol=1e-12, rows=ROWS)
    same_fit(found, wanted)
    assert gj.Status(int(found.status)) == gj.Status.CONVERGED
    slope = slopes(case, found.params)
    slope[1:] += l2 * np.asarray(found.params.w)
    assert np.abs(slope).max() < 1e-9
    close(found.loss, gj.loss(model, found.params, data, l2=l2), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_elastic_nets_are_those_of_memory(case):
    model, data, source = of(case)
    penalties = {"l1": 0.05, "l2": 0.02}
    if case == "poisson":
        penalties |= {"standardize": True, "l1": 0.1, "upper": 0.3}
    wanted = gj.fit_elastic_net(model, data, **penalties)
    found = streaming.fit_elastic_net(model, source, rows=ROWS, **penalties)
    same_fit(found, wanted)
    w = np.asarray(found.params.w)
    np.testing.assert_array_equal(w == 0, np.asarray(wanted.params.w) == 0)
    assert (w == 0).any()
    assert (w != 0).any()
    slope, spread = slopes(case, found.params), 1.0
    if case == "poisson":
        spread = np.sqrt(np.cov(X.T, fweights=WEIGHT.astype(int), bias=True).diagonal())
    spread = np.broadcast_to(spread, D).reshape(-1, *[1] * (w.ndim - 1))
    assert np.abs(slope[0]).max() < 1e-11
    pull, l1 = -(slope[1:] + 0.02 * spread**2 * w), penalties["l1"] * spread * np.ones_like(w)
    inside = (w != 0) & (w < penalties.get("upper", np.inf))
    np.testing.assert_allclose(pull[inside], (l1 * np.sign(w))[inside], atol=1e-11)
    assert np.all(pull[w == penalties.get("upper")] >= l1[w == penalties.get("upper")])
    assert np.all(np.abs(pull[w == 0]) <= l1[w == 0])


def test_an_mlp_in_full_batch():
    model, z = gj.mlp(gj.poisson(), (3,), "tanh"), (X - [0, 5, 0, 1]) / [1, 10, 0.1, 1]
    data, source = gj.make_data(z, COUNTS, **EXPOSED), streaming.array_source(z, COUNTS, rows=700, **EXPOSED)
    params = gj.init(model, jax.random.key(1), D)
    wanted = gj.fit_lbfgs(model, data, params=params, l2=0.01)
    found = streaming.fit_lbfgs(model, source, params=params, l2=0.01, rows=ROWS)
    assert gj.Status(int(found.status)) == gj.Status(int(wanted.status)) == gj.Status.CONVERGED
    close(found.loss, wanted.loss)
    close(found.params, wanted.params, 1e-4, 1e-5)  # which the gradient's tolerance and a flat loss leave open
    gradient = jax.grad(lambda params: gj.loss(model, params, data, l2=0.01))(found.params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-7


HARD = {
    "separated": (gj.glm(gj.bernoulli()), X, (X[:, 0] > 0.5).astype(float)),
    "separated by a level": (POISSON, np.c_[X[:, :3], np.arange(N) % 50 == 0], np.where(np.arange(N) % 50 == 0, 0, COUNTS)),
    "many losses near 0": (gj.glm(gj.bernoulli()), X * [9, 1, 1, 1], (1 / (1 + np.exp(-9 * ETA)) > RNG.random(N)).astype(float)),
}  # fmt: skip


@pytest.mark.parametrize("what", HARD)
def test_separated_rows_are_found(what):
    model, x, y = HARD[what]
    data, source = gj.make_data(x, y), streaming.array_source(x, y, rows=500)
    expected = gj.Status.CONVERGED if what == "many losses near 0" else gj.Status.SEPARATED
    for memory, stream in (
        (gj.fit_lbfgs(model, data), streaming.fit_lbfgs(model, source, rows=ROWS)),
        (gj.fit_elastic_net(model, data, l1=0.0), streaming.fit_elastic_net(model, source, l1=0.0, rows=ROWS)),
    ):
        assert gj.Status(int(memory.status)) == gj.Status(int(stream.status)) == expected
        close(stream.infinite, memory.infinite)
        close(stream.loss, memory.loss, 1e-9)


def test_one_column_stands_in_for_the_bias():
    model, x = gj.glm(gj.poisson(), bias=False), np.c_[X[:, :3], np.full(N, 7.0)]
    same_fit(
        streaming.fit_lbfgs(model, streaming.array_source(x, COUNTS), rows=ROWS),
        gj.fit_lbfgs(model, gj.make_data(x, COUNTS)),
    )


BAD = [
    (streaming.fit_lbfgs, {"memory": 0}, ValueError, "memory"),
    (streaming.fit_lbfgs, {"l2": -1.0}, ValueError, "l2 must be"),
    (streaming.fit_lbfgs, {"model": gj.mlp(gj.poisson(), (3,))}, ValueError, "an mlp needs params to start from"),
    (streaming.fit_lbfgs, {"model": gj.glm(gj.negative_binomial())}, ValueError, "does not estimate alpha"),
    (streaming.fit_lbfgs, {"source": []}, ValueError, "the source is empty"),
    (streaming.fit_elastic_net, {"l1": -1.0}, ValueError, "l1 must be"),
    (streaming.fit_elastic_net, {"l1": np.ones(3)}, ValueError, r"l1 must be one number or broadcast to the shape \(4,\)"),
    (streaming.fit_elastic_net, {"l1": 0.1, "lower": 1.0, "upper": 0.0}, ValueError, "is above upper"),
    (streaming.fit_elastic_net, {"l1": 0.1, "model": gj.mlp(gj.poisson(), (3,))}, ValueError, "for linear models"),
    (streaming.fit_elastic_net, {"l1": 0.1, "source": iter([])}, TypeError, "can be read once only"),
]  # fmt: skip


@pytest.mark.parametrize(("fit", "change", "error", "message"), BAD)
def test_bad_arguments_are_refused_in_words(fit, change, error, message):
    call = {"model": POISSON, "source": [gj.Data(X, COUNTS)], "rows": ROWS} | change
    with pytest.raises(error, match=message):
        fit(**call)
