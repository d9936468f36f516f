"""Whether files survive what can happen to them: `kill -9` while a model is saved or a run goes on, and damage.

A process saves models without end, each over the last; it is killed at a random moment, and the file must then hold one
of them whole, no older than the last one that was said to be saved. Then a good file is cut off at a random place, or
has a random bit turned over: each such file must be refused by a sentence that names it, or load right.

Runs of `train`, of `fit_many` into a folder, and of fits from a source with a checkpoint, are killed at random moments
and started again until they come to their end, which must be that of a run that was left alone, to the bit.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import glmjax as gj

from .report import add_results_argument, count, environment, open_results, progress, save_json, say

MODEL = gj.glm(gj.poisson())
SIZE = 5_000  # coefficients: a file of some 70 kB, which takes a while to write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--kills", type=count, default=1000, help="processes that are killed while they save")
    parser.add_argument("--damages", type=count, default=1000, help="files that are cut off or altered")
    parser.add_argument("--runs", type=count, default=20, help="processes of each kind that are killed in a run")
    parser.add_argument("--seed", type=count, default=1, help="of the moments and places")
    add_results_argument(parser, "file-faults")


def numbered(i: int) -> gj.Fit:
    """A fit all of whose numbers are i; NumPy's, since JAX does not like its process to be copied."""
    one: Any
    many: Any
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


def train_on(folder: Path) -> None:
    """A run of SGD, from where it stands in the folder to its end."""
    gj.cache_compilation(folder.parent / "programs")
    x = np.random.default_rng(0).normal(size=(2_000, 8)).astype(np.float32)
    data = gj.make_data(x, (x[:, 0] * x[:, 1] > 0).astype(np.float32))
    keys = jax.random.split(jax.random.key(0), 4)
    fit = gj.train(folder / "run.gj", gj.mlp(gj.bernoulli(), (16,), "tanh"), data, keys, epochs=150)
    gj.save_state(folder / "ended", (fit.params, fit.history))


def many_on(folder: Path) -> None:
    """Fits of many outcomes, from where they stand in the folder to their end."""
    gj.cache_compilation(folder.parent / "programs")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5))
    ys: Any = rng.poisson(1.5, (4_000, 500)).astype(float)
    with jax.enable_x64():
        data = gj.make_data(x, ys[0])._replace(y=ys)
        axes = (None, gj.Data(None, 0))  # type: ignore[arg-type]
        many = gj.fit_many(gj.fit_newton, MODEL, data, in_axes=axes, memory=1 << 21, folder=folder / "fits")
        gj.save_state(folder / "ended", (np.asarray(many.params.w), np.asarray(many.loss)))


def stream_on(folder: Path) -> None:
    """Fits from a source by each of the solvers, from where they stand in the folder to their end."""
    gj.cache_compilation(folder.parent / "programs")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300_000, 10))
    source = gj.streaming.array_source(x, rng.poisson(np.exp(0.1 * x.sum(1))).astype(float))

    def at(name: str) -> dict[str, Any]:
        return {"rows": 16_384, "checkpoint": folder / name, "every": 0}

    with jax.enable_x64():
        fits = [
            gj.streaming.fit_newton(MODEL, source, **at("newton")),
            gj.streaming.fit_lbfgs(MODEL, source, **at("lbfgs")),
            gj.streaming.fit_elastic_net(MODEL, source, l1=0.01, standardize=True, **at("net")),
        ]
        gj.save_state(folder / "ended", [(fit.params, fit.loss, fit.optimality, fit.passes) for fit in fits])


class Chain(NamedTuple):
    """Runs that were killed, how many came to their end, and how many of those not to the right one."""

    killed: int
    ended: int
    wrong: int


def stop_and_go(begin: Callable[[Path], None], place: Path, kills: int, rng: np.random.Generator) -> Chain:
    """Kill a run again and again, and go on; the first of all is left alone and says what is right."""
    spawned = multiprocessing.get_context("spawn")

    def started(folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        process = spawned.Process(target=begin, args=(folder,))
        process.start()
        return process

    for name in ("compiles", "right"):  # the second is as fast as those that follow
        begun = time.monotonic()
        process = started(place / name)
        process.join()
        seconds = time.monotonic() - begun
    right, folder = (place / "right" / "ended").read_bytes(), place / "killed"
    killed = ended = wrong = 0
    while killed < kills or not ended:
        process = started(folder)
        process.join(seconds * float(rng.uniform(0.5, 1)) if killed < kills else None)
        if process.is_alive():
            process.kill()
            process.join()
            killed += 1
            continue
        ended += 1
        wrong += process.exitcode != 0 or (folder / "ended").read_bytes() != right
        shutil.rmtree(folder)
    return Chain(killed, ended, wrong)


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
    chains = {}
    for begin, name in ((train_on, "train"), (many_on, "fit_many"), (stream_on, "streaming")):
        with tempfile.TemporaryDirectory() as place:
            chains[name] = stop_and_go(begin, Path(place), options.runs, rng)
        killed, ended, wrong = chains[name]
        say(f"{name}: {killed:,} processes killed, {ended:,} runs came to their end: {wrong} not to the same bits")
    well = (
        not any(chain.wrong for chain in chains.values())
        and lost == 0
        and set(ends) <= {"refused by name", "loaded right"}
    )
    record: dict[str, Any] = {"kills": options.kills, "in the middle": midway, "lost": lost, "damaged": ends}
    record["runs"] = {name: chain._asdict() for name, chain in chains.items()}
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **record})
    say(f"figures are in {folder}")
    return 0 if well else 1
