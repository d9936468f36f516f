"""Fifty ridge penalties, one a coefficient, tuned by the gradient of the loss on other rows.

A logistic regression on 50 columns, of which 8 matter. One penalty for all has to choose: small, and 42 columns add
noise; large, and the 8 are shrunk. Each column's own penalty is a number to be found, 50 of them, too many for a grid.
But the fit is a function of its penalties, and by the implicit function theorem a differentiable one: `jax.grad` of the
validation loss through `gj.fit_newton(..., l2=jnp.exp(log_l2))` gives all 50 slopes for about the price of one more
Newton step, and Adam goes down them.

Rows are drawn, and drawn anew for each of several data sets, which are tuned side by side under `jax.vmap`: each lane
with its rows, its penalties and its verdicts. The yardstick is the best single penalty of a grid, on the same validation
rows; both are judged on test rows that neither has seen. Fifty penalties can overfit the validation rows where one
cannot, and the two curves of the picture show how far they do.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from rich.table import Table

import glmjax as gj

from .report import (
    add_results_argument,
    console,
    count,
    endings,
    environment,
    open_results,
    positive,
    progress,
    save_figure,
    save_json,
    say,
    say_endings,
    seconds,
    statistics,
)

MODEL = gj.glm(gj.bernoulli())
COLUMNS, MATTER = 50, 8
GRID = np.geomspace(1e-4, 1, 25)
START = 1e-2  # of every penalty
STEP = 1e-4  # of log l2, in the check of the gradient


class Rows(NamedTuple):
    """What one data set is: to fit, to tune by, to judge by, and what drew it."""

    train: gj.Data
    valid: gj.Data
    test: gj.Data
    truth: Array


class State(NamedTuple):
    """Log penalties (sets, columns), Adam's memory of them, and the fits' coefficients, where the next ones start."""

    log_l2: Array
    adam: Any
    params: gj.Dense


class Seen(NamedTuple):
    """Of each set before a step: validation and test loss, the gradient, and how the fit ended."""

    valid: Array
    test: Array
    slope: Array
    status: Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--sets", type=count, default=16, help="data sets tuned at once")
    parser.add_argument("--rows", type=count, default=300, help="to fit, and as many to tune by")
    parser.add_argument("--steps", type=count, default=150, help="of Adam")
    parser.add_argument("--learning-rate", type=positive, default=0.1, help="Adam's, on log l2")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    add_results_argument(parser, "tune-penalties")


def draw_rows(key: Array, n: int) -> Rows:
    """One data set: correlated columns, every sixth of which matters, less and less."""
    truth = jnp.zeros(COLUMNS).at[: 6 * MATTER : 6].set(jnp.array([1.2, -1.0, 0.8, -0.8, 0.6, -0.6, 0.4, -0.4]))

    def some(key: Array, n: int) -> gj.Data:
        k_x, k_common, k_y = jax.random.split(key, 3)
        x = 0.9 * jax.random.normal(k_x, (n, COLUMNS)) + 0.4 * jax.random.normal(k_common, (n, 1))
        return gj.make_data(x, gj.sample(MODEL, gj.Dense(truth, jnp.asarray(-0.3)), x, k_y))

    one, two, three = jax.random.split(key, 3)
    return Rows(some(one, n), some(two, n), some(three, 4000), truth)


def validation_loss(log_l2: Array, rows: Rows, params: gj.Dense) -> tuple[Array, gj.Fit]:
    """Loss on the validation rows of the fit to the others, at penalties exp(log_l2); and that fit."""
    fit = gj.fit_newton(MODEL, rows.train, l2=jnp.exp(log_l2), params=params)
    return gj.loss(MODEL, fit.params, rows.valid), fit


@jax.jit
def shared(rows: Rows, grid: Array) -> tuple[Array, Array, Array, Array]:
    """Validation and test loss of one penalty for all, its coefficients, and how fits ended: (sets, grid, ...)."""

    def one(rows: Rows, l2: Array) -> tuple[Array, Array, Array, Array]:
        fit = gj.fit_newton(MODEL, rows.train, l2=l2)
        losses = (gj.loss(MODEL, fit.params, data) for data in (rows.valid, rows.test))
        return *losses, fit.params.w, fit.status

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(rows, grid)


@partial(jax.jit, static_argnums=2)
def step(state: State, rows: Rows, learning_rate: float) -> tuple[State, Seen]:
    """One of Adam's steps for all sets at once."""
    slope = jax.value_and_grad(validation_loss, has_aux=True)
    (valid, fit), slopes = jax.vmap(slope)(state.log_l2, rows, state.params)
    test = jax.vmap(partial(gj.loss, MODEL))(fit.params, rows.test)
    moves, adam = optax.adam(learning_rate).update(slopes, state.adam)
    return State(state.log_l2 + moves, adam, fit.params), Seen(valid, test, slopes, fit.status)


def off_differences(slope: Array, state: State, rows: Rows, learning_rate: float) -> float:
    """How far slopes are from central differences of the validation loss: the most, by a set's largest slope."""

    def loss(move: np.ndarray) -> np.ndarray:
        return np.asarray(step(state._replace(log_l2=state.log_l2 + move), rows, learning_rate)[1].valid)

    moves = STEP * np.eye(COLUMNS)
    found = np.stack([(loss(move) - loss(-move)) / (2 * STEP) for move in moves], 1)
    return float(np.max(np.abs(slope - found) / np.max(np.abs(found), 1, keepdims=True)))


class Tuned(NamedTuple):
    """The run: losses (steps + 1, sets), penalties and coefficients found, how fits ended, and the time steps took."""

    valid: np.ndarray
    test: np.ndarray
    log_l2: np.ndarray
    w: np.ndarray
    status: np.ndarray
    first: float
    later: list[float]
    off: float  # of the slopes, before the first step and after the last


def tune(rows: Rows, options: argparse.Namespace) -> Tuned:
    """Adam on all sets' log penalties, from `START`; after the last step the losses are taken once more."""
    log_l2 = jnp.full((options.sets, COLUMNS), np.log(START))
    params = gj.Dense(jnp.zeros((options.sets, COLUMNS)), jnp.zeros(options.sets))
    state = State(log_l2, optax.adam(options.learning_rate).init(log_l2), params)
    seen: list[Seen] = []
    times: list[float] = []
    off = 0.0
    with progress() as shown:
        task = shown.add_task("Adam", total=options.steps, seen="compiling")
        for i in range(options.steps + 1):
            before = state
            spent, (state, now) = seconds(partial(step, before, rows, options.learning_rate))
            times.append(spent)
            seen.append(now)
            if i in (0, options.steps):
                off = max(off, off_differences(now.slope, before, rows, options.learning_rate))
            losses = f"validation {np.mean(now.valid):.4f} test {np.mean(now.test):.4f}"
            shown.update(task, completed=i, seen=losses)
    valid, test, status = (np.stack([getattr(one, name) for one in seen]) for name in ("valid", "test", "status"))
    w = np.asarray(state.params.w)
    return Tuned(valid, test, np.asarray(before.log_l2), w, status, times[0], times[1:], off)


def table_of(results: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Table:
    """Losses over the sets, a row each."""
    table = Table(title="mean negative log-likelihood over the sets", title_justify="left")
    table.add_column("penalties")
    for column in ("validation", "test", "sd of test", "distance of w from the truth"):
        table.add_column(column, justify="right")
    for name, (valid, test, distance) in results.items():
        table.add_row(name, f"{valid.mean():.4f}", f"{test.mean():.4f}", f"{test.std(ddof=1):.4f}"
                      if len(test) > 1 else "", f"{distance.mean():.3f}")  # fmt: skip
    return table


def draw(tuned: Tuned, truth: np.ndarray, best: tuple[np.ndarray, np.ndarray], l2: np.ndarray) -> Figure:
    """Losses as Adam goes, and the penalties found against the coefficients that drew the data."""
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, name, curve, single in (("C0", "validation", tuned.valid, best[0]), ("C1", "test", tuned.test, best[1])):
        left.plot(curve.mean(1), color=color, label=f"{name}, a penalty a column")
        left.axhline(single.mean(), color=color, linestyle="--", linewidth=1, label=f"{name}, best single penalty")
    left.set(xlabel="Adam's steps", ylabel="mean negative log-likelihood", xlim=(0, len(tuned.valid) - 1))
    left.set_title(f"loss, mean over {tuned.valid.shape[1]} data sets", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    sizes = np.unique(np.abs(truth))
    found = [np.exp(tuned.log_l2[np.abs(truth) == size]) for size in sizes]
    rng = np.random.default_rng(0)
    for at, values in enumerate(found):
        shift = rng.uniform(-0.28, 0.28, len(values))
        right.plot(at + shift, values, "o", color="C0", markersize=2.5, alpha=0.5, markeredgewidth=0,
                   label="a column of a data set" if at == 0 else None)  # fmt: skip
        right.hlines(np.median(values), at - 0.35, at + 0.35, color="k", label="median" if at == 0 else None)
    right.axhline(np.median(l2), color="C1", linestyle="--", linewidth=1, label="best single penalty, median")
    right.set(yscale="log", xlabel="size of the coefficient that drew the data", ylabel="penalty found, l2")
    right.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
    right.set_title("penalties found", fontsize=10)
    right.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def run(options: argparse.Namespace) -> int:
    """Tune, check, show a table, save a picture and a JSON; 1 if a gradient is not what differences say."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return tune_and_show(options, folder)


def tune_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    keys = jax.random.split(jax.random.key(options.seed), options.sets)
    rows = jax.jit(jax.vmap(partial(draw_rows, n=options.rows)))(keys)
    truth = np.asarray(rows.truth)
    say(f"{options.sets} data sets at once, drawn: {options.rows} rows to fit, {options.rows} to tune by, "
        f"{rows.test.y.shape[1]:,} to test; {COLUMNS} columns, of which {MATTER} matter")  # fmt: skip

    first, (valid, test, w, status) = seconds(partial(shared, rows, jnp.asarray(GRID)))
    later, _ = seconds(partial(shared, rows, jnp.asarray(GRID)))
    say(f"single penalty: {options.sets} sets x {len(GRID)} of a grid: first call {first:.2f} s (compiles), "
        f"later call {later:.3f} s")  # fmt: skip
    ends = {"single penalty": say_endings("single penalty", status)}
    at = np.arange(options.sets), np.argmin(np.asarray(valid), 1)
    best, single = (np.asarray(valid)[at], np.asarray(test)[at]), np.asarray(w)[at]

    tuned = tune(rows, options)
    fits = options.sets * (options.steps + 1)
    say(f"a penalty a column: {options.sets} fits and {options.sets} x {COLUMNS} slopes a step: first call "
        f"{tuned.first:.2f} s (compiles), later calls {np.median(tuned.later):.3f} s")  # fmt: skip
    ends["a penalty a column"] = say_endings(f"a penalty a column, {fits:,} fits", tuned.status)
    right = tuned.off <= 1e-5
    say(f"slopes against central differences, before the first step and after the last: largest difference "
        f"{tuned.off:.0e} of a set's largest slope" + ("" if right else ": FAILS"))  # fmt: skip
    distance = [np.linalg.norm(one - truth, axis=1) for one in (single, tuned.w)]
    results = {
        "best single": (*best, distance[0]),
        "a penalty a column": (tuned.valid[-1], tuned.test[-1], distance[1]),
    }
    console.print(table_of(results))
    gain = best[1] - tuned.test[-1]
    say(
        f"on test rows a penalty a column is better by {gain.mean():.4f} a row, in {np.sum(gain > 0)} of {len(gain)} sets"
    )
    save_figure(folder / "tune_penalties.png", draw(tuned, truth, best, GRID[at[1]]))
    record = {
        "options": vars(options),
        "environment": environment(),
        "ended": ends,
        "all ended": endings(np.append(np.ravel(status), tuned.status)),
        "single penalty": {"first call, s": first, "later call, s": later, "l2": GRID[at[1]], "validation": best[0],
                           "test": best[1]},
        "a penalty a column": {"first call, s": tuned.first, "later calls, s": tuned.later, "l2": np.exp(tuned.log_l2),
                               "validation": tuned.valid, "test": tuned.test},
        "truth": truth[0],
        "gain on test rows": statistics(gain),
        "largest difference to central differences": tuned.off,
    }  # fmt: skip
    save_json(folder / "results.json", record)
    say(f"picture and figures are in {folder}")
    return 0 if right else 1
