"""A race on one problem: first calls, who reached the optimum, and interleaved runs of those who did."""

import argparse
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

from ..report import seconds
from .peers import Fitted, Program
from .problems import Problem, optimality

MARGIN = 10  # times the tolerance that a program may be off
# Seconds of untimed runs, two at least, before a timed one. Nobody is to pay for the threads that another left spinning
# (for a tenth of a second), or for memory that a virtual machine has given back to its host meanwhile, which is slow to
# touch again.
WARM_UP = 0.3


class Entry(NamedTuple):
    """What came of one program: how near it came, its first call and later calls, and why it was not raced on."""

    program: Program
    fitted: Fitted | None
    loss: float
    gradient: float
    first: float
    later: list[float]
    note: str

    @property
    def reached(self) -> bool:
        """Whether it may stand in the ratio."""
        return bool(self.later)

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.later)) if self.later else np.nan

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "program": self.program.who,
            "threads": self.program.threads or "default",
            "first call, s": self.first,
            "later calls, s": self.later,
            "median, s": self.median,
            "loss": self.loss,
            "largest gradient": self.gradient,
            "note": self.note,
        }


def enter(program: Program, problem: Problem, options: argparse.Namespace) -> Entry:
    """The first call of a program, and whether it goes on."""
    try:
        first, fitted = seconds(partial(program.fit, problem, options.tol, options.max_iter))
    except Exception as error:  # whatever a program raises is its result
        text = " ".join(str(error).split())
        return Entry(program, None, np.nan, np.nan, np.nan, [], f"failed: {type(error).__name__}: {text}")
    first = first if fitted.seconds is None else fitted.seconds
    loss, gradient = optimality(problem, np.asarray(fitted.w), float(fitted.b))
    if not gradient <= MARGIN * options.tol:
        return Entry(program, fitted, loss, gradient, first, [], "not reached")
    once = program.peer != "glmjax" and first > options.once
    return Entry(program, fitted, loss, gradient, first, [first] if once else [], "timed once" if once else "")


def race(problem: Problem, contestants: list[Program], options: argparse.Namespace, shown: Progress) -> list[Entry]:
    """First calls of all, then interleaved runs of those that reached the optimum, another one first each time."""
    n, d = problem.x.shape
    title = f"{problem.family} {n}x{d} {problem.design}"
    total = len(contestants) * (options.repeats + 1)
    task = shown.add_task(f"{title:<32}", total=total, seen="")
    entries: list[Entry] = []
    for program in contestants:
        shown.update(task, seen=program.name)
        before = [e for e in entries if e.program.who == program.who and not e.reached and e.note]
        if before:  # another number of threads would come no nearer
            entries.append(before[0]._replace(program=program, first=np.nan))
        else:
            entries.append(enter(program, problem, options))
        shown.advance(task)
    running = [e for e in entries if not e.note]
    for repeat in range(options.repeats):
        for i in range(len(running)):
            entry = running[(i + repeat) % len(running)]
            shown.update(task, seen=entry.program.name)
            call = partial(entry.program.fit, problem, options.tol, options.max_iter)
            warm = [seconds(call)[0], seconds(call)[0]]
            while sum(warm) < WARM_UP:
                warm.append(seconds(call)[0])
            time, fitted = seconds(call)
            entry.later.append(time if fitted.seconds is None else fitted.seconds)
            shown.advance(task)
    shown.update(task, completed=total, seen="")
    return entries


def best_of(entries: list[Entry]) -> Entry | None:
    """The fastest of those that reached the optimum."""
    return min((e for e in entries if e.reached), key=lambda e: e.median, default=None)
