"""Lanes of a `vmap`: what the lanes of a batch decide together."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_batching.custom_vmap
def any_lane(flag: Array) -> Array:
    """Whether any lane of the surrounding `vmap`s has its flag up; one answer for all lanes.

    `lax.cond` on a flag a lane runs both branches for every lane; on this answer it stays a branch.
    """
    return flag


@any_lane.def_vmap
def _any_lane_batched(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_lane(jnp.any(flag)), False
