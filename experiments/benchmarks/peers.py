"""The programs in the race of single fits: each takes a problem, and the tolerance in the form that it knows."""

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from threadpoolctl import threadpool_limits

import glmjax as gj

from .problems import Problem

try:
    import glum
except ModuleNotFoundError:
    glum = None

FAMILIES = {"poisson": gj.poisson(), "logistic": gj.bernoulli()}

R_SCRIPT = """
sizes <- scan("sizes", quiet = TRUE)
x <- matrix(readBin("x", "double", sizes[1] * sizes[2]), sizes[1], sizes[2])
y <- readBin("y", "double", sizes[1])
family <- if (sizes[3] == 0) poisson() else binomial()
start <- proc.time()[["elapsed"]]
fit <- glm.fit(cbind(1, x), y, family = family, control = glm.control(epsilon = sizes[4], maxit = sizes[5]))
elapsed <- proc.time()[["elapsed"]] - start
cat(sprintf('{"seconds": %.6f, "coefficients": [%s]}', elapsed, paste(sprintf("%.17g", fit$coefficients), collapse = ",")))
"""


class Fitted(NamedTuple):
    """Coefficients and bias; glmjax's whole answer; the seconds of a program that takes its own time."""

    w: Any
    b: Any
    fit: gj.Fit | None = None
    seconds: float | None = None


Call = Callable[[Problem, float, int], Fitted]


class Program(NamedTuple):
    """A program in the race: whose it is, which solver, its BLAS threads (None: its default), and its call."""

    peer: str
    solver: str
    threads: int | None
    call: Call

    @property
    def who(self) -> str:
        """Peer and solver."""
        return f"{self.peer} {self.solver}".strip()

    @property
    def name(self) -> str:
        """And the threads, where they are set."""
        return self.who + (f", {self.threads} thread" if self.threads else "")

    def fit(self, problem: Problem, tol: float, max_iter: int) -> Fitted:
        """The fit, at so many threads and without a word."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.threads is None:
                return self.call(problem, tol, max_iter)
            with threadpool_limits(self.threads):
                return self.call(problem, tol, max_iter)


def make_data(problem: Problem) -> gj.Data:
    """What glmjax is handed, checked."""
    return gj.make_data(problem.x, problem.y, family=FAMILIES[problem.family])


def fit_data(family: str, data: gj.Data, tol: float, max_iter: int) -> gj.Fit:
    """glmjax's fit of checked data."""
    return gj.fit_newton(gj.glm(FAMILIES[family]), data, tol=tol, max_steps=max_iter)


def fit_glmjax(problem: Problem, tol: float, max_iter: int) -> Fitted:
    """From NumPy to the coefficients, every check of `make_data` included; the tolerance is the Newton decrement's."""
    fit = fit_data(problem.family, make_data(problem), tol, max_iter)
    return Fitted(fit.params.w, fit.params.b, fit)


def fit_sklearn(solver: str) -> Call:
    """scikit-learn, unpenalized; its tolerance is the largest derivative's (and newton-cholesky's decrement's)."""

    def call(problem: Problem, tol: float, max_iter: int) -> Fitted:
        shared: dict[str, Any] = {"solver": solver, "tol": tol, "max_iter": max_iter}
        poisson = problem.family == "poisson"
        model = PoissonRegressor(alpha=0, **shared) if poisson else LogisticRegression(C=np.inf, **shared)
        model.fit(problem.x, problem.y)
        return Fitted(np.ravel(model.coef_), np.ravel(model.intercept_)[0])

    return call


def fit_glum(problem: Problem, tol: float, max_iter: int) -> Fitted:
    """glum, unpenalized; its tolerance is the largest derivative's."""
    family = "poisson" if problem.family == "poisson" else "binomial"
    model = glum.GeneralizedLinearRegressor(alpha=0, family=family, gradient_tol=tol, max_iter=max_iter)
    model.fit(problem.x, problem.y)
    return Fitted(model.coef_, model.intercept_)


def fit_statsmodels(problem: Problem, tol: float, max_iter: int) -> Fitted:
    """statsmodels' IRLS; its tolerance is the deviance's change, here a row's."""
    family = sm.families.Poisson() if problem.family == "poisson" else sm.families.Binomial()
    model = sm.GLM(problem.y, sm.add_constant(problem.x, has_constant="add"), family=family)
    params = model.fit(tol=tol * len(problem.y), maxiter=max_iter).params
    return Fitted(params[1:], params[0])


def fit_r(problem: Problem, tol: float, max_iter: int) -> Fitted:
    """R's `glm.fit`, which times itself: neither R's start nor reading x counts; its tolerance is the deviance's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.x.T.tofile(folder / "x")  # by columns, as R keeps it
        problem.y.tofile(folder / "y")
        sizes = (*problem.x.shape, int(problem.family != "poisson"), tol, max_iter)
        (folder / "sizes").write_text(" ".join(map(str, sizes)))
        (folder / "fit.R").write_text(R_SCRIPT)
        done = subprocess.run(["Rscript", "fit.R"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"Rscript ended with {done.returncode}")
    answer = json.loads(done.stdout)
    coefficients = np.array(answer["coefficients"])
    return Fitted(coefficients[1:], coefficients[0], seconds=answer["seconds"])


def programs() -> tuple[list[Program], list[Program], list[str]]:
    """Everybody who can be raced, those who are slow, and a sentence for each who is not installed."""
    calls: dict[tuple[str, str], Call] = {
        ("sklearn", "newton-cholesky"): fit_sklearn("newton-cholesky"),
        ("sklearn", "lbfgs"): fit_sklearn("lbfgs"),
    }
    absent = []
    if glum is None:
        absent.append("glum is not installed (pip install glum): it is left out")
    else:
        calls["glum", ""] = fit_glum
    fast = [Program("glmjax", "", None, fit_glmjax)]
    fast += [Program(*who, threads, call) for who, call in calls.items() for threads in (1, None)]
    slow = [Program("statsmodels", "", threads, fit_statsmodels) for threads in (1, None)]
    if shutil.which("Rscript") is None:
        absent.append("R is not installed (no Rscript on the path): its glm is left out")
    else:
        slow.append(Program("R", "glm", None, fit_r))
    return fast, slow, absent
