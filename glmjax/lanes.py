"""Lanes of a `vmap`: what the lanes of a batch decide together, and how many there are."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .inputs import is_traced

Value = TypeVar("Value")
Function = Callable[..., Any]

GROUP = 60_000  # numbers of rows of their own that lanes work on together: with what comes of them in a core's cache


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


def chosen(flag: Array, value: Value, other: Value) -> Value:
    """`value` in lanes that have their flag, (), up, and `other` in those that have not, leaf by leaf."""
    return jax.tree.map(partial(jax.lax.select, flag), value, other)


def grouped(function: Function, own: Callable[[Any], Any]) -> Function:
    """The function, whose lanes go a group at a time, each to its end, where each has rows of its own on a CPU: what a
    group works on fits the caches, and no lane waits for those of other groups. `own(value)` is what a lane does not
    share then, of an argument, or of which of its leaves are batched.
    """

    @jax.custom_batching.custom_vmap
    def call(value: Any) -> Any:
        return function(value)

    @call.def_vmap
    def _batched(axis_size: int, in_batched: list[Any], value: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[0])
        size = axis_size
        if own(in_batched[0]) and jax.default_backend() == "cpu":
            size = max(1, GROUP * axis_size // max(own(value).size, 1))
        run = jax.vmap(function, (axes,))
        if size < axis_size:
            run = partial(_in_groups, function, axes, axis_size, size)
        out = grouped(run, own)(value)
        return out, jax.tree.map(lambda _: True, out)

    return call


def _in_groups(function: Function, axes: Any, lanes: int, size: int, value: Any) -> Any:
    """`jax.vmap(function, axes)` of so many lanes, a group at a time; the last group takes some lanes again."""
    groups = -(-lanes // size)
    size = -(-lanes // groups)

    def group(start: Array) -> Any:
        part = jax.tree.map(
            lambda axis, leaf: leaf if axis is None else jax.lax.dynamic_slice_in_dim(leaf, start, size),
            axes,
            value,
            is_leaf=lambda axis: axis is None,
        )
        return jax.vmap(function, (axes,))(part)

    out = jax.lax.map(group, jnp.minimum(jnp.arange(groups) * size, lanes - size))
    rest = lanes - (groups - 1) * size

    def joined(leaf: Array) -> Array:
        return jnp.concatenate([leaf[:-1].reshape(-1, *leaf.shape[2:]), leaf[-1][size - rest :]])

    return jax.tree.map(joined, out)


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
