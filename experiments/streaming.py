"""Rows beyond memory: how fast a Poisson regression passes over a file, against the same reader with no model behind it.

Draws `--rows` x `--columns` normal numbers and Poisson counts to a temporary .npy and a Parquet file, a block at a time;
reads each with no model; fits each by passes over the file; and compares the coefficients with those of the fit in
memory, where that has room. Files beyond memory come from the disk in every pass, so the page cache lets go of them
before each; then once more from the page cache, where a small file stays. The peak of memory is that of the whole
process above what it was before the first row, compiled programs included; the fit in memory comes after it is read
off. The files are deleted at the end.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from pyarrow import parquet

import glmjax as gj

from .report import add_results_argument, count, environment, open_results, peak, positive, save_json, say

BLOCK = 1 << 17  # rows that are drawn at a time
MODEL = gj.glm(gj.poisson())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--rows", type=count, default=2_000_000, help="rows")
    parser.add_argument("--columns", type=count, default=20, help="columns of x")
    parser.add_argument("--repeats", type=count, default=3, help="fits and readings that are timed, interleaved")
    parser.add_argument("--memory", type=positive, default=4.0, help="GB that the fit in memory may take")
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary files go")
    parser.add_argument("--no-parquet", action="store_true", help="the .npy only, half the disk")
    add_results_argument(parser, "streaming")


def blocks(rows: int, columns: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same rows each time, a block at a time."""
    w = 0.2 * np.random.default_rng(0).standard_normal(columns)
    for start in range(0, rows, BLOCK):
        rng = np.random.default_rng([1, start])
        x = rng.standard_normal((min(BLOCK, rows - start), columns))
        yield x, rng.poisson(np.exp(x @ w - 1)).astype(float)


def write(folder: Path, rows: int, columns: int, both: bool) -> None:
    """The files."""
    names = [f"x{j}" for j in range(columns)]
    shapes = {"x": (rows, columns), "y": (rows,)}
    files = {name: (folder / f"{name}.npy").open("wb") for name in shapes}  # closed with the table, below
    for name, shape in shapes.items():
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(files[name], header)
    schema = pa.schema([(name, pa.float64()) for name in [*names, "y"]])
    table = parquet.ParquetWriter(folder / "rows.parquet", schema, use_dictionary=False) if both else None
    for x, y in blocks(rows, columns):
        x.tofile(files["x"])
        y.tofile(files["y"])
        if table is not None:
            table.write_table(pa.table([*np.ascontiguousarray(x.T), y], schema=schema))
    for file in [*files.values(), *([] if table is None else [table])]:
        file.close()


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call of the host."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def from_disk(source: gj.streaming.Source, files: list[Path]) -> gj.streaming.Source:
    """The source, nothing of whose files is in memory when a pass begins."""

    def read() -> Iterator[gj.Data]:
        for path in files:
            with path.open("rb") as file:
                os.fsync(file)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return iter(source)

    return replace(source, read=read)


def measure(name: str, source: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Readings and fits of one source."""
    first, fit = seconds(lambda: gj.streaming.fit_newton(MODEL, source, progress=True))
    gj.check(fit)
    passes, read, fitted = int(fit.passes), [], []
    for _ in range(options.repeats):
        read.append(options.rows / seconds(lambda: gj.streaming.count_rows(source))[0])
        fitted.append(options.rows * passes / seconds(lambda: gj.streaming.fit_newton(MODEL, source))[0])
    alone, behind = np.median(read), np.median(fitted)
    ratios = [f / r for f, r in zip(fitted, read, strict=True)]
    say(f"{name}: reading alone {alone / 1e6:.1f}M rows/s, with a model {behind / 1e6:.1f}M rows/s in {passes} passes, "
        f"{100 * np.median(ratios):.0f} % ({100 * min(ratios):.0f} to {100 * max(ratios):.0f}); first fit {first:.1f} s")  # fmt: skip
    return {"read": read, "fitted": fitted, "ratio": ratios, "passes": passes, "first": first, "fit": fit.params}


def run(options: argparse.Namespace) -> int:
    """Write, read, fit, compare; 1 if a fit differs from that in memory."""
    folder = open_results(options.results)
    record: dict[str, Any] = {"options": vars(options), "environment": environment()}
    place = Path(tempfile.mkdtemp(prefix="rows-", dir=options.folder))
    try:
        with jax.enable_x64(True):
            return compare(options, folder, place, record)
    finally:
        shutil.rmtree(place)


def compare(options: argparse.Namespace, folder: Path, place: Path, record: dict[str, Any]) -> int:
    """All of it, in float64."""
    before = peak()
    rows, columns = options.rows, options.columns
    needed, free = 8 * rows * (columns + 1) * (1 if options.no_parquet else 2), shutil.disk_usage(place).free
    if needed > 0.9 * free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed in {place}, {free / 1e9:.1f} are free; see --folder")
    took, _ = seconds(lambda: write(place, rows, columns, not options.no_parquet))
    say(f"{rows:,} x {columns} rows written in {took:.0f} s, {needed / 1e9:.1f} GB")
    x, y = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))
    files = {".npy": [place / "x.npy", place / "y.npy"], "Parquet": [place / "rows.parquet"]}
    held = {".npy": gj.streaming.array_source(x, y)}
    if not options.no_parquet:
        names = [f"x{j}" for j in range(columns)]
        held["Parquet"] = gj.streaming.parquet_source(place / "rows.parquet", names, "y")
    sources = {}
    for name, source in held.items():
        if hasattr(os, "posix_fadvise"):
            sources[f"{name}, from disk"] = from_disk(source, files[name])
        sources[f"{name}, from the page cache"] = source
    found = {name: measure(name, source, options) for name, source in sources.items()}
    record |= {"peak MB": peak() - before, "MB before": before, "sources": found}
    say(f"peak memory {record['peak MB']:.0f} MB above the {before:.0f} MB before the first row; x is "
        f"{8e-6 * rows * columns:.0f} MB; load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    status = 0
    if 16 * rows * (columns + 2) < 1e9 * options.memory:
        wanted = jax.tree.leaves(gj.fit_newton(MODEL, gj.make_data(np.asarray(x), np.asarray(y))).params)
        for name, one in found.items():
            away = max(np.max(np.abs(a / b - 1)) for a, b in zip(jax.tree.leaves(one["fit"]), wanted, strict=True))
            say(f"{name}: coefficients differ from those in memory by {away:.1e}, relative")
            record["sources"][name]["differs"] = away
            status |= int(away > 1e-10)
    save_json(folder / "results.json", record)
    say(f"figures are in {folder}")
    return status
