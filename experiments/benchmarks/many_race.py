"""A race on one batch: first calls of all, and interleaved runs of those whose lanes reached the optimum."""

import argparse
from functools import partial
from typing import Any

import numpy as np
from rich.progress import Progress

from ..report import seconds
from .many_problems import Batch, gradients
from .many_programs import OWN
from .peers import Program
from .race import MARGIN, WARM_UP, Entry, best_of

MAX_ITER = 1000  # iterations anybody may take


def lanes_of(entry: Entry) -> int:
    """How many fits a call of the program makes."""
    return len(entry.fitted.b) if entry.fitted else 0


def enter(program: Program, batch: Any, options: argparse.Namespace) -> Entry:
    """The first call of a program, and whether it goes on. `later` of the entry are seconds a fit."""
    try:
        first, fitted = seconds(partial(program.fit, batch, options.tol, MAX_ITER))
    except Exception as error:  # whatever a program raises is its result
        text = " ".join(str(error).split())
        return Entry(program, None, np.nan, np.nan, np.nan, [], f"failed: {type(error).__name__}: {text}")
    first = first if fitted.seconds is None else fitted.seconds
    found = gradients(batch, np.asarray(fitted.w), np.asarray(fitted.b))
    missed, largest = int(np.sum(~(found <= MARGIN * options.tol))), float(np.max(found))
    if missed:
        return Entry(program, fitted, np.nan, largest, first, [], f"not reached: {missed} of {len(found)} lanes")
    once = program.peer not in OWN and first > options.once
    later = [first / len(found)] if once else []
    return Entry(program, fitted, np.nan, largest, first, later, "timed once" if once else "")


def run_again(program: Program, batch: Any, tol: float) -> float:
    """Seconds of a later call, after untimed ones."""
    call = partial(program.fit, batch, tol, MAX_ITER)
    warm = seconds(call)[0]
    while warm < WARM_UP:
        warm += seconds(call)[0]
    time, fitted = seconds(call)
    return time if fitted.seconds is None else fitted.seconds


def race(batch: Batch, contestants: list[Program], options: argparse.Namespace, shown: Progress) -> list[Entry]:
    """First calls of all, then interleaved runs of those that reached the optimum, another one first each time."""
    total = len(contestants) * (options.repeats + 1)
    task = shown.add_task(f"{batch.kind.title:<50}", total=total, seen="")
    entries: list[Entry] = []
    for program in contestants:
        shown.update(task, seen=program.name)
        entries.append(enter(program, batch, options))
        shown.advance(task)
    running = [entry for entry in entries if not entry.note]
    for repeat in range(options.repeats):
        for i in range(len(running)):
            entry = running[(i + repeat) % len(running)]
            shown.update(task, seen=entry.program.name)
            entry.later.append(run_again(entry.program, batch, options.tol) / lanes_of(entry))
            shown.advance(task)
    shown.update(task, completed=total, seen="")
    return entries


def named(entries: list[Entry], who: str) -> Entry | None:
    """The program of that name, where it reached the optimum."""
    return next((entry for entry in entries if entry.program.who == who and entry.reached), None)


def best_peer(entries: list[Entry]) -> Entry | None:
    """The fastest peer of those that reached the optimum."""
    return best_of([entry for entry in entries if entry.program.peer not in OWN])
