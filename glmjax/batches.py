"""`fit_many`: lanes of a `vmap` beyond what memory holds, batch by batch, on all local devices, with progress."""

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .arguments import Arguments, Function, fingerprint, lanes_of, read_arguments, shapes_of
from .files import write_atomic
from .inputs import check_count
from .results import Fit, Status

_MOST = 1024  # lanes in a batch of a device: beyond, nothing gets faster, and slow lanes hold up more


class Plan(NamedTuple):
    """A compiled batch of so many lanes, where its arguments go, and its result for one lane as shapes."""

    size: int
    program: Function
    places: list[Any]
    result: Any


def fit_many(
    function: Function,
    *args: Any,
    in_axes: Any = 0,
    devices: Sequence[jax.Device] | None = None,
    memory: int | None = None,
    progress: bool = False,
    folder: str | os.PathLike | None = None,
) -> Any:
    """`jax.vmap(function, in_axes)(*args)` for more lanes than memory holds, as NumPy arrays.

        many = gj.fit_many(gj.fit_newton, model, data._replace(y=ys), in_axes=(None, gj.Data(None, 0)))

    Lanes are fitted in batches of one shape, compiled once and kept for later calls with the same function and shapes;
    each batch is spread over all devices. A lane that is slow to end holds up its own batch only. The results arrive
    batch by batch; Ctrl-C ends the call with those lanes that are done, and a warning.

    Args:
        function: a pure function of one lane's arguments that returns a `Fit`, or any arrays. Arrays that all lanes
            share are better passed as arguments than closed over: those would be compiled in. A function that is
            defined anew for each call is compiled anew.
        args: its arguments, those of all lanes along `in_axes`. NumPy arrays, memory-mapped ones too, are moved to the
            device a batch at a time.
        in_axes: as in `jax.vmap`: for each argument, or part of it, the axis that has the lanes; None is shared.
        devices: what to run on; None is all local devices, of CPUs the first. (Below JAX 0.11.2 several CPU devices can
            wait for each other for ever where lanes have matrices to factor, unless the environment variable NPROC
            is above their number when JAX starts.)
        memory: bytes that a batch may take on a device: what the compiled program says of its arguments, temporaries
            and results. None is a quarter of what is free. The results of all lanes come on top, unless `folder` is,
            and up to some 30 MB that the system's allocator keeps.
        progress: whether to show on stderr how many lanes are done, how they ended and how long the others will take.
        folder: where the results go as `.npy` files, which are then mapped into memory and returned. A call that was
            interrupted or killed goes on there with the first batch that is not done, if all its arguments are equal,
            and ends with the same bits on the same devices.

    Returns:
        What `function` returns, every array with the lanes first, as NumPy arrays. `check` names lanes that failed.

    Raises:
        ValueError: lengths that differ along the lanes' axes, no lanes, no devices, `memory` below what one lane takes,
            a `folder` with results of other arguments, or with files that are none of its own.
    """
    arguments = read_arguments(function, args, in_axes)
    if memory is not None:
        memory = check_count(memory, "memory")
    if devices is None:
        devices = jax.local_devices()
        devices = devices[:1] if devices[0].platform == "cpu" else devices
    if len(devices) == 0:
        raise ValueError("devices has no device; None is all local ones")
    memory = free_memory(devices) // 4 if memory is None else memory
    plan = make_plan(function, arguments, tuple(devices), memory, begun_with(folder))
    store = open_store(function, arguments, plan, folder)
    return run_batches(arguments, plan, store, progress)


def free_memory(devices: Sequence[jax.Device]) -> int:
    """Bytes that are free: of the device with the least, or of the host where its devices are CPUs."""
    stats = [device.memory_stats() for device in devices]
    if all(stats):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(stats)
    except (ValueError, OSError, AttributeError):  # not every system says
        return 4 << 30


def begun_with(folder: str | os.PathLike | None) -> int | None:
    """The lanes in a batch of the call that began in `folder`: to go on with as many gives the same bits."""
    log = None if folder is None else Path(folder) / "done.json"
    return json.loads(log.read_text()).get("batch") if log is not None and log.exists() else None


def make_plan(
    function: Function, arguments: Arguments, devices: tuple[jax.Device, ...], memory: int, size: int | None = None
) -> Plan:
    """The largest batch, or one of `size` lanes, whose compiled program keeps to `memory`, or the largest that does;
    raises where one lane does not.
    """
    shapes = shapes_of(arguments)
    size = size or -(-arguments.lanes // -(-arguments.lanes // (_MOST * len(devices))))  # of batches alike
    while True:
        spread = min(len(devices), size)
        size = size // spread * spread
        plan, needed = compiled_batch(function, arguments.axes, arguments.tree, shapes, size, devices[:spread])
        if needed <= memory:
            return plan
        if size == 1:
            raise ValueError(
                f"memory = {memory} bytes is below what one lane takes, {needed} bytes; give more, or rows in chunks"
            )
        size = max(1, min(size // 2, int(0.9 * size * memory / needed)))


@functools.lru_cache(maxsize=64)
def compiled_batch(
    function: Function, axes: tuple[int | None, ...], tree: Any, shapes: tuple[Any, ...], size: int, devices: tuple
) -> tuple[Plan, int]:
    """A batch of `size` lanes on `devices`, compiled, and the bytes that it takes on one of them."""
    mesh = Mesh(np.asarray(devices), ("lane",))

    def specs(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "lane")

    def batch(*leaves: Any) -> Any:
        def one(*leaves: Any) -> Any:
            return function(*jax.tree.unflatten(tree, leaves))

        return jax.vmap(one, axes)(*leaves)

    wanted = tuple(
        jax.ShapeDtypeStruct(shape if axis is None else (*shape[:axis], size, *shape[axis:]), dtype)
        for axis, (shape, dtype) in zip(axes, shapes, strict=True)
    )
    places = [NamedSharding(mesh, specs(axis)) for axis in axes]
    if len(devices) > 1:
        batch = jax.shard_map(
            batch, mesh=mesh, in_specs=tuple(map(specs, axes)), out_specs=PartitionSpec("lane"), check_vma=False
        )
    options: dict[str, Any] = {}
    if len(devices) > 1 and devices[0].platform == "cpu":
        # A core each, and none waits for another's; it also compiles sooner.
        options["xla_cpu_multi_thread_eigen"] = False
        options["xla_disable_hlo_passes"] = "cpu-parallel-task-assigner"
    program = jax.jit(batch, in_shardings=tuple(places), compiler_options=options).lower(*wanted).compile()
    analysis = program.memory_analysis()
    needed = 0  # where the compiler does not say, a batch is as large as batches get
    if analysis is not None:
        needed = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    result = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), jax.eval_shape(batch, *wanted))
    return Plan(size, program, places, result), int(needed)


class Store(NamedTuple):
    """Where results go: an array a leaf with the lanes first, how many lanes are done already, and how to say so."""

    arrays: Sequence[np.ndarray]
    done: int
    mark: Callable[[int], None]


def open_store(function: Function, arguments: Arguments, plan: Plan, folder: str | os.PathLike | None) -> Store:
    """Arrays in memory, or in files in `folder`, which say how far an earlier call has come."""
    paths, _ = jax.tree_util.tree_flatten_with_path(plan.result)
    if folder is None:
        arrays = [np.empty((arguments.lanes, *leaf.shape), leaf.dtype) for _, leaf in paths]
        return Store(arrays, 0, lambda done: None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log, digest = folder / "done.json", fingerprint(function, arguments)
    done = 0
    if log.exists():
        found = json.loads(log.read_text())
        if found["arguments"] != digest:
            raise ValueError(f"{folder} has results of other arguments; choose another folder, or delete this one")
        done = found["lanes"]
    places = [folder / f"{name_of(path)}.npy" for path, _ in paths]
    strange = [place for place in places if place.exists() and not log.exists()]
    if strange:
        raise ValueError(f"{strange[0]} is there and is none of fit_many's; choose another folder, or move it away")

    def note(done: int) -> None:
        text = json.dumps({"arguments": digest, "lanes": done, "of": arguments.lanes, "batch": plan.size})
        write_atomic(log, lambda file: file.write(text.encode()))

    note(done)  # before there are files: they are then known to be this call's
    files = [
        np.lib.format.open_memmap(place, "r+" if done else "w+", leaf.dtype, (arguments.lanes, *leaf.shape))
        for place, (_, leaf) in zip(places, paths, strict=True)
    ]

    def mark(done: int) -> None:
        for file in files:
            file.flush()  # to the disk, before the log says that it is there
        note(done)

    return Store(files, done, mark)


def name_of(path: Any) -> str:
    """The name of a result's file: "params.w"."""
    return jax.tree_util.keystr(path).strip(".[]'").replace("'", "").replace("[", ".").replace("]", "") or "result"


def run_batches(arguments: Arguments, plan: Plan, store: Store, progress: bool) -> Any:
    """The batches that are not done yet; the results of all, or of those done when the user interrupts."""
    shared = [
        None if axis is not None else jax.device_put(leaf, place)
        for leaf, axis, place in zip(arguments.leaves, arguments.axes, plan.places, strict=True)
    ]

    def run(start: int) -> list[np.ndarray]:
        # What it takes is let go of when it returns, before the next batch is moved to the device.
        parts = [
            whole if axis is None else jax.device_put(lanes_of(leaf, axis, start, plan.size), place)
            for leaf, axis, whole, place in zip(arguments.leaves, arguments.axes, shared, plan.places, strict=True)
        ]
        return [np.asarray(leaf) for leaf in jax.tree.leaves(plan.program(*parts))]

    done, started = store.done, time.monotonic()
    try:
        while done < arguments.lanes:
            start = min(done, arguments.lanes - plan.size)  # the last batch takes some lanes again: one shape for all
            for array, leaf in zip(store.arrays, run(start), strict=True):
                array[done : start + plan.size] = leaf[done - start :]
            done = start + plan.size
            store.mark(done)
            if progress:
                show(plan, store, done, arguments.lanes, time.monotonic() - started)
    except KeyboardInterrupt:
        said = f"interrupted: {done} of {arguments.lanes} lanes are done, and are what is returned"
        warnings.warn(said, stacklevel=3)
    if progress and sys.stderr.isatty():
        print(file=sys.stderr)
    return jax.tree.unflatten(jax.tree.structure(plan.result), [array[:done] for array in store.arrays])


def show(plan: Plan, store: Store, done: int, count: int, seconds: float) -> None:
    """A line on stderr: lanes done, how they ended, seconds left."""
    ended = ""
    if isinstance(plan.result, Fit):
        status = jax.tree.unflatten(jax.tree.structure(plan.result), store.arrays).status[:done]
        ended = "".join(f", {np.sum(status == s)} {s.name}" for s in Status if np.any(status == s))
    left = seconds * (count - done) / max(done - store.done, 1)
    line = f"{done} of {count} lanes{ended}; {left:.0f} s left"
    show_line(line)


def show_line(line: str) -> None:
    """A line on stderr; on a terminal in the place of the last one."""
    print(f"\r{line:<78}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
