"""The arguments of a batch of lanes as leaves: which of them have lanes, what one lane has of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.dtypes import canonicalize_dtype

from .inputs import digest, is_traced

Function = Callable[..., Any]


class Arguments(NamedTuple):
    """Arguments as flat leaves, the axis of each that has the lanes (None: shared by all), and how many lanes."""

    leaves: list[Any]
    axes: tuple[int | None, ...]
    tree: Any
    lanes: int


def read_arguments(function: Function, args: tuple[Any, ...], in_axes: Any) -> Arguments:
    """The arguments as leaves with their axes; raises as `fit_many` says."""
    if not callable(function):
        raise TypeError(f"function must be callable, such as gj.fit_newton, got {type(function).__name__}")
    if is_traced(args):
        raise TypeError("fit_many runs on the host and takes no traced arrays; inside of jit use jax.vmap")
    if isinstance(in_axes, tuple) and not hasattr(in_axes, "_fields") and len(in_axes) != len(args):
        raise ValueError(f"in_axes has {len(in_axes)} entries for {len(args)} arguments; give one each, None is shared")
    spread = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    try:
        axes = jax.tree.map(
            lambda axis, part: [axis] * len(jax.tree.leaves(part)), spread, args, is_leaf=lambda axis: axis is None
        )
    except ValueError as error:
        raise ValueError(f"in_axes does not match the arguments' structure: {error}") from None
    flat = tuple(axis for part in jax.tree.leaves(axes, is_leaf=lambda part: isinstance(part, list)) for axis in part)
    paths, tree = jax.tree_util.tree_flatten_with_path(args)
    leaves = [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for _, leaf in paths]
    lengths: dict[str, int] = {}
    for (path, _), leaf, axis in zip(paths, leaves, flat, strict=True):
        name = f"args{jax.tree_util.keystr(path)}"
        if axis is None:
            continue
        if not isinstance(axis, int) or not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(f"{name} has shape {leaf.shape} and no axis {axis} for the lanes; see in_axes")
        lengths[name] = leaf.shape[axis]
    if not lengths:
        raise ValueError("no argument has lanes: in_axes is None everywhere; give the axis of those that differ")
    first, count = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != count:
            raise ValueError(f"{name} has {length} lanes, {first} has {count}; give each its own, or None in in_axes")
    if count == 0:
        raise ValueError(f"{first} has 0 lanes; there is nothing to fit")
    axes = tuple(axis if axis is None else axis % leaf.ndim for axis, leaf in zip(flat, leaves, strict=True))
    return Arguments(leaves, axes, tree, count)


def shapes_of(arguments: Arguments) -> tuple[Any, ...]:
    """Shape and dtype of what one lane has of each leaf."""
    return tuple(
        (
            leaf.shape[:axis] + leaf.shape[leaf.ndim if axis is None else axis + 1 :],
            canonicalize_dtype(leaf.dtype, True),
        )
        for leaf, axis in zip(arguments.leaves, arguments.axes, strict=True)
    )


def lanes_of(leaf: Any, axis: int, start: int, size: int) -> Any:
    """`size` lanes of a leaf; of a NumPy array a view."""
    if isinstance(leaf, jax.Array):
        return jax.lax.dynamic_slice_in_dim(leaf, start, size, axis)
    return leaf[(*[slice(None)] * axis, slice(start, start + size))]


def fingerprint(function: Function, arguments: Arguments) -> str:
    """What tells this call's arguments from others'."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return digest(jax.tree.unflatten(arguments.tree, arguments.leaves), f"{name} {arguments.axes}")
