"""`train`: `fit_sgd` kept in a file, that ends on the same bits however often it was stopped."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import glmjax as gj
from glmjax import training

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
X = RNG.normal(size=(43, 3))
GLM = gj.glm(gj.poisson())
MODEL = gj.mlp(gj.poisson(), (4,), "tanh")
DATA = gj.make_data(X, RNG.poisson(np.exp(0.5 * X[:, 0])))
OTHER = gj.make_data(X[::2], RNG.poisson(np.exp(0.5 * X[::2, 0])))
KEY = jax.random.key(3)
KEYS = jax.random.split(KEY, 3)
OPTIONS = {"batch_size": 8, "epochs": 5, "learning_rate": 0.05, "validation": OTHER}


def same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def stopped(monkeypatch, after):
    """Saving fails at that time of asking, as if the process had been killed."""
    save, count = training.save_state, [0]

    def failing(path, state):
        count[0] += 1
        if count[0] > after:
            raise KeyboardInterrupt
        return save(path, state)

    monkeypatch.setattr(training, "save_state", failing)


@pytest.mark.parametrize("key", [KEY, KEYS], ids=["one", "lanes"])
def test_it_is_fit_sgd_and_goes_on_to_the_same_bits(key, tmp_path, monkeypatch, capsys):
    fit = gj.train(tmp_path / "whole", MODEL, DATA, key, **OPTIONS, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"5 of 5 epochs, loss (median )?[\d.]+, watched (median )?[\d.]+; 0 s left", lines[-1])
    wanted = (gj.fit_sgd if key is KEY else gj.fit_seeds)(MODEL, DATA, key, **OPTIONS)
    assert jax.tree.structure(fit) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(fit), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12)
    gj.check(fit)

    with monkeypatch.context() as patch:
        stopped(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            gj.train(tmp_path / "part", MODEL, DATA, key, **OPTIONS, every=2)
    again = gj.train(tmp_path / "part", MODEL, DATA, key, **OPTIONS, progress=True)
    assert capsys.readouterr().err.splitlines()[0].startswith("3 of 5 epochs")
    same_bits(again, fit)
    before = (tmp_path / "part").read_bytes()
    assert before == (tmp_path / "whole").read_bytes()
    same_bits(gj.train(tmp_path / "part", MODEL, DATA, key, **OPTIONS), fit)
    assert (tmp_path / "part").read_bytes() == before
    longer = gj.train(tmp_path / "part", MODEL, DATA, key, **{**OPTIONS, "epochs": 7})
    same_bits(longer, gj.train(tmp_path / "seven", MODEL, DATA, key, **{**OPTIONS, "epochs": 7}))


@jax.numpy_dtype_promotion("standard")  # Adam's powers of its decays
def test_patience_and_an_optimizer_with_a_state(tmp_path):
    options = {"optimizer": optax.adam, "learning_rate": 0.3, "patience": 1, "epochs": 40, "batch_size": 8}
    fit = gj.train(tmp_path / "run", GLM, DATA, KEYS, **options, every=7)
    wanted = gj.fit_seeds(GLM, DATA, KEYS, **options)
    assert np.all(fit.status == gj.Status.STOPPED_EARLY)
    np.testing.assert_array_equal(fit.steps, wanted.steps)
    assert fit.history.loss.shape == (3, 40)
    np.testing.assert_allclose(fit.history.watched, wanted.history.watched, rtol=1e-9)
    assert np.isnan(fit.history.loss[:, -1]).all()
    same_bits(gj.train(tmp_path / "run", GLM, DATA, KEYS, **options), fit)


@pytest.mark.parametrize("whole", [False, True], ids=["an epoch's", "all epochs'"])
def test_an_order_of_ones_own(whole, tmp_path):
    order = np.concatenate([RNG.permutation(40).reshape(-1, 10) for _ in range(10)])  # of 2 epochs, or 5 x 8 a part
    order = order[:25] if whole else order[:10]
    options = {"epochs": 5, "learning_rate": 0.05, "order": order}
    wanted = gj.fit_sgd(GLM, DATA, KEY, **options)
    fit = gj.train(tmp_path / "run", GLM, DATA, KEY, **options)
    np.testing.assert_allclose(fit.history.loss, wanted.history.loss, rtol=1e-12)
    assert int(fit.steps) == int(wanted.steps) == (25 if whole else 50)


CHANGES = [
    ({"data": DATA._replace(y=DATA.y + 1)}, "holds the run of another model, data, key or settings; choose"),
    ({"key": jax.random.key(4)}, "holds the run of another model, data, key or settings; choose"),
    ({"learning_rate": 0.2}, "holds the run of another model, data, key or settings; choose"),
    ({"model": gj.glm(gj.poisson("sqrt"))}, "holds the run of another model, data, key or settings; choose"),
    ({"model": MODEL}, "holds the state of another run"),
    ({"key": KEYS}, "holds the state of another run"),
    ({"epochs": 1}, "has 2 epochs done, more than epochs=1; ask for as many"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.gj"
    gj.train(path, GLM, DATA, KEY, epochs=2)
    return path


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_the_run_of_others_is_refused(change, message, run):
    before = run.read_bytes()
    with pytest.raises(ValueError, match=rf"run\.gj {message}"):
        gj.train(run, **{"model": GLM, "data": DATA, "key": KEY, "epochs": 2} | change)
    assert run.read_bytes() == before


def test_bad_input(run, tmp_path):
    gj.save_state(tmp_path / "state", {"a": np.zeros(2)})
    with pytest.raises(ValueError, match="state is there and holds no run of train's"):
        gj.train(tmp_path / "state", GLM, DATA, KEY)
    (tmp_path / "cut").write_bytes(run.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut has been cut off or altered"):
        gj.train(tmp_path / "cut", GLM, DATA, KEY, epochs=2)
    with pytest.raises(ValueError, match="every must be 1 or more, got 0"):
        gj.train(tmp_path / "new", GLM, DATA, KEY, every=0)
    with pytest.raises(ValueError, match="key has 0 lanes"):
        gj.train(tmp_path / "new", GLM, DATA, KEYS[:0])
    with pytest.raises(TypeError, match="key must be one JAX random key"):
        gj.train(tmp_path / "new", GLM, DATA, 3)
    with pytest.raises(TypeError, match="takes no traced arrays; inside of jit use fit_sgd"):
        jax.jit(lambda rate: gj.train(tmp_path / "new", GLM, DATA, KEY, learning_rate=rate))(0.1)
    with pytest.raises(OSError, match="No such file"):
        gj.train(tmp_path / "no" / "folder", GLM, DATA, KEY, epochs=1)
    assert not (tmp_path / "new").exists()


def test_kill_9_and_on_to_the_same_bits(tmp_path):
    """A process trains, is killed once it has written something, and another goes on."""
    code = """
        import jax, numpy as np, glmjax as gj
        gj.cache_compilation("../programs")
        x = np.linspace(-1, 1, 4000).reshape(1000, 4).astype(np.float32)
        data = gj.make_data(x, (x[:, 0] > 0).astype(np.float32))
        model = gj.mlp(gj.bernoulli(), (8,), "tanh")
        fit = gj.train("run.gj", model, data, jax.random.key(0), epochs=120, batch_size=1000, progress=True)
        np.save("w.npy", np.asarray(fit.params[0].w))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]

    def start(place):
        place.mkdir()
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return lambda: subprocess.Popen(command, cwd=place, env=env, stderr=subprocess.PIPE, text=True)

    whole, cut = start(tmp_path / "whole"), start(tmp_path / "cut")
    first = whole()
    first.communicate()
    killed = cut()
    for _ in range(3):
        killed.stderr.readline()
    time.sleep(0.03)
    killed.send_signal(signal.SIGKILL)
    shown = [3, *(int(line.split()[0]) for line in killed.communicate()[1].splitlines()[:-1])]
    again = cut()
    went_on = int(again.communicate()[1].split()[0])
    assert first.returncode == again.returncode == 0
    assert shown[-1] < went_on < 120
    np.testing.assert_array_equal(np.load(tmp_path / "whole" / "w.npy"), np.load(tmp_path / "cut" / "w.npy"))
