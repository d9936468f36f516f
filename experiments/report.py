"""What experiments share: the results folder, tables, progress, timing, and lanes spread over the devices."""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import glmjax as gj

console = Console(highlight=False)


def say(line: str) -> None:
    """Print a line as it is; the terminal wraps it, or a file keeps it whole."""
    console.print(line, soft_wrap=True, markup=False)


def count(text: str) -> int:
    """An option that is a whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


def sizes(text: str) -> tuple[int, ...]:
    """An option that is whole numbers between commas."""
    return tuple(count(part) for part in text.split(","))


def positive(text: str) -> float:
    """An option that is a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def penalty(text: str) -> float:
    """An option that is a number, 0 or more."""
    return 0.0 if float(text) == 0 else positive(text)


def add_results_argument(parser: argparse.ArgumentParser, name: str) -> None:
    """The option that says where results go."""
    parser.add_argument("--results", type=Path, default=Path("results") / name, metavar="DIR", help="where results go")


def open_results(folder: Path) -> Path:
    """Make the folder and show that it can be written, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        gj.files.write_atomic(folder / ".writable", lambda file: file.write(b""))
        (folder / ".writable").unlink()
    except OSError as error:
        raise SystemExit(
            f"results cannot be written to {folder}: {error.strerror}; choose another with --results DIR"
        ) from None
    return folder


def save_json(path: Path, record: dict[str, Any]) -> None:
    """A record as JSON; arrays become lists, and numbers that JSON lacks (NaN, infinity) become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, np.ndarray | jax.Array):
            return plain(np.asarray(value).tolist())
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, float | np.floating):
            return float(value) if np.isfinite(value) else None
        return value

    text = json.dumps(plain(record), indent=1, default=str, allow_nan=False)
    gj.files.write_atomic(path, lambda file: file.write(text.encode()))


def save_figure(path: Path, figure: Figure) -> None:
    """A figure as PNG."""

    def write(file: BinaryIO) -> None:
        figure.savefig(file, format="png", dpi=150)

    gj.files.write_atomic(path, write)


def environment() -> dict[str, Any]:
    """Where a figure was measured."""
    return {
        "devices": [str(device) for device in jax.devices()],
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "glmjax": gj.__version__,
        "jax": jax.__version__,
    }


def peak() -> float:
    """The most memory that this process has had, in MB, of its own and not of the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def progress() -> Progress:
    """A progress display: what, how far, what was seen last, and the time it took."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeElapsedColumn(),
        console=console,
    )


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call, waited for."""
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


class Timed(NamedTuple):
    """What a call returned, the seconds it took at first, with compilation, and those it took again."""

    result: Any
    first: float
    later: list[float]


def timed(call: Callable[[], Any], repeats: int) -> Timed:
    """A call, and `repeats` more of it."""
    first, result = seconds(call)
    return Timed(result, first, [seconds(call)[0] for _ in range(repeats)])


def say_times(what: str, timed: Timed, lanes: int) -> None:
    """First call and later calls apart, and what that is for each lane."""
    later = float(np.median(timed.later))
    say(f"{what}: first call {timed.first:.2f} s (compiles), later calls {later:.3f} s ({min(timed.later):.3f} to "
        f"{max(timed.later):.3f}), {1e3 * later / lanes:.2f} ms a fit")  # fmt: skip


def endings(status: Any) -> dict[str, int]:
    """How many lanes ended how, by the names of `gj.Status`."""
    status = np.asarray(status)
    return {one.name: n for one in gj.Status if (n := int(np.sum(status == one)))}


def say_endings(what: str, status: Any) -> dict[str, int]:
    """Print `endings`, and for those that did not end well what happened to them."""
    found = endings(status)
    say(f"{what}: " + ", ".join(f"{n:,} {name}" for name, n in found.items()))
    for one in map(gj.Status.__getitem__, found):
        if not one.ok:
            say(f"  {one.name}: {one.sentence}")
    return found


def data_file(file: Path, what: str, source: str) -> Path | None:
    """Where a file of real data is; None, and a word on where to get it, if it is not there."""
    folder = os.environ.get("GLMJAX_DATA")
    if folder and (Path(folder) / file).exists():
        return Path(folder) / file
    say(f"no {file} " + (f"in GLMJAX_DATA={folder}" if folder else "since GLMJAX_DATA is not set") + ": on drawn data")
    say(f"to run on the real {what}, save {source} to {file} in a folder, and point the environment variable "
        "GLMJAX_DATA at it")  # fmt: skip
    return None


def spread(keys: jax.Array) -> jax.Array:
    """The keys laid over as many local devices as divide their number; what is fitted from them then runs there."""
    devices = jax.local_devices()
    count = max(k for k in range(1, len(devices) + 1) if len(keys) % k == 0)
    mesh = jax.sharding.Mesh(np.asarray(devices[:count]), ("lane",))
    return jax.device_put(keys, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lane")))


def statistics(values: Any) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum over seeds."""
    values = np.asarray(values, float)
    return {"mean": values.mean(), "sd": values.std(ddof=1) if values.size > 1 else np.nan, "min": values.min(),
            "max": values.max()}  # fmt: skip
