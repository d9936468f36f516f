"""Backpropagation by hand: the chain rule, line by line.

Training a network needs the derivative of the loss with respect to every weight. The chain rule gives it from the
output backward: the loss with respect to the output y, times y with respect to its linear predictor a, which together
are y - t in every row of the GLM table; from there through a weight matrix to the hidden units h, through the
activation to what came into them (h_in), and from each h_in to the weights and the bias in front of it. Then the same
again one layer further down. No derivative is computed twice, which is why one backward pass costs about as much as
one forward pass (Rumelhart, Hinton and Williams, 1986).

Here these lines are written out in NumPy for a network with two hidden layers, and each is compared with automatic
differentiation: of the loss for the weights, and, for a quantity on the way, of the rest of the network as a function
of it. Each line is held against autodiff with its own inputs worked out by hand, so a mistake shows where it is made.
All agree to rounding, for the four heads and four activations.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import glmjax as gj

from .claims import Finding, at_most

D, HIDDEN, K = 3, (4, 5), 3
HEADS = {"normal": gj.normal(), "Bernoulli": gj.bernoulli(), "categorical": gj.categorical(K), "Poisson": gj.poisson()}
Numbers = dict[str, Any]

# By hand: each activation and its derivative, from what came in (z) and what went out (h).
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}
DERIVATIVES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "identity": lambda z, h: np.ones_like(z),
    "sigmoid": lambda z, h: h * (1 - h),
    "tanh": lambda z, h: 1 - h**2,
    "relu": lambda z, h: (z > 0).astype(float),
}


def output(head: str, a: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, dL/dy, dy/da) of one example, by hand; for the categorical head t is one-hot and dy/da a matrix."""
    if head == "normal":  # L = (y - t)^2 / 2
        return a, a - t, np.ones_like(a)
    if head == "Bernoulli":  # L = -t log y - (1 - t) log(1 - y)
        y = 1 / (1 + np.exp(-a))
        return y, (y - t) / (y * (1 - y)), y * (1 - y)
    if head == "Poisson":  # L = y - t log y
        y = np.exp(a)
        return y, 1 - t / y, y
    y = np.exp(a) / np.exp(a).sum()  # L = -sum_k t_k log y_k
    return y, -t / y, np.diag(y) - np.outer(y, y)


def loss_of_mean(head: str, y: Array, t: Array) -> Array:
    """The loss written in the output y instead of the linear predictor, for autodiff to take its derivative."""
    if head == "normal":
        return (y - t) ** 2 / 2
    if head == "Bernoulli":
        return -t * jnp.log(y) - (1 - t) * jnp.log(1 - y)
    return y - t * jnp.log(y) if head == "Poisson" else -jnp.sum(t * jnp.log(y))


def by_hand(head: str, activation: str, params: tuple[gj.Dense, ...], x: np.ndarray, t: np.ndarray) -> Numbers:
    """Forward, then the lecture's chain backward, of one example; a number or an array a line."""
    function, derivative = ACTIVATIONS[activation], DERIVATIVES[activation]
    (w1, b1), (w2, b2), (w3, b3) = [(np.asarray(layer.w), np.asarray(layer.b)) for layer in params]
    h1_in = x @ w1 + b1
    h1 = function(h1_in)
    h2_in = h1 @ w2 + b2
    h2 = function(h2_in)
    a = h2 @ w3 + b3
    y, dl_dy, dy_da = output(head, a, t)
    dl_da = dl_dy @ dy_da if dy_da.ndim else dl_dy * dy_da
    dl_dh2 = w3 @ dl_da if w3.ndim == 2 else w3 * dl_da
    dh2 = derivative(h2_in, h2)
    dl_dh2_in = dl_dh2 * dh2
    dl_dh1 = w2 @ dl_dh2_in
    dh1 = derivative(h1_in, h1)
    dl_dh1_in = dl_dh1 * dh1
    return {
        "y": y, "a": a, "h2": h2, "h2_in": h2_in, "h1": h1, "h1_in": h1_in,  # the forward pass
        "dL/dy": dl_dy,
        "dy/da": dy_da,
        "dL/da = dL/dy dy/da": dl_da,
        "dL/da = y - t": y - t,
        "da/dW3 = h2": h2,
        "dL/dW3 = h2 dL/da": np.multiply.outer(h2, dl_da),
        "dL/db3 = dL/da": dl_da,
        "dL/dh2 = W3 dL/da": dl_dh2,
        "dh2/dh2_in": dh2,
        "dL/dh2_in = dL/dh2 dh2/dh2_in": dl_dh2_in,
        "dh2_in/dW2 = h1": h1,
        "dL/dW2 = h1 dL/dh2_in": np.multiply.outer(h1, dl_dh2_in),
        "dL/db2 = dL/dh2_in": dl_dh2_in,
        "dL/dh1 = W2 dL/dh2_in": dl_dh1,
        "dh1/dh1_in": dh1,
        "dL/dh1_in = dL/dh1 dh1/dh1_in": dl_dh1_in,
        "dh1_in/dW1 = x": x,
        "dL/dW1 = x dL/dh1_in": np.multiply.outer(x, dl_dh1_in),
        "dL/db1 = dL/dh1_in": dl_dh1_in,
    }  # fmt: skip


FORWARD = ("y", "a", "h2", "h2_in", "h1", "h1_in")


def by_autodiff(head: str, activation: str, params: tuple[gj.Dense, ...], hand: Numbers, x: Array, t: Array) -> Numbers:
    """The same lines by autodiff, of one example, at the values of the forward pass.

    The rest of the network, from a hidden layer on, is itself a network whose input is that layer's value. Started
    from what comes into the layer, it is one whose first weights are the identity.
    """
    family = HEADS[head]
    label = jnp.argmax(t) if head == "categorical" else t

    def through(size: int) -> gj.Dense:
        return gj.Dense(jnp.eye(size), jnp.zeros(size))

    def rest(layers: tuple[gj.Dense, ...], value: Array) -> Array:
        """Gradient of the loss with respect to the input of the given layers."""
        sizes = tuple(layer.b.shape[0] for layer in layers[:-1] if layer.b is not None)
        model = gj.mlp(family, sizes, activation)
        return jax.grad(lambda v: gj.loss(model, layers, gj.Data(v[None], label[None])))(value)

    def activate(value: Array) -> Array:
        model = gj.mlp(gj.normal(len(value)), (len(value),), activation)
        return gj.linear_predictor(model, (through(len(value)), through(len(value))), value[None])[0]

    def by_weight(layer: gj.Dense, value: Array) -> Array:
        """Derivative of a layer's first output with respect to the weights that lead to it."""
        w, b = (layer.w, layer.b) if layer.b is None or layer.b.ndim == 0 else (layer.w[:, 0], layer.b[0])
        return jax.grad(lambda w: gj.linear_predictor(gj.glm(gj.normal()), gj.Dense(w, b), value[None])[0])(w)

    network = gj.mlp(family, HIDDEN, activation)
    layer1, layer2, layer3 = jax.grad(gj.loss, argnums=1)(network, params, gj.Data(x[None], label[None]))
    dl_da = jax.grad(family.nll)(hand["a"], label)
    return {
        "dL/dy": jax.grad(lambda y: loss_of_mean(head, y, t))(hand["y"]),
        "dy/da": jax.jacobian(family.mean)(hand["a"]),
        "dL/da = dL/dy dy/da": dl_da,
        "dL/da = y - t": dl_da,
        "da/dW3 = h2": by_weight(params[2], hand["h2"]),
        "dL/dW3 = h2 dL/da": layer3.w,
        "dL/db3 = dL/da": layer3.b,
        "dL/dh2 = W3 dL/da": rest(params[2:], hand["h2"]),
        "dh2/dh2_in": jnp.diag(jax.jacobian(activate)(hand["h2_in"])),
        "dL/dh2_in = dL/dh2 dh2/dh2_in": rest((through(HIDDEN[1]), params[2]), hand["h2_in"]),
        "dh2_in/dW2 = h1": by_weight(params[1], hand["h1"]),
        "dL/dW2 = h1 dL/dh2_in": layer2.w,
        "dL/db2 = dL/dh2_in": layer2.b,
        "dL/dh1 = W2 dL/dh2_in": rest(params[1:], hand["h1"]),
        "dh1/dh1_in": jnp.diag(jax.jacobian(activate)(hand["h1_in"])),
        "dL/dh1_in = dL/dh1 dh1/dh1_in": rest((through(HIDDEN[0]), *params[1:]), hand["h1_in"]),
        "dh1_in/dW1 = x": by_weight(params[0], x),
        "dL/dW1 = x dL/dh1_in": layer1.w,
        "dL/db1 = dL/dh1_in": layer1.b,
    }


def problem(head: str, n: int) -> tuple[tuple[gj.Dense, ...], np.ndarray, np.ndarray]:
    """Random parameters, biases too, n random inputs, and random targets that the head can have."""
    rng = np.random.default_rng(list(HEADS).index(head))
    outputs = (K,) if head == "categorical" else ()
    layers = []
    for fan_in, shape in ((D, HIDDEN[:1]), (HIDDEN[0], HIDDEN[1:]), (HIDDEN[1], outputs)):
        w, b = rng.uniform(-1, 1, (fan_in, *shape)), rng.uniform(-0.5, 0.5, shape)
        layers.append(gj.Dense(jnp.asarray(w), jnp.asarray(b)))
    targets: dict[str, Callable[[], np.ndarray]] = {
        "normal": lambda: rng.normal(size=n),
        "Bernoulli": lambda: rng.integers(2, size=n).astype(float),
        "categorical": lambda: np.eye(K)[rng.integers(K, size=n)],
        "Poisson": lambda: rng.poisson(2, n).astype(float),
    }
    return tuple(layers), rng.normal(size=(n, D)), targets[head]()


def differences(head: str, activation: str, n: int) -> dict[str, float]:
    """Largest absolute difference of each line over n examples, each worked out on its own."""
    params, x, t = problem(head, n)
    examples = [by_hand(head, activation, params, row, target) for row, target in zip(x, t, strict=True)]
    hand = {line: np.stack([example[line] for example in examples]) for line in examples[0]}
    forward = {name: hand.pop(name) for name in FORWARD}

    def autodiff(params: tuple[gj.Dense, ...], forward: Numbers, x: Array, t: Array) -> Numbers:
        return by_autodiff(head, activation, params, forward, x, t)

    found = jax.jit(jax.vmap(autodiff, in_axes=(None, 0, 0, 0)))(params, forward, x, t)
    return {line: float(np.abs(value - np.asarray(found[line])).max()) for line, value in hand.items()}


def investigate(quick: bool) -> Finding:
    """Every line of the chain for every head and activation; quick, for four pairs in which each has its turn."""
    n = 20 if quick else 500
    pairs = list(zip(HEADS, ACTIVATIONS, strict=True)) if quick else list(itertools.product(HEADS, ACTIVATIONS))
    found = {pair: differences(*pair, n) for pair in pairs}
    lines = list(found[pairs[0]])
    claims = [at_most(line, max(found[pair][line] for pair in pairs), 1e-12) for line in lines]

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    floor, eps = 2e-18, float(np.finfo(float).eps)
    at = np.arange(len(lines))
    for i, head in enumerate(HEADS):
        worst = [max(found[pair][line] for pair in pairs if pair[0] == head) for line in lines]
        axes.semilogx(np.maximum(worst, floor), at + 0.16 * (i - 1.5), "o", color=f"C{i}", markersize=4, label=head)
    axes.axvspan(floor / 3, eps, color="0.93")
    axes.text(1.2 * floor, -1.15, "grey: below the rounding of 1", va="center", color="0.4", fontsize=8)
    axes.axvline(1e-12, color="k", linestyle=":", label="bound of the claims")
    axes.set_yticks(at, lines, fontsize=7)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(len(lines) - 0.4, -1.8)  # the first line on top
    axes.set(
        xlim=(floor / 3, 2e-10), xlabel="largest difference from autodiff over examples and activations (left edge: 0)"
    )
    axes.set_title("each line of the chain, by hand and by autodiff")
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    figures = {f"{head}, {activation}": found[head, activation] for head, activation in pairs}
    return Finding(claims, figure, {"examples": n, "largest differences": figures})
