"""One hidden layer of squashing units does it too, also in two dimensions.

A steep sigmoid is nearly a step, and a staircase of steps comes near any continuous function: cells small enough that
f moves by less than epsilon, one step between neighboring cells. Away from its threshold a sigmoid of steepness k is
wrong by exp(-k distance) only; right at the threshold it is half a step wrong, however steep it is. So steepness buys
little beyond a point, and it is the number of units that must grow, as 1 / epsilon.

On the square the same layer suffices: a cosine series turns f into a sum of ridge functions, each a function of one
projection of (x, y), and each ridge function is such a staircase along its projection. The price is one staircase for
every direction.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Claim, Finding, at_most, between

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "smooth, sin 6x": (lambda x: np.sin(6 * x), 6.0),
    "kinked, |x - 0.3|": (lambda x: np.abs(x - 0.3), 1.0),
    "oscillating, sin 40x": (lambda x: np.sin(40 * x), 40.0),
    "Hoelder, sqrt|x - 1/3|": (lambda x: np.sqrt(np.abs(x - 1 / 3)), (1.0, 0.5)),
}

# name: f on the square, a Lipschitz constant
SURFACES: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "bump": (lambda x, y: np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.1), 2.72),
    "wave": (lambda x, y: np.sin(3 * x) * np.cos(2 * y), 3.61),
    "ridge with a kink": (lambda x, y: np.abs(x - y), 1.42),
}


def values(params: Any, x: np.ndarray) -> np.ndarray:
    """What the network of a construction says at x, (n, d)."""
    units = params[0].w.shape[1]
    model = gj.mlp(gj.normal(), (units,), "sigmoid")
    parts = np.array_split(x, max(1, len(x) * units // 20_000_000))
    return np.concatenate([np.asarray(gj.predict(model, params, part)) for part in parts])


def certified_error(f: Callable[[Any], Any], modulus: Any, params: Any, sharpness: float = 8.0) -> float:
    """A bound of the sup-error on all of [0, 1]: largest on a grid, and what may happen between grid points.

    f moves by its modulus; the network by its slope, at most the steepness times the largest step times
    1/4 + 1 / sinh(sharpness / 2): one unit at its threshold, and the tails of the others.
    """
    cells = params[0].w.shape[1] + 1
    step = 1 / cells / 64
    x = np.linspace(0, 1, cells * 64 + 1)
    constant, exponent = modulus if isinstance(modulus, tuple) else (modulus, 1.0)
    steepest = float(np.abs(params[1].w).max()) * sharpness * cells * (0.25 + 1 / np.sinh(sharpness / 2))
    seen = float(np.abs(values(params, x[:, None]) - f(x)).max())
    return seen + constant * (step / 2) ** exponent + steepest * step / 2


def investigate(quick: bool) -> Finding:
    """Epsilon in, staircase out; how steep against how near; the square."""
    claims: list[Claim] = []
    widths: dict[str, list[int]] = {}
    epsilons = np.array((0.2, 0.1, 0.05) if quick else (0.2, 0.1, 0.05, 0.02, 0.01))
    for name, (f, modulus) in FUNCTIONS.items():
        worst, widths[name] = 0.0, []
        for epsilon in epsilons:
            params = gj.sigmoid_approximation(f, 0, 1, float(epsilon), modulus)
            worst = max(worst, certified_error(f, modulus, params) / epsilon)
            widths[name].append(params[0].w.shape[1])
        claims.append(at_most(f"{name}: certified sup-error over epsilon, H to {widths[name][-1]}", worst, 1.0))
        slope = np.polyfit(np.log(1 / epsilons), np.log(np.array(widths[name]) + 1), 1)[0]
        power = 2 if isinstance(modulus, tuple) else 1
        claims.append(between("... H grows as 1 / epsilon to the power", slope, power - 0.1, power + 0.1))

    # One unit: sigmoid(k d) is within eta of the step from the distance log(1 / eta - 1) / k on, and no nearer.
    k, etas = 100.0, np.array([0.4, 0.1, 0.01, 1e-4])
    near = np.log(1 / etas - 1) / k
    wrong = 1 - np.asarray(gj.bernoulli().mean(jnp.asarray(k * near)))
    claims.append(
        at_most("one unit's distance to its step at log(1/eta - 1) / k less eta", np.abs(wrong - etas).max(), 1e-15)
    )
    # A staircase of a fixed width: steeper units help until the steps themselves are the error.
    f, modulus = FUNCTIONS["smooth, sin 6x"]
    sharpnesses = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 64.0])
    x = np.linspace(0, 1, 6001)
    stairs, errors, bounds = 60, [], []
    for sharpness in sharpnesses:
        bound = modulus / stairs * (1 + 1 / np.sinh(sharpness / 2))
        params = gj.sigmoid_approximation(f, 0, 1, bound * 16 / 15 * 1.0001, modulus, sharpness=float(sharpness))
        assert params[0].w.shape[1] == stairs - 1
        errors.append(float(np.abs(values(params, x[:, None]) - f(x)).max()))
        bounds.append(bound)
    claims.append(at_most("error over its bound omega(h) (1 + 1 / sinh(k h / 2)), k h from 1 to 64",
                          float(np.max(np.array(errors) / bounds)), 1.0))  # fmt: skip

    grid = np.linspace(0, 1, 61 if quick else 201)
    points = np.stack([axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij")], axis=1)
    costs = {}
    for name, (surface, lipschitz) in SURFACES.items():
        for epsilon in (0.2,) if quick else (0.2, 0.1):
            params = gj.ridge_approximation(surface, epsilon, lipschitz)
            costs[f"{name}, {epsilon}"] = params[0].w.shape[1]
            error = np.abs(values(params, points) - surface(*points.T)).max()
            claims.append(
                at_most(f"the square, {name}: sup-error, {params[0].w.shape[1]:,} units in one layer", error, epsilon)
            )

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    params = gj.sigmoid_approximation(f, 0, 1, 0.4, modulus)
    left.plot(x, f(x), color="0.7", linewidth=4, label="f")
    left.plot(x, values(params, x[:, None]), label=f"ε = 0.4: {params[0].w.shape[1]} sigmoids")
    left.set(xlabel="x", title="a staircase of steep sigmoids")
    left.legend(frameon=False)
    middle.loglog(sharpnesses, errors, "o-", label="largest error")
    middle.loglog(sharpnesses, bounds, ":", color="C0", label="its bound")
    middle.axhline(modulus / stairs, color="0.6", linewidth=1)
    middle.text(60, modulus / stairs * 0.98, "what f moves by in a stair, ω(h)", va="top", ha="right", color="0.4")
    middle.set(xlabel="steepness k h", title=f"{stairs} stairs: steeper helps only so far")
    middle.legend(frameon=False)
    surface, lipschitz = SURFACES["bump"]
    params = gj.ridge_approximation(surface, 0.2, lipschitz)
    side = len(grid)
    image = right.imshow(
        values(params, points).reshape(side, side).T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis"
    )
    right.contour(grid, grid, surface(*points.T).reshape(side, side).T, colors="w", linewidths=0.7)
    right.set(
        xlabel="x", ylabel="y", title=f"on the square: {params[0].w.shape[1]:,} units, ε = 0.2\n(lines: f itself)"
    )
    figure.colorbar(image, ax=right)
    figures = {
        "epsilon": epsilons,
        "H": widths,
        "steepness": sharpnesses,
        "error": errors,
        "bound": bounds,
        "square": costs,
    }
    return Finding(claims, figure, figures)
