"""How a neuron's own history changes when it fires next: one Poisson regression a trial.

Kramer and Eden (Case Studies in Neural Data Analysis, 2016, chapter 10) recorded a neuron of the subthalamic nucleus
in 50 trials of 2 s, while a movement was planned (first second) and made (second second); one in twenty bins of 1 ms
has a spike. The log of the firing rate is a sum: of a bias, of the movement, and for each window of
time before now of its spikes, so that exp(w) is by how much a spike that long ago multiplies the rate. Below 1 the
neuron recovers; above 1 it bursts.

Each trial is a lane with its own x. Spikes are rare, and a trial may have none at all, say, 1 ms after another: its
estimate of that w is minus infinity, exp(w) = 0. Such a lane ends SEPARATED and names the window; its other
coefficients are right, and the other lanes do not notice. A ridge penalty, a normal prior on each w, makes all of them
finite. So does pooling the trials, but what differs between them then passes for history: a trial with a high rate has
many spikes both now and before, and windows long ago look as if they excited.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from rich.table import Table

import glmjax as gj

from .report import (
    add_results_argument,
    console,
    count,
    data_file,
    environment,
    open_results,
    positive,
    save_figure,
    save_json,
    say,
    say_endings,
    say_times,
    timed,
)

FILE = Path("spikes") / "kramer_spikes.npz"
ENDS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 40, 65, 100)  # ms; a window is after one and up to the next
WINDOWS = [str(b) if b == a + 1 else f"{a + 1}-{b}" for a, b in itertools.pairwise(ENDS)]
NAMES = ["movement", *(f"spike {window} ms ago" for window in WINDOWS)]
MODEL = gj.glm(gj.poisson())


class Trials(NamedTuple):
    """Spikes, (trials, ms), and whether the hand moves, (ms,)."""

    spikes: np.ndarray
    moves: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--sd", type=positive, default=1.0, help="of the prior on each w, for the penalized fits")
    parser.add_argument("--repeats", type=count, default=5, help="timed calls after the first")
    add_results_argument(parser, "neurons")


def imagine(trials: int = 12, ms: int = 800) -> Trials:
    """Spikes drawn to resemble the file's: none for 2 ms after a spike but seldom, a burst after 6."""
    rng = np.random.default_rng(0)
    spikes, moves = np.zeros((trials, ms), int), np.arange(ms) >= ms // 2
    for t in range(ms):
        lately, then = spikes[:, max(t - 2, 0) : t].sum(1), spikes[:, max(t - 10, 0) : max(t - 5, 0)].sum(1)
        spikes[:, t] = rng.random(trials) < np.minimum(0.03 * np.exp(0.4 * moves[t] - 2.0 * lately + 0.8 * then), 1)
    return Trials(spikes, moves)


def load() -> tuple[Trials, bool]:
    """The file's trials where it is, else drawn ones; and whether they are real."""
    source = "train and t of Ch10-spikes-1.mat (github.com/Mark-Kramer/Case-Studies-Python)"
    path = data_file(FILE, "neuron", f"{source}, as arrays move_train (trials, ms) and move_t_ms (ms,),")
    if path is None:
        return imagine(), False
    with np.load(path) as file:
        return Trials(file["move_train"].astype(int), file["move_t_ms"] >= 0), True


def design(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """x (trials, ms, d) and y (trials, ms), from where the longest window lies within the trial."""
    before = np.pad(np.cumsum(trials.spikes, 1), ((0, 0), (1, 0)))  # spikes before each ms
    at = np.arange(ENDS[-1], trials.spikes.shape[1])
    windows = [before[:, at - a] - before[:, at - b] for a, b in itertools.pairwise(ENDS)]
    moves = np.broadcast_to(trials.moves[at], windows[0].shape)
    return np.stack([moves, *windows], 2).astype(float), trials.spikes[:, at].astype(float)


@jax.jit
def fit_trials(x: Array, y: Array, l2: Array) -> gj.Fit:
    """All trials at once, each with its own x."""
    return jax.vmap(lambda x, y: gj.fit_newton(MODEL, gj.make_data(x, y), l2=l2))(x, y)


class Lag(NamedTuple):
    """exp(w) of a column over the trials, exactly 0 where w goes to minus infinity; and of the trials pooled."""

    trials: np.ndarray
    pooled: float
    error: float  # of the pooled w


def summarize(fits: gj.Fit, pooled: gj.Fit, data: gj.Data) -> list[Lag]:
    """A `Lag` a column of x."""
    w, infinite = np.asarray(fits.params.w), np.asarray(fits.infinite.w)
    ratio = np.exp(np.where(infinite, np.where(w < 0, -np.inf, np.inf), w))
    information = np.asarray(gj.fisher_information(pooled.model, pooled.params, data))
    errors = np.sqrt(np.diag(np.linalg.inv(information)))[1:]
    return [Lag(*one) for one in zip(ratio.T, np.exp(np.asarray(pooled.params.w)), errors, strict=True)]


def table_of(lags: list[Lag], ridge: np.ndarray, empty: np.ndarray) -> Table:
    """Rate ratios, a row a column of x."""
    table = Table(title="rate ratio exp(w): pooled, trials one by one, with a ridge penalty", title_justify="left")
    table.add_column("of", no_wrap=True)
    for column in ("pooled", "median", "quartiles", "at 0", "ridge", "lowest"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, lag, own, none in zip(NAMES, lags, np.exp(ridge).T, empty.T, strict=True):
        low, middle, high = np.percentile(lag.trials, [25, 50, 75])
        table.add_row(name.removeprefix("spike "), f"{lag.pooled:.3f}", f"{middle:.3f}", f"{low:.2f} to {high:.2f}", str(none.sum() or ""),
                      f"{np.median(own):.3f}", f"{own.min():.3f}", end_section=name == NAMES[0])  # fmt: skip
    return table


def draw(lags: list[Lag], ridge: np.ndarray) -> Figure:
    """History effect by lag, over trials and pooled; and every lane, with what goes to infinity marked."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    history, at = lags[1:], np.arange(len(WINDOWS))
    each = np.stack([lag.trials for lag in history], 1)
    low, middle, high = np.percentile(each, [25, 50, 75], axis=0)
    pooled, error = np.array([lag.pooled for lag in history]), 1.96 * np.array([lag.error for lag in history])
    left.axhline(1, color="0.7", linewidth=1)
    left.fill_between(at, low, high, color="C0", alpha=0.2, linewidth=0, label="half of the trials")
    left.plot(at, middle, color="C0", label="trials one by one, median")
    left.plot(at, np.median(np.exp(ridge[:, 1:]), 0), "--", color="C0", label="the same with a ridge penalty")
    left.errorbar(at, pooled, [pooled - pooled * np.exp(-error), pooled * np.exp(error) - pooled], fmt="o", color="C1",
                  markersize=4, label="trials pooled, 95 % interval")  # fmt: skip
    left.set(ylabel="rate ratio exp(w) of a spike", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    left.set_title("history effect by lag", fontsize=10)

    with np.errstate(divide="ignore"):
        shown = np.clip(np.log2(each), -3, 3)
    order = np.argsort(np.sum(each == 0, 1), kind="stable")
    image = right.imshow(shown[order], aspect="auto", cmap="RdBu_r", norm=TwoSlopeNorm(0, -3, 3), interpolation="none")
    lane, window = np.nonzero(each[order] == 0)
    right.scatter(window, lane, marker="x", color="k", s=12, linewidth=0.8)
    right.set(ylabel="trials, those with most infinite w last")
    right.set_title("every trial; x: no such spike, w goes to -infinity (SEPARATED)", fontsize=10)
    bar = figure.colorbar(image, ax=right, ticks=range(-3, 4), label="rate ratio")
    bar.ax.set_yticklabels(["≤ 1/8", "1/4", "1/2", "1", "2", "4", "≥ 8"])
    for axis in (left, right):
        axis.set_xticks(at, WINDOWS, rotation=45, fontsize=8)
        axis.set_xlabel("spike how many ms ago")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def run(options: argparse.Namespace) -> int:
    """Fit, check, show a table, save a picture and a JSON; 1 if a lane's verdict is not what its counts say."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return fit_and_show(options, folder)


def fit_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    trials, real = load()
    x, y = design(trials)
    lanes, ms, d = x.shape
    say(f"{lanes} trials of {ms:,} ms, {y.sum():,.0f} spikes, {y.sum(1).min():.0f} to {y.sum(1).max():.0f} in a trial; "
        f"{d} columns and a bias")  # fmt: skip
    l2 = 1 / (options.sd**2 * ms)  # the loss is a mean over ms
    plain = timed(partial(fit_trials, x, y, jnp.asarray(0.0)), options.repeats)
    ridge = timed(partial(fit_trials, x, y, jnp.asarray(l2)), options.repeats)
    everything = gj.make_data(x.reshape(-1, d), y.reshape(-1), family=MODEL.family)
    pooled = timed(partial(gj.fit_newton, MODEL, everything), options.repeats)
    say_times(f"{lanes} trials, unpenalized", plain, lanes)
    say(f"{lanes} trials, ridge: the same program: {ridge.first:.3f} s, later calls {np.median(ridge.later):.3f} s")
    say_times(f"pooled, {len(everything.x):,} rows", pooled, 1)
    ends = {name: say_endings(name, one.result.status)
            for name, one in (("unpenalized", plain), ("ridge", ridge), ("pooled", pooled))}  # fmt: skip

    fits: gj.Fit = plain.result
    infinite = np.asarray(fits.infinite.w)
    # A column that is positive only where there is no spike has no finite w; other combinations may have none either.
    empty = (x * y[:, :, None]).sum(1) == 0
    separated = np.asarray(fits.status) == gj.Status.SEPARATED
    agree = bool(np.all(infinite >= empty) and np.all(separated == infinite.any(1)))
    ways: dict[str, int] = {name: int(n) for name, n in zip(NAMES, infinite.sum(0), strict=True) if n}
    say(f"{separated.sum()} of {lanes} trials have coefficients that go to infinity, "
        f"{infinite.sum()} in all: " + ", ".join(f"{n} of {name}" for name, n in ways.items()))  # fmt: skip
    say(f"counted in the data, {empty.sum()} windows of {empty.any(1).sum()} trials have no spike after their own: "
        + ("each of them is named" if agree else "not all of them are named: FAILS"))  # fmt: skip

    lags, shrunk = summarize(fits, pooled.result, everything), np.asarray(ridge.result.params.w)
    console.print(table_of(lags, shrunk, infinite))
    save_figure(folder / "neurons.png", draw(lags, shrunk))
    times = {name: {"first call, s": one.first, "later calls, s": one.later}
             for name, one in (("unpenalized", plain), ("ridge", ridge), ("pooled", pooled))}  # fmt: skip
    effects: list[dict[str, Any]] = [
        {"column": name, "pooled": lag.pooled, "trials": lag.trials, "ridge": own, "infinite": none}
        for name, lag, own, none in zip(NAMES, lags, np.exp(shrunk).T, infinite.T, strict=True)
    ]
    figures = {"real": real, "trials": lanes, "ms": ms, "ended": ends, "times": times, "l2": l2, "effects": effects}
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **figures})
    say(f"picture and figures are in {folder}")
    return 0 if agree else 1
