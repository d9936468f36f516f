"""Lanes of a `vmap`: what the lanes of a batch decide together."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .inputs import is_traced

Value = TypeVar("Value")


@jax.custom_batching.custom_vmap
def any_lane(flag: Array) -> Array:
    """Whether any lane of the surrounding `vmap`s has its flag up, elementwise; one answer for all lanes.

    `lax.cond` on a flag a lane runs both branches for every lane; on this answer it stays a branch.
    """
    return flag


@any_lane.def_vmap
def _any_lane_batched(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_lane(jnp.any(flag, axis=0)), False


def rarely(status: Array, ended: int, branch: Callable[[Value], Value], value: Value) -> Value:
    """`branch(value)` where any lane's status is `ended`, else `value`; the branch leaves the other lanes alone.

    Outside of `jit` and `vmap` the host looks, so that what is rarely needed is rarely compiled.
    """
    if is_traced(status):
        return jax.lax.cond(any_lane(status == ended), branch, lambda value: value, value)
    return branch(value) if np.any(np.asarray(status) == ended) else value
