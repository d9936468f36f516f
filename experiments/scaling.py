"""How a fit grows: rows from a hundred thousand to a hundred million from disk, rows over devices, and 64 GPUs on paper.

Streamed: a Poisson regression over `--rows` rows each, by passes over a file of at most `--file-rows` rows that is read
as often as it takes, so that the disk need not hold them all (and the system's cache may: this is a measure of what the
fit takes, not of a disk). Its coefficients must be those of one reading of the file, fitted in memory; differences are in
units of the largest. Each number of rows is a process of its own; memory is the peak of the process above what it was
before the first row.

Devices: `--device-rows` rows in memory, spread by `shard` over 1, 2, 4 virtual devices of the CPU, which share its cores.

On paper: what a pass over `--paper-rows` rows on `--gpus` GPUs reads, computes and sends, and how long that takes at the
rates that the makers state. None of it is measured; real programs reach some half to four fifths of such rates.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import glmjax as gj

from .report import (
    add_results_argument,
    count,
    environment,
    open_results,
    peak,
    positive,
    save_figure,
    save_json,
    say,
    seconds,
    sizes,
    timed,
)
from .streaming import MODEL, blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--rows", type=sizes, default=(10**5, 10**6, 10**7, 10**8), help="numbers of rows, streamed")
    parser.add_argument("--columns", type=count, default=20, help="columns of x")
    parser.add_argument("--file-rows", type=count, default=2_000_000, help="rows of the file at most")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary file goes")
    parser.add_argument("--devices", type=sizes, default=(1, 2, 4), help="numbers of virtual devices")
    parser.add_argument("--device-rows", type=count, default=1_000_000, help="rows in memory, over devices")
    parser.add_argument("--repeats", type=count, default=5, help="fits over devices that are timed")
    parser.add_argument("--gpus", type=count, default=64, help="GPUs, on paper")
    parser.add_argument("--paper-rows", type=positive, default=1e10, help="rows, on paper")
    parser.add_argument("--paper-columns", type=count, default=100, help="columns, on paper")
    parser.add_argument("--passes", type=count, default=6, help="passes of a fit, on paper")
    parser.add_argument(
        "--memory-rate", type=positive, default=3.35e12, help="bytes a second of a GPU's memory (H100 SXM)"
    )
    parser.add_argument("--flops", type=positive, default=67e12, help="float32 operations a second of a GPU (H100 SXM)")
    parser.add_argument("--link-rate", type=positive, default=50e9, help="bytes a second between GPUs (400 Gb/s each)")
    parser.add_argument("--latency", type=positive, default=20e-6, help="seconds of a message between machines")
    add_results_argument(parser, "scaling")


def apart(devices: int, call: Callable[[], Any]) -> Any:
    """What a function returns in a process of its own, whose CPU is so many devices."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _on_devices, (devices,)) as pool:
        return pool.submit(call).result()


def _on_devices(devices: int) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", True)


def again(place: Path, rows: int) -> Iterator[gj.Data]:
    """The file's rows again and again, so many in all."""
    x, y = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))
    while rows > 0:
        take = min(rows, len(x))
        yield from gj.streaming.array_source(x[:take], y[:take])
        rows -= take


def streamed(place: Path, rows: int) -> dict[str, Any]:
    """A fit by passes over the file, and what it took."""
    before, source = peak(), gj.streaming.Source(partial(again, place, rows))
    first, fit = seconds(lambda: gj.streaming.fit_newton(MODEL, source))
    peak_at = peak()
    later, fit = seconds(lambda: gj.streaming.fit_newton(MODEL, source))
    params = np.append(fit.params.w, fit.params.b)
    return {"rows": rows, "first": first, "seconds": later, "passes": int(fit.passes), "status": int(fit.status),
            "MB": peak_at - before, "MB before": before, "params": params}  # fmt: skip


def in_memory(place: Path) -> np.ndarray:
    """The coefficients of the file's rows, fitted in memory."""
    x, y = (np.load(place / f"{name}.npy") for name in ("x", "y"))
    fit = gj.fit_newton(MODEL, gj.make_data(x, y))
    return np.append(fit.params.w, fit.params.b)


def over_devices(rows: int, columns: int, repeats: int) -> dict[str, Any]:
    """A fit of rows that are spread over all devices."""
    x, y = (np.concatenate(parts) for parts in zip(*blocks(rows, columns), strict=True))
    data = gj.shard(gj.make_data(x, y))
    found = timed(lambda: gj.fit_newton(MODEL, data), repeats)
    fit = found.result
    return {"devices": len(jax.devices()), "first": found.first, "later": found.later, "passes": int(fit.passes),
            "params": np.append(fit.params.w, fit.params.b)}  # fmt: skip


def paper(options: argparse.Namespace) -> dict[str, float]:
    """The arithmetic of a fit on many GPUs, line by line."""
    n, d, gpus = options.paper_rows, options.paper_columns, options.gpus
    own, p = n / gpus, d + 1
    read, work = 4 * own * (d + 2), 2 * own * p * p + 6 * own * p
    sent = 8 * (p * p + p + 5)
    steps = int(np.ceil(np.log2(gpus)))
    times = {"read": read / options.memory_rate, "compute": work / options.flops,
             "send": 2 * sent / options.link_rate + 2 * steps * options.latency}  # fmt: skip
    a_pass = max(times["read"], times["compute"]) + times["send"]
    say(f"\nOn paper, not measured: {n:.3g} x {d} rows in float32 on {gpus} GPUs, {own:.3g} rows each")
    say(f"  held    {own:.3g} rows * ({d} + 2) numbers * 4 bytes = {read / 1e9:.3g} GB a GPU")
    say(f"  read    once a pass, at {options.memory_rate:.3g} bytes/s: {1e3 * times['read']:.3g} ms")
    say(f"  compute 2 p^2 + 6 p operations a row, p = {p}: {work:.3g}, at {options.flops:.3g}/s: {1e3 * times['compute']:.3g} ms")  # fmt: skip
    say(f"  send    one all-reduce of p^2 + p + 5 numbers * 8 bytes = {sent / 1e3:.3g} kB: twice that at {options.link_rate:.3g} bytes/s, "
        f"and 2 log2({gpus}) = {2 * steps} messages of {1e6 * options.latency:.3g} us: {1e3 * times['send']:.3g} ms")  # fmt: skip
    say(f"  a pass  the longer of reading and computing, and the sending: {1e3 * a_pass:.3g} ms; {options.passes} passes: "
        f"{options.passes * a_pass:.3g} s; sending is {100 * times['send'] / a_pass:.2g} % of it")  # fmt: skip
    return {**times, "pass": a_pass, "fit": options.passes * a_pass, "bytes sent": sent, "bytes held": read}


def draw(rows: list[dict[str, Any]], over: list[dict[str, Any]]) -> Figure:
    """Seconds and memory by rows, seconds by devices."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    n = [one["rows"] for one in rows]
    axes[0].loglog(n, [one["seconds"] for one in rows], "o-", color="C0")
    axes[0].set(xlabel="rows", ylabel="seconds", title="fit from disk, second call")
    axes[1].semilogx(n, [one["MB"] for one in rows], "o-", color="C1")
    axes[1].set(
        xlabel="rows", ylabel="MB above the start", title="peak memory", ylim=(0, 1.1 * max(one["MB"] for one in rows))
    )
    axes[2].plot([one["devices"] for one in over], [np.median(one["later"]) for one in over], "o-", color="C2")
    axes[2].set(
        xlabel="virtual devices",
        ylabel="seconds",
        title=f"fit in memory, {os.cpu_count()} cores",
        ylim=(0, 1.1 * max(np.median(one["later"]) for one in over)),
    )
    axes[2].set_xticks([one["devices"] for one in over])
    return figure


def run(options: argparse.Namespace) -> int:
    """All of it; 1 if coefficients differ."""
    folder, status = open_results(options.results), 0
    place = Path(tempfile.mkdtemp(prefix="rows-", dir=options.folder))
    try:
        rows = min(options.file_rows, max(options.rows))
        x, y = (np.concatenate(parts) for parts in zip(*blocks(rows, options.columns), strict=True))
        np.save(place / "x.npy", x)
        np.save(place / "y.npy", y)
        del x, y
        say(f"a file of {rows:,} x {options.columns} rows, {8e-9 * rows * (options.columns + 1):.2f} GB, read as often as it takes")  # fmt: skip
        wanted, lines = apart(1, partial(in_memory, place)), []
        for n in options.rows:
            one = apart(1, partial(streamed, place, n))
            away = (
                float(np.max(np.abs(one["params"] - wanted)) / np.max(np.abs(wanted)))
                if n % rows == 0
                else float("nan")
            )
            lines.append({**one, "differs": away})
            compared = (
                f"within {away:.1e} of memory's" if n % rows == 0 else "its rows are no whole readings of the file"
            )
            say(f"{n:>11,} rows: {one['seconds']:.2f} s in {one['passes']} passes, {n * one['passes'] / one['seconds'] / 1e6:.1f}M "
                f"rows/s (first call {one['first']:.2f} s), peak {one['MB']:.0f} MB above {one['MB before']:.0f}; {compared}")  # fmt: skip
            status |= int(one["status"] != gj.Status.CONVERGED or away > 1e-10)
        over: list[dict[str, Any]] = []
        for devices in options.devices:
            one = apart(devices, partial(over_devices, options.device_rows, options.columns, options.repeats))
            away = float(np.max(np.abs(one["params"] - (over or [one])[0]["params"])) / np.max(np.abs(wanted)))
            over.append({**one, "differs": away})
            say(f"{devices} devices: {np.median(one['later']):.3f} s ({min(one['later']):.3f} to {max(one['later']):.3f}) in "
                f"{one['passes']} passes over {options.device_rows:,} rows, first call {one['first']:.2f} s; within {away:.1e} of one device's")  # fmt: skip
            status |= int(away > 1e-12)
    finally:
        shutil.rmtree(place)
    record = {"options": vars(options), "environment": environment(), "streamed": lines, "devices": over}
    save_json(folder / "results.json", record | {"paper": paper(options)})
    save_figure(folder / "scaling.png", draw(lines, over))
    say(f"figures and a picture are in {folder}")
    return status
