"""Rows over many devices, of one process or of many: `shard` spreads them, and the fits go on as they are.

On a mesh a fit runs whole on each device, on that device's rows, and the sums of a pass are added up over the devices
(see `meshes`); between processes the sums travel by JAX's own runtime.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .data import Data
from .inputs import check_count, is_traced
from .meetings import Meeting, open_meeting
from .meshes import ROWS
from .rows import filled_up
from .sources import AGAIN, Source, check_source
from .watching import follow, lead

_SCHEMA = (
    *("rows", "columns of x", "bits of x", "numbers a target"),
    *(f"{name} given" for name in Data._fields[2:]),
    "rows of a chunk for each device",
)


def rows_mesh(devices: Any = None) -> Mesh:
    """A mesh of the one axis "rows" over `devices`, by default all that there are, of all processes."""
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("devices is empty; leave it out for all, or give some of jax.devices()")
    return Mesh(np.asarray(devices), (ROWS,), axis_types=(AxisType.Auto,))


def shard(data: Data, mesh: Mesh | None = None) -> Data:
    """Spread the rows over the devices of a mesh; `fit_*`, `inference`, `loss` and the like then run on all of them.

    Each device gets as many rows; where they do not divide, rows of weight 0, which are inert, fill them up. Of several
    processes each gives its own rows, as many as it has, and the fit is that of all rows, in every process. Numbers are
    those of one device to rounding, statuses are the same; `fit_sgd` takes the same minibatches, where the rows divide.
    An `order` is one of the rows as they are filled up: their number tells whether it is that of all epochs. Folds and
    samples that a key deals are of the rows as they are filled up, too. Processes whose other arguments of a fit differ
    get a ValueError, all of them.

    A fit sees by its data that they are spread, under `vmap` over y, weights or penalties too. Under a `jit` whose
    argument is the data that cannot be seen: call it under `jax.set_mesh(mesh)`. What is not made of sums over the rows
    (`clustered`, `bootstrap`, residuals, paths) runs as well, cut up by the compiler, which may gather the rows.

    Args:
        data: from `make_data`; of several processes each one's own rows.
        mesh: from `rows_mesh`, which is the default, over all devices of all processes.

    Returns:
        `Data` of arrays that are spread over the mesh.

    Raises:
        ValueError: more devices than rows, a mesh of other axes; processes whose data differ in more than their rows,
            in every one of them.
        TypeError: no `Data`, no mesh.

    Reference: Dean and Ghemawat (2008), MapReduce, for the sums; Chu et al. (2006), Map-reduce for machine learning.
    """
    if not isinstance(data, Data):
        raise TypeError(f"data must be a Data from make_data, got {type(data).__name__}")
    if is_traced(data):
        raise TypeError("shard moves arrays, and here they are traced; call it outside of jit and vmap")
    mesh = rows_mesh() if mesh is None else _checked(mesh)
    counts = agreed_counts(data)
    own, total, devices = process_devices(mesh), sum(counts), mesh.devices.size
    if total < devices:
        raise ValueError(f"mesh has {devices} devices for {total} rows; use fewer, rows_mesh(jax.devices()[:{total}])")
    each = max(-(-count // many) for count, many in zip(counts, own, strict=True))
    if any(count != each * many for count, many in zip(counts, own, strict=True)):
        data = filled_up(data, each * own[jax.process_index()])  # in all processes, whose programs have weights then
    return _spread(jax.tree.map(np.asarray, data), mesh)


def shard_source(source: Iterable[Data], mesh: Mesh | None = None) -> Source:
    """A source whose chunks are spread over the devices of a mesh: a streamed fit then runs on all of them.

    Of several processes each has its own rows, as of `parquet_source(..., part=(jax.process_index(),
    jax.process_count()))`, and all read as many chunks: who has fewer rows gives chunks of weight 0 at the end. The fit
    is that of all rows, in every process. `rows=` of a fit is how many rows of a chunk are one process's.

    Args:
        source: of this process's rows.
        mesh: from `rows_mesh`, which is the default.

    Returns:
        `Source`, for `streaming.fit_newton`, `fit_lbfgs`, `fit_elastic_net` and `inference`.

    Raises:
        TypeError: what is no source, or can be read once only; no mesh.
        ValueError: a mesh of other axes; as `shard`, when it is read.

    Reference: Chu et al. (2006), Map-reduce for machine learning on multicore.
    """
    check_source(source)
    return Source(partial(iter, source), mesh=rows_mesh() if mesh is None else _checked(mesh))


def process_devices(mesh: Mesh) -> list[int]:
    """How many devices of a mesh are each process's; raises in all of them where one has none."""
    own = [sum(device.process_index == i for device in mesh.devices.flat) for i in range(jax.process_count())]
    if not all(own):
        raise ValueError(f"mesh has no device of process {own.index(0)}; make it of all, rows_mesh()")
    return own


def own_devices(mesh: Mesh) -> int:
    """How many devices of a mesh are this process's."""
    return process_devices(mesh)[jax.process_index()]


def spread_chunks(
    chunks: Iterator[tuple[Data, int]], mesh: Mesh, counts: list[tuple[int, int]]
) -> Iterator[tuple[Data, int]]:
    """The chunks of all processes, of one shape, spread over the mesh, and how many of their rows are the sources'.

    `counts` are those of each chunk, of this process and in total. A pass that is given none asks all processes for
    them, chunk by chunk, and adds them to it; one that is given them waits for nobody.
    """
    held: Any
    held, count = next(chunks)
    known = iter(counts) if counts else None
    while True:
        if known is None:
            total = int(from_all(np.asarray(count, np.int32)).sum())
            counts += [(count, total)] if total else []
        else:
            own, total = next(known, (0, 0))
            if own != count:
                raise ValueError(f"the source yields {own} rows for a chunk the first time and {count} later; {AGAIN}")
        if total == 0:
            return
        yield _spread(held, mesh), total
        held, count = next(chunks, (held._replace(weight=0 * held.weight), 0))


def _spread(data: Data, mesh: Mesh) -> Data:
    sharding, own = NamedSharding(mesh, PartitionSpec(ROWS)), own_devices(mesh)

    def spread(part: np.ndarray) -> Array:
        n = len(part) // own * mesh.devices.size
        return jax.make_array_from_process_local_data(sharding, part, (n, *part.shape[1:]))

    return jax.tree.map(spread, data)


def _checked(mesh: Any) -> Mesh:
    """The mesh, its axis one that the compiler may use; raises unless it is one of rows."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, such as rows_mesh(), got {type(mesh).__name__}")
    if mesh.axis_names != (ROWS,):
        raise ValueError(
            f'mesh must have the one axis "{ROWS}", got {mesh.axis_names}; use rows_mesh(mesh.devices.flat)'
        )
    return rows_mesh(mesh.devices.flat)


def agreed_counts(data: Data | None, chunk: int = 0) -> list[int]:
    """How many rows each process has; raises in all of them where one has none, or where they differ in more: in how
    many rows of a `chunk` a device gets, too.
    """
    if data is None:
        schema = np.zeros(len(_SCHEMA), np.int32)
    else:
        flags = [part is not None for part in data[2:]]
        sizes = [len(data.x), data.x.shape[1], 8 * data.x.dtype.itemsize, data.y[:1].size]
        schema = np.array([*sizes, *flags, chunk], np.int32)
    every = from_all(schema)
    if not all(every[:, 0]):
        again = ", each time that its source is read" if chunk else ""
        raise ValueError(f"process {int(np.argmin(every[:, 0]))} has no rows; give each process some{again}")
    for i, other in enumerate(every[1:], start=1):
        for name, here, there in zip(_SCHEMA[1:], every[0, 1:], other[1:], strict=True):
            if here != there:
                raise ValueError(
                    f"processes 0 and {i} differ: {name} is {here} in one and {there} in the other; only how many rows "
                    "they have may differ"
                )
    return [int(count) for count in every[:, 0]]


def own_rows(data: Data) -> Data:
    """The rows of spread data that are this process's, in NumPy; all of them where it has all."""

    def own(part: Array) -> Any:
        shards = sorted(part.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(lambda part: np.asarray(part) if part.is_fully_addressable else own(part), data)


def from_all(value: np.ndarray) -> np.ndarray:
    """The arrays of all processes, of one shape, (processes, ...)."""
    return value[None] if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(value))


def from_first(content: bytes) -> bytes:
    """What process 0 holds, in all of them."""
    if jax.process_count() == 1:
        return content
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    given = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        given = np.frombuffer(content, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(given)))


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat: int = 20,
) -> None:
    """Join the processes of a run, once, at the start of each: `jax.distributed.initialize`, with a watch over them.

    Under Slurm, Kubernetes (indexed jobs), Open MPI and on TPUs JAX finds the other processes by itself; elsewhere each
    is told where the first one is, how many there are and which it is. One process, `num_processes=1`, is left alone.

    A process that dies, by `kill -9` or for lack of memory, ends all others within a second or two: each says on
    stderr which it was and what the last checkpoint is (of `train`, `save_state` or a streamed fit), and exits with
    status 1. An exception that ends one process ends the others as well, and is in what they say. A machine that is
    gone is noticed after half of `heartbeat`; a process that hangs after `heartbeat`, by JAX, which aborts the others.
    Started again, all of them, they go on from the checkpoint. `sys.exit` with a status that is not 0 is a failure too;
    with 0 the process has done its work, and waits for the others at its end. Before all have joined, JAX waits for
    those that are missing, 5 minutes.

    Args:
        coordinator_address: "host:port" of process 0, a port that is free there; None: JAX finds it.
        num_processes: how many there are; None: JAX finds it.
        process_id: which this one is, from 0; None: JAX finds it.
        heartbeat: seconds after which a process that gives no sign counts as dead.

    Raises:
        ValueError: numbers out of range, no address, nothing given and nothing found.
        TypeError: other types.
        RuntimeError: it has been called before, or JAX has already been used.
        TimeoutError: the processes do not reach each other.
    """
    heartbeat = check_count(heartbeat, "heartbeat")
    host = None if coordinator_address is None else _host(coordinator_address)
    if num_processes is not None:
        num_processes = check_count(num_processes, "num_processes")
    if process_id is not None:
        process_id = check_count(process_id, "process_id", at_least=0)
        if num_processes is not None and process_id >= num_processes:
            raise ValueError(f"process_id is {process_id} of num_processes={num_processes}; they count from 0")
    if jax.distributed.is_initialized():
        raise RuntimeError("jax.distributed is initialized already; call initialize once, at the start")
    if num_processes == 1:
        return
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=heartbeat)
    except ValueError as error:
        raise ValueError(
            "JAX finds no Slurm, Kubernetes, MPI or TPU around this process that would say where the others are "
            f'({error}); give coordinator_address="host:port", num_processes and process_id, all three, or leave '
            "initialize out for one process"
        ) from None
    if jax.process_count() == 1:
        return
    server, meeting = open_meeting(host) if jax.process_index() == 0 else (None, None)
    found = Meeting.read(from_first(b"" if meeting is None else meeting.text().encode()).decode())
    if server is None:
        follow(found, jax.process_index(), heartbeat)
    else:
        lead(server, found, jax.process_count(), heartbeat)


def _host(address: Any) -> str:
    """The host of "host:port"; raises where it is none."""
    if not isinstance(address, str):
        raise TypeError(f'coordinator_address must be text, "host:port", got {type(address).__name__}')
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'coordinator_address must be "host:port", such as "10.0.0.1:1234", got {address!r}')
    return host.strip("[]")
