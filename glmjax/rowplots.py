"""Plots of rows against a model: residuals, leverages, calibration, counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from .checks import Calibration
from .data import Data, clean
from .deletion import InfluenceMeasures
from .distributions import no_masses
from .drawing import GRAY, axes_of, check_value, dots, no_lanes, smooth_line, uniform_band, vector_of
from .inputs import check_count, check_number
from .models import Model, check_problem, in_dtype, linear_predictor
from .programs import quick_jit


def residuals_fitted(fitted: Any, residuals: Any, *, ax: Any = None) -> Any:
    """Residuals against fitted values, with a smooth line through their mean: flat at 0 where the model's is right.

        mean = gj.predict(fit.model, fit.params, data.x, data.offset)
        plots.residuals_fitted(mean, gj.deviance_residuals(fit.model, fit.params, data))

    Args:
        fitted: (n,), what the residuals are shown against: means, the linear predictor, or a feature.
        residuals: (n,), any of the library's, such as `deviance_residuals`.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite.
        ImportError: matplotlib is not installed.

    Reference: Cleveland, Journal of the American Statistical Association 74 (1979), for the line.
    """
    residuals = vector_of(residuals, "residuals")
    fitted = vector_of(fitted, "fitted", len(residuals))
    ax = axes_of(ax)
    dots(ax, fitted, residuals, color="C0")
    ax.axhline(0, color=GRAY, linewidth=1)
    ax.plot(*smooth_line(fitted, residuals), color="C1", linewidth=2, label="local mean")
    ax.set(xlabel="fitted value", ylabel="residual")
    ax.legend(loc="best")
    return ax


def qq(residuals: Any, *, level: float = 0.95, ax: Any = None) -> Any:
    """Sorted quantile residuals against the normal quantiles of (rank - 1/2) / n: on the diagonal where the model is
    right, with the band that each of them lies in with probability `level` then.

    Some of many points are outside of a band that holds for each alone.

    Args:
        residuals: (n,), of `quantile_residuals`; others are not normal, even where the model is right.
        level: of the band, above 0 and below 1.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: residuals that are no vector or not finite, a level out of range.
        ImportError: matplotlib is not installed.

    Reference: Dunn and Smyth, Journal of Computational and Graphical Statistics 5 (1996).
    """
    check_number(level, "level", above=0)
    if level >= 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}; 0.95 is 95%")
    ordered = np.sort(vector_of(residuals, "residuals"))
    n = len(ordered)
    ax = axes_of(ax)
    ranks, lower, upper = uniform_band(n, level)
    band = [np.asarray(ndtri(jnp.asarray(p, float)), float) for p in ((ranks - 0.5) / n, lower, upper)]
    expected = np.asarray(ndtri((jnp.arange(n, dtype=float) + 0.5) / n), float)
    ax.fill_between(*band, color="C1", alpha=0.25, linewidth=0, label=f"{100 * level:.4g}% band of each point")
    ends = band[0][[0, -1]]
    ax.plot(ends, ends, color="C1", linewidth=1.5)
    dots(ax, expected, ordered, color="C0", zorder=3)
    ax.set(xlabel="normal quantile", ylabel="quantile residual")
    ax.legend(loc="upper left")
    return ax


def leverage(measures: InfluenceMeasures, *, ax: Any = None) -> Any:
    """Standardized Pearson residuals against leverages, with contours of Cook's distance 0.5 and 1, as R's.

    The three rows of the largest distance are named by their numbers, from 0.

    Args:
        measures: from `influence_measures`; rows that have no residual, of leverage 1, are left out.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: no `InfluenceMeasures`.
        ValueError: measures with lanes, or of a fit that has none.
        ImportError: matplotlib is not installed.

    Reference: Cook, Technometrics 19 (1977).
    """
    check_value(measures, InfluenceMeasures, "measures", "gj.influence_measures(data, fit)")
    no_lanes(measures.leverage, 1, "measures")
    h, r, cook = (np.asarray(part, float) for part in (measures.leverage, measures.pearson, measures.cooks_distance))
    shown = np.flatnonzero(np.isfinite(h) & np.isfinite(r) & np.isfinite(cook))
    if not shown.size:
        raise ValueError("measures has no row with a leverage and a residual: the fit has none, see its status")
    ax = axes_of(ax)
    dots(ax, h[shown], r[shown], color="C0", zorder=3)
    ax.axhline(0, color=GRAY, linewidth=1)
    right = min(1.15 * h[shown].max(), 1.0)
    top = 1.2 * max(np.abs(r[shown]).max(), 1.0)
    steps = np.linspace(right / 200, min(right, 0.999), 200)
    some = shown[cook[shown] > 0]
    # The coefficients' count is what the distances were divided by.
    p = np.median(r[some] ** 2 * h[some] / ((1 - h[some]) * cook[some])) if some.size else 1.0
    for distance, dashes in ((0.5, ":"), (1.0, "--")):
        bound = np.sqrt(distance * p * (1 - steps) / steps)
        label = f"Cook's distance {distance:g}"
        if np.min(bound) > top:
            continue
        for sign, name in ((1, label), (-1, "_" + label)):
            ax.plot(steps, sign * bound, color="C3", linestyle=dashes, linewidth=1, label=name)
    for row in shown[np.argsort(-cook[shown])[:3]]:
        ax.annotate(str(row), (h[row], r[row]), xytext=(5, 3), textcoords="offset points", fontsize="small")
    ax.set(xlim=(0, right), ylim=(-top, top), xlabel="leverage", ylabel="standardized Pearson residual")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")
    return ax


def calibration(result: Calibration, *, ax: Any = None) -> Any:
    """A reliability diagram: how often what was predicted with probability p came true, against p.

    On the diagonal where predictions are as sure as they say; with 95% intervals (Wilson's), and gray bars, on a scale
    of their own to the right, for how many rows or trials each bin has.

    Args:
        result: from `gj.calibration`.
        ax: matplotlib axes; None makes new ones. The bars are on a twin of it.

    Returns:
        The axes.

    Raises:
        TypeError: no `Calibration`; ValueError: one with lanes.
        ImportError: matplotlib is not installed.

    Reference: DeGroot and Fienberg, The Statistician 32 (1983); Wilson (1927).
    """
    check_value(result, Calibration, "result", "gj.calibration(model, params, data)")
    no_lanes(result.weight, 1, "result")
    weight = np.asarray(result.weight, float)
    shown = weight > 0
    p, f, n = (np.asarray(part, float)[shown] for part in (result.prediction, result.frequency, weight))
    z2 = 1.959964**2
    center = (f + z2 / (2 * n)) / (1 + z2 / n)
    reach = np.sqrt(z2 * (f * (1 - f) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    ax = axes_of(ax)
    counts = ax.twinx()
    edges = np.linspace(0, 1, len(weight) + 1)
    counts.bar(edges[:-1], weight, width=edges[1], align="edge", color="0.85", edgecolor="white")
    counts.set_ylim(0, 4 * weight.max())
    counts.set_ylabel("rows in bin", loc="bottom")
    counts.set_yticks([tick for tick in counts.get_yticks() if 0 <= tick <= 1.1 * weight.max()])
    ax.set_zorder(counts.get_zorder() + 1)  # the line above the bars
    ax.patch.set_visible(False)
    ax.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="as sure as it says")
    errors = np.clip([f - (center - reach), center + reach - f], 0, None)
    label = f"expected error {float(result.expected_error):.3f}, 95% intervals"
    ax.errorbar(p, f, yerr=errors, fmt="o-", color="C0", capsize=3, label=label)
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="predicted probability", ylabel="observed frequency")
    ax.legend(loc="upper left", fontsize="small")
    return ax


def rootogram(model: Model, params: Any, data: Data, *, largest: int | None = None, ax: Any = None) -> Any:
    """A hanging rootogram: how often each count was observed, hung from how often the model expects it.

        expected_k = sum(weight_i P(T_i = k)),    both as square roots

    A bar that ends above 0 is a count observed less often than expected, one that goes below 0 more often.

    Args:
        model: of a family of counts, Poisson or negative binomial, from `glm` or `mlp`; of a fit `fit.model`.
        params: from `fit.params`.
        data: from `make_data`, with whole counts.
        largest: the last bar, of this count and of all above it together, if there are any. None is the largest count,
            or where that is far out the one that 99% of rows do not exceed, 20 to 100.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: a family that is not of counts, or without probabilities; targets that are not whole; `largest`
            below 1; shapes that do not fit.
        ImportError: matplotlib is not installed.

    Reference: Kleiber and Zeileis, Visualizing count data regressions using rootograms, The American Statistician 70
    (2016).
    """
    check_problem(model, data)
    family, y = model.family, np.asarray(data.y, float)
    if family.distribution.masses is no_masses or family.dispersion is not None or y.ndim != 1:
        raise ValueError(f"a rootogram is of counts and their probabilities; the {family.name} family has none")
    if data.precision is not None:
        raise ValueError(f"the {family.name} family has no dispersion, so precision has no meaning; drop it")
    weight = np.ones(len(y)) if data.weight is None else np.asarray(data.weight, float)
    y, weight = y[weight > 0], weight[weight > 0]
    odd = y[(y != np.floor(y)) | (y < 0)]
    if odd.size or not y.size:
        raise ValueError(
            f"data.y must be counts, 0, 1, 2, ..., got {f'{odd[0]:g}' if odd.size else 'rows of weight 0'}"
        )
    if largest is None:
        largest = max(1, min(int(y.max()), int(np.clip(np.quantile(y, 0.99), 20, 100))))
    largest = check_count(largest, "largest")
    more = bool(y.max() > largest)
    counts = np.arange(largest + 1)
    observed = np.bincount(np.minimum(y, largest).astype(int), weight, largest + 1)
    expected = np.array(
        _expected(in_dtype(model, data.x.dtype), params, data, jnp.asarray(counts, data.x.dtype)), float
    )
    if more:
        expected[-1] = max(weight.sum() - expected[:-1].sum(), 0)

    ax = axes_of(ax)
    top = np.sqrt(expected)
    ax.bar(counts, -np.sqrt(observed), bottom=top, width=0.85, color="C0", alpha=0.6, label="observed, hanging")
    single = counts[: largest + (not more)]  # what is above them all is no point of the line
    ax.plot(single, top[: len(single)], color="C1")
    ax.plot(counts, top, "o", color="C1", markersize=4, label="expected")
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel="count", ylabel="square root of the number of rows")
    ax.set_xlim(-0.8, largest + 0.8)
    ax.set_ylim(top=1.05 * top.max())
    ax.xaxis.get_major_locator().set_params(integer=True)
    if more:
        ticks = [int(tick) for tick in ax.get_xticks() if 0 <= tick < largest]
        ticks = [tick for tick in ticks if largest - tick > 0.06 * largest]
        ax.set_xticks([*ticks, largest], [*map(str, ticks), f"{largest}+"])
    ax.legend(loc="best")
    return ax


@quick_jit
def _expected(model: Model, params: Any, data: Data, counts: Array) -> Array:
    """How many rows have each count, by the model."""
    family, rows = model.family, clean(data)
    eta = linear_predictor(model, params, rows.x, rows.offset)
    weight = jnp.ones_like(eta) if rows.weight is None else rows.weight

    def expected(count: Array) -> Array:
        log_p = jax.vmap(lambda eta: family.masses(eta, count, jnp.ones_like(eta)).at)(eta)
        return jnp.sum(jnp.where(weight > 0, weight * jnp.exp(log_p), 0))

    return jax.lax.map(expected, counts)
