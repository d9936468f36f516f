"""`fit_many`: the lanes of a `vmap`, whatever the batches; its budget, its files, and what interrupts it."""

import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import glmjax as gj
from glmjax import batches
from glmjax.arguments import read_arguments, shapes_of

MODEL = gj.glm(gj.poisson())
LANES, N, D = 23, 80, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D))
YS = RNG.poisson(np.exp(0.3 * X[:, 0] + 0.1), (LANES, N)).astype(float)
DATA = gj.make_data(X, YS[0])
AXES = (None, gj.Data(None, 0))


def one(y, l2, x):
    return gj.fit_newton(MODEL, gj.Data(x, y), l2=l2)


@pytest.fixture(scope="module")
def wanted():
    return jax.jit(jax.vmap(lambda y: gj.fit_newton(MODEL, DATA._replace(y=y))))(jnp.asarray(YS))


def close(found, wanted, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.fixture(scope="module")
def small():
    """A budget in bytes that makes several batches, and their size."""
    arguments = read_arguments(gj.fit_newton, (MODEL, DATA._replace(y=YS)), AXES)
    shapes = shapes_of(arguments)
    device = tuple(jax.local_devices()[:1])
    memory = batches.compiled_batch(gj.fit_newton, arguments.axes, arguments.tree, shapes, 6, device)[1]
    plan = batches.make_plan(gj.fit_newton, arguments, device, memory)
    assert batches.compiled_batch(gj.fit_newton, arguments.axes, arguments.tree, shapes, plan.size, device)[1] <= memory
    assert 2 * plan.size < LANES
    return memory, plan.size


def test_it_is_vmap_in_numpy_and_compiles_once(wanted):
    fit = gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS), in_axes=AXES)
    close((fit.params, fit.loss, fit.status), (wanted.params, wanted.loss, wanted.status))
    gj.check(fit)
    before = batches.compiled_batch.cache_info().misses
    gj.fit_many(gj.fit_newton, gj.glm(gj.poisson()), DATA._replace(y=YS + 1), in_axes=AXES)
    assert batches.compiled_batch.cache_info().misses == before


def test_batches_keep_to_the_budget_and_are_the_same_fits(wanted, small, capsys):
    memory, size = small
    fit = gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS), in_axes=AXES, memory=memory, progress=True)
    close((fit.params, fit.loss, fit.status), (wanted.params, wanted.loss, wanted.status))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == -(-LANES // size)
    assert lines[-1] == "23 of 23 lanes, 23 CONVERGED; 0 s left"


def test_any_axes():
    penalties = np.linspace(0, 1, LANES)
    fit = gj.fit_many(one, YS.T, penalties, X, in_axes=(1, 0, None))
    close(fit.params, jax.vmap(one, (1, 0, None))(YS.T, penalties, X).params)
    assert fit.l2.shape == (LANES,)


def test_a_folder_keeps_what_is_done(wanted, small, tmp_path):
    folder = tmp_path / "fits"
    arguments = (gj.fit_newton, MODEL, DATA._replace(y=YS))
    memory, size = small
    fit = gj.fit_many(*arguments, in_axes=AXES, memory=memory, folder=folder)
    assert isinstance(fit.params.w, np.memmap)
    np.testing.assert_allclose(np.load(folder / "params.w.npy"), wanted.params.w, rtol=1e-11)
    # an earlier call that came as far as its first batch: the others are fitted, those are not touched
    log = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps(log | {"lanes": size}))
    fitted = np.array(fit.loss)
    np.load(folder / "loss.npy", mmap_mode="r+")[:] = -1
    again = gj.fit_many(*arguments, in_axes=AXES, folder=folder)  # with more memory, yet in batches of that size
    assert json.loads((folder / "done.json").read_text()) == log | {"lanes": LANES, "batch": size}
    np.testing.assert_array_equal(again.loss[:size], -1)
    np.testing.assert_array_equal(again.loss[size:], fitted[size:])
    with pytest.raises(ValueError, match="has results of other arguments; choose another folder"):
        gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS + 1), in_axes=AXES, folder=folder)


def test_files_that_are_not_its_own_survive(tmp_path):
    np.save(tmp_path / "loss.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"loss\.npy is there and is none of fit_many's; choose another folder"):
        gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS), in_axes=AXES, folder=tmp_path)
    assert np.load(tmp_path / "loss.npy").tolist() == [0, 1, 2]


def test_ctrl_c_returns_what_is_done(small, monkeypatch):
    (memory, size), parts = small, []
    device_put = jax.device_put

    def interrupted(leaf, place):
        parts.append(getattr(leaf, "shape", ()) == (size, N))
        if parts[-1] and sum(parts) == 3:
            raise KeyboardInterrupt
        return device_put(leaf, place)

    monkeypatch.setattr(batches.jax, "device_put", interrupted)
    with pytest.warns(UserWarning, match=f"interrupted: {2 * size} of 23 lanes are done, and are what is returned"):
        fit = gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS), in_axes=AXES, memory=memory)
    assert fit.params.w.shape == (2 * size, D)
    assert np.all(fit.status == gj.Status.CONVERGED)


def test_several_devices_share_a_batch():
    code = """
        import jax, numpy as np, glmjax as gj
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_enable_x64", True)
        rng = np.random.default_rng(0)
        x, ys = rng.standard_normal((50, 2)), rng.poisson(1.5, (7, 50)).astype(float)
        model, data = gj.glm(gj.poisson()), gj.make_data(x, ys[0])
        many = gj.fit_many(gj.fit_newton, model, data._replace(y=ys), in_axes=(None, gj.Data(None, 0)),
                           devices=jax.devices())
        for y, w in zip(ys, many.params.w):
            np.testing.assert_allclose(w, gj.fit_newton(model, data._replace(y=y)).params.w, rtol=1e-10)
        print(len(jax.devices()), many.params.w.shape)
    """
    env = {**os.environ, "NPROC": "4"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "2 (7, 2)"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_budget_is_kept_measured(tmp_path):
    """With 48 MB of outcomes on disk, that take 450 MB to fit at once, a process of its own stays in the budget."""
    code = f"""
        import ctypes, threading, time
        import jax, numpy as np, glmjax as gj
        jax.config.update("jax_enable_x64", True)
        lanes, n, budget = 1500, 4000, 96 << 20
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, 3))
        ys = np.lib.format.open_memmap("{tmp_path}/ys.npy", "w+", float, (lanes, n))
        ys[:] = rng.poisson(1.0, size=(lanes, n))
        del ys
        ys = np.load("{tmp_path}/ys.npy", mmap_mode="r")

        def one(y, x):
            return gj.fit_newton(gj.glm(gj.poisson()), gj.Data(x, y), tol=1e-6)

        def held():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) << 10

        gj.fit_many(one, ys, x, in_axes=(0, None), memory=budget)  # compiles
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would be taken again unseen
        before, peak, done = held(), 0, False

        def watch():
            global peak
            while not done:
                peak = max(peak, held())
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        fit = gj.fit_many(one, ys, x, in_axes=(0, None), memory=budget)
        done = True
        watcher.join()
        print(int(np.sum(fit.status == gj.Status.CONVERGED)), peak - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    converged, rose = map(int, done.stdout.split())
    assert converged == 1500
    print(f"rose by {rose / 2**20:.1f} MB with a budget of 96")  # shown by -n0 -s
    assert rose <= 96 << 20


BAD = [
    ((DATA._replace(y=YS, weight=np.ones((4, N))),), (None, gj.Data(None, 0, 0)), {}, "args[1].weight has 4 lanes, args[1].y has 23"),
    ((DATA._replace(y=YS[:0]),), AXES, {}, "args[1].y has 0 lanes; there is nothing to fit"),
    ((DATA,), None, {}, "no argument has lanes: in_axes is None everywhere"),
    ((DATA,), (None, gj.Data(None, 1)), {}, "args[1].y has shape (80,) and no axis 1 for the lanes"),
    ((DATA,), (None, 0, 0), {}, "in_axes has 3 entries for 2 arguments"),
    ((DATA._replace(y=YS),), AXES, {"memory": 1000}, "memory = 1000 bytes is below what one lane takes"),
    ((DATA._replace(y=YS),), AXES, {"memory": 0}, "memory must be 1 or more, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "in_axes", "options", "message"), BAD)
def test_bad_input(args, in_axes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gj.fit_many(gj.fit_newton, MODEL, *args, in_axes=in_axes, **options)


def test_no_device():
    with pytest.raises(ValueError, match="devices has no device; None is all local ones"):
        gj.fit_many(gj.fit_newton, MODEL, DATA._replace(y=YS), in_axes=AXES, devices=())


def test_bad_functions():
    with pytest.raises(TypeError, match=r"function must be callable, such as gj\.fit_newton, got Fit"):
        gj.fit_many(gj.fit_newton(MODEL, DATA), DATA)
    with pytest.raises(TypeError, match=r"takes no traced arrays; inside of jit use jax\.vmap"):
        jax.jit(lambda ys: gj.fit_many(one, ys, 0.0, X, in_axes=(0, None, None)))(YS)
