"""Files of fits and of runs: what is saved is what is loaded, to the bit; what is broken is refused by name."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import glmjax as gj

ROOT = Path(__file__).parent.parent


def filled(model, d=2, lanes=()):
    """A fit of that model, its numbers any, as a solver would have filled it."""
    rng = np.random.default_rng(0)

    def number(like):
        return jnp.asarray(rng.normal(size=(*lanes, *like.shape)))

    params = jax.tree.map(number, gj.init(model, jax.random.key(0), d))
    marks = jax.tree.map(lambda leaf: leaf > 0, params)
    one = jnp.asarray(rng.normal(size=lanes))
    steps = jnp.full(lanes, 7, jnp.int32)
    history = gj.History(jnp.arange(3.0), jnp.full(3, jnp.nan))
    return gj.Fit(model, params, one, one, steps, steps, steps, None, marks, None, jnp.asarray(0.0), 0.1, history)


MODELS = [
    gj.glm(gj.normal()),
    gj.glm(gj.normal(2, dispersion=0.3), bias=False),
    gj.glm(gj.bernoulli("cloglog")),
    gj.glm(gj.binomial("probit")),
    gj.glm(gj.quasi_binomial()),
    gj.glm(gj.categorical(3)),
    gj.glm(gj.categorical(3, reference=1)),
    gj.glm(gj.poisson("sqrt")),
    gj.glm(gj.quasi_poisson()),
    gj.glm(gj.negative_binomial()),
    gj.glm(gj.negative_binomial(0.7)),
    gj.glm(gj.negative_binomial1(jnp.asarray(0.2))),
    gj.glm(gj.gamma("inverse", dispersion=2.0)),
    gj.glm(gj.inverse_gaussian("inverse-squared")),
    gj.glm(gj.tweedie(1.3)),
    gj.mlp(gj.poisson(), (3, 2), "tanh"),
]


def assert_same(one, other):
    """Equal structure, functions included, and equal bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.family.name}-{model.family.link}")
def test_a_fit_comes_back_to_the_bit(model, tmp_path):
    fit = filled(model, lanes=(4,) if model.family.name == "gamma" else ())
    path = gj.save(tmp_path / "model.gj", model, fit, notes={"columns": ["age", "größe"]})
    saved = gj.load(path)
    assert_same(saved.model, model)
    assert_same(saved.fit, fit)
    assert saved.notes == {"columns": ["age", "größe"]}
    first = path.read_bytes()
    assert gj.save(path, model, fit, notes={"columns": ["age", "größe"]}).read_bytes() == first


def test_the_file_is_an_archive_of_plain_arrays(tmp_path):
    model = gj.glm(gj.poisson())
    path = gj.save(tmp_path / "model.gj", model, filled(model))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["fit.params.w"], filled(model).params.w)
    content = path.read_bytes()
    assert content[-64:] == hashlib.sha256(content[:-64]).hexdigest().encode()
    assert zipfile.ZipFile(path).testzip() is None


def test_another_process_predicts_the_same(tmp_path, key):
    x = jax.random.normal(key, (20, 2))
    model = gj.glm(gj.poisson())
    fit = gj.fit_newton(model, gj.make_data(x, jax.random.poisson(key, 2.0, (20,)).astype(float)))
    gj.save(tmp_path / "model.gj", model, fit)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import jax, numpy as np, glmjax as gj; jax.config.update('jax_enable_x64', True)\n"
        "model, fit, *_ = gj.load('model.gj')\n"
        "gj.check(fit); np.save('mean.npy', gj.predict(fit.model, fit.params, np.load('x.npy')))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), gj.predict(fit.model, fit.params, x))


def test_bfloat16_and_float32(tmp_path):
    model = gj.glm(gj.poisson())
    fit = filled(model)
    fit = fit._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), fit.params))
    assert_same(gj.load(gj.save(tmp_path / "a", model, fit)).fit, fit)
    gj.save(tmp_path / "b", model, filled(model))
    with jax.enable_x64(False), pytest.warns(UserWarning, match="holds float64 but JAX runs in float32"):
        assert gj.load(tmp_path / "b").fit.loss.dtype == np.float32


@jax.numpy_dtype_promotion("standard")  # Adam's powers of its decays
def test_a_run_goes_on_to_the_same_bits(tmp_path, key):
    x = jax.random.normal(key, (40, 2))
    data = gj.make_data(x, (x[:, 0] > 0).astype(float))
    model = gj.mlp(gj.bernoulli(), (3,))

    def start(key):
        return gj.sgd_init(model, data, key, optimizer=optax.adam, learning_rate=0.01, batch_size=8, patience=5)

    half = gj.sgd_epochs(start(key), data, 2)
    path = gj.save_state(tmp_path / "run", half)
    whole = gj.sgd_finish(gj.sgd_epochs(half, data, 2), data)
    resumed = gj.load_state(path, start(jax.random.key(9)))
    assert_same(gj.sgd_finish(gj.sgd_epochs(resumed, data, 2), data).params, whole.params)
    other = gj.sgd_init(gj.mlp(gj.bernoulli(), (4,)), data, key, optimizer=optax.adam, learning_rate=0.01)
    with pytest.raises(ValueError, match=r"holds the state of another run: .*best"):
        gj.load_state(path, other)
    wide = gj.sgd_init(gj.mlp(gj.bernoulli(), (4,)), data, key, optimizer=optax.adam, learning_rate=0.01, patience=5)
    with pytest.raises(ValueError, match=r"w is float64\[2, 3\] there and float64\[2, 4\] in `like`"):
        gj.load_state(path, wide)


def test_broken_files_are_refused_by_name(tmp_path):
    model = gj.glm(gj.poisson())
    path = gj.save(tmp_path / "model.gj", model, filled(model))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    broken = tmp_path / "broken.gj"
    for trial in range(60):
        if trial % 2:
            broken.write_bytes(content[: rng.integers(len(content))])
        else:
            at = int(rng.integers(len(content)))
            broken.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"broken\.gj has been cut off or altered"):
            gj.load(broken)


def test_later_formats_and_other_files_are_refused_by_name(tmp_path, monkeypatch):
    model = gj.glm(gj.poisson())
    monkeypatch.setattr("glmjax.archives.VERSION", 2)
    path = gj.save(tmp_path / "new.gj", model, filled(model))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"new\.gj was written by glmjax .* in version 2 .*upgrade glmjax"):
        gj.load(path)
    state = gj.save_state(tmp_path / "run", gj.init(model, None, 2))
    with pytest.raises(ValueError, match=r"run holds a state; read it with load_state"):
        gj.load(state)
    with pytest.raises(FileNotFoundError, match="absent"):
        gj.load(tmp_path / "absent")


def own(family, eta, y):
    return 0.5 * (y - eta) ** 2


def ramp(x):
    return jnp.maximum(x, 0)


POISSON = gj.glm(gj.poisson())
OWN = gj.glm(gj.Family("own", "identity", gj.Distribution(nll=own)))
SMOOTH = gj.mlp(gj.poisson(), (2,), ramp)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "own family is one of your own", lambda path: gj.save(path, OWN, filled(OWN))),
        (ValueError, "is a function, which load could not", lambda path: gj.save(path, SMOOTH, filled(SMOOTH))),
        (ValueError, "fit is of another model", lambda path: gj.save(path, gj.glm(gj.normal()), filled(POISSON))),
        (TypeError, "notes must be what JSON", lambda path: gj.save(path, POISSON, filled(POISSON), notes={"a": {1}})),
        (TypeError, "takes a model and its Fit", lambda path: gj.save(path, POISSON, POISSON)),
        (TypeError, "is a str, no array", lambda path: gj.save_state(path, {"a": "b"})),
        (TypeError, "no traced arrays", lambda path: jax.jit(lambda a: gj.save_state(path, a))(1.0)),
        (OSError, r"No such file.*/no'$", lambda path: gj.save(path / "no" / "folder", POISSON, filled(POISSON))),
        (OSError, "Is a directory", lambda path: gj.save(path.parent, POISSON, filled(POISSON))),
    ],
)
def test_bad_input(error, match, call, tmp_path):
    with pytest.raises(error, match=match):
        call(tmp_path / "model.gj")
    assert not list(tmp_path.iterdir())


def test_kill_9_leaves_the_last_good_file(tmp_path):
    """A process saves models without end, each with its number throughout, until it is killed."""
    code = (
        "import itertools, jax.numpy as jnp, glmjax as gj\n"
        "for i in itertools.count():\n"
        "    gj.save_state('run', [jnp.full(20_000, i)] * 2); print(i, flush=True)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for wait in (0.0, 0.013, 0.029):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
        )
        said = int(process.stdout.readline())
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        said = max([said, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        first, second = gj.load_state(tmp_path / "run", [jnp.zeros(20_000, jnp.int32)] * 2)
        assert np.all(first == first[0])
        assert np.all(second == first[0])
        assert first[0] >= said
