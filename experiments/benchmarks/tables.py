"""How races are shown: a table and a few lines a problem, one table of all, and a picture."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich import box
from rich.table import Table

import glmjax as gj

from ..report import console, say
from .race import Entry, best_of


def _table(title: str, *columns: str) -> Table:
    """A table narrow enough for 80 characters."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        text = column in ("program", "problem", "best peer")
        table.add_column(column, justify="left" if text else "right", no_wrap=True)
    return table


def show(entries: list[Entry], title: str) -> None:
    """The table of one problem, and what those who failed said."""
    table = _table(title, "program", "BLAS", "first s", "median s", "low to high", "max|g|", "loss +")
    lowest = np.nanmin([entry.loss for entry in entries])
    for entry in entries:
        program, later = entry.program, entry.later
        threads = "" if program.peer in ("glmjax", "R") else str(program.threads or "all")
        middle = entry.note.split(":")[0] or f"{min(later):.3f} to {max(later):.3f}"
        numbers = (f"{entry.first:.3f}", f"{entry.median:.3f}", f"{entry.gradient:.0e}", f"{entry.loss - lowest:.0e}")
        first, median, gradient, loss = ("" if number == "nan" else number for number in numbers)
        table.add_row(program.who, threads, first, median, middle, gradient, loss)
    console.print(table)
    for name, note in dict.fromkeys((e.program.who, e.note) for e in entries if e.note.startswith("failed")):
        say(f"{name} {note}")


def tell(
    entries: list[Entry], limit: dict[str, float], parts: dict[str, float], memory: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What glmjax did, how far that is from the limit, what memory it takes, and the ratio; the figures for JSON."""
    own, peer = entries[0], best_of(entries[1:])
    figures: dict[str, Any] = {"limit": limit, "alone": parts, "memory": memory}
    fit = own.fitted.fit if own.fitted else None
    if fit is not None:
        status, passes = gj.Status(int(fit.status)).name, int(fit.passes)
        least = passes * limit["read pass, s"] + limit["symmetric product, s"]
        figures |= {"status": status, "steps": fit.steps, "passes": passes, "least, s": least}
        say(f"glmjax: {status}, {int(fit.steps)} steps, {passes} passes over x; alone {1e3 * parts['make_data, s']:.3g} ms "
            f"in make_data, which copies x, and {1e3 * parts['fit, s']:.3g} ms in the fit")  # fmt: skip
        line = f"the limit: {passes} reads of x at {1e3 * limit['read pass, s']:.3g} ms and one symmetric product at "
        line += f"{1e3 * limit['symmetric product, s']:.3g} ms are {1e3 * least:.3g} ms in NumPy"
        say(line + (f"; glmjax takes {own.median / least:.1f} times that" if own.reached else ""))
    for name, peak in memory.items():
        times = {key: value / peak["x, bytes"] for key, value in peak.items() if "bytes" in key}
        line = f"{name}, memory beyond x: {times['later call, bytes']:.2f} times x"
        if "make_data, bytes" in times:
            line += f" (make_data {times['make_data, bytes']:.2f}, the fit after it "
            line += f"{times['fit after make_data, bytes']:.2f})"
        megabytes = peak["first call, bytes"] / 1e6
        say(f"{line}; first call in a fresh process: {peak['first call, s']:.2f} s and {megabytes:,.0f} MB")
    if own.reached and peer is not None:
        ratio, fastest = peer.median / own.median, min(peer.later) / min(own.later)
        figures |= {"best peer": peer.program.name, "ratio": ratio, "ratio of lowest times": fastest}
        say(f"best peer / glmjax: {ratio:.2f} ({peer.program.name}; of lowest times {fastest:.2f})")
    else:
        say("no ratio: " + ("no peer" if own.reached else "glmjax itself") + " reached the optimum")
    return figures


def summarize(races: list[tuple[str, list[Entry]]]) -> None:
    """All problems: glmjax, and the best peer."""
    table = _table("all problems", "problem", "glmjax s", "peer s", "ratio", "best peer")
    for title, (own, *peers) in races:
        best = best_of(peers)
        cells = ["", "", ""]
        if best is not None:
            ratio = f"{best.median / own.median:.2f}" if own.reached else ""
            cells = [f"{best.median:.3f}", ratio, best.program.who]
        table.add_row(title, f"{own.median:.3f}" if own.reached else own.note.split(":")[0], *cells)
    console.print(table)


def draw_races(races: list[tuple[str, list[Entry]]], columns: int, repeats: int) -> Figure:
    """A panel a problem: median seconds of each program, and from lowest to highest; a line where glmjax is."""
    names = list(dict.fromkeys(entry.program.name for _, entries in races for entry in entries))
    rows = -(-len(races) // columns)
    size = (2.4 + 3.2 * columns, rows * (0.8 + 0.19 * len(names)) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False, sharey=True))
    for axis, (title, entries) in zip(axes, races, strict=True):
        own, best = entries[0], best_of(entries[1:])
        raced = {entry.program.name: entry for entry in entries}
        for at, name in enumerate(names):
            entry = raced.get(name)
            if entry is None or not entry.reached:
                note = "left out" if entry is None else entry.note.split(":")[0]
                axis.text(0.5, at, note, transform=axis.get_yaxis_transform(), ha="center", va="center", fontsize=8,
                          color="0.5", bbox={"color": "white", "pad": 1})  # fmt: skip
                continue
            color = "C3" if entry is own else "C0" if entry.program.threads else "0.55"
            axis.plot([min(entry.later), max(entry.later)], [at, at], color=color, linewidth=1.5)
            axis.plot(entry.median, at, "o", color=color, markersize=5)
        if own.reached:
            axis.axvline(own.median, color="C3", linewidth=0.8, alpha=0.5, zorder=0)
            title += f"\nbest peer takes {best.median / own.median:.2f} times as long" if best else ""
        axis.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
        low, high = axis.get_xlim()
        marks = (1, 2, 5) if high / low < 60 else (1,)
        axis.xaxis.set_major_locator(LogLocator(subs=marks))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"seconds a fit: median, lowest to highest of {repeats}; blue: one BLAS thread", fontsize=9)
    return figure
