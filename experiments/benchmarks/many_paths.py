"""Cross-validation of a logistic elastic net, folds x penalties: glmjax against R's cv.glmnet and adelie.

Everybody has the same rows, folds and penalties. The others are programs of their own and time themselves: neither
their start nor reading x counts. How near the path on all rows came to its optima is measured alike for all.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

import glmjax as gj

from ..report import console, endings, say, seconds
from .many_tables import digits
from .problems import Size
from .race import MARGIN
from .tables import _table

FOLDS, RATIO, TRUE = 10, 0.9, 20  # folds, share of the lasso, columns that matter
GLMNET = 1e-7  # its own `thresh`

R_SCRIPT = """
suppressMessages(library(glmnet))
sizes <- scan("sizes", quiet = TRUE)
numbers <- function(name, n) readBin(name, "double", n)
x <- matrix(numbers("x", sizes[1] * sizes[2]), sizes[1], sizes[2])
y <- numbers("y", sizes[1])
fold <- numbers("fold", sizes[1]) + 1
penalty <- if (sizes[6] > 0) NULL else numbers("penalty", sizes[3])
validate <- function(rows, penalty) cv.glmnet(x[rows, ], y[rows], family = "binomial", alpha = sizes[4],
  foldid = fold[rows], lambda = penalty, standardize = FALSE, thresh = sizes[5], maxit = 1e8)
rows <- seq_along(y)
warm <- validate(rows <= 200, c(0.2, 0.1))
start <- proc.time()[["elapsed"]]
fit <- validate(rows, penalty)
elapsed <- proc.time()[["elapsed"]] - start
writeBin(as.vector(rbind(fit$glmnet.fit$a0, as.matrix(fit$glmnet.fit$beta))), "coefficients")
writeBin(fit$glmnet.fit$lambda, "penalties")
writeBin(fit$cvm, "mean")
cat(elapsed)
"""

ADELIE_SCRIPT = """
import time
import adelie as ad, numpy as np
n, d, m, ratio, tol, threads = (float(part) for part in open("sizes").read().split())
n, d, threads = int(n), int(d), int(threads)
x = np.fromfile("x").reshape(d, n).T
y, fold, penalty = (np.fromfile(name) for name in ("y", "fold", "penalty"))
def path(used):
    glm = ad.glm.binomial(y=y, weights=used / used.sum(), dtype=np.float64)
    return ad.grpnet(ad.matrix.dense(x, method="naive", n_threads=threads), glm, alpha=ratio, lmda_path=penalty,
                     tol=tol, irls_tol=tol, early_exit=False, n_threads=threads, progress_bar=False)
def validate():
    whole, deviance = path(np.ones(n)), 0
    for k in range(int(fold.max()) + 1):
        found, held = path((fold != k).astype(float)), fold == k
        eta = found.betas @ x[held].T + found.intercepts[:, None]
        deviance = deviance + 2 * np.sum(np.logaddexp(0, eta) - y[held] * eta, axis=1) / n
    return whole, deviance
start = time.perf_counter()
whole, deviance = validate()
elapsed = time.perf_counter() - start
np.column_stack([whole.intercepts, whole.betas.toarray()]).tofile("coefficients")
np.asarray(whole.lmdas).tofile("penalties")
deviance.tofile("mean")
print(elapsed)
"""


class Rows(NamedTuple):
    """What everybody cross-validates: x (n, d), y (n,) and the fold of each row; penalties (m,), the largest first."""

    x: np.ndarray
    y: np.ndarray
    fold: np.ndarray
    penalties: np.ndarray


class Validated(NamedTuple):
    """The path on all rows, w (m, d) and b (m,), its penalties, the mean deviance of held-out rows (m,), seconds where
    a program takes its own time, and how glmjax's fits ended.
    """

    w: np.ndarray
    b: np.ndarray
    penalties: np.ndarray
    mean: np.ndarray
    seconds: float | None = None
    status: dict[str, int] | None = None


def draw_rows(size: Size, penalties: int, seed: int = 0) -> Rows:
    """Standard normal columns, the first 20 of which matter; a linear predictor with a standard deviation of 1.5.

    Penalties as glmnet has them: down to 1e-4 of the largest, or 1e-2 where the columns are as many as the rows.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=size)
    true = min(TRUE, size.d)
    y = (rng.random(size.n) < 1 / (1 + np.exp(-x[:, :true] @ rng.choice([-1.5, 1.5], true) / np.sqrt(true)))).astype(
        float
    )
    largest = np.max(np.abs(x.T @ (y - y.mean()))) / (size.n * RATIO)
    least = 1e-4 if size.n > size.d else 1e-2
    return Rows(x, y, rng.permutation(size.n) % FOLDS, largest * np.logspace(0, np.log10(least), penalties))


def residual(rows: Rows, found: Validated) -> float:
    """The largest distance of 0 from the subdifferential of the penalized mean loss, over coefficients and penalties."""
    eta = found.w @ rows.x.T + found.b[:, None]
    off = 1 / (1 + np.exp(-eta)) - rows.y
    l1, l2 = RATIO * found.penalties[:, None], (1 - RATIO) * found.penalties[:, None]
    gradient = off @ rows.x / len(rows.y) + l2 * found.w
    inside = np.maximum(np.abs(gradient) - l1, 0)
    kkt = np.where(found.w == 0, inside, np.abs(gradient + l1 * np.sign(found.w)))
    return float(max(kkt.max(), np.abs(off.mean(axis=1)).max()))


def call_glmjax(rows: Rows, tol: float) -> Validated:
    """`cross_validate`, from NumPy on."""
    model = gj.glm(gj.bernoulli())
    data = gj.make_data(rows.x, rows.y, family=model.family)
    fold, penalties = jnp.asarray(rows.fold), jnp.asarray(rows.penalties)
    cv = gj.cross_validate(model, data, None, folds=fold, penalties=penalties, l1_ratio=RATIO, tol=tol)
    jax.block_until_ready(cv)
    w, b, mean = (np.asarray(part) for part in (cv.fit.params.w, cv.fit.params.b, cv.mean))
    status = np.append(cv.fit.status, np.ravel(cv.fold_fits.status))
    return Validated(w, b, rows.penalties, mean, None, endings(status))


def call_script(command: list[str], script: str, rows: Rows, tol: float, last: float) -> Validated:
    """A program that reads the rows from files, and writes and times what it makes of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.x.T.tofile(folder / "x")  # by columns
        for part, values in (("y", rows.y), ("fold", rows.fold), ("penalty", rows.penalties)):
            values.astype(float).tofile(folder / part)
        sizes = (*rows.x.shape, len(rows.penalties), RATIO, tol, last)
        (folder / "sizes").write_text(" ".join(map(str, sizes)))
        (folder / "script").write_text(script)
        done = subprocess.run([*command, "script"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(" ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}")
        penalties, mean = (np.fromfile(folder / part) for part in ("penalties", "mean"))
        found = np.fromfile(folder / "coefficients").reshape(len(penalties), -1)
    return Validated(found[:, 1:], found[:, 0], penalties, mean, float(done.stdout.split()[-1]))


class Contestant(NamedTuple):
    """A program in the race: its name, the tolerance that it is given its form of, and its call."""

    name: str
    tol: float
    call: Callable[[Rows], Validated]


def contestants(tol: float, adelie: str | None, cores: int) -> tuple[list[Contestant], list[str]]:
    """Everybody who can be raced, at the tolerance and at glmnet's own, and a sentence for each who cannot.

    glmnet, and adelie after it, end where no step lowers the loss by thresh: about the square of the gradient's.
    """
    absent = []
    has_glmnet = ["Rscript", "-e", "library(glmnet)"]
    glmnet = shutil.which("Rscript") is not None and not subprocess.run(has_glmnet, capture_output=True).returncode
    if not glmnet:
        absent.append("R with glmnet is not installed: cv.glmnet is left out")
    if adelie is None:
        absent.append("adelie is left out; it needs NumPy 1, so a Python of its own: --adelie PYTHON")
    raced = []
    for level in (tol, GLMNET**0.5):
        raced.append(Contestant("glmjax", level, partial(call_glmjax, tol=level)))
        if glmnet:
            call = partial(call_script, ["Rscript"], R_SCRIPT, tol=level**2)
            raced.append(Contestant("cv.glmnet", level, partial(call, last=0)))
            if level != tol:
                raced.append(Contestant("cv.glmnet own path", level, partial(call, last=1)))
        for threads in sorted({1, cores}) if adelie else ():
            call = partial(call_script, [adelie or ""], ADELIE_SCRIPT, tol=level**2, last=threads)
            raced.append(Contestant(f"adelie, {threads} thread" + "s" * (threads > 1), level, call))
    return raced, absent


def race_paths(rows: Rows, raced: list[Contestant], repeats: int, shown: Progress) -> list[dict[str, Any]]:
    """First calls of all, and interleaved ones; what each found and how long it took, for JSON."""
    n, d = rows.x.shape
    title = f"{FOLDS} folds x {len(rows.penalties)} penalties of {n:,} x {d:,}"
    task = shown.add_task(f"{title:<50}", total=len(raced) * (repeats + 1), seen="")
    entries: list[dict[str, Any]] = [{"program": one.name, "tol": one.tol, "s": []} for one in raced]
    means: list[np.ndarray] = []
    for repeat in range(repeats + 1):
        for one, entry in zip(raced, entries, strict=True):
            shown.update(task, seen=one.name)
            shown.advance(task)
            if "failed" in entry:
                continue
            try:
                time, found = seconds(partial(one.call, rows))
            except Exception as error:  # whatever a program raises is its result
                entry["failed"] = f"{type(error).__name__}: {error}"
                continue
            time = time if found.seconds is None else found.seconds
            if repeat > 0:
                entry["s"].append(time)
                continue
            kkt = residual(rows, found)
            entry |= {"first call, s": time, "penalties": len(found.penalties), "largest KKT residual": kkt,
                      "reached": kkt <= MARGIN * one.tol, "status": found.status}  # fmt: skip
            means.append(found.mean)
            if len(means[0]) == len(found.mean):
                entry["mean deviance off the first's"] = float(np.max(np.abs(found.mean / means[0] - 1)))
    for entry in entries:
        own = next(one for one in entries if one["program"] == "glmjax" and one["tol"] == entry["tol"])
        if entry["s"] and own["s"]:
            entry["ratio"] = float(np.median(entry["s"]) / np.median(own["s"]))
    return entries


def show_paths(entries: list[dict[str, Any]], title: str) -> None:
    """The table of one size, and glmjax against those at the same tolerance.

    `path`: penalties; `KKT`: see `residual`; `off`: of the held-out deviances, the largest relative distance from those
    of the first row; `/ own`: seconds over those of glmjax at the same tolerance.
    """
    table = _table(title, "program", "tol", "path", "first", "s", "low to high", "/ own", "KKT", "off")
    for entry in entries:
        if "failed" in entry:
            table.add_row(entry["program"], f"{entry['tol']:.0e}", "", "", "", "failed")
            continue
        off, times = entry.get("mean deviance off the first's"), entry["s"]
        table.add_row(entry["program"], f"{entry['tol']:.0e}", str(entry["penalties"]),
                      f"{entry['first call, s']:.2f}", digits(float(np.median(times))), f"{digits(min(times))} to {digits(max(times))}",
                      f"{entry['ratio']:.2f}" if "ratio" in entry else "", f"{entry['largest KKT residual']:.0e}",
                      "" if off is None else f"{off:.0e}")  # fmt: skip
    console.print(table)
    for entry in entries:
        name = f"{entry['program']} at {entry['tol']:.0e}"
        if "failed" in entry:
            say(f"{name} failed: {entry['failed']}")
        elif not entry["reached"]:
            say(f"{name} has not reached its tolerance")
        if entry.get("status"):
            say(f"{name}, folds and all rows: " + ", ".join(f"{n:,} {how}" for how, n in entry["status"].items()))
