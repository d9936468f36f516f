"""Derivatives of a fit by the implicit function theorem: where grad f(theta, a) = 0, d theta = -H^-1 d_a grad f.

Reference: Blondel et al. (2022), Efficient and modular implicit differentiation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .meshes import device_gradient


def implicit_tangent(
    f: Callable[..., Array], theta: Array, inputs: tuple, tangents: tuple, free: Array, gauge: Array | None
) -> Array:
    """The tangent of the minimizer `theta` (p,) of `f(theta, *inputs)`, for tangents of the inputs.

    Coordinates not `free` stay where they are; `gauge` (g, p) spans directions that f does not see, along which the
    minimizer does not move. Linear in the tangents, so that it goes forward and backward.
    """
    h = device_gradient(jax.hessian(f)(theta, *inputs))
    if gauge is not None:
        h = h + (gauge.T * (gauge**2 @ jnp.diag(h))[None]) @ gauge
    _, moved = jax.jvp(lambda *inputs: device_gradient(jax.grad(f)(theta, *inputs)), inputs, tangents)
    diagonal = jnp.diag(h)
    scale = jax.lax.rsqrt(jnp.where(free & (diagonal > 0), diagonal, 1))
    h = jnp.where(free[:, None] & free[None], h * scale[:, None] * scale[None], jnp.eye(theta.shape[0], dtype=h.dtype))
    return -scale * jnp.linalg.solve(h, jnp.where(free, scale * moved, 0))


def without_tangent(value: Any) -> Any:
    """Zero tangents for any tree: float0 where the leaf is not a float."""

    def zero(leaf: Array) -> Any:
        return jnp.zeros(leaf.shape, jax.dtypes.float0 if not jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype)

    return jax.tree.map(zero, value)
