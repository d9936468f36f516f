"""SGD over sources: memory's fit where the buffer holds all rows, memory's in that order where it does not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import glmjax as gj
from glmjax import epochs, shuffling, streaming
from glmjax.chunking import Pages

N, D, ROWS, BATCH = 1000, 4, 128, 24  # a chunk is 5 minibatches, the last minibatch of an epoch has 16 rows
RNG = np.random.default_rng(8)
X = RNG.standard_normal((N, D))
ETA = X @ [0.3, -0.5, 0.2, 0.1] + 0.2
OFFSET, WEIGHT = 0.2 * RNG.standard_normal(N), RNG.integers(0, 4, N).astype(float)
COUNTS = RNG.poisson(np.exp(ETA + OFFSET)).astype(float)
CLASSES = RNG.integers(0, 3, N).astype(float)
NOISY = (ETA + 3 * RNG.standard_normal(N) > 0).astype(float)
POISSON, LOGISTIC = gj.glm(gj.poisson()), gj.glm(gj.bernoulli())
MLP = gj.mlp(gj.categorical(3), hidden=(5,))
KEY = jax.random.key(3)
SHORT = {"learning_rate": 0.02, "batch_size": BATCH, "epochs": 3}
SMALL = {"rows": ROWS, "buffer": 2 * ROWS}
CASES = {
    "poisson": (POISSON, COUNTS, {"offset": OFFSET, "weight": WEIGHT}, {"l2": 0.1}),
    "network": (MLP, CLASSES, {}, {"optimizer": optax.adam}),
    "precision": (gj.glm(gj.normal()), ETA, {"precision": 0.5 + NOISY}, {"optimizer": optax.adam}),
}


def close(found, wanted, rtol=1e-10, atol=1e-12):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(wanted)]
    close(found, wanted)


def source_of(x, y, **parts):
    """One that has no parts, and so is read in order."""
    return streaming.Source(streaming.array_source(x, y, rows=300, **parts).read)


@pytest.mark.parametrize("case", CASES)
def test_a_source_that_fits_in_the_buffer_is_memorys_fit_with_the_same_key(case):
    model, y, parts, options = CASES[case]
    source, options = streaming.array_source(X, y, rows=300, **parts), SHORT | options
    with jax.numpy_dtype_promotion("standard"):  # optax.adam's own arithmetic needs it
        wanted = gj.fit_sgd(model, gj.make_data(X, y, **parts), KEY, **options)
        same(streaming.fit_sgd(model, source, KEY, rows=ROWS, **options), wanted)


def order_of(source, epoch, rows=ROWS, buffer=2 * ROWS, key=KEY):
    """The rows of an epoch by number, found as the first column of x."""
    shuffle = shuffling.Shuffle(source, rows, buffer, Pages())
    parts = shuffling.in_random_order(shuffle, None, jax.random.fold_in(key, epoch + 1))
    return np.concatenate([part.x[:, 0].astype(int) for part in parts])


@pytest.mark.parametrize("source", [source_of, streaming.array_source])
def test_through_a_small_buffer_it_is_memorys_fit_in_the_same_order(source):
    places = source(np.arange(N)[:, None] * np.ones(D), COUNTS)
    orders = [order_of(places, epoch) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(N)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    padded = [np.pad(order, (0, -N % BATCH), constant_values=-1).reshape(-1, BATCH) for order in orders]
    data = gj.make_data(X, COUNTS, offset=OFFSET, weight=WEIGHT)
    wanted = gj.fit_sgd(POISSON, data, None, order=np.concatenate(padded), l2=0.1, **SHORT)
    found = streaming.fit_sgd(POISSON, source(X, COUNTS, offset=OFFSET, weight=WEIGHT), KEY, l2=0.1, **SMALL, **SHORT)
    same(found, wanted)


def test_the_key_sets_all_bits():
    source = source_of(X, COUNTS, offset=OFFSET, weight=WEIGHT)
    one, other, third = (streaming.fit_sgd(POISSON, source, jax.random.key(k), **SMALL, **SHORT) for k in (1, 1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(one.params.w != third.params.w)


@pytest.mark.parametrize("validated", [True, False])
def test_patience_keeps_the_best_as_in_memory(validated):
    validation = gj.make_data(X[:200], NOISY[200:400]) if validated else None
    options = SHORT | {"learning_rate": 1.0, "epochs": 9, "patience": 2, "validation": validation}
    wanted = gj.fit_sgd(LOGISTIC, gj.make_data(X, NOISY), KEY, **options)
    assert gj.Status(int(wanted.status)) == gj.Status.STOPPED_EARLY
    assert np.isnan(wanted.history.loss[-1])
    same(streaming.fit_sgd(LOGISTIC, source_of(X, NOISY), KEY, rows=ROWS, **options), wanted)


def test_how_runs_end():
    source = source_of(X, COUNTS, offset=OFFSET, weight=WEIGHT)
    start = gj.Dense(jnp.ones(D), jnp.zeros(()))
    fit = streaming.fit_sgd(POISSON, source, KEY, params=start, **SMALL, **SHORT | {"learning_rate": 1e3})
    assert gj.Status(int(fit.status)) == gj.Status.NONFINITE
    assert np.isnan(fit.history.loss[1:]).all()
    close(start.w, np.ones(D))  # the caller's still
    validation = gj.Data(jnp.asarray(X[:9]), -jnp.ones(9))
    fit = streaming.fit_sgd(POISSON, source, KEY, validation=validation, **SMALL, **SHORT)
    assert gj.Status(int(fit.status)) == gj.Status.INVALID_TARGET
    assert (int(fit.steps), int(fit.passes)) == (0, 1)
    np.testing.assert_array_equal(fit.params.w, np.zeros(D))


def test_one_minibatch_of_all_rows_is_gradient_descent():
    source = source_of(X, COUNTS)
    fit = streaming.fit_sgd(POISSON, source, KEY, learning_rate=0.1, batch_size=5000, epochs=2, rows=64, buffer=64)
    theta, rows = np.zeros(D + 1), np.c_[X, np.ones(N)]
    for _ in range(2):
        theta = theta - 0.1 * rows.T @ (np.exp(rows @ theta) - COUNTS) / N
    close(np.append(fit.params.w, fit.params.b), theta)
    assert int(fit.steps) == 2
    slope = rows.T @ (np.exp(rows @ theta) - COUNTS) / N
    loss = np.mean(np.exp(rows @ theta) - COUNTS * (rows @ theta))
    close((fit.loss, fit.optimality), (loss, np.abs(slope).max() / max(1, abs(loss))))


def test_it_compiles_once(monkeypatch):
    traced = []

    def counted(settings, carry, batch):
        traced.append(batch.x.shape)
        return update(settings, carry, batch)

    update = epochs.update
    monkeypatch.setattr(epochs, "update", counted)
    for n, rate in ((N, 0.01), (N - 77, np.float32(0.02))):
        source = streaming.array_source(X[:n, :2], COUNTS[:n], rows=200)
        streaming.fit_sgd(gj.glm(gj.poisson()), source, KEY, learning_rate=rate, batch_size=16, epochs=2, rows=64)
    assert traced == [(16, 2)]


def test_how_far_rows_move_in_a_buffer():
    """The figures of the docstring: rank correlation of source and epoch, and how far rows come sooner and later."""
    n, rows = 1 << 16, 1 << 8
    x = np.arange(n, dtype=float)[:, None]
    for share, correlation in ((10, 0.95), (4, 0.75), (2, 0.37)):
        buffer = n // share // rows * rows
        order = order_of(source_of(x, x[:, 0]), 0, rows, buffer)
        place = np.argsort(order)
        assert np.array_equal(order[place], np.arange(n))
        assert abs(np.corrcoef(place, np.arange(n))[0, 1] - correlation) < 0.02
        later = place - np.arange(n)
        assert later.min() >= -buffer
        if share == 10:
            assert abs(np.mean(later > buffer) - np.exp(-2)) < 0.02
    parts = streaming.array_source(x, x[:, 0], rows=n // 64)
    correlations = [np.corrcoef(order_of(parts, e, rows, 25 * rows), np.arange(n))[0, 1] for e in range(8)]
    assert np.abs(correlations).max() < 4 / 8  # each is about a normal number / sqrt(parts)
    assert np.std(correlations) > 0.02  # another order each epoch
    whole = order_of(parts, 0, rows, n)
    assert abs(np.corrcoef(whole, np.arange(n))[0, 1]) < 4 / np.sqrt(n)


def test_rows_sorted_by_the_target_want_parts_or_a_larger_buffer():
    order = np.argsort(COUNTS, kind="stable")
    x, y = X[order], COUNTS[order]
    best = gj.fit_newton(POISSON, gj.make_data(x, y)).loss

    def excess(source, buffer):
        options = {"learning_rate": 0.1, "batch_size": 20, "rows": 20, "epochs": 5, "buffer": buffer}
        return float(streaming.fit_sgd(POISSON, source, KEY, **options).loss - best)

    uniform, narrow = excess(source_of(x, y), N), excess(source_of(x, y), N // 10)
    parts = excess(streaming.array_source(x, y, rows=20), N // 10)
    assert narrow > 10 * uniform  # 0.17 and 0.006: an epoch ends among the largest targets
    assert parts < narrow / 4


A, B = gj.Data(X[:500], COUNTS[:500]), gj.Data(X[500:900], COUNTS[500:900])
NEGATIVE, MISSING = COUNTS.copy(), X.copy()
NEGATIVE[777], MISSING[777, 2] = -4, np.nan


class Shrinking:
    """A source that has fewer rows the third time."""

    left = 4

    def __iter__(self):
        self.left -= 1
        return iter([A] * max(self.left, 1))


BAD = {
    "no rows": ([], {}, ValueError, "the source is empty"),
    "a generator": ((part for part in [A, B]), {}, TypeError, "source is a generator, which can be read once only"),
    "fewer rows": (Shrinking(), {}, ValueError, "1000 rows the first time and 500 in pass 2"),
    "columns": ([A, B._replace(x=B.x[:, :3])], {}, ValueError, r"x of chunk 1 of the source is \(400, 3\)"),
    "a target": (streaming.array_source(X, NEGATIVE, rows=100), {}, ValueError, r"chunk 7 of the source: y\[77\] = -4.0 is not"),
    "x": (streaming.array_source(MISSING, COUNTS, rows=100), {}, ValueError, "chunk 7 of the source: x contains NaN at row 77, column 2"),
    "weights": ([A._replace(weight=np.zeros(500))], {}, ValueError, "weight is 0 in every row"),
    "rate": ([A], {"learning_rate": 0}, ValueError, "learning_rate must be a finite number above 0"),
    "epochs": ([A], {"epochs": 0}, ValueError, "epochs must be 1 or more"),
    "buffer": ([A], {"buffer": 0}, ValueError, "buffer must be 1 or more"),
    "key": ([A], {"key": None}, TypeError, "key must be a JAX random key"),
    "optimizer": ([A], {"optimizer": optax.sgd(0.1)}, TypeError, "optimizer must be a function"),
    "validation": ([A], {"validation": gj.make_data(X[:, :2], COUNTS)}, ValueError, "validation has 2 features"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_calls_are_refused_in_words(what):
    source, change, error, message = BAD[what]
    with pytest.raises(error, match=message):
        streaming.fit_sgd(POISSON, source, **({"key": KEY} | SMALL | SHORT | change))


def test_inert_rows_may_hold_anything():
    x, y, weight = MISSING, np.where(np.arange(N) == 77, np.nan, COUNTS), WEIGHT.copy()
    weight[[77, 777]] = 0
    source = source_of(x, y, weight=weight, offset=OFFSET)
    wanted = gj.fit_sgd(POISSON, gj.make_data(x, y, weight=weight, offset=OFFSET), KEY, l2=0.1, **SHORT)
    same(streaming.fit_sgd(POISSON, source, KEY, rows=ROWS, l2=0.1, **SHORT), wanted)


def test_progress_is_a_line_a_pass_and_a_line_an_epoch(capsys):
    streaming.fit_sgd(POISSON, [A, B], KEY, progress=True, **SMALL, **SHORT)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"pass 1: 900 rows, [\d.e+]+ rows a second", lines[0])
    assert re.fullmatch(r"epoch 1 of 3: loss [\d.]+", lines[1])
    assert lines[-1].startswith("pass 4: 900 rows")
