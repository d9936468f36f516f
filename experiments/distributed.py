"""One fit over several processes: whether it has the numbers of one process, and how many rows a second it passes over.

Processes on this machine, each with some devices and with its own part of `--rows` x `--columns` of a Poisson
regression, fit it together; coefficients and standard errors are compared with those of one process that has all rows.
Then fits are timed, in turn: one process on one core with one thread, and as many processes as are asked for, each with
one device, on a core of its own with one thread. The rows are the same in total, so each of several has fewer. A pass
of Newton's method reads all rows once; drawing and checking the rows, and compiling, are not in the figures.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import glmjax as gj

from .processes import end, open_answers, start
from .report import add_results_argument, count, environment, open_results, progress, save_figure, save_json, say
from .streaming import BLOCK, blocks

MODEL = gj.glm(gj.poisson())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--processes", type=count, default=2, help="processes of a fit")
    parser.add_argument("--devices", type=count, default=2, help="devices of each, where numbers are compared")
    parser.add_argument("--rows", type=count, default=2_000_000, help="rows in total")
    parser.add_argument("--columns", type=count, default=20, help="columns of x")
    parser.add_argument("--repeats", type=count, default=15, help="fits that are timed of each, in turn")
    add_results_argument(parser, "distributed")


def work(index: int, n: int, address: str, rows: int, columns: int, place: Path) -> None:
    """One process: fit whenever a line comes in, and say how long it took; the first time keep the numbers."""
    answers = open_answers()
    gj.sharding.initialize(address, n, index)
    cut = np.linspace(0, rows, n + 1).astype(int)
    own: list[tuple[np.ndarray, np.ndarray]] = []
    for at, (x, y) in zip(range(0, rows, BLOCK), blocks(rows, columns), strict=True):
        here = slice(*np.clip(cut[index : index + 2] - at, 0, len(x)))
        own.append((x[here], y[here]))
    data = gj.make_data(*(np.concatenate(parts) for parts in zip(*own, strict=True)))
    data = jax.block_until_ready(data if n == 1 else gj.shard(data))
    del own
    print("ready", file=answers)
    for line in sys.stdin:
        begun = time.perf_counter()
        fit = jax.block_until_ready(gj.fit_newton(MODEL, data))
        print(time.perf_counter() - begun, int(fit.passes), file=answers)
        if line.strip() == "first":
            gj.check(fit)
            table = gj.inference(data, fit)
            if index == 0:
                np.save(place, np.stack([table.estimate, table.std_error]))
            print("kept", file=answers)


def heard(processes: list[Any]) -> list[list[str]]:
    """A line of each."""
    lines = [process.stdout.readline().split() for process in processes]
    for i, line in enumerate(lines):
        if not line:
            raise SystemExit(f"process {i} has ended, with status {processes[i].wait()}")
    return lines


def fit_once(processes: list[Any], word: str) -> tuple[float, int]:
    """Seconds of the slowest, and passes."""
    for process in processes:
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
    answers = heard(processes)
    if word == "first":
        heard(processes)
    return max(float(seconds) for seconds, _ in answers), int(answers[0][1])


def let_go(processes: list[Any]) -> None:
    """There is nothing more to do for them."""
    for process in processes:
        process.stdin.close()
    for process in processes:
        process.wait(timeout=60)


def run(options: argparse.Namespace) -> int:
    """Compare, time; 1 if the numbers differ."""
    folder = open_results(options.results)
    cores = sorted(os.sched_getaffinity(0))
    n, rows = options.processes, options.rows
    if n > len(cores):
        say(f"{n} processes share {len(cores)} cores: their figures do not show what {n} cores can do")
    one, many = "one process", f"{n} processes"
    with tempfile.TemporaryDirectory() as name, progress() as shown:
        place = Path(name)
        task = shown.add_task("fits", total=3 + 2 * options.repeats, seen="")

        def started(what: str, processes: int, devices: int, tied: list[int] | None) -> list[Any]:
            given = [rows, options.columns, place / f"{what}.npy"]
            return start("distributed", processes, given, devices, tied, stdin=-1, stdout=-1)

        found = started("devices", n, options.devices, None)
        running = {one: started(one, 1, 1, cores), many: started(many, n, 1, cores)}
        try:
            first, times = {}, {kind: list[float]() for kind in running}
            for what, processes in {"devices": found, **running}.items():
                heard(processes)
                first[what], passes = fit_once(processes, "first")
                shown.update(task, advance=1, seen=what)
            let_go(found)
            for _ in range(options.repeats):
                for what, processes in running.items():
                    times[what].append(fit_once(processes, "again")[0])
                    shown.update(task, advance=1, seen=f"{what} {times[what][-1]:.3f} s")
            let_go([*running[one], *running[many]])
        finally:
            end([*found, *running[one], *running[many]])
        wanted = np.load(place / f"{one}.npy")
        away = {what: np.max(np.abs(np.load(place / f"{what}.npy") - wanted), axis=1) for what in ("devices", many)}
    for what, (estimates, errors) in away.items():
        how = f"{n} processes x {options.devices} devices" if what == "devices" else f"{many} x 1 device"
        say(f"{how}: coefficients differ from one process by {estimates:.1e}, standard errors by {errors:.1e}")
    rate = {what: rows * passes / np.asarray(seconds) for what, seconds in times.items()}
    for what, each in rate.items():
        say(f"{what}, one thread each: {np.median(each) / 1e6:.1f}M rows/s ({each.min() / 1e6:.1f} to {each.max() / 1e6:.1f}), "
            f"{passes} passes; first call {first[what]:.1f} s")  # fmt: skip
    ratios = rate[many] / rate[one]
    ratio = float(np.median(rate[many]) / np.median(rate[one]))
    say(f"{rows:,} x {options.columns} rows in total: {ratio:.2f} times the rows a second of one (fit by fit "
        f"{ratios.min():.2f} to {ratios.max():.2f}); load average {os.getloadavg()[0]:.1f}, with what else runs here")  # fmt: skip
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(rate), [np.median(each) / 1e6 for each in rate.values()], color="lightsteelblue")
    for i, each in enumerate(rate.values()):
        axes.plot(each / 1e6, np.full(len(each), i), "k|")
    axes.set(xlabel="million rows a second, one thread a process", title=f"{ratio:.2f} times the rows a second")
    save_figure(folder / "distributed.png", figure)
    record = {
        "differ": away,
        "first": first,
        "seconds": times,
        "passes": passes,
        "ratio": ratio,
        "load": os.getloadavg(),
    }
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **record})
    say(f"picture and figures are in {folder}")
    return int(max(np.max(each) for each in away.values()) > 1e-12)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
