"""The problems that tests run over: every row of the GLM table, with data drawn from it; derivatives of their fits."""

import jax
import jax.numpy as jnp
import numpy as np

import glmjax as gj

FAMILIES = {
    "normal": gj.normal(),
    "normal-3": gj.normal(3),
    "bernoulli": gj.bernoulli(),
    "categorical": gj.categorical(3),
    "categorical-reference": gj.categorical(3, reference=1),
    "poisson": gj.poisson(),
}

N, D = 24, 3


def models(family: gj.Family) -> dict[str, gj.Model]:
    """A linear and a hidden-layer model of a family."""
    return {"glm": gj.glm(family), "mlp": gj.mlp(family, (5,), "tanh")}


CASES = [(family, kind) for family in FAMILIES for kind in ("glm", "mlp")]


def problem(family: str, kind: str = "glm", *, full: bool = False, seed: int = 0):
    """(model, random parameters, data drawn from them); `full` adds weights, an offset and precisions."""
    model = models(FAMILIES[family])[kind]
    k_params, k_x, k_y, k_offset = jax.random.split(jax.random.key(seed), 4)
    params = gj.init(model, k_params, D, bound=0.8)
    x = jax.random.normal(k_x, (N, D))
    offset = 0.3 * jax.random.normal(k_offset, (N,)) if full else None
    y = gj.sample(model, params, x, k_y, offset)
    weight = (jnp.arange(N) % 4).astype(x.dtype) if full else None
    precision = 0.5 + (jnp.arange(N) % 3).astype(x.dtype) if full else None
    return model, params, gj.make_data(x, y, family=model.family, weight=weight, offset=offset, precision=precision)


def differences(f, at, direction, step=1e-5):
    """The central difference of f along a direction."""
    return (f(at + step * direction) - f(at - step * direction)) / (2 * step)


def check_derivatives(value, at, skip=()):
    """The derivatives of a number by each of its arguments, forward and backward, equal central differences."""

    @jax.jit  # one program: it holds the fit once, and three would each be as large
    def found(at, moves):
        return *jax.jvp(value, at, moves), jax.grad(value, argnums=range(len(at)))(*at)

    for i, part in enumerate(at):
        if i in skip:
            continue
        direction = jnp.sin(jnp.arange(1.0, part.size + 1)).reshape(part.shape)
        moves = tuple(direction if j == i else jnp.zeros_like(other) for j, other in enumerate(at))
        numeric = differences(lambda p, i=i, moves=moves: found((*at[:i], p, *at[i + 1 :]), moves)[0], part, direction)
        _, forward, backward = found(at, moves)
        np.testing.assert_allclose(forward, numeric, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(jnp.sum(backward[i] * direction), numeric, rtol=1e-7, atol=1e-9)
