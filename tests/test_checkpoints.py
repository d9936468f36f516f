"""Fits from sources that are cut short after every pass in turn, and go on from their file to the same bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import glmjax as gj
from glmjax import streaming

N, D, ROWS = 700, 3, 256
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, D))
COUNTS = RNG.poisson(np.exp(X @ [0.3, -0.2, 0.1])).astype(float)
NEAR = np.c_[X[:, :2], X[:, 0] + 3e-6 * X[:, 2]]  # ill-conditioned: Newton's method goes on by QR
EMPTY = np.arange(N) % 50 == 0  # a level without events: separated
LEVEL, NONE = np.c_[X[:, :2], EMPTY], np.where(EMPTY, 0, COUNTS)
POISSON, MLP = gj.glm(gj.poisson()), gj.mlp(gj.poisson(), (2,), "tanh")
FITS = {
    "newton": (partial(streaming.fit_newton, POISSON), X, COUNTS),
    "newton by QR": (partial(streaming.fit_newton, POISSON), NEAR, COUNTS),
    "newton, separated": (partial(streaming.fit_newton, POISSON), LEVEL, NONE),
    "lbfgs": (partial(streaming.fit_lbfgs, POISSON), X, COUNTS),
    "lbfgs, separated": (partial(streaming.fit_lbfgs, POISSON, tol=1e-6), LEVEL, NONE),
    "mlp": (partial(streaming.fit_lbfgs, MLP, params=gj.init(MLP, jax.random.key(0), D), max_steps=6), X, COUNTS),
    "net": (partial(streaming.fit_elastic_net, POISSON, l1=0.05, standardize=True), X, COUNTS),
    "net, separated": (partial(streaming.fit_elastic_net, POISSON, l1=0.0), LEVEL, NONE),
}


class Crash(Exception):
    pass


class Failing:
    """A source that crashes in the middle of a pass, that of number `at` counted from 0."""

    def __init__(self, x, y, at=None):
        self.x, self.y, self.at, self.passes = x, y, at, 0

    def __iter__(self):
        self.passes += 1
        for start in range(0, len(self.x), 200):
            if start and self.at is not None and self.passes > self.at:
                raise Crash
            yield gj.Data(self.x[start : start + 200], self.y[start : start + 200])


def same_bits(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("what", FITS)
def test_a_fit_goes_on_after_any_pass_to_the_same_bits(what, tmp_path):
    fit, x, y = FITS[what]
    fit = partial(fit, rows=ROWS, every=0)
    wanted = fit(Failing(x, y))
    assert (gj.Status(int(wanted.status)) == gj.Status.SEPARATED) == ("separated" in what)
    count = int(wanted.passes)
    lost = []
    for at in range(1, count) if count < 9 else (1, 2, 3, count // 2, *range(count - 4, count)):
        path = tmp_path / f"{at}.gj"
        with pytest.raises(Crash):
            fit(Failing(x, y, at), checkpoint=path)
        source = Failing(x, y)
        same_bits(fit(source, checkpoint=path), wanted)
        lost.append(source.passes - 1 - (count - at))  # but for the look at the first chunk
    assert set(lost) <= {0, 1}
    assert sum(lost) <= 1  # a rehearsal's pass may have been for nothing
    again = Failing(x, y, 1)
    same_bits(fit(again, checkpoint=path), wanted)  # at once
    assert again.passes == 1
    assert list(tmp_path.glob(".*")) == []


def test_a_sample_of_several_chunks_is_taken_again(tmp_path):
    x, y = np.tile(X, (3, 1)), np.tile(COUNTS, 3)
    fit = partial(streaming.fit_newton, POISSON, rows=24, every=0)  # 88 chunks, of which the sample is two
    with pytest.raises(Crash):
        fit(Failing(x, y, 1), checkpoint=tmp_path / "run.gj")
    same_bits(fit(Failing(x, y), checkpoint=tmp_path / "run.gj"), fit(Failing(x, y)))


def test_it_writes_every_so_often_and_at_the_end(tmp_path):
    path = tmp_path / "run.gj"
    with pytest.raises(Crash):
        streaming.fit_newton(POISSON, Failing(X, COUNTS, 3), rows=ROWS, checkpoint=path)
    assert not path.exists()
    streaming.fit_newton(POISSON, Failing(X, COUNTS), rows=ROWS, checkpoint=path)
    assert path.exists()


@pytest.mark.parametrize("what", ["newton", "lbfgs", "net"])
def test_more_steps_go_on(what, tmp_path):
    fit, x, y = FITS[what]
    fit = partial(fit, Failing(x, y), rows=ROWS, checkpoint=tmp_path / "run.gj")
    assert gj.Status(int(fit(max_steps=2).status)) == gj.Status.MAX_STEPS
    more = fit(max_steps=50)
    assert gj.Status(int(more.status)) == gj.Status.CONVERGED
    for a, b in zip(more.params, FITS[what][0]([gj.Data(x, y)], rows=ROWS).params, strict=True):
        np.testing.assert_allclose(a, b, 1e-9)
    assert int(fit(max_steps=50).passes) == int(more.passes)
    with pytest.raises(ValueError, match=rf"run.gj has {int(more.steps)} steps done, more than max_steps=2; ask"):
        fit(max_steps=2)


def longer():
    return gj.Data(np.r_[X, X[:9]], np.r_[COUNTS, COUNTS[:9]])


OTHER = {
    "l2": ({"l2": 0.5}, "l2 is 0.0 there and 0.5 here"),
    "tol": ({"tol": 1e-3}, "tol is None there and 0.001 here"),
    "rows": ({"rows": 64}, "rows is 256 there and 64 here"),
    "model": ({"model": gj.glm(gj.poisson(), bias=False)}, "model is another one there"),
    "params": ({"params": gj.Dense(jnp.zeros(D), jnp.zeros(()))}, "params is another one there"),
    "columns": ({"source": [gj.Data(X[:, :2], COUNTS)]}, "number of columns is 3 of float64 there and 2 of float64 here"),
    "values": ({"source": [gj.Data(X + 1, COUNTS)]}, "first chunk of rows is another one there"),
    "solver": ({"fit": streaming.fit_lbfgs}, "solver is fit_newton there and fit_lbfgs here"),
    "count": ({"source": [longer()]}, r"700 rows the first time and 709 in pass 2.*\(.*run.gj is of 700 rows\)"),
    "no rows": ({"source": []}, "the source is empty"),
    "every": ({"every": -1}, "every must be"),
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    path = tmp_path_factory.mktemp("begun") / "run.gj"
    with pytest.raises(Crash):
        streaming.fit_newton(POISSON, Failing(X, COUNTS, 1), rows=ROWS, checkpoint=path, every=0)
    return path


@pytest.mark.parametrize("what", OTHER)
def test_a_checkpoint_of_another_call_is_refused(what, begun):
    change, message = OTHER[what]
    call = {"model": POISSON, "source": [gj.Data(X, COUNTS)], "rows": ROWS, "checkpoint": begun} | change
    before = begun.read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        call.pop("fit", streaming.fit_newton)(**call)
    if what not in ("no rows", "every"):
        assert str(begun) in str(error.value)
    assert begun.read_bytes() == before


def test_a_fit_goes_on_over_other_devices(begun, tmp_path):
    path = tmp_path / "run.gj"
    path.write_bytes(begun.read_bytes())
    source = Failing(X, COUNTS)
    fit = streaming.fit_newton(POISSON, gj.sharding.shard_source(source), rows=ROWS, checkpoint=path)
    wanted = gj.fit_newton(POISSON, gj.make_data(X, COUNTS))
    np.testing.assert_allclose(fit.params.w, wanted.params.w, 1e-10)
    assert source.passes == int(fit.passes)  # the one that the file knows is not taken again, but looked at


def test_damaged_and_other_files_are_refused(begun, tmp_path):
    content, path = begun.read_bytes(), tmp_path / "run.gj"
    fit = partial(streaming.fit_newton, POISSON, [gj.Data(X, COUNTS)], rows=ROWS, checkpoint=path)
    for bad in (content[: len(content) // 2], content[:100] + b"?" + content[101:], b"", b"no archive"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"run.gj has been cut off or altered.*or choose another checkpoint"):
            fit()
    gj.save_state(path, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"run\.gj holds a state; read it with load_state"):
        fit()
    with pytest.raises(ValueError, match="holds a log; read it with checkpoint=path"):
        gj.load_state(begun, jnp.zeros(3))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(checkpoint=tmp_path / "nowhere" / "run.gj")
