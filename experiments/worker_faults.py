"""Whether a run over several processes survives `kill -9` of one of them: who is left says so and ends, and nothing is lost.

Processes on this machine train one network on rows of which each has its own, and keep a checkpoint every epoch. One of
them is killed at a random moment of the run: a worker, and as often the coordinator. Every other one must end within a
minute, with a sentence that names the one that died and the checkpoint. Then all are started again, go on from the
checkpoint, no earlier than from the last epoch that was said to be kept, and must end on the same bits as a run that
was left alone. Last, a process is stopped (`kill -STOP`), which its own machine cannot tell from one that computes:
JAX's heartbeat has to end the others.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import glmjax as gj

from .processes import end, start
from .report import add_results_argument, count, environment, open_results, progress, save_json, say

ROWS, COLUMNS, EPOCHS = 2_000, 8, 40
LIMIT = 60  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument(
        "--kills",
        type=count,
        default=20,
        help="runs of which a worker is killed, and as many of which the coordinator is",
    )
    parser.add_argument("--processes", type=count, default=2, help="processes of a run")
    parser.add_argument("--devices", type=count, default=2, help="devices of a process")
    parser.add_argument("--epochs", type=count, default=EPOCHS, help="epochs of a run")
    parser.add_argument(
        "--heartbeat", type=count, default=20, help="seconds after which a stopped process counts as dead"
    )
    parser.add_argument("--seed", type=count, default=1, help="of the moments")
    add_results_argument(parser, "worker-faults")


def work(index: int, n: int, address: str, folder: Path, epochs: int, heartbeat: int) -> None:
    """One process: train on its own rows, from the checkpoint if there is one, and keep what comes out."""
    gj.cache_compilation(folder.parent / "programs")
    gj.sharding.initialize(address, n, index, heartbeat=heartbeat)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS))
    y = (x[:, 0] * x[:, 1] > 0).astype(float)
    own = np.array_split(np.arange(ROWS), n)[index]
    data = gj.shard(gj.make_data(x[own], y[own], family=gj.bernoulli()))
    print("joined", flush=True)
    network = gj.mlp(gj.bernoulli(), (16,), "tanh")
    fit = gj.train(folder / "run.gj", network, data, jax.random.key(0), epochs=epochs, batch_size=500, progress=True)
    assert fit.history is not None
    found = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves((fit.params, fit.history, fit.loss))]
    np.save(folder / f"ended{index}.npy", np.concatenate(found))


class Ended(NamedTuple):
    """How a run has ended: each process's exit status and what it said; seconds from the kill to each one's end."""

    status: list[int]
    said: list[str]
    seconds: list[float]


def run_once(options: argparse.Namespace, folder: Path, whom: int | None, how: int, when: float, limit: float) -> Ended:
    """A run in the folder; one process is sent a signal so many seconds after all have joined."""
    n, logs = options.processes, [folder / f"said{i}" for i in range(options.processes)]
    files = [log.open("w") for log in logs]
    arguments = [folder, options.epochs, options.heartbeat]
    processes = start("worker_faults", n, arguments, options.devices, stdout=files, stderr=files)
    try:
        while not all("joined" in log.read_text() for log in logs) and all(p.poll() is None for p in processes):
            time.sleep(0.01)
        at = time.monotonic()
        if whom is not None:
            time.sleep(when)
            at = time.monotonic()
            processes[whom].send_signal(how)
        ends: dict[int, float] = {}
        others = [i for i in range(n) if i != whom or how == signal.SIGKILL]
        while len(ends) < len(others) and time.monotonic() < at + limit:
            ends |= {i: time.monotonic() - at for i in others if i not in ends and processes[i].poll() is not None}
            time.sleep(0.005)
    finally:
        end(processes)
        for file in files:
            file.close()
    seconds = [ends.get(i, np.inf) for i in range(n)]
    return Ended([process.returncode for process in processes], [log.read_text() for log in logs], seconds)


def epochs_of(said: list[str]) -> list[int]:
    """The epochs that were said to be done, and kept."""
    return [int(k) for text in said for k in re.findall(r"^(\d+) of \d+ epochs", text, flags=re.M)]


def trial(options: argparse.Namespace, folder: Path, whom: int, when: float, right: np.ndarray) -> dict[str, Any]:
    """Kill one process at that moment of the run, look at the others, start all again, look at the end."""
    killed = run_once(options, folder, whom, signal.SIGKILL, when, LIMIT)
    done = max(epochs_of(killed.said), default=0)
    others = [i for i in range(options.processes) if i != whom]
    # It was too late where the run had ended, or all others had, with what they were to find.
    finished = killed.status[whom] != -signal.SIGKILL or not any(killed.status[i] for i in others)
    kept = (folder / "run.gj").exists()
    words = [rf"glmjax: process {whom} \(pid \d+ on \S+\) died", re.escape(str(folder / "run.gj")) if done else ""]
    said = all(re.search(word, killed.said[i]) for i in others for word in words)
    again = run_once(options, folder, None, 0, 0.0, 600)
    first = min(epochs_of(again.said), default=options.epochs + 1)
    ends = [np.load(folder / f"ended{i}.npy") if status == 0 else None for i, status in enumerate(again.status)]
    return {
        "killed after s": when, "epochs done": done, "checkpoint": kept, "too late": finished,
        "seconds": max(killed.seconds[i] for i in others), "sentence": said, "status": killed.status,
        "went on from": first - 1, "lost": first <= done,
        "same bits": all(one is not None and one.tobytes() == right.tobytes() for one in ends),
    }  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Kill, look, start again; 1 if one hung, said nothing, or came to another end."""
    folder = open_results(options.results)
    rng, kinds = np.random.default_rng(options.seed), {"worker": 1, "coordinator": 0}
    if options.processes < 2:
        raise SystemExit(f"--processes must be 2 or more, got {options.processes}")
    trials: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name, progress() as shown:
        place = Path(name)

        def fresh(name: str) -> Path:
            shutil.rmtree(place / name, ignore_errors=True)
            (place / name).mkdir()
            return place / name

        for _ in range(2):  # the first one compiles
            left_alone = run_once(options, fresh("right"), None, 0, 0.0, 600)
            if any(left_alone.status):
                raise SystemExit("\n".join(left_alone.said))
        right = np.load(place / "right" / "ended0.npy")
        took = max(left_alone.seconds)
        say(f"a run that is left alone: {took:.1f} s from when all have joined to the end, {options.epochs} epochs")
        for kind, whom in kinds.items():
            task = shown.add_task(f"kill -9 of the {kind}", total=options.kills, seen="")
            while sum(not one["too late"] for one in trials[kind]) < options.kills:
                index = int(rng.integers(1, options.processes)) if whom else 0
                one = trial(options, fresh("killed"), index, took * float(rng.uniform(0, 0.95)), right)
                trials[kind].append(one)
                if not one["too late"]:
                    shown.update(task, advance=1, seen=f"{one['seconds']:.2f} s")
        stopped = run_once(options, fresh("stopped"), 1, signal.SIGSTOP, took / 2, 3 * LIMIT)
    say(
        f"{'killed':<12} {'runs':>4}  others' end, s: median, most   with the sentence   epochs done: from, to   lost   same bits"
    )
    well = True
    for kind, all_of in trials.items():
        runs = [one for one in all_of if not one["too late"]]
        seconds, done = [one["seconds"] for one in runs], [one["epochs done"] for one in runs]
        said, lost, same = (sum(one[name] for one in runs) for name in ("sentence", "lost", "same bits"))
        say(
            f"{kind:<12} {len(runs):>4}  {np.median(seconds):>23.2f}, {max(seconds):4.2f}   {said:>17}   {min(done):>17}, {max(done):>3}   {lost:>4}   {same:>9}"
        )
        well &= max(seconds) < LIMIT and said == same == len(runs) and lost == 0
    hung = max(stopped.seconds[i] for i in range(options.processes) if i != 1)
    say(f"a stopped process: the others ended after {hung:.1f} s, by JAX's heartbeat of {options.heartbeat} s")
    well &= hung < LIMIT
    record = {
        "options": vars(options),
        "environment": environment(),
        "left alone": took,
        "trials": trials,
        "stopped": hung,
    }
    save_json(folder / "results.json", record)
    say(f"figures are in {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
