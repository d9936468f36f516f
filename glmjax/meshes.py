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
import numpy as np
from jax import Array
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding

from .inputs import digest, is_traced

ROWS = "rows"  # the axis of a mesh that rows are spread over
MOST = 16  # arguments that processes compare

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
    seen = [leaf for leaf in leaves if not isinstance(leaf, jax.core.Tracer)]
    for leaf in seen:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > 0 and sharding.spec[0] == ROWS:
            return sharding.mesh
    mesh: Any = jax.sharding.get_abstract_mesh()
    known = ROWS in mesh.axis_names and not is_spread() and len(seen) < len(leaves)
    return mesh if known and all(len(leaf) % mesh.shape[ROWS] == 0 for leaf in leaves) else None


def check_alike(mesh: Any, **arguments: Any) -> None:
    """Raise, in all processes of a mesh, where they were given different arguments: each would solve a problem of its
    own with the sums of all.
    """
    if mesh is None or jax.process_count() == 1 or is_traced(arguments):
        return
    own = np.zeros(MOST, np.uint32)
    own[: len(arguments)] = [int(digest(value)[:8], 16) for value in arguments.values()]
    every = process_allgather(own)
    for name, seen in zip(arguments, every.T, strict=False):
        if np.any(seen != seen[0]):
            raise ValueError(
                f"{name} is not the same in process 0 and process {int(np.argmax(seen != seen[0]))}, which fit one "
                "model together: give each of them rows of its own, and all else alike"
            )
