"""Whether errors, intervals and p-values are what they say: 10,000 data sets a family, fitted in one batch each.

A 95 % interval should hold the coefficient that drew the data in 95 % of the data sets, and the p-value of a coefficient
that is 0 should be uniform. For normal targets that is exact, by Student's t, at 20 rows as at any number (the normal's
quantile, 1.96, is shown beside it: it is too short there); for the others it comes with many rows, and here there are
1,000. Where the model's variance is wrong, its Fisher errors are, and robust ones (HC3) are not: normal targets whose
spread depends on a feature, and Poisson's regression on counts that are more spread than Poisson's.

Then what inference costs: as much as the fits at most.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from rich.table import Table

import glmjax as gj

from .report import (
    add_results_argument,
    console,
    count,
    environment,
    open_results,
    save_figure,
    save_json,
    say,
    say_endings,
    seconds,
    timed,
)

LEVEL = 0.95
W = (0.4, -0.3, 0.0)  # the last one is 0: its p-values should be uniform
B = 0.3

Draw = Callable[[Array, Array], Array]


class Case(NamedTuple):
    """Data sets of n rows: how targets are drawn from x and a key, and the model that is fitted to them.

    `truth` (q,) are the coefficients as `inference` lists them, `null` where one is 0. `bar`: how far from its level
    coverage may be; None where it is Monte Carlo's error alone, and negative where errors are known to be wrong, by
    that much at least.
    """

    name: str
    n: int
    model: gj.Model
    draw: Draw
    truth: tuple[float, ...]
    null: int
    covariance: Callable[[gj.Optimum], Array] = gj.fisher
    bar: float | None = 0.01


class Seen(NamedTuple):
    """Of each data set and coefficient: the interval, the estimate with its error, its p-value, and the fit's status."""

    lower: Array
    upper: Array
    estimate: Array
    std_error: Array
    p_value: Array
    status: Array


def draw_from(model: gj.Model, params: gj.Dense) -> Draw:
    """Targets of the model itself."""
    return lambda x, key: gj.sample(model, params, x, key)


def uneven(x: Array, key: Array) -> Array:
    """Normal targets, with a standard deviation of exp(x_0)."""
    return B + x @ jnp.asarray(W) + jnp.exp(x[:, 0]) * jax.random.normal(key, x.shape[:1], x.dtype)


def cases() -> list[Case]:
    """The families, each at coefficients of its own kind."""
    one = gj.Dense(jnp.asarray(W), jnp.asarray(B))
    three = gj.Dense(jnp.asarray([W, (-0.2, 0.5, 0.3)]).T, jnp.asarray([B, -0.4]))
    flat = (B, *W)
    each = (B, *W, -0.4, -0.2, 0.5, 0.3)
    spread = gj.glm(gj.negative_binomial(0.5))
    normal, poisson = gj.glm(gj.normal()), gj.glm(gj.poisson())

    def case(name: str, family: gj.Family, params: gj.Dense = one, truth: tuple[float, ...] = flat) -> Case:
        model = gj.glm(family)
        return Case(name, 1000, model, draw_from(model, params), truth, 3)

    trials = jnp.full((1000,), 12.0)

    def share(x: Array, key: Array) -> Array:
        hits = jax.random.binomial(key, trials, jax.nn.sigmoid(B + x @ jnp.asarray(W)), dtype=x.dtype)
        return jnp.stack([hits, trials - hits], axis=1)

    return [
        Case("normal", 20, normal, draw_from(normal, one), flat, 3, bar=None),
        case("logistic", gj.bernoulli()),
        case("probit", gj.bernoulli(link="probit")),
        Case("binomial, 12 trials", 1000, gj.glm(gj.binomial()), share, flat, 3),
        case("categorical, 3 classes", gj.categorical(3, reference=0), three, each),
        case("Poisson", gj.poisson()),
        case("negative binomial", gj.negative_binomial(0.5)),
        Case(
            "the same, alpha estimated", 1000, gj.glm(gj.negative_binomial()), draw_from(spread, one), (*flat, 0.5), 3
        ),
        case("gamma, log link", gj.gamma(link="log")),
        case("inverse Gaussian, log link", gj.inverse_gaussian(link="log")),
        Case("normal, uneven: HC3", 1000, normal, uneven, flat, 3, gj.hc3),
        Case("normal, uneven: Fisher", 1000, normal, uneven, flat, 3, bar=-0.05),
        Case("overdispersed Poisson: HC3", 1000, poisson, draw_from(spread, one), flat, 3, gj.hc3),
        Case("overdispersed Poisson: Fisher", 1000, poisson, draw_from(spread, one), flat, 3, bar=-0.05),
    ]


def simulate(case: Case) -> Callable[[Array, Array], Seen]:
    """The program of a case: from x and keys to what is seen of each data set."""

    def one(x: Array, key: Array) -> Seen:
        data = gj.Data(x, case.draw(x, key), None, None)
        fit = gj.fit_newton(case.model, data)
        table = gj.inference(data, fit, covariance=case.covariance, level=LEVEL)
        return Seen(table.lower, table.upper, table.estimate, table.std_error, table.p_value, fit.status)

    return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--datasets", type=count, default=10_000, help="data sets a family")
    parser.add_argument("--repeats", type=count, default=1, help="timed calls after the first")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="some of the rows of the table, by name")
    add_results_argument(parser, "inference")


def uniformity(p_value: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance of the p-values from uniform ones."""
    p, n = np.sort(p_value), len(p_value)
    return float(max(np.max(np.arange(1, n + 1) / n - p), np.max(p - np.arange(n) / n)))


def judge(case: Case, seen: Seen) -> dict[str, Any]:
    """Coverage of each coefficient, the null's p-values, and whether they are as they should be."""
    ended = np.asarray(seen.status) == gj.Status.CONVERGED
    lower, upper, estimate, error, p_value = (np.asarray(part)[ended] for part in seen[:5])
    n, truth = int(ended.sum()), np.asarray(case.truth)
    coverage = np.mean((lower <= truth) & (truth <= upper), axis=0)
    short = np.mean(np.abs(estimate - truth) <= 1.959964 * error, axis=0)
    luck = np.sqrt(LEVEL * (1 - LEVEL) / n)
    off = np.abs(coverage - LEVEL)
    distance, critical = uniformity(p_value[:, case.null]), 1.95 / np.sqrt(n)  # exceeded once in 1,000 by chance
    if case.bar is None:
        right = bool(np.all(off <= 3 * luck)) and distance <= critical
    elif case.bar > 0:
        right = bool(np.all(off <= max(case.bar, 3 * luck))) and distance <= critical
    else:
        right = bool(np.max(off) >= -case.bar)
    return {"case": case.name, "rows": case.n, "data sets": len(ended), "converged": n, "coverage": coverage,
            "coverage by 1.96": short, "Monte Carlo error": luck, "distance of p-values": distance,
            "its critical value": critical, "as expected": right,
            "p-values": np.quantile(p_value[:, case.null], np.linspace(0, 1, 201))}  # fmt: skip


def ranged(shares: np.ndarray) -> str:
    """The lowest and highest of some shares, in %."""
    return f"{100 * shares.min():.1f} to {100 * shares.max():.1f}"


def table_of(records: list[dict[str, Any]]) -> Table:
    """Coverage and p-values, a row a case."""
    table = Table(title="95 % intervals that hold the truth, of all coefficients", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("rows", "coverage, %", "p off", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for r in records:
        table.add_row(r["case"], f"{r['rows']:,}", ranged(r["coverage"]), f"{r['distance of p-values']:.3f}",
                      "" if r["as expected"] else "FAILS")  # fmt: skip
    return table


def draw(records: list[dict[str, Any]], cases: list[Case]) -> Figure:
    """Coverage of every coefficient; and how the null's p-values lie, against uniform ones."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    luck = 300 * records[0]["Monte Carlo error"]
    left.axvspan(100 * LEVEL - luck, 100 * LEVEL + luck, color="0.88", label="3 Monte Carlo errors")
    left.axvline(100 * LEVEL, color="0.5", linewidth=1)
    right.axhspan(-records[0]["its critical value"], records[0]["its critical value"], color="0.88",
                  label="by chance but once in 1,000")  # fmt: skip
    for i, (r, case) in enumerate(zip(records, cases, strict=True)):
        wrong = case.bar is not None and case.bar < 0
        color = "C3" if wrong else "C0"
        left.plot(100 * r["coverage"], np.full(len(r["coverage"]), i), "o", color=color, markersize=4,
                  markerfacecolor="white")  # fmt: skip
        grid = np.linspace(0, 1, len(r["p-values"]))
        right.plot(r["p-values"], grid - r["p-values"], color=color, linewidth=1, alpha=0.8)
    left.set_yticks(range(len(records)), [f"{r['case']}, {r['rows']:,} rows" for r in records])
    left.set(ylim=(len(records) - 0.5, -0.5), xlabel="% of the data sets whose interval holds the coefficient")
    left.set_title("coverage, a point a coefficient", fontsize=10)
    right.set(xlabel="p", ylabel="share of p-values below p, less p", xlim=(0, 1))
    right.set_title("p-values of a coefficient that is 0", fontsize=10)
    right.plot([], [], color="C0", label="families, and HC3")
    right.plot([], [], color="C3", label="Fisher's errors under a wrong variance")
    right.set_ylim(top=1.3 * right.get_ylim()[1])  # room for the legend
    for axis, corner in ((left, "upper left"), (right, "upper right")):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc=corner)
    return figure


def cost(lanes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of fits and of inference on them, interleaved: logistic lanes of 1,000 x 10 on one design."""
    model = gj.glm(gj.bernoulli())
    keys = jax.random.split(jax.random.key(1), lanes + 1)
    x = jax.random.normal(keys[-1], (1000, 10))
    truth = gj.Dense(jnp.linspace(-0.4, 0.4, 10), jnp.asarray(0.2))
    ys = jax.jit(jax.vmap(lambda key: gj.sample(model, truth, x, key)))(keys[:-1])

    def lane(y: Array) -> gj.Data:
        return gj.Data(x, y, None, None)

    fit = jax.jit(jax.vmap(lambda y: gj.fit_newton(model, lane(y))))
    fits = fit(ys)
    calls = {"fits": partial(fit, ys)}
    for name, covariance in (("inference, Fisher", gj.fisher), ("inference, HC3", gj.hc3)):
        program = jax.jit(jax.vmap(lambda y, fit, by=covariance: gj.inference(lane(y), fit, covariance=by)))
        calls[name] = partial(program, ys, fits)
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call)[0])
    return times


def run(options: argparse.Namespace) -> int:
    """Simulate, show a table, save a picture and a JSON; 1 if a check fails."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return simulate_and_show(options, folder)


def simulate_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    tried = [case for case in cases() if options.cases is None or case.name in options.cases]
    unknown = set(options.cases or ()) - {case.name for case in tried}
    if unknown:
        raise SystemExit(f"--cases {', '.join(map(repr, sorted(unknown)))}: there are {[c.name for c in cases()]}")
    records = []
    for i, case in enumerate(tried):
        x = jax.random.normal(jax.random.key(case.n), (case.n, len(W)))
        keys = jax.random.split(jax.random.key(100 + i), options.datasets)
        found = timed(partial(simulate(case), x, keys), options.repeats)
        record = judge(case, found.result)
        later = float(np.median(found.later))
        say(f"{case.name}: {options.datasets:,} data sets of {case.n:,} rows; first call {found.first:.2f} s (compiles), "
            f"later calls {later:.2f} s, {1e3 * later / options.datasets:.3f} ms to draw, fit and infer")  # fmt: skip
        if record["converged"] < record["data sets"]:
            say_endings(case.name, found.result.status)
        if case.bar is None:
            say(f"{case.name}, by the normal's 1.96 instead of t's quantile: {ranged(record['coverage by 1.96'])} %")
        records.append(record | {"first call, s": found.first, "later calls, s": found.later})
    console.print(table_of(records))
    times = cost(options.datasets, options.repeats)
    medians = {name: float(np.median(each)) for name, each in times.items()}
    say(f"{options.datasets:,} logistic fits of 1,000 x 10 on one design, medians of {options.repeats}: "
        + ", ".join(f"{name} {median:.2f} s" for name, median in medians.items()) + "; inference takes "
        f"{medians['inference, Fisher'] / medians['fits']:.2f} times what the fits do, by HC3 "
        f"{medians['inference, HC3'] / medians['fits']:.2f} times")  # fmt: skip
    save_figure(folder / "inference.png", draw(records, tried))
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), "cases": records,
                                        "cost, s": times})  # fmt: skip
    say(f"picture and figures are in {folder}")
    return 0 if all(r["as expected"] for r in records) else 1
