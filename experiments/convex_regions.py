"""The decision regions of softmax regression are convex.

Class k is predicted where its logit is the largest: where, for every other class j, the difference of two linear
functions, eta_k - eta_j, is not below 0. Each of these conditions is a half-space, and an intersection of half-spaces
is convex: whoever walks straight from one point of a region to another never leaves it, in 2 dimensions as in 64. We
draw such segments at random, between digits, random points, and points pushed to the very edge of their region, and
look at points inside each. Where two logits are equal up to rounding the computer's answer is a matter of chance;
such ties are counted, but not held against the theorem.

Hidden layers bend the boundaries: the regions of a multilayer perceptron are convex in the features it has learned,
not in x, and segments leave them. No linear classifier can cut out a region with a dent, however it is trained; that
is what the hidden layers are for.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import glmjax as gj

from .claims import Claim, Finding, at_least, at_most

CLASSES = 10
FAMILY = gj.categorical(CLASSES)
SOFTMAX = gj.glm(FAMILY)
MLP = gj.mlp(FAMILY, hidden=(30,), activation="relu")
BATCH, INSIDE = 5_000, 4  # segments a batch, points looked at inside each


class Regions(NamedTuple):
    """Points sorted by the class predicted for each; class k's are those from `first[k]`, `number[k]` of them."""

    points: Array
    label: Array
    first: Array
    number: Array


class Walks(NamedTuple):
    """Segments walked, those that left their region, and points inside that were ties."""

    segments: int
    left: int
    ties: int


def log_odds_against(model: gj.Model, params: Any, x: Array, label: Array) -> Array:
    """Log-odds of the likeliest class against `label`, (n,): 0 where `label` is predicted."""
    probability = gj.predict(model, params, x)
    own = jnp.take_along_axis(probability, label[:, None], 1)[:, 0]
    return jnp.log(probability.max(1)) - jnp.log(own)


def rounding(params: Any, x: Array) -> Array:
    """What rounding may do to the difference of two logits: 8 eps times the sum of the absolute terms of eta.

    For a network the layers' sums are taken one after another, an upper bound, as all its activations grow by 1 at
    most where their input does.
    """
    size = jnp.abs(x).max(0)[None]
    for layer in [params] if isinstance(params, gj.Dense) else params:
        size = size @ jnp.abs(layer.w) + jnp.abs(jnp.asarray(layer.b))
    return 8 * jnp.finfo(x.dtype).eps * size.max()


def classes(model: gj.Model, params: Any, x: np.ndarray) -> np.ndarray:
    """Predicted classes."""
    return np.asarray(gj.predict(model, params, x)).argmax(1)


def regions(model: gj.Model, params: Any, x: np.ndarray, rng: np.random.Generator) -> Regions:
    """The data, as many points at random in their range, and as many at the edge of a region.

    An edge point is found by bisection between two points of different classes: the last one, in floating point, that
    is still predicted as the first. Segments between two of these may run along the boundary itself.
    """
    points = np.concatenate([x, rng.uniform(x.min(0), x.max(0), x.shape)])
    inner, outer = points[rng.integers(0, len(points), (2, len(x)))]
    own = classes(model, params, inner)
    for _ in range(60):
        middle = (inner + outer) / 2
        stays = (classes(model, params, middle) == own)[:, None]
        inner, outer = np.where(stays, middle, inner), np.where(stays, outer, middle)
    label = np.concatenate([classes(model, params, part) for part in (*np.split(points, 2), inner)])
    order = np.argsort(label)
    number = np.bincount(label, minlength=CLASSES)
    points = np.concatenate([points, inner])[order]
    return Regions(jnp.array(points), jnp.array(label[order]), jnp.array(np.cumsum(number) - number), jnp.array(number))


@partial(jax.jit, static_argnames="model")
def leaving(model: gj.Model, params: Any, found: Regions, u: Array) -> Array:
    """Segments that leave their region and points that are ties, from u uniform in [0, 1), (2 + INSIDE, BATCH)."""
    start = (u[0] * len(found.points)).astype(int)
    label = found.label[start]
    end = found.first[label] + (u[1] * found.number[label]).astype(int)
    a, b, t = found.points[start], found.points[end], u[2:, :, None]
    inside = (a + t * (b - a)).reshape(-1, a.shape[1])
    against = log_odds_against(model, params, inside, jnp.tile(label, INSIDE)).reshape(INSIDE, BATCH)
    tolerance = rounding(params, found.points)
    ties = (against > 0) & (against <= tolerance)
    return jnp.array([(against > tolerance).any(0).sum(), ties.sum()])


def walk(model: gj.Model, params: Any, x: np.ndarray, batches: int) -> Walks:
    """Walk BATCH random segments a batch, each between two points of one region."""
    rng = np.random.default_rng(0)
    found = regions(model, params, x, rng)
    counts = np.zeros(2, int)
    for _ in range(batches):
        counts += np.asarray(leaving(model, params, found, rng.random((2 + INSIDE, BATCH))))
    return Walks(batches * BATCH, int(counts[0]), int(counts[1]))


def leaving_segment(model: gj.Model, params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of segments between data points, the one with the longest way outside its region: points, and which are."""
    label = classes(model, params, x)
    start, end = np.random.default_rng(0).integers(0, len(x), (2, 10_000))
    start, end = (rows[label[start] == label[end]][:800] for rows in (start, end))
    t = np.linspace(0, 1, 101)[:, None, None]
    points = x[start] * (1 - t) + x[end] * t
    outside = classes(model, params, points.reshape(-1, x.shape[1])).reshape(points.shape[:2]) != label[start]
    best = int(np.argmax(outside.mean(0) * np.linalg.norm(x[end] - x[start], axis=1)))
    return points[:, best, :2], outside[:, best]


def draw_regions(ax: Axes, model: gj.Model, params: Any, data: gj.Data) -> None:
    """The regions in the plane, over the data's range, and some of the data."""
    x, y, side = np.asarray(data.x), np.asarray(data.y), 200
    low, high = x.min(0), x.max(0)
    grid = np.zeros((side, side, x.shape[1]))
    grid[..., 0], grid[..., 1] = np.meshgrid(*(np.linspace(low[i], high[i], side) for i in (0, 1)))
    region = classes(model, params, grid.reshape(-1, x.shape[1])).reshape(side, side)
    colors = ListedColormap([f"C{k}" for k in range(CLASSES)])
    extent = (low[0], high[0], low[1], high[1])
    ax.imshow(region, origin="lower", extent=extent, cmap=colors, vmin=-0.5, vmax=9.5, alpha=0.45, aspect="auto")
    for k in range(CLASSES):
        ax.plot(*x[y == k][:40, :2].T, ".", color=f"C{k}", markersize=3)
        rows, columns = np.nonzero(region == k)
        if rows.size:
            center = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
            at = grid[rows[center], columns[center]]
            ax.text(at[0], at[1], str(k), ha="center", va="center", fontsize=13)
    ax.set_xlabel("first principal component")


def investigate(quick: bool) -> Finding:
    """Segments in the regions of softmax regression and of a network, for all 64 components and for the first two."""
    pixels, digit = load_digits(return_X_y=True)
    centered = pixels - pixels.mean(0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    components = centered @ directions.T / 8
    plane = np.where(np.arange(64) < 2, components, 0)  # 64 columns too: what is compiled for one serves both
    spaces = {64: gj.make_data(components, digit, family=FAMILY), 2: gj.make_data(plane, digit, family=FAMILY)}
    batches = 40 if quick else 3000
    claims: list[Claim] = []
    figures = {}
    params = {}
    for model, name, share in ((SOFTMAX, "softmax regression", 1), (MLP, "MLP", 10)):
        for d, data in spaces.items():
            fit = gj.check(gj.fit_sgd(model, data, jax.random.key(d), epochs=40 if quick else 200))
            params[name] = fit.params
            seen = walk(model, fit.params, np.asarray(data.x), batches // share)
            figures[f"{name}, {d} dimensions"] = {**seen._asdict(), "share": seen.left / seen.segments}
            told = f"{name}, {d}-d: segments of {seen.segments:,} that leave their region"
            if model is SOFTMAX:
                told += f" ({seen.ties:,} of {INSIDE * seen.segments:,} points were ties)"
                claims.append(at_most(told, seen.left, 0))
            else:
                claims.append(at_least(f"{told}, {seen.left / seen.segments:.1%}", seen.left, 1))

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_regions(left, SOFTMAX, params["softmax regression"], spaces[2])
    draw_regions(right, MLP, params["MLP"], spaces[2])
    path, outside = leaving_segment(MLP, params["MLP"], plane)
    right.plot(*path.T, color="k", linewidth=2, label="in its region")
    right.plot(*np.where(outside, path.T, np.nan), color="w", linewidth=2.5, label="outside")
    right.plot(*path[[0, -1]].T, "ko", markersize=6)
    left.set(ylabel="second principal component", title="softmax regression: every region is convex")
    right.set_title("MLP: a segment leaves its region (white)")
    return Finding(claims, figure, figures)
