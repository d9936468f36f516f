"""Pictures of fits, on matplotlib axes: `from glmjax import plots`, and `pip install 'glmjax[plots]'`.

Each function takes a value of the library and `ax`, draws on it and returns it; without `ax` it makes new axes on a
figure of their own, never on what was drawn last. Nothing is styled: matplotlib's own settings hold.
"""

from typing import Any

import numpy as np

from .data import Data
from .drawing import GRAY, axes_of, check_value, dots, no_lanes
from .inferences import Inference
from .inputs import check_count
from .models import Model, check_params, check_problem, predict
from .paths import Path
from .reports import level_text
from .results import Fit, Status
from .rowplots import calibration, leverage, qq, residuals_fitted, rootogram

__all__ = [
    "calibration",
    "decision_regions",
    "forest",
    "learning_curves",
    "leverage",
    "path",
    "qq",
    "residuals_fitted",
    "rootogram",
]

_LANES = 10  # as many as there are colors to tell apart


def forest(table: Inference, *, names: list[str] | tuple[str, ...] | None = None, ax: Any = None) -> Any:
    """Estimates with their intervals, a row a coefficient from the top down, and a line at 0.

    Lanes of a batch, up to ten, lie in each row below each other, in colors of their own. A coefficient without an
    error is only its name. Intervals are as wide as `level` of `inference` made them.

    Args:
        table: from `inference`, of one fit or of lanes along one axis.
        names: which coefficients, in this order; None is all. Those in very different units want plots of their own:
            `names=table.names[1:]` leaves the bias out.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: no `Inference`.
        ValueError: a name that is not in `table.names`; more than ten lanes, or lanes along several axes.
        ImportError: matplotlib is not installed.

    Reference: Lewis and Clarke, Forest plots: trying to see the wood and the trees, BMJ 322 (2001).
    """
    check_value(table, Inference, "table", "gj.inference(data, fit)")
    if np.ndim(table.estimate) > 2:
        raise ValueError(f"table has lanes along {np.ndim(table.estimate) - 1} axes; reshape each field to one")
    known = list(table.names)
    names = known if names is None else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        some = ", ".join(known[:10]) + ", ..." * (len(known) > 10)
        raise ValueError(f"names must be some of table.names, {some}; got {unknown or names!r}")
    at = [known.index(name) for name in names]
    middle, low, high = (
        np.atleast_2d(np.asarray(part, float))[:, at] for part in (table.estimate, table.lower, table.upper)
    )
    lanes = len(middle)
    if lanes > _LANES:
        raise ValueError(
            f"a forest of {lanes} lanes cannot be read, at most {_LANES} are drawn; choose some, "
            "jax.tree.map(lambda leaf: leaf[:5], table), or see summary_frame(table)"
        )
    ax = axes_of(ax, len(names) if lanes < 3 else len(names) * (lanes + 1) // 2)
    ax.axvline(0, color=GRAY, linewidth=1)
    rows = np.arange(len(names), dtype=float)
    for lane in range(lanes):
        shift = 0.0 if lanes == 1 else 0.6 * (lane / (lanes - 1) - 0.5)
        reach = np.stack([middle[lane] - low[lane], high[lane] - middle[lane]])
        ax.errorbar(
            middle[lane],
            rows + shift,
            xerr=reach,
            fmt="o",
            color=f"C{lane}",
            markersize=5 if lanes < 4 else 3,
            capsize=2,
            label=f"lane {lane}" if lanes > 1 else None,
        )
    if lanes > 1 and len(names) > 1:
        for row in rows[:-1]:
            ax.axhline(row + 0.5, color="0.9", linewidth=0.8, zorder=0)
    ax.set_yticks(rows, names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"estimate, with {level_text(table)}interval", ylabel="coefficient")
    if lanes > 1:
        ax.legend(loc="best")
    return ax


def path(path: Path, *, names: list[str] | tuple[str, ...] | None = None, ax: Any = None) -> Any:
    """Coefficients, without the bias, as the penalty falls, on a logarithmic scale; on top how many of them are not 0.

    Their names stand where they end, right of the axes, those of the largest first, as far as there is room: a figure
    with `layout="constrained"` keeps room for long ones. Penalties whose fit did not end well are left out.

    Args:
        path: from `fit_path`, or `Path(cv.penalty, cv.fit)` of a `cross_validate`.
        names: of the d features, or of the (d k) of several outputs, output fastest; None is "w[j]".
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: no `Path`.
        ValueError: a path with lanes, names that are not as many, no penalty above 0 whose fit ended well.
        ImportError: matplotlib is not installed.

    Reference: Friedman, Hastie and Tibshirani, Journal of Statistical Software 33 (2010), figure 1.
    """
    check_value(path, Path, "path", "gj.fit_path(model, data)")
    no_lanes(path.penalty, 1, "path")
    w = np.asarray(path.fit.params.w, float)
    if names is None:
        names = [f"w[{', '.join(map(str, place))}]" for place in np.ndindex(*w.shape[1:])]
    w = w.reshape(len(w), -1)
    if len(names) != w.shape[1]:
        raise ValueError(f"names must be {w.shape[1]}, one a coefficient, got {len(names)}")
    penalty = np.asarray(path.penalty, float)
    usable = [Status(int(status)).usable for status in np.asarray(path.fit.status)]
    shown = np.asarray(usable) & (penalty > 0)
    if not np.any(shown):
        raise ValueError("path has no penalty above 0 whose fit ended well; gj.check(path.fit) says why")
    penalty, w = penalty[shown], w[shown]
    ax = axes_of(ax)
    ax.axhline(0, color=GRAY, linewidth=1)
    for j, line in enumerate(w.T):
        ax.plot(penalty, line, color=f"C{j % 10}", linewidth=1.2)
    ax.set_xscale("log")
    if len(penalty) > 1:
        ax.set_xlim(penalty[0], penalty[-1])
    ax.set(xlabel="penalty", ylabel="coefficient")
    gap, placed = 0.04 * np.ptp(ax.get_ylim()), np.empty(0)
    for j in np.argsort(-np.abs(w[-1]), kind="stable"):
        height = w[-1, j]
        if height == 0 or len(placed) == 20 or np.any(np.abs(placed - height) < gap):
            continue
        placed = np.append(placed, height)
        ax.annotate(
            names[j],
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            color=f"C{j % 10}",
        )
    top = ax.secondary_xaxis("top")
    places = np.unique(np.linspace(0, len(penalty) - 1, 6).round().astype(int))
    top.set_xticks(penalty[places], [str(int(np.sum(row != 0))) for row in w[places]])
    top.set_xticks([], minor=True)
    top.set_xlabel("coefficients that are not 0")
    return ax


def learning_curves(fit: Fit, *, label: str | None = None, ax: Any = None) -> Any:
    """The loss of each epoch, and what was watched; over seeds their mean, and a band of one standard deviation.

    A lane that stopped early goes on at its last loss, so that the mean is of the same lanes throughout; lanes that
    failed are left out, and the legend says how many.

    Args:
        fit: from `fit_sgd`, or from `fit_seeds` with seeds along one axis. Of a grid a line a call, on the same axes:
            `plots.learning_curves(jax.tree.map(lambda leaf: leaf[i], grid), label=f"rate {rates[i]}", ax=ax)`.
        label: of the lines, in the legend.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        TypeError: no `Fit`.
        ValueError: a fit without a history, with several axes of lanes, or in which every lane failed.
        ImportError: matplotlib is not installed.
    """
    check_value(fit, Fit, "fit", "gj.fit_sgd(...) or gj.fit_seeds(...)")
    if fit.history is None:
        raise ValueError("fit has no history; that of fit_sgd and fit_seeds has one, an entry an epoch")
    no_lanes(fit.history.loss, 2, "fit")
    status = np.atleast_1d(np.asarray(fit.status))
    well = np.array([Status(int(s)).ok for s in status])
    if not np.any(well):
        raise ValueError("fit has no lane that ended well; gj.check(fit) says why")
    ax = axes_of(ax)
    lost = f" ({np.sum(~well)} of {len(well)} failed, left out)" if not np.all(well) else ""
    for name, loss, dashes in (("training", fit.history.loss, "-"), ("watched", fit.history.watched, "--")):
        lanes = np.atleast_2d(np.asarray(loss, float))[well]
        if np.all(np.isnan(lanes)):
            continue
        ended = np.maximum(np.sum(~np.isnan(lanes), axis=1), 1)
        last = np.minimum(np.arange(lanes.shape[1])[None], ended[:, None] - 1)
        lanes = np.take_along_axis(lanes, last, axis=1)
        epochs, mean, spread = np.arange(1, lanes.shape[1] + 1), lanes.mean(axis=0), lanes.std(axis=0)
        text = name if label is None else f"{label}, {name}"
        text += f", mean of {len(lanes)} ± sd{lost}" if len(status) > 1 else ""
        (line,) = ax.plot(epochs, mean, dashes, marker="o" if len(epochs) == 1 else None, label=text)
        if len(lanes) > 1:
            ax.fill_between(epochs, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.legend(loc="best")
    return ax


def decision_regions(model: Model, params: Any, data: Data, *, points: int = 200, ax: Any = None) -> Any:
    """Where a classifier of two features decides for which class, in that class's color, stronger where it is surer,
    with the rows as points in the colors of the classes they are of.

    Args:
        model: from `glm` or `mlp`, of Bernoulli or categorical family, with up to ten classes.
        params: from `fit.params`.
        data: rows of two features; without an offset.
        points: predictions along each side of the picture.
        ax: matplotlib axes; None makes new ones.

    Returns:
        The axes.

    Raises:
        ValueError: another family, another number of features, more than ten classes, an offset; shapes that do not
            fit.
        ImportError: matplotlib is not installed.
    """
    check_problem(model, data)
    classes = model.family.n_classes or (2 if model.family.name == "bernoulli" else 0)
    if not 2 <= classes <= 10:
        raise ValueError(
            f"decision_regions is of 2 to 10 classes, Bernoulli or categorical; this model is {model.family.name}"
            + (f" with {classes}" if classes else "")
        )
    if data.x.shape[1] != 2:
        raise ValueError(f"decision_regions is of 2 features, and data.x has {data.x.shape[1]}; fit two of them")
    if data.offset is not None:
        raise ValueError("decision_regions has no offset between the rows; fit a model without one")
    check_params(model, params, 2)
    points = check_count(points, "points", at_least=2)
    x, y = np.asarray(data.x, float), np.asarray(data.y, float)
    low, high = x.min(axis=0), x.max(axis=0)
    size = np.where(high > low, high - low, 1)
    low, high = low - 0.06 * size, high + np.array([0.06, 0.2]) * size  # above the points there is room for a legend
    across, up = (np.linspace(low[i], high[i], points) for i in (0, 1))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(data.x.dtype)
    mean = np.asarray(predict(model, params, grid), float)
    mean = mean if mean.ndim == 2 else np.stack([1 - mean, mean], axis=1)
    chosen, sure = mean.argmax(axis=1), mean.max(axis=1)

    ax = axes_of(ax)
    from matplotlib.colors import to_rgb

    colors = np.array([to_rgb(f"C{k}") for k in range(classes)])
    strength = 0.08 + 0.42 * (sure - 1 / classes) / (1 - 1 / classes)
    image = (1 - strength[:, None] * (1 - colors[chosen])).reshape(points, points, 3)
    half = (high - low) / (points - 1) / 2
    extent = (low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1])
    ax.imshow(image, origin="lower", extent=extent, aspect="auto", interpolation="nearest", zorder=0)
    for k in range(classes):
        others = np.delete(mean, k, axis=1).max(axis=1)
        if 0 < np.sum(mean[:, k] > others) < len(mean):
            lead = (mean[:, k] - others).reshape(points, points)
            ax.contour(across, up, lead, levels=[0], colors="0.3", linewidths=0.8)
        own = y == k if model.family.n_classes else (y >= 0.5) == bool(k)
        if np.any(own):
            dots(ax, *x[own].T, color=colors[k][None], edgecolor="white", linewidths=0.4, label=f"class {k}", zorder=3)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="x[0]", ylabel="x[1]")
    ax.legend(loc="upper center", ncols=min(classes, 5), fontsize="small", handletextpad=0.1, columnspacing=0.8)
    return ax
