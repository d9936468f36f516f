"""Claims a year of motor policies: a Poisson regression with exposure as the offset.

freMTPL2freq (R package CASdatasets; Noll, Salzmann & Wuthrich, 2020) has 678,013 French third-party liability policies:
for how much of a year each was in force, how many claims it had, and what the insurer knew. Counts are Poisson with
mean exposure x rate, and the log of the rate is a sum over factors, so that each level's coefficient is a rate ratio: by
how much it multiplies the claims a year of the reference level, the one with most exposure, everything else the same.
Rows are as they come: exposures above a year and the few policies with many claims are kept. Predictions are held
against the rows that were fitted: the deciles show fit, not what new policies will do.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow.parquet
from matplotlib.figure import Figure
from rich.table import Table

import glmjax as gj

from .report import (
    add_results_argument,
    console,
    count,
    data_file,
    environment,
    open_results,
    save_figure,
    save_json,
    say,
    seconds,
)

FILE = Path("fremtpl2") / "freMTPL2freq.parquet"
ROWS, NULL_DEVIANCE = 678_013, 224_481.14964188  # of that file
BANDS = {  # the first value of each band
    "VehPower": (4, 5, 6, 7, 8, 9, 10, 11, 12),
    "VehAge": (0, 1, 3, 6, 10, 15, 20),
    "DrivAge": (18, 21, 25, 30, 40, 50, 60, 70, 80),
    "BonusMalus": (50, 51, 60, 70, 80, 90, 100, 120),
}
LABELS = ("Area", "VehBrand", "VehGas", "Region")
DENSITY = "Density, doubled"
MODEL = gj.glm(gj.poisson())


class Factor(NamedTuple):
    """What is known of each policy: the names of its levels, and which one each row has."""

    levels: list[str]
    row: np.ndarray


class Policies(NamedTuple):
    """Claims and years of each policy, its factors, and the people per square kilometer where it is."""

    claims: np.ndarray
    years: np.ndarray
    factors: dict[str, Factor]
    density: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--repeats", type=count, default=5, help="timed fits after the first")
    add_results_argument(parser, "claim-frequency")


def banded(values: np.ndarray, starts: tuple[int, ...]) -> Factor:
    """Whole numbers as bands; what lies below the first belongs to it."""
    names = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(starts)]
    return Factor([*names, f"{starts[-1]}+"], np.maximum(np.digitize(values, starts) - 1, 0))


def labeled(values: np.ndarray) -> Factor:
    """Text as levels: B2 stands before B10."""
    found, row = np.unique(np.asarray(values, str), return_inverse=True)
    order = sorted(range(len(found)), key=lambda i: (len(found[i]), found[i]))
    return Factor([str(found[i]) for i in order], np.argsort(order)[row.ravel()])


def organize(columns: dict[str, np.ndarray]) -> Policies:
    """The file's columns as factors; levels that no row has are dropped."""
    factors = {name: labeled(columns[name]) for name in LABELS}
    factors |= {name: banded(columns[name], starts) for name, starts in BANDS.items()}
    for name, (levels, row) in factors.items():
        held, row = np.unique(row, return_inverse=True)
        factors[name] = Factor([levels[i] for i in held], row.ravel())
    return Policies(columns["ClaimNb"].astype(float), columns["Exposure"].astype(float), factors, columns["Density"])


def read(path: Path) -> Policies:
    """The policies of the file."""
    names = ["ClaimNb", "Exposure", "Density", *BANDS, *LABELS]
    try:
        table = pyarrow.parquet.read_table(path, columns=names)
        return organize({name: table[name].to_numpy() for name in names})
    except (OSError, KeyError, pyarrow.ArrowInvalid) as error:
        raise SystemExit(f"{path} cannot be read as freMTPL2freq, with columns {', '.join(names)}: {error}") from None


def imagine(n: int = 8000) -> dict[str, np.ndarray]:
    """The columns of the file, for policies drawn at random."""
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        name: rng.integers(starts[0], starts[-1] + 5, n) for name, starts in BANDS.items()
    }
    columns["BonusMalus"] = np.where(rng.random(n) < 0.5, 50, columns["BonusMalus"])
    levels = {"Area": "ABCDEF", "VehBrand": "1234", "VehGas": ("Diesel", "Regular"), "Region": "12345"}
    columns |= {name: rng.choice(list(some), n) for name, some in levels.items()}
    columns["Density"] = np.round(np.exp(rng.normal(6, 1.5, n))) + 1
    columns["Exposure"] = rng.uniform(0.05, 1, n)
    rate = (
        0.1
        * np.exp(0.015 * (columns["BonusMalus"] - 50) + 0.7 * (columns["DrivAge"] < 25))
        * columns["Density"] ** 0.05
    )
    columns["ClaimNb"] = rng.poisson(rate * columns["Exposure"])
    return columns


def load() -> tuple[Policies, bool]:
    """The file's policies where it is, else drawn ones; and whether they are real."""
    source = "freMTPL2freq (R package CASdatasets; scikit-learn's fetch_openml(data_id=41214)) as Parquet"
    path = data_file(FILE, "policies", source)
    return (read(path), True) if path else (organize(imagine()), False)


class Design(NamedTuple):
    """A column a level other than the reference and one for the density: x, and where each factor's columns are."""

    x: np.ndarray
    column: dict[str, list[int | None]]  # of each level; None: the reference


def design(policies: Policies) -> Design:
    """One-hot columns; the reference of a factor is its level with most years."""
    column: dict[str, list[int | None]] = {}
    parts: list[np.ndarray] = []
    for name, (levels, row) in policies.factors.items():
        reference = int(np.argmax(np.bincount(row, policies.years)))
        kept = [i for i in range(len(levels)) if i != reference]
        column[name] = [None if i == reference else len(parts) + kept.index(i) for i in range(len(levels))]
        parts += [row == i for i in kept]
    column[DENSITY] = [len(parts)]
    return Design(np.column_stack([*parts, np.log2(policies.density)]).astype(float), column)


def fit(x: np.ndarray, policies: Policies) -> tuple[gj.Fit, jax.Array, jax.Array]:
    """The fit, its deviance and the claims it predicts for each row."""
    data = gj.make_data(x, policies.claims, family=MODEL.family, offset=np.log(policies.years))
    found = gj.fit_newton(MODEL, data)
    return found, gj.deviance(MODEL, found.params, data), gj.predict(MODEL, found.params, data.x, data.offset)


def levels_of(policies: Policies, columns: Design, w: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """A record a level: years, claims observed and predicted, and the rate ratio."""
    records = []
    for name, (levels, row) in policies.factors.items():
        years, claims, expected = (np.bincount(row, of) for of in (policies.years, policies.claims, predicted))
        for i, (level, at) in enumerate(zip(levels, columns.column[name], strict=True)):
            ratio = 1.0 if at is None else float(np.exp(w[at]))
            records.append({"factor": name, "level": level, "years": years[i], "claims": claims[i],
                            "predicted": expected[i], "rate ratio": ratio, "reference": at is None})  # fmt: skip
    return records


def deciles(policies: Policies, predicted: np.ndarray) -> list[dict[str, float]]:
    """Policies by predicted frequency, in ten parts of about the same years."""
    order = np.argsort(predicted / policies.years, kind="stable")
    passed = np.cumsum(policies.years[order])
    part = np.minimum((10 * (passed - policies.years[order]) / passed[-1]).astype(int), 9)
    years, claims, expected = (np.bincount(part, of[order]) for of in (policies.years, policies.claims, predicted))
    return [
        {"years": a, "claims": b, "predicted": e / a, "observed": b / a}
        for a, b, e in zip(years, claims, expected, strict=True)
    ]


def show(records: list[dict[str, Any]], density: float, tenths: list[dict[str, float]]) -> None:
    """Rate ratios, a row a level; observed and predicted frequency, a row a decile."""
    table = Table(title="rate ratios", title_justify="left")
    table.add_column("factor")
    for column in ("level", "years", "claims", "claims a year", "rate ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for i, r in enumerate(records):
        first = i == 0 or records[i - 1]["factor"] != r["factor"]
        last = i + 1 == len(records) or records[i + 1]["factor"] != r["factor"]
        ratio = "1    " if r["reference"] else f"{r['rate ratio']:.3f}"
        table.add_row(r["factor"] if first else "", r["level"], f"{r['years']:,.0f}", f"{r['claims']:,.0f}",
                      f"{r['claims'] / r['years']:.4f}", ratio, end_section=last)  # fmt: skip
    table.add_row(DENSITY, "", "", "", "", f"{density:.3f}")
    console.print(table)
    table = Table(title="claims a year by decile of prediction", title_justify="left")
    for column in ("decile", "years", "claims", "predicted", "observed", "observed / predicted"):
        table.add_column(column, justify="right", no_wrap=True)
    for i, one in enumerate(tenths):
        table.add_row(str(i + 1), f"{one['years']:,.0f}", f"{one['claims']:,.0f}", f"{one['predicted']:.4f}",
                      f"{one['observed']:.4f}", f"{one['observed'] / one['predicted']:.3f}")  # fmt: skip
    console.print(table)


def draw(records: list[dict[str, Any]], tenths: list[dict[str, float]]) -> Figure:
    """Observed against predicted frequency, and rate ratios of what has an order, alone and all together."""
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    mosaic: list[Any] = [["deciles", "DrivAge", "BonusMalus"], ["deciles", "VehAge", "VehPower"]]
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1.1, 1, 1))
    left = axes.pop("deciles")
    observed, predicted = (np.array([one[key] for one in tenths]) for key in ("observed", "predicted"))
    error = 2 * np.array([np.sqrt(one["claims"]) / one["years"] for one in tenths])
    ends = [0, 1.1 * max(observed.max(), predicted.max())]
    left.plot(ends, ends, color="0.7", linewidth=1, label="observed = predicted")
    left.errorbar(predicted, observed, error, fmt="o", color="C0", label="a tenth of the years; ± 2 Poisson sd")
    left.set(xlabel="predicted claims a year", ylabel="observed claims a year", xlim=ends, ylim=ends)
    left.set_title("by decile of prediction", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="upper left")
    for name, axis in axes.items():
        own = [r for r in records if r["factor"] == name]
        rates = np.array([r["claims"] / r["years"] for r in own])
        base = next(rate for r, rate in zip(own, rates, strict=True) if r["reference"])
        axis.axhline(1, color="0.8", linewidth=1)
        axis.plot(rates / base, "o--", color="0.6", markerfacecolor="white", linewidth=1, label="claims a year alone")
        axis.plot([r["rate ratio"] for r in own], "o-", color="C0", linewidth=1, label="all factors together")
        axis.set_xticks(range(len(own)), [r["level"] for r in own], rotation=45, fontsize=8)
        axis.set_title(f"{name}: rate ratio", fontsize=10)
    axes["DrivAge"].legend(frameon=False, fontsize=8)
    for axis in (left, *axes.values()):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def run(options: argparse.Namespace) -> int:
    """Fit, check, show tables, save a picture and a JSON; 1 if a check fails."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return fit_and_show(options, folder)


def fit_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    policies, real = load()
    n, claims = len(policies.claims), policies.claims.sum()
    say(f"{n:,} policies, {policies.years.sum():,.0f} years, {claims:,.0f} claims")
    offset = np.log(policies.years)
    bare = gj.make_data(np.empty((n, 0)), policies.claims, family=MODEL.family, offset=offset)
    null_deviance, right = float(gj.null_deviance(MODEL, bare)), True
    line = f"null deviance {null_deviance:.8f}"
    if real and n == ROWS:
        right = abs(null_deviance - NULL_DEVIANCE) < 1e-7
        line += f"; expected {NULL_DEVIANCE:.8f}, difference {null_deviance - NULL_DEVIANCE:.0e}"
    say(line)

    columns = design(policies)
    first, (found, deviance, predicted) = seconds(partial(fit, columns.x, policies))
    later = [seconds(partial(fit, columns.x, policies))[0] for _ in range(options.repeats)]
    gj.check(found)
    predicted = np.asarray(predicted)
    w = np.asarray(found.params.w)
    records, tenths = levels_of(policies, columns, w, predicted), deciles(policies, predicted)
    show(records, float(np.exp(w[-1])), tenths)

    status = gj.Status(int(found.status)).name
    say(f"deviance {float(deviance):.4f}, {100 * (1 - float(deviance) / null_deviance):.2f} % below the null model's")
    say(f"{status}, {int(found.steps)} steps, {int(found.passes)} passes over {n:,} x {columns.x.shape[1]}")
    say(f"first call {first:.2f} s, later calls {np.median(later):.3f} s ({min(later):.3f} to {max(later):.3f}), "
        "with make_data, deviance and predictions")  # fmt: skip
    off = max(abs(r["predicted"] - r["claims"]) for r in records)
    agree = off <= 1e-8 * claims
    say(f"in each of {len(records)} levels the claims predicted add up to those observed: largest difference {off:.0e}, "
        + ("as the score equations have it" if agree else "which the score equations do not allow: FAILS"))  # fmt: skip
    save_figure(folder / "claim_frequency.png", draw(records, tenths))
    figures = {"policies": n, "real": real, "claims": claims, "null deviance": null_deviance, "deviance": deviance,
               "status": status, "steps": found.steps, "passes": found.passes, "first call, s": first,
               "later calls, s": later, "largest difference of totals": off, "levels": records, "deciles": tenths,
               "bias": found.params.b, "rate ratio of a doubled density": np.exp(w[-1])}  # fmt: skip
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **figures})
    if not right:
        say("the null deviance is not the one expected: FAILS")
    say(f"picture and figures are in {folder}")
    return 0 if right and agree else 1
