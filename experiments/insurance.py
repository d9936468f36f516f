"""Whether a risk factor weighs the same everywhere: one Poisson regression a segment of motor policies.

The 678,013 French motor policies of `claim-frequency`, cut into 242 segments by region and brand of the vehicle. Each
gets its own regression of claims on the driver's age, bonus-malus, the vehicle's age and fuel, with the years in force
as exposure: a few segments have half of all policies, and many have too few claims to say anything.

The covariates are groups, so that policies alike in all of them (72 patterns) can be added up: the sum of Poisson
counts is Poisson in the sum of the years, and the likelihood is the same function of the coefficients, up to a
constant. All segments then share one x of 72 rows, with their own claims and years; a pattern that a segment lacks has
weight 0. That is 72 rows a lane instead of up to 54,103, no lane waits for a longer one, and the lanes share one matrix
product a step. One segment is fitted policy by policy, too, to check.

Three answers: complete pooling (one model for all), no pooling (each segment alone; without a claim among, say, the
young, that effect goes to minus infinity and the lane ends SEPARATED), and partial pooling: a segment's differences from
the pooled model, its level's included, under a normal prior, which is a ridge penalty with the pooled prediction as
offset. Its standard deviation is chosen by the half of the policies that was not fitted, from a grid: priors x segments
are one more axis of the same `jax.vmap`.
"""

import argparse
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

from .claim_frequency import Policies, load
from .report import (
    Timed,
    add_results_argument,
    console,
    count,
    environment,
    open_results,
    save_figure,
    save_json,
    say,
    say_endings,
    say_times,
    timed,
)

EFFECTS: dict[str, tuple[str, tuple[str, ...]]] = {  # a column each: the factor, and the levels where it is 1
    "driver under 25": ("DrivAge", ("18-20", "21-24")),
    "driver 70 or older": ("DrivAge", ("70-79", "80+")),
    "bonus-malus 51 to 69": ("BonusMalus", ("51-59", "60-69")),
    "bonus-malus 70 to 99": ("BonusMalus", ("70-79", "80-89", "90-99")),
    "bonus-malus 100 or more": ("BonusMalus", ("100-119", "120+")),
    "vehicle under a year": ("VehAge", ("0",)),
    "vehicle 10 years or older": ("VehAge", ("10-14", "15-19", "20+")),
    "regular fuel": ("VehGas", ("Regular",)),
}
SHOWN = "bonus-malus 100 or more"
ALONE = gj.glm(gj.poisson())
APART = gj.glm(gj.poisson(), bias=False)  # a column of ones is penalized as the others are
PRIORS = np.geomspace(0.02, 2, 13)


class Segments(NamedTuple):
    """Policies added up: x (patterns, d) that all segments share, and claims and years, (segments, patterns)."""

    names: list[str]
    x: np.ndarray
    claims: np.ndarray
    years: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--repeats", type=count, default=5, help="timed calls after the first")
    parser.add_argument("--top", type=count, default=12, help="segments in the table")
    add_results_argument(parser, "insurance")


def columns_of(policies: Policies) -> np.ndarray:
    """`EFFECTS` of each policy, (n, d)."""
    return np.stack([np.isin(policies.factors[name].levels, levels)[policies.factors[name].row]
                     for name, levels in EFFECTS.values()], 1)  # fmt: skip


def add_up(policies: Policies, some: np.ndarray) -> Segments:
    """Claims and years of some of the policies, by segment and pattern; segments and patterns are those of all."""
    x = columns_of(policies)
    _, first, pattern = np.unique(x @ (1 << np.arange(x.shape[1])), return_index=True, return_inverse=True)
    (regions, region), (brands, brand) = policies.factors["Region"], policies.factors["VehBrand"]
    held, segment = np.unique(region * len(brands) + brand, return_inverse=True)
    names = [f"{regions[i // len(brands)]} {brands[i % len(brands)]}" for i in held]
    shape = len(names), len(first)
    cell = (segment.ravel() * shape[1] + pattern.ravel())[some]
    claims, years = (np.bincount(cell, of[some], shape[0] * shape[1]).reshape(shape)
                     for of in (policies.claims, policies.years))  # fmt: skip
    return Segments(names, x[first].astype(float), claims, years)


def cells(x: Array, claims: Array, years: Array, eta: Array | float = 0.0) -> gj.Data:
    """One segment's patterns; those without a policy have weight 0."""
    seen = years > 0
    offset = jnp.where(seen, jnp.log(jnp.where(seen, years, 1)) + eta, 0)
    return gj.make_data(x, claims, weight=seen.astype(x.dtype), offset=offset)


def fit_one(x: Array, claims: Array, years: Array) -> gj.Fit:
    """One segment, or all of them added up."""
    return gj.fit_newton(ALONE, cells(x, claims, years))


def differ(x: Array, eta: Array, sd: Array, claims: Array, years: Array) -> gj.Fit:
    """One segment's differences from the pooled eta, each with a normal prior of that standard deviation."""
    data = cells(jnp.concatenate([jnp.ones((len(x), 1), x.dtype), x], 1), claims, years, eta)
    return gj.fit_newton(APART, data, l2=1 / (sd**2 * jnp.sum(years > 0)))  # the loss is a mean over patterns


fit_alone = jax.jit(jax.vmap(fit_one, in_axes=(None, 0, 0)))
fit_partly = jax.jit(jax.vmap(jax.vmap(differ, in_axes=(None, None, None, 0, 0)), in_axes=(None, None, 0, None, None)))


@jax.jit
def errors_of(x: Array, params: gj.Dense, claims: Array, years: Array) -> Array:
    """Standard errors of w, (segments, d); not finite where the information is singular."""

    def one(params: gj.Dense, claims: Array, years: Array) -> Array:
        information = gj.fisher_information(ALONE, params, cells(x, claims, years))
        return jnp.sqrt(jnp.diagonal(jnp.linalg.inv(information)))[1:]

    return jax.vmap(one)(params, claims, years)


def log_likelihood(segments: Segments, eta: np.ndarray) -> np.ndarray:
    """Poisson's, (..., segments), added up over patterns, less what does not depend on eta (..., patterns)."""
    return np.sum(segments.claims * eta - segments.years * np.exp(eta), axis=-1)


class Choice(NamedTuple):
    """What was gained on the half that was not fitted: its log-likelihood above complete pooling's."""

    gains: np.ndarray  # by prior
    best: int
    estimated: int  # segments whose unpooled fit exists
    alone: float  # gained in these without pooling
    partly: float  # gained in these at the best prior
    timed: Timed


def choose(policies: Policies, repeats: int) -> Choice:
    """Fit one half of the policies at all `PRIORS`, and see what each says of the other half."""
    half = np.random.default_rng(0).random(len(policies.claims)) < 0.5
    train, held = add_up(policies, half), add_up(policies, ~half)
    pooled = fit_one(jnp.asarray(train.x), jnp.asarray(train.claims.sum(0)), jnp.asarray(train.years.sum(0)))
    eta = np.asarray(gj.linear_predictor(ALONE, pooled.params, jnp.asarray(train.x)))
    grid = timed(partial(fit_partly, train.x, eta, PRIORS, train.claims, train.years), repeats)
    w = np.asarray(grid.result.params.w)
    alone = fit_alone(train.x, train.claims, train.years)
    exists = np.asarray(alone.status) == gj.Status.CONVERGED
    base = log_likelihood(held, eta)
    gains = log_likelihood(held, eta + w[..., :1] + w[..., 1:] @ held.x.T) - base
    apart = log_likelihood(held, np.asarray(alone.params.b)[:, None] + np.asarray(alone.params.w) @ held.x.T) - base
    best = int(np.argmax(gains.sum(1)))
    return Choice(gains.sum(1), best, int(exists.sum()), apart[exists].sum(), gains[best, exists].sum(), grid)


def check(policies: Policies, segments: Segments, fits: gj.Fit) -> tuple[str, int, float]:
    """The largest segment that converged, fitted policy by policy: its name and policies, the largest difference."""
    well = np.asarray(fits.status) == gj.Status.CONVERGED
    largest = int(np.argmax(np.where(well, segments.years.sum(1), 0)))
    (regions, region), (brands, brand) = policies.factors["Region"], policies.factors["VehBrand"]
    own = np.char.add(np.char.add(np.array(regions), " ")[:, None], np.array(brands))[region, brand]
    own = own == segments.names[largest]
    data = gj.make_data(columns_of(policies)[own].astype(float), policies.claims[own], family=ALONE.family,
                        offset=np.log(policies.years[own]))  # fmt: skip
    w = gj.fit_newton(ALONE, data).params.w
    return segments.names[largest], len(data.x), float(jnp.max(jnp.abs(w - fits.params.w[largest])))


def table_of(records: list[dict[str, Any]], pooled: float) -> Table:
    """Rate ratios of `SHOWN`, a row a segment."""
    table = Table(title=f"{SHOWN}: rate ratio; complete pooling {pooled:.2f}", title_justify="left")
    table.add_column("segment", no_wrap=True)
    for column in ("years", "claims", "alone", "95 % interval", "partly", "alone ended"):
        table.add_column(column, justify="right", no_wrap=True)
    for r in records:
        interval = f"{r['lower']:.2f} to {r['upper']:.2f}" if np.isfinite(r["upper"]) else ""  # not where separated
        table.add_row(r["segment"], f"{r['years']:,.0f}", f"{r['claims']:,.0f}", f"{r['alone']:.2f}", interval,
                      f"{r['partly pooled']:.2f}", r["status"])  # fmt: skip
    return table


def draw(records: list[dict[str, Any]], pooled: float, choice: Choice) -> Figure:
    """Forest of the largest segments; all segments against their claims; and what the prior gains."""
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    mosaic: list[Any] = [["forest", "funnel"], ["forest", "gain"]]
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1, 1.15), height_ratios=(1.4, 1))
    forest, funnel, gain = axes["forest"], axes["funnel"], axes["gain"]
    rows = [r for r in records if np.isfinite(r["upper"])][:30]
    at = np.arange(len(rows))
    alone, low, high = (np.array([r[key] for r in rows]) for key in ("alone", "lower", "upper"))
    forest.axvline(pooled, color="0.6", linewidth=1, label="complete pooling")
    forest.errorbar(alone, at, xerr=[alone - low, high - alone], fmt="o", color="C0", markerfacecolor="white",
                    markersize=4, linewidth=1, label="alone, 95 % interval")  # fmt: skip
    forest.plot([r["partly pooled"] for r in rows], at, "o", color="C1", markersize=4, label="partly pooled")
    forest.set_yticks(at, [r["segment"] for r in rows], fontsize=7)
    forest.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="rate ratio", ylabel="region and brand")
    forest.set_title(f"{SHOWN}: segments with most claims", fontsize=10)
    forest.xaxis.set_major_formatter("{x:g}")
    forest.xaxis.set_minor_formatter(lambda value, _: f"{value:.1g}" if f"{value:.0e}"[0] in "25" else "")

    claims, alone, partly = (np.array([r[key] for r in records]) for key in ("claims", "alone", "partly pooled"))
    endless = (alone == 0) | (alone == np.inf)
    funnel.axhline(pooled, color="0.6", linewidth=1)
    funnel.plot(claims[~endless] + 1, alone[~endless], "o", color="C0", markerfacecolor="white", markersize=4)
    low, high = np.nanmin(alone[~endless]) / 4, np.nanmax(alone[~endless]) * 4
    funnel.plot(claims[endless] + 1, np.where(alone[endless] > 1, high, low), "x", color="C3", markersize=5,
                label=f"alone, {endless.sum()} segments: w goes to ± infinity")  # fmt: skip
    funnel.plot(claims + 1, partly, "o", color="C1", markersize=2.5)
    funnel.set(xscale="log", yscale="log", xlabel="claims of the segment, + 1", ylabel="rate ratio")
    funnel.set_ylim(low / 2, high * 12)
    funnel.set_title(f"{SHOWN}: all {len(records)} segments", fontsize=10)

    gain.axhline(0, color="0.6", linewidth=1)
    gain.plot(PRIORS, choice.gains, "o-", color="C1", markersize=4, label="partly pooled")
    gain.axvline(PRIORS[choice.best], color="C1", linestyle=":", linewidth=1)
    gain.set(xscale="log", xlabel="standard deviation of the prior", ylabel="log-likelihood gained")
    gain.set_title("on the half that was not fitted, over complete pooling", fontsize=10)
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    return figure


def run(options: argparse.Namespace) -> int:
    """Fit, check, show a table, save a picture and a JSON; 1 if a check fails."""
    folder = open_results(options.results)
    with jax.enable_x64(True):
        return fit_and_show(options, folder)


def fit_and_show(options: argparse.Namespace, folder: Path) -> int:
    """`run`, in float64."""
    policies, real = load()
    segments = add_up(policies, np.ones(len(policies.claims), bool))
    x, claims, years = (jnp.asarray(part) for part in segments[1:])
    n, patterns = years.shape
    say(f"{len(policies.claims):,} policies as {n} segments x {patterns} patterns, of which "
        f"{int(jnp.sum(years > 0)):,} have a policy; 0 to {int(claims.sum(1).max()):,} claims a segment")  # fmt: skip

    alone = timed(partial(fit_alone, x, claims, years), options.repeats)
    say_times(f"{n} segments, no pooling", alone, n)
    ends = {"no pooling": say_endings("no pooling", alone.result.status)}
    fits: gj.Fit = alone.result
    name, rows, off = check(policies, segments, fits)
    agree = off <= 1e-8
    say(f"{name}, fitted on its {rows:,} policies instead of their sums: largest difference of a coefficient {off:.0e}"
        + ("" if agree else ": FAILS"))  # fmt: skip

    choice = choose(policies, options.repeats)
    say_times(f"{len(PRIORS)} priors x {n} segments, partial pooling", choice.timed, len(PRIORS) * n)
    ends["partial pooling, all priors"] = say_endings("partial pooling", choice.timed.result.status)
    sd = float(PRIORS[choice.best])
    say(f"log-likelihood of the half that was not fitted, above complete pooling's: partial pooling "
        f"{choice.gains.max():+,.1f}, at a prior of standard deviation {sd:.2f}; in the {choice.estimated} segments that "
        f"have an estimate alone {choice.partly:+,.1f}, and that estimate {choice.alone:+,.1f}")  # fmt: skip

    pooled = fit_one(x, claims.sum(0), years.sum(0))
    eta = gj.linear_predictor(ALONE, pooled.params, x)
    partly = jax.tree.map(lambda leaf: leaf[choice.best], fit_partly(x, eta, PRIORS, claims, years))
    ends["partial pooling"] = say_endings(f"partial pooling of all policies at {sd:.2f}", partly.status)

    column = list(EFFECTS).index(SHOWN)
    w, error = (np.asarray(part)[:, column] for part in (fits.params.w, errors_of(x, fits.params, claims, years)))
    endless, absent = (np.asarray(marks)[:, column] for marks in (fits.infinite.w, fits.aliased.w))
    w = np.where(endless, np.copysign(np.inf, w), np.where(absent, np.nan, w))
    error = np.where(np.asarray(fits.status) == gj.Status.CONVERGED, error, np.nan)
    shared = np.asarray(pooled.params.w)
    records: list[dict[str, Any]] = [
        {"segment": segments.names[i], "years": segments.years[i].sum(), "claims": segments.claims[i].sum(),
         "alone": np.exp(w[i]), "lower": np.exp(w[i] - 1.96 * error[i]), "upper": np.exp(w[i] + 1.96 * error[i]),
         "partly pooled": float(np.exp(shared[column] + partly.params.w[i, column + 1])),
         "status": gj.Status(int(fits.status[i])).name, "w alone": fits.params.w[i],
         "w partly pooled": shared + np.asarray(partly.params.w[i, 1:])}
        for i in np.argsort(-segments.claims.sum(1))
    ]  # fmt: skip
    console.print(table_of(records[: options.top], float(np.exp(shared[column]))))
    save_figure(folder / "insurance.png", draw(records, float(np.exp(shared[column])), choice))
    figures = {"real": real, "effects": list(EFFECTS), "pooled": dict(zip(EFFECTS, np.exp(shared), strict=True)),
               "ended": ends, "no pooling, s": [alone.first, *alone.later], "priors": PRIORS, "gains": choice.gains,
               "partial pooling, all priors, s": [choice.timed.first, *choice.timed.later], "prior chosen": sd,
               "segments with an estimate in the half": choice.estimated, "their gain alone": choice.alone,
               "their gain partly pooled": choice.partly, "largest difference to policies": off,
               "segments": records}  # fmt: skip
    save_json(folder / "results.json", {"options": vars(options), "environment": environment(), **figures})
    say(f"picture and figures are in {folder}")
    return 0 if agree else 1
