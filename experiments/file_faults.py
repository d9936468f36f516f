"""Whether a model's file survives what can happen to it: `kill -9` while it is saved, and damage on its way.

A process saves models without end, each over the last; it is killed at a random moment, and the file must then hold one
of them whole, no older than the last one that was said to be saved. Then a good file is cut off at a random place, or
has a random bit turned over: each such file must be refused by a sentence that names it, or load right.
"""

import argparse
import multiprocessing
import os
import signal
import struct
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import glmjax as gj

from .report import add_results_argument, count, environment, open_results, progress, save_json, say

MODEL = gj.glm(gj.poisson())
SIZE = 5_000  # coefficients: a file of some 70 kB, which takes a while to write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--kills", type=count, default=1000, help="processes that are killed while they save")
    parser.add_argument("--damages", type=count, default=1000, help="files that are cut off or altered")
    parser.add_argument("--seed", type=count, default=1, help="of the moments and places")
    add_results_argument(parser, "file-faults")


def numbered(i: int) -> gj.Fit:
    """A fit all of whose numbers are i; NumPy's, since JAX does not like its process to be copied."""
    one, many = np.full((), i, np.int32), np.full(SIZE, i, np.int32)
    params = gj.Dense(many, one)
    return gj.Fit(MODEL, params, one, one, one, one, one, one, params, params, one, one, None)


def save_without_end(path: Path, first: int, pipe: int) -> None:
    """Save one model after the other, and say so."""
    i = first
    while True:
        gj.save(path, MODEL, numbered(i))
        os.write(pipe, struct.pack("q", i))
        i += 1


def number_of(path: Path) -> int:
    """Which model a file holds; raises if it is not one whole."""
    fit = gj.load(path).fit
    found = {int(value) for part in (*fit.params, fit.loss, fit.l2) for value in np.unique(np.asarray(part))}
    if len(found) != 1:
        raise AssertionError(f"{path} mixes the models {sorted(found)}")
    return found.pop()


def kill(path: Path, first: int, wait: float) -> int:
    """The last model that was said to be saved by a process that was killed after so many seconds; first - 1 if none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_without_end(path, first, writer)
        finally:
            os._exit(1)
    os.close(writer)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    return struct.unpack("q", said[-8:])[0] if said else first - 1


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content, cut off or with one bit turned over."""
    at = int(rng.integers(len(content)))
    if rng.random() < 0.5:
        return content[:at]
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def outcome(path: Path, right: int) -> str:
    """What comes of loading a damaged file."""
    try:
        return "loaded right" if number_of(path) == right else "ANSWERED WRONGLY"
    except ValueError as error:
        return "refused by name" if str(path) in str(error) else f"NOT NAMED: {error}"
    except Exception as error:  # whatever it is, it is what this experiment looks for
        return f"CRASHED: {type(error).__name__}"


def run(options: argparse.Namespace) -> int:
    """Kill, damage, and say what was lost; 1 if anything was."""
    folder = open_results(options.results)
    rng = np.random.default_rng(options.seed)
    spawned = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(1, spawned) as reader, progress() as shown:
        path = Path(place) / "model.gj"
        gj.save(path, MODEL, numbered(0))
        lost, midway, at = 0, 0, 0
        task = shown.add_task("killed while saving", total=options.kills, seen="")
        for _ in range(options.kills):
            said = kill(path, at + 1, float(rng.uniform(0.005, 0.1)))
            try:
                found = reader.submit(number_of, path).result()
            except (ValueError, AssertionError) as error:
                lost, found = lost + 1, at
                say(f"LOST: {error}")
            lost += found < said
            midway += any(other != path for other in path.parent.iterdir())
            for other in path.parent.iterdir():
                if other != path:
                    other.unlink()  # a temporary file of the killed process
            at = max(found, said)
            shown.update(task, advance=1, seen=f"{at} saved")
        content, ends = path.read_bytes(), dict[str, int]()
        task = shown.add_task("cut off or altered", total=options.damages, seen="")
        broken = Path(place) / "damaged.gj"
        for _ in range(options.damages):
            broken.write_bytes(damaged(content, rng))
            end = reader.submit(outcome, broken, at).result()
            ends[end] = ends.get(end, 0) + 1
            shown.advance(task)
    say(
        f"{options.kills:,} processes killed, {midway:,} of them in the middle of a file, {at:,} models saved: {lost} lost"
    )
    say(f"{options.damages:,} damaged files: " + ", ".join(f"{number:,} {end}" for end, number in ends.items()))
    well = lost == 0 and set(ends) <= {"refused by name", "loaded right"}
    record: dict[str, Any] = {"kills": options.kills, "in the middle": midway, "lost": lost, "damaged": ends}
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **record})
    say(f"figures are in {folder}")
    return 0 if well else 1
