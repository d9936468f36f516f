"""One hidden layer of ReLUs comes as near to a continuous function as you like.

The proof is a construction: cut [a, b] into cells so small that f moves by less than epsilon in each (that is what
continuity means, and the modulus of continuity says how small), and draw the polygon through f at their ends. A
polygon is a sum of ReLUs, one for each bend, so no training is needed: the parameters can be written down. How many
units that takes depends on f: halving the error of a smooth f takes 1.4 times the units, of one with a kink twice, of
one that is only Hoelder continuous with exponent 1/2 four times. A polynomial in place of the ReLU does not do: such a
network is itself a polynomial of that degree, however wide.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Claim, Finding, at_least, at_most, between

A, B = -1.0, 1.0

# name: f, its modulus of continuity, the power of 1/H that the error seen should fall with
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Any, float]] = {
    "smooth, sin 3x": (lambda x: np.sin(3 * x), 3.0, 2),
    "kinked, |x - 0.3|": (lambda x: np.abs(x - 0.3), 1.0, 1),
    "oscillating, sin 40x": (lambda x: np.sin(40 * x), 40.0, 2),
    "Hoelder, sqrt|x - 1/3|": (lambda x: np.sqrt(np.abs(x - 1 / 3)), (1.0, 0.5), 0.5),
}


def network(params: Any) -> gj.Model:
    """The model that a construction's parameters are for."""
    return gj.mlp(gj.normal(), (params[0].w.shape[1],), "relu")


def certified_error(f: Callable[[Any], Any], modulus: Any, params: Any) -> float:
    """A bound of the sup-error on all of [A, B], not on a grid only.

    The largest error on a grid of 64 points a cell, and what f (by its modulus) and the network (by its steepest
    slope, the running sum of its bends) can move by within half a grid step.
    """
    units = params[0].w.shape[1]
    step = (B - A) / units / 64
    x = A + step * np.arange(units * 64 + 1)
    constant, exponent = modulus if isinstance(modulus, tuple) else (modulus, 1.0)
    slope = float(np.abs(np.cumsum(params[1].w)).max())
    seen = 0.0
    for part in np.array_split(x, max(1, x.size * units // 20_000_000)):
        seen = max(seen, float(np.abs(np.asarray(gj.predict(network(params), params, part[:, None])) - f(part)).max()))
    return seen + constant * (step / 2) ** exponent + slope * step / 2


def seen_error(f: Callable[[Any], Any], units: int, offset: float = 0.0) -> float:
    """The sup-error of the construction with a given number of units, on a fine grid; the modulus is fitted to that.

    `offset` moves f along, so that a kink falls anywhere within a cell.
    """
    moved = lambda x: f(x + offset)  # noqa: E731
    epsilon = 1.0
    params = gj.relu_approximation(moved, A, B, epsilon, (units - 0.5) * epsilon * 15 / 16)  # a cell of 2 / units
    x = np.linspace(A, B, 40 * params[0].w.shape[1] + 1)
    return float(np.abs(np.asarray(gj.predict(network(params), params, x[:, None])) - moved(x)).max())


def square(z: Array) -> Array:
    """A polynomial activation."""
    return z**2


def best_head(activation: Any, units: int, f: Callable[[Any], Any]) -> float:
    """Sup-error of the best least-squares head on random hidden units: what a layer of that width can do."""
    x = np.linspace(A, B, 801)[:, None]
    model = gj.mlp(gj.normal(units), (units,), activation)
    params = gj.init(model, jax.random.key(0), 1, bound=1.0)
    offsets = jax.random.uniform(jax.random.key(1), (units,), minval=-1.0)
    features = (params[0]._replace(b=offsets), gj.Dense(jnp.eye(units), jnp.zeros(units)))
    design = np.c_[gj.predict(model, features, x), np.ones(len(x))]
    fitted = design @ np.linalg.lstsq(design, f(x[:, 0]), rcond=1e-12)[0]
    return float(np.abs(fitted - f(x[:, 0])).max())


def investigate(quick: bool) -> Finding:
    """Epsilon in, network out; H against the error; training for comparison; a polynomial activation."""
    claims, curves = [], {}
    epsilons = (0.3, 0.1, 0.03) if quick else (0.3, 0.1, 0.03, 0.01, 0.003)
    for name, (f, modulus, _) in FUNCTIONS.items():
        worst, widths = 0.0, []
        for epsilon in epsilons:
            if isinstance(modulus, tuple) and epsilon < 0.01:
                continue  # 1 / epsilon^2 units
            params = gj.relu_approximation(f, A, B, epsilon, modulus)
            worst = max(worst, certified_error(f, modulus, params) / epsilon)
            widths.append(params[0].w.shape[1])
        claims.append(at_most(f"{name}: certified sup-error over epsilon, H = {widths[0]} to {widths[-1]}", worst, 1.0))

    widths = [32, 64, 128, 256] if quick else [32, 64, 128, 256, 512, 1024]
    for name, (f, _, power) in FUNCTIONS.items():
        offsets = np.linspace(0, 0.05, 5 if power < 2 else 1)  # a kink may happen to lie on a knot
        errors = [max(seen_error(f, h, offset) for offset in offsets) for h in widths]
        curves[name] = errors
        slope = np.polyfit(np.log(widths[-3:]), np.log(errors[-3:]), 1)[0]
        claims.append(between(f"{name}: the error seen falls as H to the power", slope, -power - 0.25, -power + 0.25))

    # The same width by training: from many seeds, on 256 points.
    f, h = FUNCTIONS["smooth, sin 3x"][0], 32
    x = np.linspace(A, B, 256)[:, None]
    data = gj.make_data(x, f(x[:, 0]))
    model = gj.mlp(gj.normal(), (h,), "relu")
    keys = jax.random.split(jax.random.key(2), 8 if quick else 64)
    with jax.numpy_dtype_promotion("standard"):
        fits = gj.fit_seeds(model, data, keys, optimizer=optax.adam, learning_rate=0.01, epochs=150 if quick else 1000)
    dense = np.linspace(A, B, 2001)[:, None]
    trained = np.abs(np.asarray(jax.vmap(lambda p: gj.predict(model, p, dense))(fits.params)) - f(dense[:, 0])).max(1)
    built = seen_error(f, h)
    claims.append(
        Claim(f"sup-error at H = {h}: built, against trained from {len(keys)} seeds (best to worst)", "built is less",
              f"{built:.2g}; {trained.min():.2g} to {trained.max():.2g}", bool(built < trained.min()))
    )  # fmt: skip

    wide = [2, 8, 32, 128]
    polynomial = [best_head(square, h, f) for h in wide]
    relu = [best_head("relu", h, f) for h in wide]
    claims += [
        at_least("activation z^2, H from 8 to 128: error at 128 over error at 8", polynomial[3] / polynomial[1], 0.99),
        at_most("activation ReLU, the same random hidden units", relu[3] / relu[1], 0.1),
    ]

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    f, modulus, _ = FUNCTIONS["kinked, |x - 0.3|"]
    line = np.linspace(A, B, 1001)
    left.plot(line, f(line), color="0.7", linewidth=4, label="f")
    for epsilon, color in ((0.3, "C1"), (0.1, "C0")):
        params = gj.relu_approximation(f, A, B, epsilon, modulus)
        left.plot(line, np.asarray(gj.predict(network(params), params, line[:, None])), color=color,
                  label=f"ε = {epsilon}: {params[0].w.shape[1]} ReLUs")  # fmt: skip
    left.set(xlabel="x", title="the polygon through f is a sum of ReLUs")
    left.legend(frameon=False)
    for i, (name, errors) in enumerate(curves.items()):
        right.loglog(widths, errors, "o-", color=f"C{i}", markersize=4, label=name)
    right.loglog(wide, polynomial, "s--", color="k", markersize=4, label="sin 3x with activation z²")
    right.set(xlabel="hidden units H", ylabel="largest error", title="how many units it takes depends on f")
    right.legend(frameon=False, fontsize=8)
    figures = {"H": widths, "error": curves, "trained": trained, "built": built, "polynomial activation": polynomial}
    return Finding(claims, figure, figures)
