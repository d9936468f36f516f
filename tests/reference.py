"""Reference problems (R, Stata, glmnet, NIST, 60-digit truth), where GLMJAX_REFERENCE names their folder."""

import contextlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import glmjax as gj

FOLDER = os.environ.get("GLMJAX_REFERENCE")
DATA = os.environ.get("GLMJAX_DATA")
needs_reference = pytest.mark.skipif(FOLDER is None, reason="GLMJAX_REFERENCE does not name the reference figures")
needs_data = pytest.mark.skipif(DATA is None, reason="GLMJAX_DATA does not name the data folder")

FAMILIES = {
    "gaussian": gj.normal,
    "normal": gj.normal,
    "bernoulli": gj.bernoulli,
    "binomial": gj.bernoulli,
    "poisson": gj.poisson,
    "gamma": gj.gamma,
    "inverse gaussian": gj.inverse_gaussian,
}


class Problem(NamedTuple):
    """A model, its data, and what is expected; `coef` is the bias first, or (k, p) for classes."""

    name: str
    model: gj.Model
    data: gj.Data
    expected: dict
    raw: dict


def read(name: str):
    """One of the files, or an empty list where the folder is not there."""
    if FOLDER is None:
        return []
    content = json.loads((Path(FOLDER) / name).read_text())
    return content["cases"] if isinstance(content, dict) else content


def flat(params: gj.Dense) -> np.ndarray:
    """The coefficients, bias first; (k, p) for several outputs."""
    w = np.asarray(params.w)
    if params.b is None:
        return w
    return np.concatenate([np.asarray(params.b)[..., None], w.T], axis=-1)


def digits(found, truth) -> float:
    """Right digits of the worst entry (NIST's log relative error), 15 at most."""
    found, truth = np.asarray(found, float), np.asarray(truth, float)
    error = np.abs(found - truth) / np.where(truth == 0, 1, np.abs(truth))
    return float(min(15, -np.log10(max(np.max(error), 1e-15))))


def constant_first(x):
    """x without its constant column, and the order that brings `coef` to bias first; None where there is none."""
    constant = [j for j in range(x.shape[1]) if np.all(x[:, j] == 1)]
    rest = [j for j in range(x.shape[1]) if j not in constant[:1]]
    return x[:, rest], [*constant[:1], *rest], bool(constant)


def published(case: dict) -> Problem:
    """A case of glm_cases.json."""
    import pandas as pd
    import statsmodels.api as sm

    space = {"np": np, "pd": pd, "sm": sm}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(case["build"], space)
    x, y = np.asarray(space["X"], float), np.asarray(space["y"], float)
    if case["penalty"] and "intercept" in case["penalty"] and "no intercept" not in case["penalty"]:
        x = np.column_stack([np.ones(len(x)), x])
    x, order, bias = constant_first(x)
    name, link = case["family"], case["link"]
    if name.startswith("binomial (counts)"):
        family = gj.binomial(link)
    elif name.startswith("negative binomial ("):
        family = gj.negative_binomial(1.0, link)
    elif name.startswith("negative binomial NB1"):
        family = gj.negative_binomial1()
    elif name.startswith("tweedie p="):
        family = gj.tweedie(float(name.split("=")[1].split()[0]), link)
    elif name.startswith("categorical"):
        family = gj.categorical(int(y.max()) + 1)
    else:
        family = FAMILIES[name](link=link)
    weight, precision = None, space.get("var_weights")
    if str(case["weights"]).startswith("frequency"):
        weight = space["w"]
    elif str(case["weights"]).startswith("analytic"):
        precision = space["w"] * len(y) / space["w"].sum()
    data = gj.make_data(x, y, family=family, weight=weight, precision=precision, offset=space.get("offset"))
    return Problem(case["name"], gj.glm(family, bias=bias), data, case["expected"], case | {"order": order})


def nasty(case: dict) -> Problem:
    """A case of nasty_cases.json."""
    x = np.asarray(case["X"], float)[:, 1:]
    y = np.asarray(case["y"], float)
    if case["family"] == "categorical":
        family = gj.categorical(case["n_classes"], reference=case["n_classes"] - 1)
    elif case["family"] == "negative_binomial":
        family = gj.negative_binomial(case["alpha"])
    else:
        family = FAMILIES[case["family"]](link=case["link"])
    data = gj.make_data(x, y, family=family, weight=case["weights"], offset=case["offset"])
    return Problem(case["name"], gj.glm(family), data, case, case)


def nist(case: dict) -> Problem:
    """A case of nist_strd.json."""
    x = np.asarray(case["x"], float)
    if case["poly_degree"] > 1:
        x = x.reshape(-1, 1) ** np.arange(1, case["poly_degree"] + 1)
    data = gj.make_data(x, np.asarray(case["y"], float), family=gj.normal())
    return Problem(case["name"], gj.glm(gj.normal(), bias=case["intercept"]), data, case, case)
