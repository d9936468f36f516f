"""Rows spread over the devices of a mesh: what brings the results of each device's own rows together.

On a mesh a fit runs whole on every device, inside of one `jax.shard_map`: each device reads its own rows, and the sums
of a pass are added up over the devices, so that all of them take the same step. Whether there is a mesh is known where
a function is traced; where there is none the functions here return what they are given.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

ROWS = "rows"  # the axis of a mesh that rows are spread over

Value = TypeVar("Value")


def is_spread() -> bool:
    """Whether this is traced for a device that has some of the rows only."""
    return ROWS in jax.sharding.get_abstract_mesh().manual_axes


def device_count() -> int:
    """Over how many devices the rows are spread."""
    return jax.lax.axis_size(ROWS) if is_spread() else 1


def device_sum(value: Value) -> Value:
    """The sum over the devices of each leaf: one all-reduce."""
    return jax.lax.psum(value, ROWS) if is_spread() else value


def device_any(flag: Array) -> Array:
    """Whether any device has its flag up, elementwise."""
    return jax.lax.psum(flag.astype(jnp.int32), ROWS) > 0 if is_spread() else flag


def device_merge(merge: Callable[[Value, Value], Value], value: Value) -> Value:
    """The values of all devices, merged in their order; for what is small or rare: every device gets them all."""
    if not is_spread():
        return value
    parts = jax.lax.all_gather(value, ROWS)
    return reduce(merge, [jax.tree.map(lambda leaf: leaf[i], parts) for i in range(device_count())])  # noqa: B023


def device_slots(value: Array) -> Array:
    """A device's number, (), in its own place among zeros, (devices,): added up over the devices they are the numbers
    of all, so that what is no sum can go along with sums.
    """
    if not is_spread():
        return value[None]
    return jnp.zeros(device_count(), value.dtype).at[jax.lax.axis_index(ROWS)].set(value)


def device_gradient(gradient: Value) -> Value:
    """A derivative of a `device_sum` by what all devices have alike, of which each device computes its own rows' share,
    times the number of devices, since the sum's derivative is a sum over the devices as well.
    """
    return jax.lax.pmean(gradient, ROWS) if is_spread() else gradient


def mesh_of(rows: Any) -> Any:
    """The mesh that a tree of arrays is spread over by its rows; None where it is not.

    Inside of a transformation that cannot be seen, and it is the mesh of `jax.set_mesh`, if the rows divide.
    """
    leaves = jax.tree.leaves(rows)
    for leaf in leaves:
        sharding = None if isinstance(leaf, jax.core.Tracer) else getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > 0 and sharding.spec[0] == ROWS:
            return sharding.mesh
    mesh: Any = jax.sharding.get_abstract_mesh()
    known = ROWS in mesh.axis_names and not is_spread() and all(len(leaf) % mesh.shape[ROWS] == 0 for leaf in leaves)
    return mesh if known else None
