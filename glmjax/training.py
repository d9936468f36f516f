"""`train`: a run of SGD that is kept in a file as it goes, and goes on from there."""

import os
import sys
import time
from contextlib import nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .batches import show_line
from .data import Data
from .inputs import check_count, check_key, digest, is_traced
from .meshes import check_alike, mesh_of
from .minibatches import in_epochs
from .models import Model
from .results import Fit, History, Status
from .settings import Optimizer, check_run, make_settings
from .sgd import SGDState, finish_run, init_run, run_epochs
from .sharding import from_all, from_first
from .storage import load_state, save_state, saved_shapes


def train(
    path: str | os.PathLike,
    model: Model,
    data: Data,
    key: Array,
    *,
    every: int = 1,
    progress: bool = False,
    params: Any = None,
    optimizer: Optimizer = optax.sgd,
    learning_rate: float | Array = 0.1,
    batch_size: int = 32,
    epochs: int = 10,
    l2: float | Array = 0.0,
    order: Array | None = None,
    validation: Data | None = None,
    patience: int | None = None,
) -> Fit:
    """`fit_sgd`, kept in a file every so many epochs; the same call goes on from there after a crash.

        fit = gj.train("run.gj", model, data, key, epochs=100, progress=True)

    Started again with equal arguments it ends with the same bits as a run that was never stopped, on the same device.
    `kill -9` at any moment leaves the file as it was last written, and Ctrl-C too. Once all epochs are done it returns
    at once, or goes on if `epochs` has grown. With keys from `jax.random.split` it is `fit_seeds`: lanes in one file.

    Args:
        path: the file; delete it to begin anew.
        model, data: from `glm` or `mlp`, and `make_data`.
        key: a JAX random key, or (seeds,) of them for as many lanes.
        every: epochs between two writings; the last is written in any case.
        progress: whether to show on stderr how many epochs are done, the loss and how long the others will take.
        params, optimizer, learning_rate, batch_size, epochs, l2, order, validation, patience: as in `fit_sgd`.

    Returns:
        `Fit`, with the whole `History`; of lanes every field has them first.

    Raises:
        ValueError: naming the file: it is of another model, data or settings, has more than `epochs` done, or is cut
            off or altered; and as `fit_sgd`.
        TypeError: traced arrays; and as `fit_sgd`.
        OSError: the folder cannot be written.
    """
    every, epochs = check_count(every, "every"), check_count(epochs, "epochs")
    if is_traced(model, data, key, params, learning_rate, l2, order, validation):
        raise TypeError("train runs on the host and takes no traced arrays; inside of jit use fit_sgd")
    lanes = jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) and key.ndim == 1
    if lanes and len(key) == 0:
        raise ValueError("key has 0 lanes; give one key, or some from jax.random.split(key, seeds)")
    first = key[0] if lanes else key
    check_key(first)
    check_alike(mesh_of(data), epochs=epochs)
    settings, params = make_settings(model, data, first, params, optimizer, learning_rate, batch_size, l2, patience)
    order, validation = check_run(settings.model, data, first, order, validation)
    parts = None if order is None else in_epochs(order, data.x.shape[0], epochs)
    mark = _mark(settings, data, key, params, parts, validation)

    begin = jax.vmap(init_run, (None, None, 0, None)) if lanes else init_run
    mesh, state = mesh_of([data]), begin(settings, data, key, params)
    together = mesh is not None and mesh.is_multi_process
    progress &= not together or jax.process_index() == 0
    state, seen, done = (_go_on_together if together else _go_on)(path, state, mark, epochs)
    step, end = (_lanes_epoch, _lanes_end) if lanes else (_epoch, finish_run)
    started, before, written = time.monotonic(), done, done
    while done < epochs and np.any(np.asarray(state.status) == Status.COMPLETED):
        # One epoch a program, so that neither `every` nor where a run was stopped changes a bit.
        part = None if parts is None else parts[done % parts.shape[0]]
        with nullcontext() if mesh is None else jax.set_mesh(mesh):  # which the program of an epoch cannot see
            state, new = step(state, data, part, validation)
        seen = jax.tree.map(lambda before, now: np.concatenate([before, np.asarray(now)], -1), seen, new)
        done += 1
        if done % every == 0:
            _keep(path, mark, seen, state, together)
            written = done
        if progress:
            _show(seen, done, epochs, (time.monotonic() - started) * (epochs - done) / (done - before))
    if written < done:
        _keep(path, mark, seen, state, together)
    if progress and sys.stderr.isatty():
        print(file=sys.stderr)
    rest = [(0, 0)] * (seen.loss.ndim - 1) + [(0, epochs - seen.loss.shape[-1])]  # after all have stopped early
    history = History(*(jnp.asarray(np.pad(part, rest, constant_values=np.nan)) for part in seen))
    return end(state, data, history)


@jax.jit
def _epoch(state: SGDState, data: Data, order: Any, validation: Any) -> tuple[SGDState, History]:
    return run_epochs(state, data, order, validation, 1)


_lanes_epoch = jax.jit(jax.vmap(_epoch, (0, None, None, None)))
_lanes_end = jax.jit(jax.vmap(finish_run, (0, None, 0)))


def _mark(*run: Any) -> np.ndarray:
    """What tells this run from others, however many epochs it is to have."""

    def known(leaf: Any) -> Any:
        return _rows_mark(leaf) if isinstance(leaf, Array) and not leaf.is_fully_addressable else leaf

    return np.frombuffer(bytes.fromhex(digest(jax.tree.map(known, run))), np.uint8)


def _rows_mark(leaf: Array) -> np.ndarray:
    """The same of rows of which each process has some."""
    seen = blake2b(f"{leaf.shape} {leaf.dtype}".encode(), digest_size=16)
    for shard in sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0):
        seen.update(np.ascontiguousarray(shard.data).tobytes())
    return from_all(np.frombuffer(seen.digest(), np.uint8))


def _keep(path: str | os.PathLike, mark: np.ndarray, seen: History, state: SGDState, together: bool) -> None:
    """Write down where a run stands; of several processes, which all know it, the first one does."""
    if together:
        state = jax.tree.map(lambda leaf: leaf.addressable_data(0), state)
    if not together or jax.process_index() == 0:
        save_state(path, {"run": mark, "seen": seen, "state": state})


def _go_on_together(
    path: str | os.PathLike, start: SGDState, mark: np.ndarray, epochs: int
) -> tuple[SGDState, History, int]:
    """`_go_on` in all of several processes, from the file that the first one finds."""
    local = jax.tree.map(lambda leaf: leaf.addressable_data(0), start)
    none: Any = np.empty((*local.status.shape, 0), local.loss.dtype)
    state, seen, done = local, History(none, none), 0
    if jax.process_index() == 0:
        state, seen, done = _go_on(path, local, mark, epochs)
    done = int(from_first(str(done).encode()))
    if done == 0:
        return start, seen, done
    if jax.process_index() > 0:
        like: Any = np.empty((*local.status.shape, done), local.loss.dtype)
        seen = History(like, like)
    numbers = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)
    numbers, seen = _from_first((numbers, seen))

    def placed(new: np.ndarray, old: Array) -> Array:
        spread = jax.make_array_from_process_local_data(start.status.sharding, new, new.shape)
        return jax.random.wrap_key_data(spread, impl=jax.random.key_impl(old)) if _is_key(old) else spread

    return jax.tree.map(placed, numbers, start), seen, done


def _is_key(leaf: Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _from_first(tree: Any) -> Any:
    """The arrays that the first process has, in all of them."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    content, at, found = from_first(b"".join(leaf.tobytes() for leaf in leaves)), 0, []
    for leaf in leaves:
        found.append(np.frombuffer(content, leaf.dtype, leaf.size, at).reshape(leaf.shape))
        at += leaf.nbytes
    return jax.tree.unflatten(structure, found)


def _go_on(path: str | os.PathLike, start: SGDState, mark: np.ndarray, epochs: int) -> tuple[SGDState, History, int]:
    """Where a run stands: its state, what was seen of its epochs, and how many are done."""
    none: Any = np.empty((*start.status.shape, 0), start.loss.dtype)
    if not Path(path).exists():
        return start, History(none, none), 0
    shape = saved_shapes(path).get("['seen'].loss")
    if shape is None:
        raise ValueError(
            f"{os.fspath(path)} is there and holds no run of train's; choose another path, or move it away"
        )
    like: Any = np.empty(shape, start.loss.dtype)
    found = load_state(path, {"run": mark, "seen": History(like, like), "state": start})
    if np.any(np.asarray(found["run"]) != mark):
        raise ValueError(
            f"{os.fspath(path)} holds the run of another model, data, key or settings; choose another path"
        )
    if shape[-1] > epochs:
        raise ValueError(f"{os.fspath(path)} has {shape[-1]} epochs done, more than epochs={epochs}; ask for as many")
    state = jax.tree.map(_placed, found["state"], start)
    return state, jax.tree.map(np.asarray, found["seen"]), shape[-1]


def _placed(leaf: Array, like: Array) -> Array:
    """An array laid over several devices as another one is."""
    return jax.device_put(leaf, like.sharding) if len(like.sharding.device_set) > 1 else leaf


def _show(seen: History, done: int, epochs: int, left: float) -> None:
    """A line on stderr: epochs done, the losses of the last, in the middle of the lanes, and seconds left."""
    middle = "median " if seen.loss.ndim > 1 else ""
    last = [
        f"{name} {middle}{np.median(part[..., -1]):.5g}" for name, part in zip(("loss", "watched"), seen, strict=True)
    ]
    show_line(f"{done} of {epochs} epochs, {', '.join(part for part in last if 'nan' not in part)}; {left:.0f} s left")
