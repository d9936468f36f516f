"""The problems that tests run over: every row of the GLM table, with data drawn from it."""

import jax
import jax.numpy as jnp

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
