"""Lanes of a `vmap`: what the lanes of a batch decide together, and how many there are."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .inputs import is_traced

Value = TypeVar("Value")
Function = Callable[..., Any]


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


def lanewise(build: Callable[[int], Function]) -> Function:
    """The function `build(lanes)`, built for as many lanes as the surrounding `vmap`s run at once, nested ones
    multiplied: its chunks can be of a size at which all lanes of one fit the caches.
    """
    return _lanewise(build, 1, ())


def _lanewise(build: Callable[[int], Function], lanes: int, axes: tuple[Any, ...]) -> Function:
    """The same, with the axes of the `vmap`s that have been met already, innermost first."""

    @jax.custom_batching.custom_vmap
    def call(*args: Any) -> Any:
        function = build(lanes)
        for in_axes in axes:
            function = jax.vmap(function, in_axes)
        return function(*args)

    @call.def_vmap
    def _batched(axis_size: int, in_batched: list[Any], *args: Any) -> tuple[Any, Any]:
        in_axes = tuple(jax.tree.map(lambda batched: 0 if batched else None, part) for part in in_batched)
        out = _lanewise(build, lanes * axis_size, (*axes, in_axes))(*args)
        return out, jax.tree.map(lambda _: True, out)

    return call
