"""Poisson regression on real counts: doctor visits.

How often does a person see a doctor in a year? The RAND Health Insurance Experiment (Newhouse, 1993; 20,190
person-years, as bundled with statsmodels) randomized families to insurance plans and counted. Counts are at least 0 and
scatter more where they are larger; normal regression, least squares, assumes neither. Poisson regression has both: its
mean exp(eta) is positive for every x, and its variance equals its mean.

What the data say of these two assumptions differs. Most predicted means lie between 1 and 6 visits here, where a line
does about as well as an exponential: on rows held out, neither the Poisson deviance nor the squared error tells the two
models' means apart by more than a percent, and those of the line, though near 0 at the lowest, are seldom at or below
it. The constant variance is plainly wrong: residuals scatter several times as much where the predicted mean is high. A
variance in proportion to the mean does better on rows held out, but the factor is about 6 and not Poisson's 1. The
counts are overdispersed: Poisson's coefficients can be used, but its own standard errors would be less than half of
what they should be.

What the exponential does buy is exposure. Person-years with the same covariates can be added up into one row, with the
sum of their visits as the count and the log of their number as an offset to eta: the likelihood is the same function of
the coefficients, and so are the estimates. Forget the offset, and large groups pass for sick ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import statsmodels.datasets.randhie
from jax import Array
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Finding, at_least, at_most, between

POISSON, NORMAL = gj.glm(gj.poisson()), gj.glm(gj.normal())
FOLDS = 4
FLOORS = (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3)


class Visits(NamedTuple):
    """The counts: names and standardized columns of x, visits, and which covariate pattern each row has."""

    names: list[str]
    x: np.ndarray
    visits: np.ndarray
    pattern: np.ndarray


def load() -> Visits:
    """All nine covariates of randhie, standardized; 20,190 rows fall into 2,760 patterns, so nothing is rounded."""
    table = statsmodels.datasets.randhie.load_pandas().data
    x = table.drop(columns="mdvis")
    _, pattern = np.unique(x.to_numpy(float), axis=0, return_inverse=True)
    x = (x - x.mean()) / x.std()
    return Visits(list(x.columns), x.to_numpy(float), table["mdvis"].to_numpy(float), pattern.ravel())


class HeldOut(NamedTuple):
    """Of every row, from the fit without its fold: predicted mean and dispersion, (n,); the fit to all rows."""

    mean: np.ndarray
    dispersion: np.ndarray
    optimality: float  # the worst
    whole: np.ndarray  # weights, and the bias last


def coefficients(params: gj.Dense) -> np.ndarray:
    """The weights, and the bias last."""
    return np.append(params.w, params.b)  # type: ignore[arg-type]


def cross_validate(model: gj.Model, learning_rate: float, people: Visits, fold: np.ndarray) -> HeldOut:
    """One fit without each fold and one with all, as lanes of one program: rows held out are rows of weight 0.

    The dispersion is estimated on the rows fitted: sigma^2 for the normal family, and for the Poisson family Pearson's
    mean of (t - mean)^2 / mean, which would be 1 if the variance were the mean.
    """
    data = gj.make_data(people.x, people.visits, family=model.family)
    order = np.arange(len(fold))[None]

    def fit(data: gj.Data, order: Array, weight: Array) -> tuple[gj.Fit, Array]:
        data = data._replace(weight=weight)
        fit = gj.fit_sgd(model, data, None, order=order, learning_rate=learning_rate, epochs=140)
        return fit, gj.predict(model, fit.params, data.x)

    weights = np.array([fold != k for k in range(FOLDS + 1)], float)
    fits, means = jax.jit(jax.vmap(fit, in_axes=(None, None, 0)))(data, order, weights)
    gj.check(fits)
    means = np.asarray(means)
    dispersion = fits.model.family.dispersion
    if dispersion is None:
        dispersion = np.sum(weights * (people.visits - means) ** 2 / means, 1) / weights.sum(1)
    mean = means[fold, np.arange(len(fold))]
    whole = coefficients(jax.tree.map(lambda lanes: lanes[-1], fits.params))
    return HeldOut(mean, np.asarray(dispersion)[fold], float(fits.optimality.max()), whole)


def poisson_deviance(mean: np.ndarray, visits: np.ndarray) -> float:
    """Poisson deviance a row of predicted means, which must be above 0."""
    return float(jax.vmap(POISSON.family.deviance)(jnp.log(mean), jnp.asarray(visits)).mean())


def log_density(visits: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> float:
    """Mean log-density of the normal distribution, to compare two models of the variance."""
    return float(np.mean(-((visits - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2))


def compare(people: Visits, seed: int) -> tuple[dict[str, float], HeldOut, HeldOut]:
    """Both models on rows held out: four folds of whole covariate patterns.

    The years of one person mostly share their covariates, so they are mostly on the same side.
    """
    patterns = np.random.default_rng(seed).permutation(people.pattern.max() + 1)
    fold = patterns[people.pattern] % FOLDS
    t, q = people.visits, cross_validate(POISSON, 0.15, people, fold)
    n = cross_validate(NORMAL, 0.7, people, fold)
    constant = np.array([t[fold != k].mean() for k in range(FOLDS)])[fold]
    figures = {
        "deviance, Poisson": poisson_deviance(q.mean, t),
        "deviance, normal": min(poisson_deviance(np.maximum(n.mean, floor), t) for floor in FLOORS),
        "deviance, constant": poisson_deviance(constant, t),
        "normal means at or below 0": float((n.mean <= 0).sum()),
        "smallest normal mean": n.mean.min(),
        "smallest Poisson mean": q.mean.min(),
        "squared error, normal": np.mean((t - n.mean) ** 2),
        "squared error, Poisson": np.mean((t - q.mean) ** 2),
        "log-density gained": log_density(t, q.mean, q.dispersion * q.mean) - log_density(t, n.mean, n.dispersion),
        "Pearson dispersion": q.dispersion.min(),
        "optimality": max(q.optimality, n.optimality),
    }
    return figures, n, q


def deciles(mean: np.ndarray, visits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean prediction and variance of the residuals by tenth of the predicted mean."""
    tenths = np.array_split(np.argsort(mean, kind="stable"), 10)
    return np.array([mean[rows].mean() for rows in tenths]), np.array([(visits - mean)[rows].var() for rows in tenths])


def groups(people: Visits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row a covariate pattern: x, the sum of visits, and the number of person-years."""
    _, first, count = np.unique(people.pattern, return_index=True, return_counts=True)
    return people.x[first], np.bincount(people.pattern, people.visits), count


def fit_groups(x: np.ndarray, visits: np.ndarray, offset: np.ndarray, learning_rate: float) -> gj.Fit:
    """Poisson regression of the sums, by gradient descent on all of them."""
    data = gj.make_data(x, visits, family=POISSON.family, offset=offset)
    order = jnp.arange(len(x))[None]
    return gj.check(gj.fit_sgd(POISSON, data, None, order=order, learning_rate=learning_rate, epochs=1000))


def investigate(quick: bool) -> Finding:
    """Means and variances on rows held out; one row a person-year against one row a group."""
    people = load()
    n, t = len(people.visits), people.visits
    seen, normal, poisson = zip(*(compare(people, seed) for seed in range(1 if quick else 5)), strict=True)
    figures: dict[str, Any] = {name: np.array([one[name] for one in seen]) for name in seen[0]}

    x, visits, count = groups(people)
    rate = 0.15 * len(x) / n  # the mean loss of a group is that of a row times n / groups
    offset = fit_groups(x, visits, np.log(count), rate)
    forgotten = fit_groups(x, visits, np.zeros(len(x)), rate)
    worst = max(figures["optimality"].max(), float(offset.optimality), float(forgotten.optimality))
    individual, grouped, wrong = poisson[0].whole, coefficients(offset.params), coefficients(forgotten.params)

    at, variances = deciles(normal[0].mean, t)
    below = int(figures["normal means at or below 0"].max())
    ratio = figures["deviance, normal"] / figures["deviance, Poisson"]
    squares = figures["squared error, normal"] / figures["squared error, Poisson"]
    over_constant = figures["deviance, Poisson"] / figures["deviance, constant"]
    claims = [
        at_most("largest gradient left after descent, all fits", worst, 1e-6),
        at_most("held-out Poisson deviance of Poisson regression, over that of a constant", over_constant.max(), 0.95),
        between(
            "... of normal regression (means raised to the floor best for it), over Poisson's: the farthest from 1",
            ratio[abs(ratio - 1).argmax()],
            0.98,
            1.02,
        ),
        between(
            "... its held-out squared error over Poisson's: the farthest from 1",
            squares[abs(squares - 1).argmax()],
            0.98,
            1.02,
        ),
        at_most(
            f"lowest held-out mean of normal regression, visits (at most {below} of {n:,} at or below 0)",
            figures["smallest normal mean"].min(),
            0.5,
        ),
        at_least("... of Poisson regression", figures["smallest Poisson mean"].min(), 0.5),
        at_least("variance of normal regression's residuals, top over bottom tenth", variances[-1] / variances[0], 3),
        at_least(
            "log-density a held-out row gained by a variance in proportion to the mean over a constant one",
            figures["log-density gained"].min(),
            0.02,
        ),
        at_least("that proportion (1 if counts were Poisson)", figures["Pearson dispersion"].min(), 4),
        at_most(f"coefficients from {len(x):,} sums with offset less those from {n:,} rows, largest",
                abs(grouped - individual).max(), 1e-9),
        at_least("... without the offset, weights only", abs(wrong - individual)[:-1].max(), 0.1),
    ]  # fmt: skip

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    phi, sigma2 = poisson[0].dispersion.mean(), normal[0].dispersion.mean()
    left.plot(at, variances, "ko", label="residuals, by tenth of the predicted mean")
    left.axhline(sigma2, color="C0", label="normal: constant")
    ends = np.array([0, 1.05 * at[-1]])
    left.plot(ends, ends, color="C1", label="Poisson: the mean")
    left.plot(ends, phi * ends, color="C1", linestyle="--", label=f"{phi:.1f} times the mean")
    left.set(xlabel="held-out mean, visits", ylabel="variance", title="the variance grows with the mean", xlim=ends)
    left.set_ylim(0, 1.15 * variances[-1])
    left.legend(frameon=False, loc="upper left")
    where = np.arange(len(people.names))
    right.axhline(0, color="0.8", linewidth=1)
    right.plot(where, individual[:-1], "o", color="0.6", markersize=10, label=f"{n:,} person-years")
    right.plot(where, grouped[:-1], "x", color="k", label=f"{len(x):,} sums, offset log(person-years)")
    right.plot(where, wrong[:-1], "v", color="C3", label=f"{len(x):,} sums, offset forgotten")
    right.set_xticks(where, people.names, rotation=45)
    right.set(ylabel="Poisson coefficient", title="sums with their exposure tell the same", ylim=(-0.3, 0.42))
    right.legend(frameon=False, loc="upper left")
    figures |= {"names": people.names, "by row": individual, "grouped with offset": grouped, "without offset": wrong}
    figures |= {"variance by tenth": variances, "mean by tenth": at}
    return Finding(claims, figure, figures)
