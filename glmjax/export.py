"""Fitted models for where JAX is not: a Python file that needs NumPy alone, and ONNX.

Both compute what `predict` does, link and offset included, in the precision of the parameters. Neither holds the rows
that were fitted, nor errors of the coefficients: `save` keeps those.
"""

import base64
import math
import os
import sys
from inspect import getsource
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .bare import eta_of
from .files import write_atomic
from .models import Model
from .results import Fit
from .scoring import Scorer, numpy_scorer
from .storage import static_of

OPSET = 13  # of 2020, the oldest that has Softmax along an axis: every runtime since then reads it
_IR = 7  # the version of the file format that goes with it
_READABLE = 1000  # numbers of an array that are written as decimals


def export_numpy(path: str | os.PathLike, model: Model, fit: Fit) -> Path:
    """Write a Python file that predicts with NumPy alone: no glmjax, no JAX, nothing to compile.

    The file has `predict(x, offset=None)` and `linear_predictor(x, offset=None)`, equal to glmjax's to rounding, and
    the parameters to the last bit. It is a program too: `python model.py rows.csv` prints the means of rows without a
    header.

    Args:
        path: the file, by custom `.py`; one that is there is replaced in one step.
        model: from `glm` or `mlp`; a family whose mean is its link's, an activation known by name.
        fit: its fit; lanes, such as those of `fit_seeds`, come first in what the file predicts.

    Returns:
        The path.

    Raises:
        ValueError: a fit of another model, parameters that are not finite, a family or activation of one's own.
        TypeError: no model, no fit, traced arrays.
        OSError: the folder cannot be written.
    """
    scorer = _scorer(model, fit)
    core = getsource(sys.modules[eta_of.__module__]).split('"""\n', 1)[1].strip()
    lanes = scorer.layers[0][0].ndim > 2
    layers = "".join(f"    ({_written(w)}, {_written(b)}),\n" for w, b in scorer.layers)
    imports = "import base64\n" if "base64" in layers else ""
    use = "It needs NumPy alone" + ("." if lanes else "; python THIS_FILE rows.csv is for rows without a header.")
    text = f'''"""{_title(model)}, written by glmjax: predict(x, offset=None) is the mean of rows x.

x is (n, {_features(scorer)}), offset (n,). {use}
"""

{imports}{core}


LAYERS = [  # (w, b) of each, from x on
{layers}]
ACTIVATION, SINGLE, LINK, REFERENCE = {scorer.activation!r}, {scorer.single}, {scorer.link!r}, {scorer.reference}


def linear_predictor(x, offset=None):
    return eta_of(LAYERS, ACTIVATION, SINGLE, x, offset)


def predict(x, offset=None):
    return mean_of(linear_predictor(x, offset), LINK, REFERENCE)
'''
    if not lanes:
        text += _PROGRAM
    return write_atomic(path, lambda file: file.write(text.encode()))


_PROGRAM = """

if __name__ == "__main__":
    import sys

    np.savetxt(sys.stdout, predict(np.loadtxt(sys.argv[1], delimiter=",", ndmin=2)), fmt="%.17g", delimiter=",")
"""


def export_onnx(path: str | os.PathLike, model: Model, fit: Fit, *, offset: bool = False) -> Path:
    """Write an ONNX file (opset 13) that predicts: input `x` (n, d), outputs `mean` and `eta`, (n,) or (n, k).

    Numbers are float32 or float64, as the parameters are. Everything is made of operators that ONNX Runtime has in
    both: no Erf, which it has in float32 only and which loses the lower tail of a probit.

    Args:
        path: the file, by custom `.onnx`; one that is there is replaced in one step.
        model: from `glm` or `mlp`; a family whose mean is its link's, an activation known by name.
        fit: its fit, of one lane.
        offset: whether there is a second input, `offset` (n,).

    Returns:
        The path.

    Raises:
        ValueError: as `export_numpy`, and for a fit of many lanes.
        TypeError: no model, no fit, traced arrays.
        ImportError: onnx is not installed.
        OSError: the folder cannot be written.

    Reference: Hunter and Regan, A note on the evaluation of the complementary error function (Mathematics of
    Computation, 1972), for the probit.
    """
    scorer = _scorer(model, fit)
    lanes = scorer.layers[0][0].shape[:-2]
    if lanes:
        one = "jax.tree.map(lambda leaf: leaf[0], fit.params)"
        raise ValueError(f"fit has lanes, {lanes}, and an ONNX file is of one; export fit._replace(params={one})")
    onnx = _onnx()
    dtype = scorer.layers[0][0].dtype
    graph = Graph(onnx, [], [], dtype)
    eta = _eta(graph, scorer, offset)
    graph.nodes.append(onnx.helper.make_node("Identity", [eta], ["eta"]))
    mean = _mean(graph, scorer, "eta")
    graph.nodes.append(onnx.helper.make_node("Identity", [mean], ["mean"]))
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    outputs = scorer.layers[-1][0].shape[-1]

    def port(name: str, *shape: int | str) -> Any:
        return onnx.helper.make_tensor_value_info(name, kind, shape)

    wide: Any = () if scorer.single else (outputs,)
    classes: Any = () if scorer.single else (outputs + (scorer.reference is not None),)
    inputs = [port("x", "n", _features(scorer)), *([port("offset", "n")] if offset else [])]
    results = [port("mean", "n", *classes), port("eta", "n", *wide)]
    whole = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "glmjax", inputs, results, graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR,
        producer_name="glmjax",
        doc_string=_title(model),
    )
    onnx.checker.check_model(whole, full_check=True)
    return write_atomic(path, lambda file: file.write(whole.SerializeToString()))


class Graph(NamedTuple):
    """An ONNX graph in the making: the library, its nodes and constants so far, and the dtype of its numbers."""

    onnx: ModuleType
    nodes: list[Any]
    constants: list[Any]
    dtype: np.dtype

    def apply(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """The name of an operator's result; numbers among the inputs become constants."""
        names = [part if isinstance(part, str) else self.constant(np.asarray(part, self.dtype)) for part in inputs]
        name = f"v{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, names, [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """The name of a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        return name


def _eta(graph: Graph, scorer: Scorer, offset: bool) -> str:
    operators = {"identity": "Identity", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
    value = "x"
    for i, (w, b) in enumerate(scorer.layers):
        last = scorer.single and i == len(scorer.layers) - 1
        value = value if i == 0 else graph.apply(operators[scorer.activation], value)
        value = graph.apply("MatMul", value, w[:, 0] if last else w)
        value = value if b is None else graph.apply("Add", value, b[0] if last else b)
    if not offset:
        return value
    each = "offset" if scorer.single else graph.apply("Unsqueeze", "offset", graph.constant(np.array([1])))
    return graph.apply("Add", value, each)


def _mean(graph: Graph, scorer: Scorer, eta: str) -> str:
    do = graph.apply
    if scorer.link == "log":
        return do("Exp", eta)
    if scorer.link == "logit":  # Sigmoid in float32 is cut off at 18 in ONNX Runtime
        return do("Div", do("Exp", do("Min", eta, 0.0)), do("Add", do("Exp", do("Neg", do("Abs", eta))), 1.0))
    if scorer.link == "probit":
        return _normal_cdf(graph, eta)
    if scorer.link == "cloglog":  # 1 - exp(-m) = 2 t / (1 + t), t = tanh(m / 2): there is no expm1
        t = do("Tanh", do("Mul", do("Exp", eta), 0.5))
        return do("Div", do("Mul", t, 2.0), do("Add", t, 1.0))
    if scorer.link == "inverse":
        return do("Reciprocal", eta)
    if scorer.link == "inverse_squared":
        return do("Reciprocal", do("Sqrt", eta))
    if scorer.link == "sqrt":
        return do("Mul", eta, eta)
    if scorer.link == "softmax":
        return do("Softmax", _logits(graph, scorer, eta), axis=-1)
    return eta  # identity


def _logits(graph: Graph, scorer: Scorer, eta: str) -> str:
    """The logits of all classes: a column of 0 for the reference."""
    if scorer.reference is None:
        return eta
    outputs = scorer.layers[-1][0].shape[-1]
    wider = graph.apply("Pad", eta, graph.constant(np.array([0, 0, 0, 1])))
    order = np.insert(np.arange(outputs), scorer.reference, outputs)
    return graph.apply("Gather", wider, graph.constant(order), axis=1)


_STEP = 0.5  # relative error exp(-(pi / step)^2), 7e-18
_NODES = (np.arange(14) + 0.5) * _STEP


def _normal_cdf(graph: Graph, eta: str) -> str:
    """Phi(-a sqrt(2)) = erfc(a) / 2, all of whose terms are positive, by the midpoint rule and its one pole:
    a exp(-a^2) step / pi sum(exp(-t^2) / (t^2 + a^2)) + [a < pi / step] / (1 + exp(2 pi a / step)).
    """
    do = graph.apply
    a = do("Min", do("Mul", do("Abs", eta), math.sqrt(0.5)), 40.0)  # exp(-40^2) is 0
    square = do("Mul", a, a)
    fractions = do("Reciprocal", do("Add", do("Unsqueeze", square, graph.constant(np.array([-1]))), _NODES**2))
    total = do("MatMul", fractions, _STEP / math.pi * np.exp(-(_NODES**2)))
    kind = graph.onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    near = do("Cast", do("Less", a, math.pi / _STEP), to=kind)
    pole = do("Div", near, do("Add", do("Exp", do("Mul", do("Min", a, math.pi / _STEP), 2 * math.pi / _STEP)), 1.0))
    tail = do("Add", do("Mul", do("Mul", a, do("Exp", do("Neg", square))), total), pole)
    below = do("Cast", do("Less", eta, 0.0), to=kind)
    above = do("Sub", 1.0, below)
    return do("Add", do("Mul", below, tail), do("Mul", above, do("Sub", 1.0, tail)))


def _scorer(model: Model, fit: Fit) -> Scorer:
    """The model and its parameters in NumPy, checked."""
    if not isinstance(model, Model) or not isinstance(fit, Fit):
        raise TypeError(f"need a model and its Fit, got {type(model).__name__} and {type(fit).__name__}")
    if static_of(model) != static_of(fit.model):
        raise ValueError(f"fit is of another model, {fit.model}; got model={model}")
    scorer = numpy_scorer(model, fit.params)
    for w, b in scorer.layers:
        if not (np.isfinite(w).all() and (b is None or np.isfinite(b).all())):
            raise ValueError("fit has parameters that are not finite, of which no prediction is one; see gj.check(fit)")
    return scorer


def _features(scorer: Scorer) -> int:
    return scorer.layers[0][0].shape[-2]


def _title(model: Model) -> str:
    hidden = getattr(model.predictor, "hidden", None)
    kind = "GLM" if hidden is None else f"MLP with hidden layers {hidden}"
    return f"{kind}, {model.family.name} family, {model.family.link} link"


def _written(array: np.ndarray | None) -> str:
    """An array as Python, to the last bit."""
    if array is None or array.size <= _READABLE:
        return "None" if array is None else f'np.array({array.tolist()}, "{array.dtype.name}").reshape({array.shape})'
    kind = array.dtype.newbyteorder("<").str
    text = base64.b64encode(array.astype(kind).tobytes()).decode()
    return f'np.frombuffer(base64.b64decode("{text}"), "{kind}").reshape({array.shape})'


def _onnx() -> ModuleType:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ImportError("export_onnx needs onnx, which is not installed: pip install 'glmjax[onnx]'") from None
    return onnx
