"""Many fits at once: milliseconds a fit from NumPy arrays to all coefficients, against loops and peers.

(a) Poisson outcomes on one design, (b) separate small problems, (c) more columns and rows, (d) bootstrap replicates of
a logistic regression, (e) folds x penalties of a logistic elastic net, (f) seeds of the digits MLP (whose peers are
raced by `benchmark seeds`). Everybody fits in float64 to the same tolerance, in whatever form they take it; how near
they came is then measured alike for all lanes: max|g|, the largest derivative of a mean loss in standardized columns.
Who is more than 10 times above the tolerance in any lane is marked "not reached" and left out of the ratios. Runs are
interleaved, each after untimed ones; loops are timed on a few lanes and given per fit, peers at all BLAS threads and
at one.
"""

import argparse
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from rich.progress import Progress

from ..report import (
    add_results_argument,
    count,
    environment,
    open_results,
    positive,
    progress,
    save_figure,
    save_json,
    say,
)
from .many_costs import pass_alone, peak_memory, product_rate, work
from .many_paths import contestants, draw_rows, race_paths, show_paths
from .many_problems import KINDS, Batch, draw_batch
from .many_programs import HEAD, LOOP, NAIVE, programs
from .many_race import race, run_again
from .many_seeds import race_seeds, show_seeds
from .many_tables import draw_scaling, record, show, tell
from .problems import Size
from .race import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--problems", choices=tuple("abcdef"), nargs="+", default=list("abcdef"), help="which are run")
    parser.add_argument("--tol", type=positive, default=1e-6, help="tolerance that everybody is given")
    parser.add_argument("--repeats", type=count, default=5, help="timed runs of each, interleaved; (e) and (f) take 3")
    parser.add_argument("--peer-lanes", type=count, default=16, help="lanes that loops are timed on")
    parser.add_argument("--once", type=positive, default=10.0, metavar="SECONDS",
                        help="a peer whose first call takes longer is timed by this call only")  # fmt: skip
    parser.add_argument("--batches", type=count, nargs="+", default=[1, 4, 16, 64, 256], metavar="LANES",
                        help="of the picture of (a), besides all lanes")  # fmt: skip
    parser.add_argument("--memory", choices=("measured", "none"), default="measured",
                        help="whether peak memory is measured, in fresh processes")  # fmt: skip
    parser.add_argument("--penalties", type=count, default=100, help="of (e)")
    parser.add_argument("--wide", action="store_true", help="(e) on 2,000 x 2,000 too, which takes long")
    parser.add_argument("--adelie", metavar="PYTHON", help="a Python that has adelie, to be raced in (e)")
    parser.add_argument("--seeds", type=count, nargs="+", default=[64, 256, 1024], help="of (f)")
    parser.add_argument("--epochs", type=count, default=10, help="of (f)")
    parser.add_argument("--minibatches", type=count, nargs="+", default=[10, 64], help="of (f)")
    parser.add_argument("--scale", type=positive, default=1.0, help="lanes and rows of (a) to (e), times so much")
    add_results_argument(parser, "benchmark-many")


def run(options: argparse.Namespace) -> int:
    """Race on every problem, print tables and ratios, save a picture and a JSON."""
    folder = open_results(options.results)
    # Two threads a core for JAX: with a device a core each could wait for another's thread (`devices` of fit_many).
    os.environ.setdefault("NPROC", str(1 + (os.cpu_count() or 1)))
    peers = ("scikit-learn", "glum", "statsmodels", "nemos", "torch")
    versions = {name: version(name) for name in peers if find_spec(name.replace("scikit-learn", "sklearn"))}
    found: dict[str, Any] = {"options": vars(options), "environment": environment() | versions}
    with jax.enable_x64(True):
        if set(options.problems) & set(KINDS):
            found |= race_batches(options, folder)
        if "e" in options.problems:
            found["paths"] = race_all_paths(options)
    if "f" in options.problems:
        with progress() as shown:
            found["seeds"] = race_seeds(
                options.seeds, options.minibatches, options.epochs, min(options.repeats, 3), shown
            )
        show_seeds(found["seeds"])
        say("peers are raced by `benchmark seeds`")
    save_json(folder / "results.json", found)
    say(f"on {len(jax.devices())} {jax.devices()[0].device_kind} device(s), jax {jax.__version__}")
    say(("picture and " if "a" in options.problems else "") + f"figures are in {folder}")
    return 0


def race_batches(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """(a) to (d), in float64; what came of them, for JSON."""
    rates = product_rate(round(3000 * min(1, options.scale**0.5)), options.repeats)
    rate = max(rates.values())
    say("float64 matrix products: " + ", ".join(f"{one / 1e9:,.0f} Gflop/s by {who}" for who, one in rates.items()))
    say(f"tolerance {options.tol:g}; {options.repeats} interleaved runs of each; loops take {options.peer_lanes} lanes")
    say("first s: the first call, compilation included")
    if options.memory == "measured" and not (Path("/proc/self/clear_refs").exists() and jax.default_backend() == "cpu"):
        say("peak memory is measured on the CPU of a Linux machine only")
        options.memory = "none"
    records: list[dict[str, Any]] = []
    told: set[str] = set()
    for letter in sorted(set(options.problems) & set(KINDS)):
        batch = draw_batch(KINDS[letter].scaled(options.scale))
        raced, absent = programs(batch, options.peer_lanes)
        for line in set(absent) - told:
            say(line)
        told |= set(absent)
        jax.clear_caches()  # so that the first call compiles
        with progress() as shown:
            entries = race(batch, raced, options, shown)
            figures = measure(letter, batch, entries, options, rate, shown)
        title = f"({letter}) {batch.kind.title}"
        show(entries, title)
        figures = tell(batch, entries, figures, rate)
        if letter == "a":
            figures["scaling"] = scaling(batch, entries, options)
            save_figure(folder / "fits_a_second.png", draw_scaling(figures["scaling"], entries, batch.kind.title))
        head = {"problem": letter, "title": batch.kind.title, "lanes": batch.kind.lanes, "n": batch.kind.size.n,
                "d": batch.kind.size.d}  # fmt: skip
        records.append(head | figures | {"programs": [record(entry) for entry in entries]})
    return {"flops a second": rates, "problems": records}


def measure(
    letter: str, batch: Batch, entries: list[Entry], options: argparse.Namespace, rate: float, shown: Progress
) -> dict[str, dict[str, Any]]:
    """The work of the passes, a pass alone for (a) and (c), and memory."""
    figures: dict[str, dict[str, Any]] = {}
    own = entries[0]
    names = (HEAD, LOOP, NAIVE) if options.memory == "measured" else ()
    task = shown.add_task(f"{'passes and memory':<50}", total=1 + len(names), seen="")
    if own.reached and own.fitted and own.fitted.fit:
        figures["work"] = work(own.fitted.fit)
        if letter in "ac":
            figures["pass alone"] = pass_alone(batch, options.repeats, rate)
    shown.advance(task)
    for name in names:
        shown.update(task, seen=name)
        figures.setdefault("memory", {})[name] = peak_memory(batch.kind, name, options.peer_lanes, options.tol)
        shown.advance(task)
    return figures


def scaling(batch: Batch, entries: list[Entry], options: argparse.Namespace) -> dict[str, dict[int, list[float]]]:
    """Seconds a fit of the batched programs for the first so many lanes, each run."""
    sizes = sorted({size for size in options.batches if size < batch.kind.lanes})
    raced = [entry for entry in entries if entry.program.who in (HEAD, NAIVE) and entry.reached]
    found: dict[str, dict[int, list[float]]] = {entry.program.who: {} for entry in raced}
    with progress() as shown:
        task = shown.add_task(f"{'fits at once':<50}", total=len(sizes) * len(raced), seen="")
        for size in sizes:
            part = batch.first(size)
            for entry in raced:
                shown.update(task, seen=f"{size:,}")
                runs = [run_again(entry.program, part, options.tol) / size for _ in range(options.repeats)]
                found[entry.program.who][size] = runs
                shown.advance(task)
    return {entry.program.who: found[entry.program.who] | {batch.kind.lanes: entry.later} for entry in raced}


def race_all_paths(options: argparse.Namespace) -> list[dict[str, Any]]:
    """(e), for JSON."""
    raced, absent = contestants(options.tol, options.adelie, os.cpu_count() or 1)
    for line in absent:
        say(line)
    records = []
    for size in [Size(5000, 200), *([Size(2000, 2000)] if options.wide else [])]:
        size = Size(max(200, round(size.n * options.scale)), max(20, round(size.d * options.scale)))
        rows = draw_rows(size, options.penalties)
        with progress() as shown:
            entries = race_paths(rows, raced, min(options.repeats, 3), shown)
        show_paths(entries, f"(e) 10 folds x {options.penalties} penalties of a logistic {size.n:,} x {size.d:,}")
        records.append({"n": size.n, "d": size.d, "penalties": options.penalties, "programs": entries})
    return records
