"""Many seeds of the digits MLP (64-50-10, ReLU, plain SGD): seconds a seed against scikit-learn and a PyTorch loop.

Everybody does the same work: minibatch SGD at a fixed learning rate, reshuffled every epoch, no momentum and no
penalty, on all 1,797 digits in float32. Runs are interleaved; peers are raced at their default threads and at one.
"""

import argparse
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import glmjax as gj

from ..report import add_results_argument, console, environment, open_results, save_json, say, seconds, spread

try:
    import torch
except ModuleNotFoundError:
    torch = None

HIDDEN, RATE = 50, 0.1
CLASSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seeds", type=int, default=64, help="networks glmjax trains at once")
    parser.add_argument("--epochs", type=int, default=10, help="passes through the data")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, interleaved")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[10, 64], help="rows a minibatch")
    add_results_argument(parser, "benchmark-seeds")


def torch_loop(x: np.ndarray, y: np.ndarray, batch_size: int, epochs: int, seed: int) -> float:
    """One network by the loop of PyTorch's tutorials; the final training loss."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss = torch.nn.CrossEntropyLoss()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return loss(model(inputs), targets).item()


def sklearn_fit(x: np.ndarray, y: np.ndarray, batch_size: int, epochs: int, seed: int) -> float:
    """One network by MLPClassifier; the final training loss."""
    model = MLPClassifier(
        (HIDDEN,),
        solver="sgd",
        alpha=0,
        batch_size=batch_size,
        learning_rate_init=RATE,
        max_iter=epochs,
        momentum=0,
        nesterovs_momentum=False,
        tol=0,
        n_iter_no_change=epochs + 1,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return log_loss(y, model.fit(x, y).predict_proba(x))


def limited(call: Callable[..., float], threads: int | None) -> Callable[..., float]:
    """A peer at so many threads, or at its own default."""

    def run(*arguments: Any) -> float:
        before = torch.get_num_threads() if torch else None
        with threadpool_limits(threads) if threads else nullcontext():
            if torch and threads:
                torch.set_num_threads(threads)
            try:
                return call(*arguments)
            finally:
                if torch:
                    torch.set_num_threads(before)

    return run


def minibatches(n: int, batch_size: int, epochs: int) -> np.ndarray:
    """One order of minibatches for all seeds, drawn on the host."""
    steps = -(-n // batch_size)
    order = np.full((epochs, steps * batch_size), -1)
    rng = np.random.default_rng(0)
    for rows in order:
        rows[:n] = rng.permutation(n)
    return order.reshape(epochs * steps, batch_size)


def run(options: argparse.Namespace) -> int:
    """Race, print the table, save a JSON."""
    folder = open_results(options.results)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    model = gj.mlp(gj.categorical(CLASSES), (HIDDEN,), "relu")
    data = gj.make_data(x, y, family=model.family)
    keys = spread(jax.random.split(jax.random.key(0), options.seeds))
    peers = {"scikit-learn MLPClassifier": sklearn_fit}
    if torch is None:
        say("PyTorch is not installed (pip install torch): its loop is left out")
    else:
        peers["PyTorch loop"] = torch_loop
    say(f"{options.seeds} seeds, {len(x)} digits, {options.epochs} epochs, {options.repeats} interleaved runs of each")

    records = []
    for batch_size in options.batch_sizes:
        fit = partial(gj.fit_seeds, model, data, keys, learning_rate=RATE, batch_size=batch_size, epochs=options.epochs)
        order = minibatches(len(x), batch_size, options.epochs)
        # name -> (networks a call trains, a call that returns their mean training loss)
        runners: dict[str, tuple[int, Callable[[int], Any]]] = {
            "glmjax fit_seeds": (options.seeds, lambda seed, fit=fit: fit().loss.mean()),
            "glmjax, one order for all": (options.seeds, lambda seed, fit=fit, order=order: fit(order=order).loss.mean()),
        }
        for name, call in peers.items():
            for threads in (None, 1):
                label = f"{name}, {'default threads' if threads is None else '1 thread'}"
                one = partial(limited(call, threads), x, y, batch_size, options.epochs)
                runners[label] = (1, one)
        first = {name: seconds(partial(call, 0))[0] for name, (_, call) in runners.items()}
        times: dict[str, list[float]] = {name: [] for name in runners}
        losses: dict[str, list[float]] = {name: [] for name in runners}
        for repeat in range(options.repeats):
            for name, (count, call) in runners.items():
                time, loss = seconds(partial(call, repeat + 1))
                times[name].append(time / count)
                losses[name].append(float(loss))
        records += show(batch_size, first, times, losses)
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), "runs": records})
    say(f"on {len(jax.devices())} {jax.devices()[0].device_kind} device(s), jax {jax.__version__}")
    say(f"figures are in {folder}")
    return 0


def show(batch_size: int, first: dict, times: dict, losses: dict) -> list[dict[str, Any]]:
    """The table of one minibatch size; its rows."""
    table = Table(title=f"minibatch {batch_size}", title_justify="left")
    table.add_column("program")
    for column in ("first call, s", "ms a seed", "lowest", "highest", "× glmjax", "× one order", "loss"):
        table.add_column(column, justify="right")
    medians = {name: float(np.median(values)) for name, values in times.items()}
    base, shared = list(medians.values())[:2]
    rows = []
    for name, values in times.items():
        row = {
            "minibatch": batch_size,
            "program": name,
            "first call, s": first[name],
            "ms a seed": 1e3 * medians[name],
            "lowest": 1e3 * min(values),
            "highest": 1e3 * max(values),
            "× glmjax": medians[name] / base,
            "× one order": medians[name] / shared,
            "loss": float(np.mean(losses[name])),
        }
        rows.append(row)
        digits = ("", "", ".2f", ".2f", ".2f", ".2f", ".1f", ".1f", ".4f")
        table.add_row(*(format(value, f) for (key, value), f in zip(row.items(), digits, strict=True) if key != "minibatch"))
    console.print(table)
    return rows
