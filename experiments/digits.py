"""Softmax regression and an MLP on scikit-learn's handwritten digits, all seeds in one compiled program."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import glmjax as gj

from .report import (
    add_results_argument,
    console,
    count,
    environment,
    open_results,
    penalty,
    positive,
    progress,
    save_figure,
    save_json,
    say,
    seconds,
    sizes,
    spread,
    statistics,
)

LOOPS = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])  # closed loops in the way each digit is written


class Head(NamedTuple):
    """What is predicted of a digit: the family, the target from the label, and when a prediction is right."""

    family: gj.Family
    linear: str
    target: Callable[[np.ndarray], np.ndarray]
    right: Callable[[Array, Array], Array]


def most_likely(mean: Array, digit: Array) -> Array:
    """Whether the largest mean is the digit's."""
    return jnp.argmax(mean, 1) == digit


def itself(digit: np.ndarray) -> np.ndarray:
    """The digit as a class."""
    return digit


HEADS = {
    "categorical": Head(gj.categorical(10), "softmax regression", itself, most_likely),
    "categorical-reference": Head(gj.categorical(10, reference=0), "softmax, 9 logits", itself, most_likely),
    "normal": Head(
        gj.normal(10), "least squares", lambda digit: np.eye(10)[digit], lambda m, y: most_likely(m, jnp.argmax(y, 1))
    ),
    "bernoulli": Head(gj.bernoulli(), "logistic (odd?)", lambda digit: digit % 2, lambda m, y: (m > 0.5) == (y > 0.5)),
    "poisson": Head(gj.poisson(), "Poisson (loops)", lambda digit: LOOPS[digit], lambda m, y: jnp.round(m) == y),
}


def momentum(learning_rate: Any) -> optax.GradientTransformation:
    """SGD with momentum 0.9."""
    return optax.sgd(learning_rate, momentum=0.9)


OPTIMIZERS = {"sgd": optax.sgd, "momentum": momentum, "adam": optax.adam}
MEASURES = ("train loss", "train accuracy", "test loss", "test accuracy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--seeds", type=count, default=64, help="networks trained at once")
    parser.add_argument("--family", choices=HEADS, default="categorical", help="what is predicted of a digit: its class"
                        ", one-hot least squares, odd or even, or how many closed loops it has")  # fmt: skip
    parser.add_argument("--hidden", type=sizes, default="50", metavar="H[,H...]", help="units of each hidden layer")
    parser.add_argument(
        "--activation", choices=("identity", "sigmoid", "tanh", "relu"), default="relu", help="of the hidden units"
    )
    parser.add_argument("--epochs", type=count, default=40, help="passes through the training data")
    parser.add_argument("--batch-size", type=count, default=32, help="rows a minibatch")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="how a step is made of a gradient")
    parser.add_argument("--learning-rate", type=positive, default=0.1, help="step size")
    parser.add_argument("--l2", type=penalty, default=0.0, help="ridge penalty on the weights")
    parser.add_argument("--seed", type=int, default=0, help="where the seeds' random keys start")
    add_results_argument(parser, "digits")


def load(head: Head) -> tuple[gj.Data, gj.Data]:
    """1,437 training and 360 test images of 8 x 8 pixels, brought to [0, 1]."""
    pixels, digit = load_digits(return_X_y=True)
    split = train_test_split(pixels.astype(np.float32) / 16, digit, test_size=0.2, random_state=0, stratify=digit)
    x, x_test, digit, digit_test = split
    train = gj.make_data(x, head.target(digit), family=head.family)
    return train, gj.make_data(x_test, head.target(digit_test), family=head.family)


def measure(head: Head, model: gj.Model, params: Any, train: gj.Data, test: gj.Data) -> Array:
    """`MEASURES` of one seed's parameters."""
    values = []
    for data in (train, test):
        right = head.right(gj.predict(model, params, data.x), data.y)
        values += [gj.loss(model, params, data), jnp.mean(right.astype(data.x.dtype))]
    return jnp.stack(values)


class Run(NamedTuple):
    """One model over all seeds: curves (measures, epochs seen, seeds), how lanes ended, and the time calls took."""

    name: str
    epochs: list[int]
    curves: np.ndarray
    fits: gj.Fit
    first_call: float
    later_calls: list[float]
    per_call: int


def train_seeds(
    name: str, head: Head, model: gj.Model, train: gj.Data, test: gj.Data, options: argparse.Namespace, shown: Progress
) -> Run:
    """Train all seeds; a compiled program of a few epochs is called again and again, to show and to time progress."""
    keys = spread(jax.random.split(jax.random.key(options.seed), options.seeds))
    # About 20 calls or more, of equal length: the host between them costs nothing visible.
    per_call = max(k for k in range(1, options.epochs // 20 + 2) if options.epochs % k == 0)
    calls = options.epochs // per_call

    @jax.jit
    @jax.vmap
    def start(key: Array) -> gj.SGDState:
        return gj.sgd_init(
            model,
            train,
            key,
            optimizer=OPTIMIZERS[options.optimizer],
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            l2=options.l2,
        )

    # The data are arguments: closed over, they would be constants that XLA tries to fold.
    epochs = jax.jit(jax.vmap(partial(gj.sgd_epochs, epochs=per_call), in_axes=(0, None)))
    watch = jax.jit(jax.vmap(partial(measure, head, model), in_axes=(0, None, None)))
    finish = jax.jit(jax.vmap(gj.sgd_finish, in_axes=(0, None)))

    task = shown.add_task(f"{name:<20}", total=calls * per_call, seen="compiling")
    state = start(keys)
    curves = [np.asarray(watch(state.params, train, test))]
    times = []
    for call in range(calls):
        time, state = seconds(partial(epochs, state, train))
        times.append(time)
        curves.append(np.asarray(watch(state.params, train, test)))
        right = curves[-1][:, 3]
        seen = f"test accuracy {right.mean():.3f} ± {right.std():.3f}"
        shown.update(task, completed=(call + 1) * per_call, seen=seen)
    at = [call * per_call for call in range(calls + 1)]
    return Run(name, at, np.stack(curves).transpose(2, 0, 1), finish(state, train), times[0], times[1:], per_call)


def show_table(runs: list[Run], seeds: int) -> None:
    """Loss and accuracy over seeds, a row a measure."""
    table = Table(title=f"after {runs[0].epochs[-1]} epochs, over {seeds} seeds", title_justify="left")
    for column in ("model", "measure"):
        table.add_column(column)
    for column in ("mean", "sd", "min", "max"):
        table.add_column(column, justify="right")
    for run in runs:
        for i, name in enumerate(MEASURES):
            row = statistics(run.curves[i, -1])
            table.add_row(run.name if i == 0 else "", name, *(f"{value:.4f}" for value in row.values()),
                          end_section=i == 3)  # fmt: skip
    console.print(table)


def show_times(runs: list[Run], seeds: int, rows: int) -> None:
    """First call and later calls apart."""
    for run in runs:
        line = f"{run.name}: first call {run.first_call:.2f} s (compiles, then {run.per_call} epochs)"
        if run.later_calls:
            later = float(np.median(run.later_calls))
            rate = seeds * rows * run.per_call / later
            line += (
                f", later calls {later:.3f} s: {1e3 * later / seeds / run.per_call:.2f} ms a seed and epoch, "
                f"{rate / 1e6:.2f} million examples/s"
            )
        say(line)
    say(f"on {len(jax.devices())} {jax.devices()[0].device_kind} device(s), jax {jax.__version__}")


def draw(runs: list[Run], seeds: int) -> Figure:
    """Learning curves: mean over seeds, and the range from the lowest seed to the highest."""
    figure = Figure(figsize=(10, 4.2), layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = figure.subplots(1, 2)
    for ax, measure, first in ((axes[0], "loss", 0), (axes[1], "accuracy", 1)):
        for run, color in zip(runs, ("tab:blue", "tab:orange"), strict=True):
            for i, style, part in ((first, "--", "train"), (first + 2, "-", "test")):
                curve = run.curves[i]
                ax.plot(run.epochs, curve.mean(1), style, color=color, label=f"{run.name}, {part}")
                ax.fill_between(run.epochs, curve.min(1), curve.max(1), color=color, alpha=0.2, linewidth=0)
        ax.set(xlabel="epoch", xlim=(0, runs[0].epochs[-1]))
        ax.set_title(f"{measure} over {seeds} seeds: mean, lowest to highest", fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    if min(run.curves[0].min() for run in runs) > 0:
        axes[0].set_yscale("log")
    axes[0].set_ylabel("mean negative log-likelihood")
    axes[1].set_ylabel("share of digits predicted right")
    axes[1].set_ylim(min(run.curves[[1, 3], 1:].min() for run in runs) - 0.02, 1.005)  # not the untrained start
    axes[1].legend(frameon=False, fontsize=9)
    return figure


def run(options: argparse.Namespace) -> int:
    """Train, show the table and the times, save a picture and a JSON."""
    folder = open_results(options.results)
    head = HEADS[options.family]
    train, test = load(head)
    shape = "-".join(map(str, (64, *options.hidden, head.family.n_outputs or 1)))
    models = {
        head.linear: gj.glm(head.family),
        f"MLP {shape}": gj.mlp(head.family, options.hidden, options.activation),
    }
    say(f"{options.seeds} seeds at once on {len(train.x)} training digits, {len(test.x)} test digits")
    with progress() as shown:
        runs = [train_seeds(name, head, model, train, test, options, shown) for name, model in models.items()]
    show_table(runs, options.seeds)
    show_times(runs, options.seeds, len(train.x))
    for one in runs:
        ends = {status.name: int(np.sum(one.fits.status == status)) for status in gj.Status}
        say(f"{one.name}: " + ", ".join(f"{n} {name}" for name, n in ends.items() if n))

    save_figure(folder / "learning_curves.png", draw(runs, options.seeds))
    record = {
        "options": vars(options),
        "environment": environment(),
        "models": {
            one.name: {
                "final": {m: statistics(one.curves[i, -1]) for i, m in enumerate(MEASURES)},
                "epochs": one.epochs,
                "curves": {m: {"mean": c.mean(1), "min": c.min(1), "max": c.max(1)}
                           for m, c in zip(MEASURES, one.curves, strict=True)},
                "each seed": {m: one.curves[i, -1] for i, m in enumerate(MEASURES)},
                "status": [gj.Status(int(s)).name for s in np.asarray(one.fits.status)],
                "first call, seconds": one.first_call,
                "later calls, seconds": one.later_calls,
                "epochs a call": one.per_call,
            }
            for one in runs
        },
    }  # fmt: skip
    save_json(folder / "results.json", record)
    say(f"picture and figures are in {folder}")
    return 0
