"""How races of many fits are shown: a table and a few lines a batch, and a picture."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..report import console, say, say_endings
from .many_problems import Batch
from .many_programs import HEAD, LOOP, NAIVE
from .many_race import best_peer, lanes_of, named
from .race import Entry
from .tables import _table


def digits(value: float) -> str:
    """Three digits, plain."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(entries: list[Entry], title: str) -> None:
    """The table of one batch, and what those who failed said."""
    table = _table(title, "program", "BLAS", "first s", "ms a fit", "low to high", "fits/s", "max|g|")
    for entry in entries:
        program, later = entry.program, [1e3 * time for time in entry.later]
        jax = program.peer in ("glmjax", "naive", "nemos")
        middle = entry.note.split(" lanes")[0] or f"{digits(min(later))} to {digits(max(later))}"
        if later:
            speed = (digits(1e3 * entry.median), middle, digits(1 / entry.median))
        else:
            speed = ("", middle.split(":")[0] if middle.startswith("failed") else middle, "")
        table.add_row(program.who, "" if jax else str(program.threads or "all"),
                      f"{entry.first:.2f}" if jax and np.isfinite(entry.first) else "", *speed,
                      f"{entry.gradient:.0e}" if np.isfinite(entry.gradient) else "")  # fmt: skip
    console.print(table)
    for name, note in dict.fromkeys((e.program.who, e.note) for e in entries if e.note.startswith("failed")):
        say(f"{name} {note}")


def ratios(entries: list[Entry]) -> dict[str, dict[str, float]]:
    """How many times as long as each of glmjax's batched programs others take a fit: best peer, our loop, naive."""
    others = {"best peer": best_peer(entries), "our own loop": named(entries, LOOP), NAIVE: named(entries, NAIVE)}
    batched = [e for e in entries if e.program.peer == "glmjax" and e.program.who != LOOP and e.reached]
    return {
        own.program.who: {name: other.median / own.median for name, other in others.items() if other} for own in batched
    }


def tell(batch: Batch, entries: list[Entry], figures: dict[str, Any], rate: float) -> dict[str, Any]:
    """Lines under a table: how lanes ended, the passes, memory, ratios; the figures for JSON."""
    own, peer = entries[0], best_peer(entries)
    fit = own.fitted.fit if own.fitted else None
    found: dict[str, Any] = {} if fit is None else {"status": say_endings(HEAD, fit.status)}
    cost = figures.get("work")
    if cost:
        say(f"passes over the rows: {cost['passes, mean']:.2f} in the mean, {cost['passes, most']} in the slowest lane: "
            f"{cost['share of done lanes']:.0%} of their work is on lanes that have ended")  # fmt: skip
    alone = figures.get("pass alone")
    if alone:
        say(f"a pass for the information, with its step: {1e3 * alone['a step of fit_newton, s']:.3g} ms for all lanes, "
            f"{alone['its share of the rate']:.0%} of the {rate / 1e9:,.0f} Gflop/s that the machine multiplies; vmap of fisher_information "
            f"{1e3 * alone['fisher_information, s']:.3g} ms, "
            f"{alone['its share of the rate, without eta and score']:.0%}")  # fmt: skip
    kind = batch.kind
    dense = 8 * kind.lanes * kind.size.n * kind.size.d
    for name, peak in figures.get("memory", {}).items():
        say(f"{name}, memory beyond the batch's {batch.nbytes / 1e6:,.0f} MB: {peak['later call, bytes'] / 1e6:,.0f} MB"
            f" (lanes x rows x columns are {dense / 1e6:,.0f}); first call in a fresh process: "
            f"{peak['first call, s']:.2f} s and {peak['first call, bytes'] / 1e6:,.0f} MB")  # fmt: skip
    found["ratios"] = ratios(entries)
    if peer is not None:
        found["best peer"] = peer.program.name
    for name, row in found["ratios"].items():
        words = [f"{what} {value:.2f}" + (f" ({found['best peer']})" if what == "best peer" else "")
                 for what, value in row.items()]  # fmt: skip
        say(f"times as long as {name}: " + ", ".join(words))
    return found | figures


def record(entry: Entry) -> dict[str, Any]:
    """An entry for JSON."""
    return {
        "program": entry.program.who,
        "threads": entry.program.threads or "default",
        "lanes": lanes_of(entry),
        "first call, s": entry.first,
        "ms a fit": 1e3 * entry.median,
        "ms a fit, each run": [1e3 * time for time in entry.later],
        "fits a second": 1 / entry.median,
        "largest gradient": entry.gradient,
        "note": entry.note,
    }


def draw_scaling(scaling: dict[str, dict[int, list[float]]], entries: list[Entry], title: str) -> Figure:
    """Fits a second against lanes at once, and lines where programs are that fit one after another."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    labels = {HEAD: ("C3", "o", "glmjax: jax.vmap of fit_newton"), NAIVE: ("C0", "s", "a textbook's Newton, jax.vmap")}
    for name, runs in scaling.items():
        color, marker, label = labels[name]
        sizes = list(runs)
        speed = [1 / np.median(times) for times in runs.values()]
        low, high = ([1 / pick(times) for times in runs.values()] for pick in (max, min))
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(sizes, speed, marker=marker, color=color, label=label)
        axis.annotate(f"{speed[-1]:,.0f}", (sizes[-1], speed[-1]), (7, 0), textcoords="offset points", va="center",
                      color=color, fontsize=9)  # fmt: skip
    peer, loop = best_peer(entries), named(entries, LOOP)
    lines = [(loop, "C1", "--", "glmjax, a compiled loop of single fits")]
    lines += [(peer, "0.35", ":", f"best peer in a loop: {peer.program.name}" if peer else "")]
    for entry, color, style, label in lines:
        if entry is not None:
            axis.axhline(1 / entry.median, color=color, linestyle=style, label=label)
    ticks = sorted({size for runs in scaling.values() for size in runs})
    axis.set(xscale="log", yscale="log", xlabel="fits at once",
             ylabel="fits a second: median, lowest to highest")  # fmt: skip
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
