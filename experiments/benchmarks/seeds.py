"""Many seeds of the digits MLP (64-50-10, ReLU, plain SGD): seconds a seed against scikit-learn and a PyTorch loop.

Everybody does the same work: minibatch SGD at a fixed learning rate, reshuffled every epoch, no momentum and no
penalty, on all 1,797 digits in float32. Runs are interleaved; peers are raced at their default threads and at one.
"""

import argparse
import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import glmjax as gj

from ..report import add_results_argument, console, count, environment, open_results, save_json, say, seconds, spread

try:
    torch: Any = importlib.import_module("torch")
except ModuleNotFoundError:
    torch = None

HIDDEN, RATE = 50, 0.1
CLASSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seeds", type=count, default=64, help="networks glmjax trains at once")
    parser.add_argument("--epochs", type=count, default=10, help="passes through the data")
    parser.add_argument("--repeats", type=count, default=5, help="timed runs of each, interleaved")
    parser.add_argument("--batch-sizes", type=count, nargs="+", default=[10, 64], help="rows a minibatch")
    add_results_argument(parser, "benchmark-seeds")


def torch_loop(x: np.ndarray, y: np.ndarray, batch_size: int, epochs: int, seed: int) -> float:
    """One network by the loop of PyTorch's tutorials; the final training loss."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES))
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


def threads(count: int | None, call: Callable[[], float]) -> float:
    """The call at so many threads; None leaves the library its default."""
    if count is None:
        return call()
    before = torch.get_num_threads() if torch else None
    try:
        if torch:
            torch.set_num_threads(count)
        with threadpool_limits(count):
            return call()
    finally:
        if torch:
            torch.set_num_threads(before)


def minibatches(n: int, batch_size: int, epochs: int) -> np.ndarray:
    """One order of minibatches for all seeds, drawn on the host."""
    steps = -(-n // batch_size)
    order = np.full((epochs, steps * batch_size), -1)
    rng = np.random.default_rng(0)
    for rows in order:
        rows[:n] = rng.permutation(n)
    return order.reshape(epochs * steps, batch_size)


class Runner(NamedTuple):
    """A program in the race: its name, how many networks a call trains, and the call, from a seed to their loss."""

    name: str
    networks: int
    call: Callable[[int], Any]


def runners(
    model: gj.Model, data: gj.Data, keys: jax.Array, batch_size: int, epochs: int, x: np.ndarray, y: np.ndarray
) -> list[Runner]:
    """glmjax with an order of minibatches for each seed and with one for all, and every peer that is installed."""
    fit = partial(gj.fit_seeds, model, data, keys, learning_rate=RATE, batch_size=batch_size, epochs=epochs)
    order = jnp.asarray(minibatches(len(x), batch_size, epochs))
    race = [
        Runner("glmjax", len(keys), lambda seed: fit().loss.mean()),
        Runner("glmjax, one order", len(keys), lambda seed: fit(order=order).loss.mean()),
    ]
    peers = {"scikit-learn": sklearn_fit} | ({} if torch is None else {"PyTorch": torch_loop})
    for name, peer in peers.items():
        for limit, label in ((None, name), (1, f"{name}, 1 thread")):

            def call(seed: int, peer: Callable[..., float] = peer, limit: int | None = limit) -> float:
                return threads(limit, partial(peer, x, y, batch_size, epochs, seed))

            race.append(Runner(label, 1, call))
    return race


def run(options: argparse.Namespace) -> int:
    """Race, print the tables and the ratios, save a JSON."""
    folder = open_results(options.results)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    model = gj.mlp(gj.categorical(CLASSES), (HIDDEN,), "relu")
    data = gj.make_data(x, y, family=model.family)
    keys = spread(jax.random.split(jax.random.key(0), options.seeds))
    if torch is None:
        say("PyTorch is not installed (pip install torch): its loop is left out")
    say(f"{options.seeds} seeds, {len(x)} digits, {options.epochs} epochs, {options.repeats} interleaved runs of each")
    records = []
    for batch_size in options.batch_sizes:
        race = runners(model, data, keys, batch_size, options.epochs, x, y)
        first = {r.name: seconds(partial(r.call, 0))[0] for r in race}
        times: dict[str, list[float]] = {r.name: [] for r in race}
        losses: dict[str, list[float]] = {r.name: [] for r in race}
        for repeat in range(options.repeats):
            for r in race:
                time, loss = seconds(partial(r.call, repeat + 1))
                times[r.name].append(1e3 * time / r.networks)
                losses[r.name].append(float(loss))
        records += [
            {
                "minibatch": batch_size,
                "program": r.name,
                "first call, s": first[r.name],
                "ms a seed": float(np.median(times[r.name])),
                "ms a seed, each run": times[r.name],
                "training loss": float(np.mean(losses[r.name])),
            }
            for r in race
        ]
        show(batch_size, records[-len(race) :])
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), "runs": records})
    say(f"on {len(jax.devices())} {jax.devices()[0].device_kind} device(s), jax {jax.__version__}")
    say(f"figures are in {folder}")
    return 0


def show(batch_size: int, rows: list[dict[str, Any]]) -> None:
    """The table of one minibatch size, and each peer's best setting against glmjax."""
    table = Table(title=f"minibatch {batch_size}", title_justify="left")
    table.add_column("program", no_wrap=True)
    for column in ("first, s", "ms a seed", "lowest to highest", "loss"):
        table.add_column(column, justify="right", no_wrap=True, min_width=5)
    for row in rows:
        each = row["ms a seed, each run"]
        table.add_row(row["program"], f"{row['first call, s']:.2f}", f"{row['ms a seed']:.2f}",
                      f"{min(each):.2f} to {max(each):.2f}", f"{row['training loss']:.3f}")  # fmt: skip
    console.print(table)
    for peer in ("scikit-learn", "PyTorch"):
        best = min((r["ms a seed"] for r in rows if r["program"].startswith(peer)), default=None)
        if best is not None:
            own, shared = (best / row["ms a seed"] for row in rows[:2])
            say(
                f"{peer} at its best setting takes {own:.1f} times glmjax's seconds a seed, {shared:.1f} with one order"
            )
