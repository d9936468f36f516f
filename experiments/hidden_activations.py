"""Hidden units: which activation, how to start them, and how many.

A multilayer perceptron is a GLM on features that it learns. If the hidden layers are linear, so are the features, and
a product of matrices is a matrix: nothing is gained over the GLM. Any bend will do: sigmoid, tanh and ReLU all learn a
curved boundary, though not at the same learning rates. Given enough features a network fits its training data as well
as one likes, even labels that are pure noise, so a low training loss alone says nothing.

Weights must start at random, because gradient descent treats equals equally: hidden units that start the same have the
same gradient, and stay the same forever. How large they should be depends on the number M of inputs of a unit. Its sum
of M terms has a standard deviation of sqrt(M) times that of a term, so a range of +-1/sqrt(M) does the same at every
width, where a fixed range vanishes at one and saturates at another. It does not quite keep the size of the features,
though: a uniform number in +-1 has standard deviation 1/sqrt(3), and by that factor they shrink from layer to layer.
One hidden layer learns all the same; eight leave nothing to learn from, and there +-sqrt(3/M) trains where
+-1/sqrt(M) does not. Up to four layers the digits are fitted fastest from +-1, saturated units and all: too large costs
less than too small.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, make_moons

import glmjax as gj

from .claims import Claim, Finding, at_least, at_most, between

FAMILY = gj.bernoulli()
NETWORKS = {name: gj.mlp(FAMILY, hidden=(16,), activation=name) for name in ("identity", "sigmoid", "tanh", "relu")}
MODELS = {"linear": gj.glm(FAMILY), **NETWORKS}
CURVED = ("sigmoid", "tanh", "relu")
RATES = np.array([0.03, 0.1, 0.3, 1.0], np.float32)
RANGES: dict[str, Callable[[int], float]] = {"1/√M": lambda m: m**-0.5, "√(3/M)": lambda m: (3 / m) ** 0.5, "0.01": lambda m: 0.01,
          "0.1": lambda m: 0.1, "1": lambda m: 1.0}  # fmt: skip
WIDTHS, DEPTHS, DEEP = (32, 128), (1, 2, 4, 8), 8
SIZES = (2, 8, 32, 128)
NOISE = gj.mlp(FAMILY, hidden=(max(SIZES),), activation="tanh")


def moons(n: int, seed: int) -> gj.Data:
    """Two interleaved half circles with so much noise that they overlap: no boundary separates them."""
    x, y = make_moons(n, noise=0.3, random_state=seed)
    return gj.make_data((x - [0.5, 0.25]).astype(np.float32), y, family=FAMILY)


def minibatches(n: int, size: int, epochs: int, seeds: int) -> Array:
    """Shuffled rows for every seed, (seeds, steps, size)."""
    rng = np.random.default_rng(0)
    rows = rng.permuted(np.tile(np.arange(n, dtype=np.int32), (seeds, epochs, 1)), axis=2)
    return jnp.array(rows.reshape(seeds, -1, size))


def drawn(model: gj.Model, seeds: int, d: int) -> Any:
    """Random initial weights of every seed."""
    init = jax.jit(jax.vmap(lambda key: gj.init(model, key, d, dtype=jnp.float32)))
    return init(jax.random.split(jax.random.key(0), seeds))


@partial(jax.jit, static_argnames="epochs")
def grid(starts: Any, train: gj.Data, test: gj.Data, order: Array, epochs: int) -> dict[str, tuple[Any, Array]]:
    """Every model from every start at every learning rate, (rates, starts), as one program: weights, held-out loss."""

    def fit(model: gj.Model, start: Any, order: Array, rate: Array) -> tuple[Any, Array]:
        fit = gj.fit_sgd(model, train, None, params=start, order=order, learning_rate=rate, epochs=epochs)
        return fit.params, gj.loss(model, fit.params, test)

    found = {}
    for name, model in MODELS.items():
        own = None if name == "linear" else starts  # a GLM starts at 0
        over_starts = jax.vmap(partial(fit, model), (None if name == "linear" else 0, 0, None))
        found[name] = jax.vmap(over_starts, (None, None, 0))(own, order, jnp.array(RATES))
    return found


def deep(width: int, depth: int = DEEP) -> gj.Model:
    """A tanh network for the digits."""
    return gj.mlp(gj.categorical(10), hidden=(width,) * depth, activation="tanh")


def deep_starts(seeds: int) -> dict[int, Any]:
    """Initial weights of deep networks of both widths, (ranges, seeds): parts of one draw, brought to every range."""
    drawings = drawn(deep(max(WIDTHS)), seeds, 64)
    *hidden, head = (np.asarray(layer.w) * np.sqrt(np.float32(layer.w.shape[1])) for layer in drawings)  # in +-1

    def scaled(w: np.ndarray) -> gj.Dense:
        bounds = np.array([bound(w.shape[1]) for bound in RANGES.values()], np.float32)
        biases = np.zeros((len(bounds), seeds, w.shape[2]), w.dtype)
        return gj.Dense(jnp.array(w * bounds[:, None, None, None]), jnp.array(biases))

    found = {}
    for m in WIDTHS:
        layers = [hidden[0][:, :, :m], *(w[:, :m, :m] for w in hidden[1:]), head[:, :m]]
        found[m] = tuple(scaled(w) for w in layers)
    return found


def spreads(starts: Any, x: np.ndarray) -> np.ndarray:
    """Standard deviation over the rows of the units of each hidden layer, (ranges, layers); mean over units, seeds."""
    h, found = x, []
    for layer in starts[:-1]:
        h = np.tanh(h @ np.asarray(layer.w))  # biases are 0
        found.append(np.sqrt(h.var(2).mean((1, 2))))
    return np.stack(found, 1)


@partial(jax.jit, static_argnames="epochs")
def train_deep(starts: Any, data: gj.Data, order: Array, epochs: int) -> Array:
    """Training loss of the deep network from every start, (ranges, seeds)."""
    model = deep(WIDTHS[0], len(starts) - 1)

    def loss(start: Any, order: Array) -> Array:
        return gj.fit_sgd(model, data, None, params=start, order=order, epochs=epochs).loss

    return jax.vmap(jax.vmap(loss), (0, None))(starts, order)


@partial(jax.jit, static_argnames="epochs")
def fit_noise(starts: Any, sizes: Array, data: gj.Data, order: Array, epochs: int) -> Array:
    """Training loss on random labels of networks of all sizes, (sizes, seeds), as one program.

    Units after the first H start at zero and so stay there: what is trained is a network of H units.
    """

    def loss(size: Array, start: Any) -> Array:
        on = (jnp.arange(max(SIZES)) < size).astype(jnp.float32)
        first, head = start
        bound = jnp.sqrt(max(SIZES) / size.astype(jnp.float32))  # +-1/sqrt(H) for the head
        start = (gj.Dense(first.w * on, first.b), gj.Dense(head.w * on * bound, head.b))
        fit = gj.fit_sgd(NOISE, data, None, params=start, order=order, optimizer=optax.adam, learning_rate=0.02,
                         epochs=epochs)  # fmt: skip
        return fit.loss

    return jax.vmap(jax.vmap(loss, (None, 0)), (0, None))(sizes, starts)


def activation_claims(losses: dict[str, np.ndarray]) -> list[Claim]:
    """Identity against linear, the others against linear, and against each other; losses are (rates, seeds)."""
    best = {name: loss[loss.mean(1).argmin()] for name, loss in losses.items()}
    rate = len(RATES) - 1
    identity, linear = losses["identity"][rate], losses["linear"][rate]
    gap = abs(identity.mean() - linear.mean()) / np.hypot(identity.std(ddof=1), linear.std(ddof=1))
    claims = [
        at_most("held-out loss, identity against linear, each at its best rate: difference of means",
                abs(best["identity"].mean() - best["linear"].mean()), 1e-3),
        at_most(f"... both at learning rate {RATES[rate]:g}, in standard deviations over seeds", gap, 2),
    ]  # fmt: skip
    for name in CURVED:
        gain = best["linear"].mean() - best[name].mean()
        told = f"{name} gains {gain:.3f} over linear; in standard deviations over seeds"
        claims.append(at_least(told, gain / best[name].std(ddof=1), 2))
    for name in ("tanh", "relu"):
        slow, fast = losses["sigmoid"][1], losses[name][1]
        gap = (slow.mean() - fast.mean()) / np.hypot(slow.std(ddof=1), fast.std(ddof=1))
        told = f"sigmoid learns slower than {name} at learning rate {RATES[1]:g}, in standard deviations"
        claims.append(at_least(told, gap, 2))
    return claims


def start_claims(found: dict[str, tuple[Any, np.ndarray]], losses: dict[str, np.ndarray]) -> list[Claim]:
    """What became of the hidden units that all started at zero: the last start of each."""
    units = found["sigmoid"][0][0].w  # (rates, starts, inputs, units)
    zero, random = units[:, -1], units[-1, :-1]
    apart = np.linalg.norm(random[..., :, None] - random[..., None, :], axis=1)
    apart[:, range(16), range(16)] = np.inf
    claims = [
        at_most("sigmoid from zero: largest difference between hidden units after training",
                abs(zero - zero[..., :1]).max(), 0),
        at_least("... though they did move: their largest weight", abs(zero).max(), 0.1),
        at_least("sigmoid from random: distance of the two units most alike, over all seeds", apart.min(), 1e-4),
    ]  # fmt: skip
    for name in ("tanh", "relu"):
        layers = found[name][0]
        moved = max(float(abs(part[:, -1]).max()) for part in (layers[0].w, layers[0].b, layers[1].w))
        claims.append(at_most(f"{name} from zero: no weight ever moves but the last bias; the largest", moved, 0))
    random_loss = losses["sigmoid"][-1]
    excess = (float(found["sigmoid"][1][-1, -1]) - random_loss.mean()) / random_loss.std(ddof=1)
    claims.append(at_least("sigmoid from zero: held-out loss above random starts, in standard deviations", excess, 2))
    return claims


def factor(spread: np.ndarray) -> np.ndarray:
    """By how much the spread changes from a layer to the next, over the last four."""
    return (spread[:, -1] / spread[:, -5]) ** 0.25


def depth_claims(spread: dict[int, np.ndarray], deep_loss: dict[int, np.ndarray]) -> list[Claim]:
    """Factors from layer to layer at both widths, and what comes of them in training."""
    at = {name: {m: factor(spread[m])[i] for m in WIDTHS} for i, name in enumerate(RANGES)}
    narrow, wide = WIDTHS
    claims = [
        between(
            f"init in ±1/√M: spread of a layer over the one before, M = {m} (1/√3 = 0.577)", at["1/√M"][m], 0.52, 0.63
        )
        for m in WIDTHS
    ]
    claims += [
        between(f"... in ±0.1: that factor at M = {wide} over the one at M = {narrow}", at["0.1"][wide] / at["0.1"][narrow],
                1.8, 2.2),
        at_most("... in ±0.01: the factor, at most, at both widths", max(at["0.01"].values()), 0.1),
        at_least(f"... in ±1: spread of layer {DEEP} (1 is saturated)", min(s[4, -1] for s in spread.values()), 0.7),
    ]  # fmt: skip
    if DEEP not in deep_loss:
        return claims
    names = list(RANGES)
    root, unit = deep_loss[DEEP][0], deep_loss[DEEP][1]
    for i in (2, 3, 4):
        told = (
            f"{DEEP} layers, 10 epochs: lowest training loss from ±{names[i]} less the highest from ±√(3/M), over seeds"
        )
        claims.append(at_least(told, deep_loss[DEEP][i].min() - unit.max(), 0))
    told = "... mean from ±1/√M, which is too small at this depth: no better than guessing (log 10 = 2.3)"
    claims.append(between(told, root.mean(), 2.2, 2.4))
    told = "... while with one hidden layer ±1/√M does learn: training loss"
    claims.append(at_most(told, deep_loss[1][0].mean(), 1.0))
    return claims


def show_lanes(ax: Axes, x: Any, values: np.ndarray, **style: Any) -> None:
    """Mean over seeds, and from the lowest to the highest."""
    (line,) = ax.plot(x, values.mean(1), marker="o", markersize=4, **style)
    ax.fill_between(x, values.min(1), values.max(1), color=line.get_color(), alpha=0.2, linewidth=0)


def investigate(quick: bool) -> Finding:
    """Activations and learning rates, starts, ranges by depth, random labels."""
    seeds, epochs = (8, 100) if quick else (32, 300)
    train, test = moons(512, 0), moons(4096, 1)
    starts = jax.tree.map(lambda p: jnp.concatenate([p, 0 * p[:1]]), drawn(NETWORKS["tanh"], seeds, 2))
    found = jax.tree.map(np.asarray, grid(starts, train, test, minibatches(512, 32, epochs, seeds + 1), epochs))
    losses = {name: loss[:, :-1] for name, (_, loss) in found.items()}  # the last start is zero
    claims = activation_claims(losses) + start_claims(found, losses)

    pixels, digit = load_digits(return_X_y=True)
    x = (pixels[:512] / 16 - pixels.mean() / 16).astype(np.float32)
    deep_params = deep_starts(4)
    spread = {m: spreads(params, x[:256]) for m, params in deep_params.items()}
    digits, few = gj.make_data(x, digit[:512]), 10
    params, order = deep_params[WIDTHS[0]], minibatches(512, 32, few, 4)
    deep_loss = {
        depth: np.asarray(train_deep((*params[:depth], params[-1]), digits, order, few))
        for depth in (() if quick else DEPTHS)  # compilation takes seconds each
    }
    claims += depth_claims(spread, deep_loss)

    rng = np.random.default_rng(0)
    noise = gj.make_data(rng.standard_normal((100, 5)).astype(np.float32), rng.integers(0, 2, 100), family=FAMILY)
    whole = jnp.arange(100)[None]  # one minibatch of all rows
    noise_loss = np.asarray(fit_noise(drawn(NOISE, 4, 5), jnp.array(SIZES), noise, whole, 600 if quick else 6000))
    claims += [
        at_least(f"random labels: training loss at H = {SIZES[0]}", noise_loss[0].mean(), 0.3),
        at_least(
            "... smallest ratio of the loss at H to that at 4 H", (noise_loss[:-1] / noise_loss[1:]).mean(1).min(), 1.2
        ),
        at_most(f"... highest of the seeds at H = {SIZES[-1]}", noise_loss[-1].max(), 0.01),
    ]

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    for name, loss in losses.items():
        style = {"color": "k", "linestyle": ":"} if name == "linear" else {}
        show_lanes(a, RATES, loss, label=name, **style)
    a.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="held-out loss",
        title="bent units beat the linear model, identity does not",
    )
    a.legend(frameon=False)
    units = found["sigmoid"][0][0].w[-1]
    b.plot(*units[0], "o", markersize=5, label="16 units from a random start")
    b.plot(*units[-1], "s", markersize=7, label="16 units from zero, all here")
    b.set(xlabel="weight of x₁", ylabel="weight of x₂", title="hidden units that start the same stay the same")
    b.legend(frameon=False)
    layers = np.arange(1, DEEP + 1)
    for i, name in enumerate(RANGES):
        c.semilogy(layers, spread[WIDTHS[0]][i], "o-", markersize=4, color=f"C{i}", label=f"±{name}")
        c.semilogy(layers, spread[WIDTHS[1]][i], "s:", markersize=4, color=f"C{i}")
    c.set(xlabel="hidden layer", ylabel="spread of its units (sd over rows)")
    c.set_title(f"how features fade with depth, M = {WIDTHS[0]} (dotted: {WIDTHS[1]})")
    c.set_ylim(1e-6, 2)
    c.legend(frameon=False)
    show_lanes(d, SIZES, noise_loss)
    d.set(
        xscale="log",
        yscale="log",
        xlabel="hidden units H",
        ylabel="training loss",
        title="enough units fit even random labels",
    )
    d.set_xticks(SIZES, [str(size) for size in SIZES])
    d.minorticks_off()
    figures = {
        "learning rates": RATES,
        "held-out loss, mean over seeds": {name: loss.mean(1) for name, loss in losses.items()},
        "held-out loss, sd over seeds": {name: loss.std(1, ddof=1) for name, loss in losses.items()},
        "spread by layer": {f"M = {m}": dict(zip(RANGES, s, strict=True)) for m, s in spread.items()},
        "training loss, digits": {f"{k} layers": dict(zip(RANGES, v, strict=True)) for k, v in deep_loss.items()},
        "training loss on random labels": {f"H = {h}": loss for h, loss in zip(SIZES, noise_loss, strict=True)},
    }
    return Finding(claims, figure, figures)
