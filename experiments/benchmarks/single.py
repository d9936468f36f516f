"""One fit of a GLM: seconds from NumPy to the coefficients, against scikit-learn, glum, statsmodels and R.

Everybody fits the same unpenalized Poisson or logistic regression in float64 to the same tolerance, in whatever form
they take it; how near they came is then measured alike for all: max|g|, the largest derivative of the mean loss in
standardized columns, and the loss above the lowest. Who is more than 10 times above the tolerance is marked "not
reached" and left out of the ratio. Runs are interleaved, each after untimed ones of the same program; peers are
raced at all BLAS threads and at one; a first call, where glmjax compiles, stands apart.
"""

import argparse
import re
from pathlib import Path

import jax

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
from .costs import floor, fresh_process, split
from .peers import programs
from .problems import DESIGNS, FAMILIES, Size, draw
from .race import Entry, race
from .tables import draw_races, show, summarize, tell


def size(text: str) -> Size:
    """An option that is rows x columns."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) > int(match[2]) > 0:
        raise argparse.ArgumentTypeError(f"must be rows x columns, more rows than columns, as 200000x20; got {text}")
    return Size(int(match[1]), int(match[2]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    sizes = [Size(200_000, 20), Size(200_000, 100), Size(500_000, 50)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="NxD", help="rows x columns of x")
    parser.add_argument("--families", choices=FAMILIES, nargs="+", default=list(FAMILIES), help="what is fitted")
    parser.add_argument("--designs", choices=DESIGNS, nargs="+", default=list(DESIGNS), help="standard normal columns"
                        ", or correlated ones on scales from 1e-2 to 1e2 that are not centered")  # fmt: skip
    parser.add_argument("--tol", type=positive, default=1e-6, help="tolerance that everybody is given")
    parser.add_argument("--repeats", type=count, default=7, help="timed runs of each, interleaved")
    parser.add_argument("--max-iter", type=count, default=1000, help="iterations anybody may take")
    parser.add_argument("--once", type=positive, default=10.0, metavar="SECONDS",
                        help="a peer whose first call takes longer is timed by this call only")  # fmt: skip
    parser.add_argument("--slow", type=positive, default=5e6, metavar="NUMBERS", help="rows times columns up to which "
                        "statsmodels and R, which take long, are raced too")  # fmt: skip
    parser.add_argument("--memory", choices=("glmjax", "all", "none"), default="glmjax",
                        help="whose peak memory is measured, each in a fresh process")  # fmt: skip
    add_results_argument(parser, "benchmark-single")


def run(options: argparse.Namespace) -> int:
    """Race on every problem, print tables and ratios, save a picture and a JSON."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return race_all(options, folder)


def race_all(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    fast, slow, absent = programs()
    for line in absent:
        say(line)
    say(f"tolerance {options.tol:g}, at most {options.max_iter} iterations, {options.repeats} interleaved runs of each; "
        f"a peer that takes over {options.once:g} s is timed once")  # fmt: skip
    if any(n * d > options.slow for n, d in options.sizes):
        names = " and ".join(dict.fromkeys(program.peer for program in slow))
        say(f"{names}: slow, left out where x has over {options.slow:g} numbers; --slow asks for more")
    if options.memory != "none" and not Path("/proc/self/clear_refs").exists():
        say("peak memory is measured on Linux only")
        options.memory = "none"
    races: list[tuple[str, list[Entry]]] = []
    records = []
    problems = [(family, design) for family in options.families for design in options.designs]
    for family, design, shape in ((*problem, shape) for problem in problems for shape in options.sizes):
        problem = draw(family, design, shape)
        contestants = fast + (slow if shape.n * shape.d <= options.slow else [])
        jax.clear_caches()  # so that the first call compiles
        with progress() as shown:
            entries = race(problem, contestants, options, shown)
        limit = floor(problem, options.repeats)
        parts = split(problem, options.tol, options.max_iter, options.repeats)
        measured = {"glmjax": fast[:1], "none": [], "all": [program for program in contestants if not program.threads]}
        memory = {
            program.name: fresh_process(program.name, family, design, shape, options.tol, options.max_iter)
            for program in measured[options.memory]
            if program.peer != "R"  # it works in a process of its own
        }
        races.append((f"{family} {shape} {design}", entries))
        show(entries, races[-1][0])
        figures = tell(entries, limit, parts, memory)
        head = {"family": family, "design": design, "n": shape.n, "d": shape.d}
        records.append(head | figures | {"programs": [entry.record() for entry in entries]})
    summarize(races)
    save_figure(folder / "times.png", draw_races(races, len(options.sizes), options.repeats))
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), "problems": records})
    say(f"on {len(jax.devices())} {jax.devices()[0].device_kind} device(s), jax {jax.__version__}")
    say(f"picture and figures are in {folder}")
    return 0
