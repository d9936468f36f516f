"""A claim of the lecture, measured: what every such experiment returns, prints and saves."""

import argparse
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure
from rich.table import Table

from .report import console, environment, open_results, save_figure, save_json, say


class Claim(NamedTuple):
    """What is claimed, what was measured, and whether that holds."""

    claim: str
    claimed: str
    measured: str
    holds: bool


class Finding(NamedTuple):
    """What an experiment found: its claims, one picture, and the figures behind both."""

    claims: list[Claim]
    figure: Figure
    figures: dict[str, Any]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return all(claim.holds for claim in self.claims)


def written(value: float) -> str:
    """A figure in a few digits, and counts as counts."""
    return (
        f"{value:,.0f}" if math.isfinite(value) and value == round(value) and 1 <= abs(value) < 1e9 else f"{value:.4g}"
    )


def at_most(claim: str, measured: float, bound: float) -> Claim:
    """The claim that a figure is at most a bound; NaN is not."""
    return Claim(claim, f"at most {written(bound)}", written(measured), bool(measured <= bound))


def at_least(claim: str, measured: float, bound: float) -> Claim:
    """The claim that a figure is at least a bound; NaN is not."""
    return Claim(claim, f"at least {written(bound)}", written(measured), bool(measured >= bound))


def between(claim: str, measured: float, low: float, high: float) -> Claim:
    """The claim that a figure lies between two; NaN does not."""
    return Claim(claim, f"{written(low)} to {written(high)}", written(measured), bool(low <= measured <= high))


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of every such experiment."""
    parser.add_argument("--quick", action="store_true", help="smaller, for a look: seconds instead of minutes")
    parser.add_argument("--results", type=Path, default=Path("results") / name, metavar="DIR", help="where results go")


def investigate(module: ModuleType, quick: bool) -> Finding:
    """The experiment's finding, computed in float64."""
    with jax.enable_x64(True):
        return module.investigate(quick)


def heading(module: ModuleType) -> tuple[str, list[str]]:
    """Title and paragraphs of an experiment, from its docstring."""
    title, *paragraphs = re.split(r"\n\s*\n", (module.__doc__ or "").strip())
    return title.rstrip("."), [" ".join(paragraph.split()) for paragraph in paragraphs]


def show(finding: Finding) -> None:
    """The verdict: a row a claim."""
    table = Table()
    table.add_column("claim", ratio=3)
    table.add_column("claimed", ratio=1)
    table.add_column("measured", ratio=1)
    table.add_column("", no_wrap=True, min_width=5)
    for claim in finding.claims:
        table.add_row(claim.claim, claim.claimed, claim.measured, "holds" if claim.holds else "[bold red]FAILS[/]")
    console.print(table)


def save(folder: Path, name: str, finding: Finding, quick: bool) -> None:
    """The picture and the figures of one experiment."""
    save_figure(folder / f"{name}.png", finding.figure)
    record = {
        "experiment": name,
        "quick": quick,
        "holds": finding.holds,
        "claims": [claim._asdict() for claim in finding.claims],
        "figures": finding.figures,
        "environment": environment(),
    }
    save_json(folder / f"{name}.json", record)


def run(module: ModuleType, name: str, options: argparse.Namespace) -> int:
    """Measure, print the verdict, save; 1 if a claim does not hold."""
    folder = open_results(options.results)
    title, _ = heading(module)
    say(title)
    finding = investigate(module, options.quick)
    show(finding)
    save(folder, name, finding, options.quick)
    say(f"{'all claims hold' if finding.holds else 'NOT ALL CLAIMS HOLD'}; picture and figures are in {folder}")
    return 0 if finding.holds else 1
