"""Models exported to Python and to ONNX predict what `predict` does, where there is no JAX."""

import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from table import CASES
from test_scoring import FAMILIES, OFFSET, OWN, PARAMS, SMOOTH, D, N, X, drawn

import glmjax as gj
from glmjax import bare
from glmjax.scoring import numpy_predict

NETS = {
    activation: gj.mlp(gj.bernoulli(), (5, 4), activation) for activation in ("identity", "sigmoid", "tanh", "relu")
}
MODELS = {name: gj.glm(family) for name, family in FAMILIES.items()} | {
    "no bias": gj.glm(gj.poisson(), bias=False),
    "mlp-normal-3": gj.mlp(gj.normal(3), (4,), "tanh"),
    "mlp-categorical-1": gj.mlp(gj.categorical(3, reference=1), (4,)),
    **{f"mlp-{activation}": model for activation, model in NETS.items()},
}


def fitted(model, params):
    """A fit of which all that counts is model and parameters."""
    zero = np.zeros(())
    return gj.Fit(model, params, zero, zero, zero, zero, zero, None, None, None, zero, zero, None)


def narrow(params):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MODELS)
def test_onnx_is_predict(name, tmp_path):
    model = MODELS[name]
    params = drawn(model)
    path = gj.export_onnx(tmp_path / "m.onnx", model, fitted(model, params), offset=True)
    onnx.checker.check_model(str(path), full_check=True)
    whole = onnx.load(path)
    assert [(part.domain, part.version) for part in whole.opset_import] == [("", 13)]
    mean, eta = session(path).run(["mean", "eta"], {"x": X, "offset": OFFSET})
    assert mean.dtype == np.float64
    np.testing.assert_allclose(eta, gj.linear_predictor(model, params, jnp.asarray(X), OFFSET), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(mean, numpy_predict(model, params, X, OFFSET), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(mean, gj.predict(model, params, X, OFFSET), rtol=1e-13, atol=1e-15)
    # float32, without the offset
    path = gj.export_onnx(path, model, fitted(model, narrow(params)))
    mean, eta = session(path).run(["mean", "eta"], {"x": X.astype(np.float32)})
    assert mean.dtype == np.float32
    assert [part.name for part in onnx.load(path).graph.input] == ["x"]
    wanted = np.asarray(gj.predict(model, narrow(params), X))
    np.testing.assert_allclose(mean, wanted, rtol=2e-4 if "inverse" in name else 1e-5)


@pytest.mark.parametrize("link", sorted({case.family.link for case in CASES.values()}))
def test_onnx_in_the_tails(link, tmp_path):
    """x itself is eta; ONNX Runtime's own exponentials and tanh keep some 14 digits."""
    case = next(case for case in CASES.values() if case.family.link == link)
    etas = np.array(case.etas)
    model = gj.glm(case.family)
    for dtype, rtol in ((np.float64, 2e-14), (np.float32, 2e-6)):
        params = gj.Dense(jnp.ones(1, dtype), jnp.zeros((), dtype))
        path = gj.export_onnx(tmp_path / "m.onnx", model, fitted(model, params))
        found = session(path).run(["mean"], {"x": etas[:, None].astype(dtype)})[0]
        wanted = bare.mean_of(etas, link)
        # exp(-a^2) in float32 loses a^2 eps, and underflows; so does what is below its smallest normal number
        rtol = {"probit": 1e-13 if dtype == np.float64 else 1e-4}.get(link, rtol)
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=float(jnp.finfo(dtype).tiny))


def test_python_is_predict_to_the_bit_without_jax(tmp_path):
    large = gj.mlp(gj.bernoulli(), (400,), "tanh")  # as base64
    models = {**MODELS, "large": large}
    for i, (_name, model) in enumerate(models.items()):
        gj.export_numpy(tmp_path / f"m{i}.py", model, fitted(model, drawn(model)))
        gj.export_numpy(tmp_path / f"n{i}.py", model, fitted(model, narrow(drawn(model))))
    assert "base64" in (tmp_path / f"m{len(models) - 1}.py").read_text()
    assert "base64" not in (tmp_path / "m0.py").read_text()
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(drawn(NETS["relu"], seed) for seed in range(3)))
    gj.export_numpy(tmp_path / "lanes.py", NETS["relu"], fitted(NETS["relu"], lanes))
    np.savez(tmp_path / "rows.npz", x=X, offset=OFFSET)
    code = f"""
        import importlib, sys, warnings
        import numpy as np
        warnings.simplefilter("error")
        for name in ("jax", "jaxlib", "glmjax"):
            sys.modules[name] = None
        rows, means = np.load("rows.npz"), {{}}
        for name in [*(f"{{kind}}{{i}}" for i in range({len(models)}) for kind in "mn"), "lanes"]:
            means[name] = importlib.import_module(name).predict(rows["x"], rows["offset"])
        np.savez("means.npz", **means)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=True)
    means = np.load(tmp_path / "means.npz")
    for i, model in enumerate(models.values()):
        for kind, params in (("m", drawn(model)), ("n", narrow(drawn(model)))):
            found, wanted = means[f"{kind}{i}"], numpy_predict(model, params, X, OFFSET)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    assert means["lanes"].shape == (3, N)
    np.testing.assert_array_equal(means["lanes"], numpy_predict(NETS["relu"], lanes, X, OFFSET))


def test_the_python_file_is_a_program_and_checks_what_it_is_given(tmp_path):
    model = gj.glm(gj.categorical(3, reference=0))
    params = drawn(model)
    path = gj.export_numpy(tmp_path / "scorer.py", model, fitted(model, params))
    np.savetxt(tmp_path / "rows.csv", X, delimiter=",", fmt="%.17g")

    def run(*args):
        return subprocess.run([sys.executable, "-I", str(path), *args], cwd=tmp_path, capture_output=True, text=True)

    printed = np.array([line.split(",") for line in run("rows.csv").stdout.splitlines()], float)
    np.testing.assert_array_equal(printed, numpy_predict(model, params, X))
    (tmp_path / "two.csv").write_text("1,2\n")
    assert "the parameters are for 3 features, got x with 2" in run("two.csv").stderr
    names: dict = {"__name__": "scorer"}
    exec(path.read_text(), names)
    with pytest.raises(ValueError, match=re.escape("x contains nan at index (0, 1)")):
        names["predict"]([[0.0, np.nan, 1.0]])


POISSON = gj.glm(gj.poisson())
LANES = gj.Dense(np.ones((2, D)), np.ones(2))
BAD = [
    (ValueError, "the own family has a mean of its own", OWN, fitted(OWN, PARAMS)),
    (ValueError, "is a function, which NumPy does not know", SMOOTH, fitted(SMOOTH, drawn(SMOOTH))),
    (ValueError, "fit is of another model", gj.glm(gj.poisson("sqrt")), fitted(POISSON, PARAMS)),
    (ValueError, "parameters that are not finite", POISSON, fitted(POISSON, gj.Dense(np.full(D, np.nan), np.ones(())))),
    (ValueError, "params must be Dense(w, b)", POISSON, fitted(POISSON, (PARAMS,))),
    (TypeError, "need a model and its Fit, got Model and Dense", POISSON, PARAMS),
]


@pytest.mark.parametrize("export", [gj.export_numpy, gj.export_onnx])
@pytest.mark.parametrize(("error", "message", "model", "fit"), BAD)
def test_bad_input(export, error, message, model, fit, tmp_path):
    with pytest.raises(error, match=re.escape(message)):
        export(tmp_path / "m", model, fit)
    assert not list(tmp_path.iterdir())


def test_what_onnx_cannot_hold(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=re.escape("fit has lanes, (2,), and an ONNX file is of one; export fit._rep")):
        gj.export_onnx(tmp_path / "m", POISSON, fitted(POISSON, LANES))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'glmjax[onnx]'")):
        gj.export_onnx(tmp_path / "m", POISSON, fitted(POISSON, PARAMS))


def test_a_file_that_is_there_survives(tmp_path):
    path = gj.export_numpy(tmp_path / "m.py", POISSON, fitted(POISSON, PARAMS))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not finite"):
        gj.export_numpy(path, POISSON, fitted(POISSON, gj.Dense(np.full(D, np.inf), np.ones(()))))
    assert path.read_bytes() == before
    assert gj.export_numpy(path, POISSON, fitted(POISSON, PARAMS)).read_bytes() == before
