"""What plots share: axes to draw on, arrays from values, smooth lines and bands."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

GRAY = "0.55"  # of what is there for reference: zero lines, diagonals, contours


def axes_of(ax: Any, rows: int = 0) -> Any:
    """The axes given, or new ones on a figure of their own, tall enough for so many rows of text; never those that were
    drawn on last.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots are drawn by matplotlib; pip install 'glmjax[plots]'") from error
    figure, ax = plt.subplots(layout="constrained")
    if 0.22 * rows > figure.get_figheight() - 1:
        figure.set_figheight(min(0.22 * rows + 1, 60))
    return ax


def vector_of(value: Any, name: str, n: int | None = None, remedy: str = "drop them") -> np.ndarray:
    """A vector of finite numbers in NumPy; raises for anything else."""
    array = np.asarray(value, float)
    if array.ndim != 1 or array.size == 0 or (n is not None and len(array) != n):
        wanted = "(n,), a number a row" if n is None else f"({n},), as the other is"
        raise ValueError(f"{name} must be {wanted}, got shape {array.shape}")
    lost = int(np.sum(~np.isfinite(array)))
    if lost:
        raise ValueError(f"{name} has {lost} of {len(array)} numbers that are NaN or infinite; {remedy}")
    return array


def check_value(value: Any, kind: type, name: str, source: str) -> None:
    """Raise unless `value` is of a kind; `source` is how one gets it."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, {source}, got {type(value).__name__}")


def no_lanes(array: Any, axes: int, name: str) -> None:
    """Raise if an array that has `axes` axes for one fit has more, of lanes."""
    if np.ndim(array) > axes:
        raise ValueError(
            f"{name} has lanes, of shape {np.shape(array)[: np.ndim(array) - axes]}, and one is drawn at a time: "
            f"jax.tree.map(lambda leaf: leaf[0], {name}), on axes of its own"
        )


def dots(ax: Any, x: np.ndarray, y: np.ndarray, **style: Any) -> Any:
    """Points, the smaller and lighter the more there are; as pixels where a vector file would be heavy."""
    n = len(x)
    return ax.scatter(
        x,
        y,
        s=float(np.clip(6000 / n, 4, 22)),
        alpha=float(np.clip(20 / np.sqrt(n), 0.15, 0.8)),
        rasterized=n > 5000,
        **{"linewidths": 0, **style},
    )


def smooth_line(x: np.ndarray, y: np.ndarray, share: float = 2 / 3, points: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Cleveland's local line through points, without his robust passes, so that it follows the mean: at each place
    least squares over the nearest `share` of the rows, with weights (1 - (distance / farthest)^3)^3.
    """
    places = np.unique(np.quantile(x, np.linspace(0, 1, points)))
    count = max(2, int(np.ceil(share * len(x))))
    values = []
    for place in places:
        gap = x - place
        size = np.abs(gap)
        reach = np.partition(size, count - 1)[count - 1] if count < len(x) else size.max()
        weight = np.clip(1 - (size / reach) ** 3, 0, None) ** 3 if reach > 0 else (size == 0).astype(float)
        if not np.any(weight):  # all near ones lie at the same distance
            weight = (size <= reach).astype(float)
        center = np.average(gap, weights=weight)
        spread = np.average((gap - center) ** 2, weights=weight)
        slope = np.average((gap - center) * y, weights=weight) / spread if spread > 1e-12 * np.ptp(x) ** 2 else 0.0
        values.append(np.average(y, weights=weight) - slope * center)
    return places, np.asarray(values)


def uniform_band(n: int, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks of n sorted uniform numbers, up to 200 of them, and between what each lies with probability `level`: rank i
    has the Beta(i, n + 1 - i) distribution.
    """
    half = np.unique(np.round(np.geomspace(1, (n + 1) // 2, 100)).astype(int))
    ranks = np.unique(np.concatenate([half, n + 1 - half]))
    lower = _beta_quantile(ranks, n + 1 - ranks, (1 - level) / 2)
    return ranks, lower, 1 - lower[::-1]


def _beta_quantile(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    room = np.ones(256 - len(a))  # of one length, and so one program
    found = _log_beta_quantile(*(jnp.asarray(np.append(part, room), float) for part in (a, b)), jnp.asarray(p, float))
    return np.exp(np.asarray(found, float)[: len(a)])


@jax.jit
def _log_beta_quantile(a: Array, b: Array, p: Array) -> Array:
    """By bisection on the logarithm, so that small ones have their digits."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        below = jax.scipy.special.betainc(a, b, jnp.exp(middle)) < p
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return jax.lax.fori_loop(0, 60, halve, (jnp.full_like(a, -60), jnp.zeros_like(a)))[0]
