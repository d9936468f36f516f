"""Seconds a seed of the digits MLP against how many seeds are trained at once; `benchmark seeds` has the peers."""

from functools import partial
from typing import Any

import jax
import numpy as np
from rich.progress import Progress
from sklearn.datasets import load_digits

import glmjax as gj

from ..report import console, seconds, spread
from .many_tables import digits
from .seeds import CLASSES, HIDDEN, Runner, runners
from .tables import _table


def race_seeds(seeds: list[int], minibatches: list[int], epochs: int, repeats: int, shown: Progress) -> list[Any]:
    """First and later calls of glmjax at each number of seeds, interleaved, for JSON; float32, as in that race."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    model = gj.mlp(gj.categorical(CLASSES), (HIDDEN,), "relu")
    data = gj.make_data(x, y, family=model.family)
    task = shown.add_task(f"{'seeds of the digits MLP':<50}", total=len(minibatches) * (repeats + 1), seen="")
    rows = []
    for size in minibatches:
        race: list[tuple[Runner, dict[str, Any]]] = []
        for count in seeds:
            keys = spread(jax.random.split(jax.random.key(0), count))
            own = runners(model, data, keys, size, epochs, x, y)[:2]  # without the peers
            race += [(r, {"minibatch": size, "seeds": count, "program": r.name, "s": []}) for r in own]
        for repeat in range(repeats + 1):
            shown.update(task, seen=f"minibatch {size}")
            for r, row in race:
                time, loss = seconds(partial(r.call, repeat))
                row |= {"first call, s": time, "training loss": float(loss)} if repeat == 0 else {}
                row["s"] += [time] if repeat else []
            shown.advance(task)
        for _, row in race:
            each = [1e3 * time / row["seeds"] for time in row.pop("s")]
            rows.append(row | {"ms a seed": float(np.median(each)), "ms a seed, each run": each})
    return rows


def show_seeds(rows: list[Any]) -> None:
    """The table of all."""
    table = _table("seeds of the digits MLP at once", "program", "minibatch", "seeds", "first s", "ms a seed",
                   "low to high", "seeds/s", "loss")  # fmt: skip
    for row in rows:
        each = row["ms a seed, each run"]
        table.add_row(row["program"], str(row["minibatch"]), f"{row['seeds']:,}", f"{row['first call, s']:.2f}",
                      digits(row["ms a seed"]), f"{digits(min(each))} to {digits(max(each))}",
                      digits(1e3 / row["ms a seed"]), f"{row['training loss']:.3f}")  # fmt: skip
    console.print(table)
