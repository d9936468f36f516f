"""Softmax does not see a constant added to all logits.

So K logits are one too many: the loss is flat along the direction that adds the same vector to every class's weights,
which shows as zero eigenvalues of the information (its second derivative), one for each column of x and one for the
bias. Fixing one class's logit at 0 leaves K - 1 and a curved loss. With two classes that is the sigmoid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Claim, Finding, at_least, at_most

K, D = 4, 3


@jax.jit
def probabilities_and_losses(eta: Array) -> tuple[Array, Array]:
    """Of logits (n, K), with labels 0, 1, ..., K - 1 in turn."""
    family = gj.categorical(K)
    labels = (jnp.arange(len(eta)) % K).astype(eta.dtype)
    return family.mean(eta), jax.vmap(family.nll)(eta, labels)


def change_under_shift(dtype: type, scale: float) -> float:
    """Largest change of a probability or a loss when `scale` is added to logits up to `scale`, by one program."""
    eighths = np.random.default_rng(0).integers(int(-8 * scale), int(8 * scale) + 1, (1000, K))
    eta: np.ndarray = (eighths / 8).astype(dtype)  # so that adding the shift rounds nothing
    before, after = probabilities_and_losses(jnp.array(eta)), probabilities_and_losses(jnp.array(eta + dtype(scale)))
    return max(float(np.abs(np.asarray(b) - np.asarray(a)).max()) for b, a in zip(before, after, strict=True))


def eigenvalues(family: gj.Family, data: gj.Data) -> np.ndarray:
    """Eigenvalues of the loss's second derivative at random parameters, smallest first."""
    model = gj.glm(family)
    flat, unravel = ravel_pytree(gj.init(model, jax.random.key(1), D, bound=0.5))
    hessian = jax.jit(jax.hessian(lambda p: gj.loss(model, unravel(p), data)))(flat)
    return np.linalg.eigvalsh(np.asarray(hessian))


def investigate(quick: bool) -> Finding:
    """Shift, flat directions, reference class, two classes."""
    claims, shifts = [], {}
    for dtype in (np.float32, np.float64):
        for scale in (1.0, 100.0, 10_000.0):
            name = f"{dtype.__name__}, logits to {scale:g}"
            shifts[name] = change_under_shift(dtype, scale)
            claims.append(at_most(f"adding {scale:g} to all logits changes nothing, {name}", shifts[name], 0.0))

    x = jax.random.normal(jax.random.key(2), (200 if quick else 5000, D))
    full, less = gj.categorical(K), gj.categorical(K, reference=0)
    truth = gj.init(gj.glm(full), jax.random.key(3), D, bound=1.0)
    data = gj.make_data(x, gj.sample(gj.glm(full), truth, x, jax.random.key(4)), family=full)
    flat, curved = eigenvalues(full, data), eigenvalues(less, data)
    claims += [
        at_most(
            f"K logits: {D + 1} eigenvalues of the information are 0, the largest of them",
            abs(flat[: D + 1]).max(),
            1e-15,
        ),
        at_least("... and the next is not", flat[D + 1], 1e-3),
        at_least("K - 1 logits: the smallest eigenvalue is above 0", curved[0], 1e-3),
    ]
    z = jnp.linspace(-30, 30, 2001)
    two = gj.categorical(2, reference=0).mean(z[:, None])[:, 1]
    difference = float(jnp.abs(two - gj.bernoulli().mean(z)).max())
    claims.append(at_most("two classes, one logit: softmax less the sigmoid", difference, 1e-15))
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(np.array([1e4, 0], np.float32))
        naive = powers / powers.sum()
    stable = gj.categorical(2).mean(jnp.array([1e4, 0], jnp.float32))
    claims.append(
        Claim("exp over its sum, as written, overflows at logits of 1e4; ours does not", "NaN; 1",
              f"{naive[0]}; {stable[0]:.3g}", bool(np.isnan(naive[0]) and stable[0] == 1))
    )  # fmt: skip

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    floor = 1e-18
    for values, label, marker in ((flat, f"{K} logits", "o"), (curved, f"{K - 1} logits", "s")):
        left.semilogy(np.arange(1, len(values) + 1), np.maximum(abs(values), floor), marker, label=label)
    left.axhspan(floor, 1e-15, color="0.9")
    left.text(len(flat), 2e-17, "rounding: these are zeros", ha="right", color="0.4")
    left.set(
        xlabel="eigenvalue, smallest first", ylabel="curvature of the loss", title="K logits leave flat directions"
    )
    left.legend(frameon=False)
    eta = jnp.array([1.0, 0.0, -1.0, 0.5])
    at = jnp.linspace(-10_000, 10_000, 201)
    right.plot(at, jax.vmap(lambda c: full.mean(eta + c))(at))
    right.set(
        xlabel="constant added to all logits", ylabel="probability of each class", title="and a shift is not seen"
    )
    right.set(ylim=(0, 1), xticks=(-10_000, 0, 10_000))
    figures = {"change under a shift": shifts, "eigenvalues, K logits": flat, "eigenvalues, K - 1 logits": curved}
    return Finding(claims, figure, figures)
