"""The log of a fit from a source: what came of its passes over the rows, in a file if one is asked for.

Such a fit is some folds over chunks, and runs of steps that take a pass each. All have names, and what a file knows of
them already is not done again: a fit that was killed goes on from the last pass that was written.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .archives import read_archive, write_archive
from .chunking import mesh_of_source
from .data import Data
from .inputs import check_count, check_number, digest
from .meshes import check_alike
from .reading import Reader, fold
from .results import RUNNING, Status
from .sharding import from_all, from_first, own_rows
from .watching import note_checkpoint

State = TypeVar("State")  # of a run: a NamedTuple that has `status` and `steps`
Total = TypeVar("Total")
Like = Callable[[], Any]


def set_off(state: State, step: Callable[[State], State], note: Callable[[State], None]) -> State:
    """Steps to the end of a run: the host's loop, whatever the solver."""
    while state.status == RUNNING:  # type: ignore[attr-defined]
        state = step(state)
        note(state)
    return state


@dataclass
class Log:
    """What is known of a fit, by name, in the order in which it was found; the host's own state."""

    reader: Reader
    path: str | None = None
    every: float = 0.0  # minutes between two writings
    call: dict[str, str] = field(default_factory=dict)  # what tells this fit from others
    known: dict[str, list[np.ndarray]] = field(default_factory=dict)
    max_steps: int = 0
    before: int = 0  # the max_steps of the call that wrote the file
    written: float = 0.0
    whole: bool = True  # whether all that is known is written
    first: bool = True  # of the processes of a run, which is the one that writes

    def fold(
        self, name: str, part: Callable[[Data], Total], combine: Callable[[Total, Total], Total], bare: bool = True
    ) -> Total:
        """A pass over the chunks, `bare` or as they are."""
        seen = self.reader.bare if bare else _itself
        held = self._held(name, lambda: jax.eval_shape(part, seen(self.reader.first[0])))
        if held is None:
            held = fold(map(seen, self._chunks()), part, combine)
            self._note(name, held)
        return held

    def run(
        self,
        name: str,
        start: State,
        step: Callable[[State], State],
        begin: Callable[[], State] | None = None,
        limited: bool = True,
    ) -> State:
        """A run to its end, from `start`, or from what `begin` makes of it by passes of its own. One that is `limited`
        and has ended at the `max_steps` of an earlier call goes on if they have grown.
        """
        state = self._held(name, lambda: start)
        if state is None:
            state = start if begin is None else begin()
        elif limited:
            state = self._more(name, state)
        return set_off(state, step, lambda state: self._note(name, state))

    def chunks(self) -> Any:
        """A pass of a step over the bare chunks."""
        return map(self.reader.bare, self._chunks())

    def close(self) -> None:
        """Write what is not written yet."""
        if self.first and not self.whole:
            self._write()

    def _chunks(self) -> Any:
        try:
            yield from self.reader.chunks()
        except ValueError as error:
            if self.path is None or self.reader.passes <= 1:
                raise
            raise ValueError(f"{error} ({self.path} is of {self.reader.count} rows)") from None

    def _held(self, name: str, like: Like) -> Any:
        if name not in self.known:
            return None
        leaves, tree = jax.tree.flatten(like())
        found = self.known[name]
        if [(leaf.shape, leaf.dtype) for leaf in leaves] != [(leaf.shape, leaf.dtype) for leaf in found]:
            raise ValueError(f"{self.path} is of another version of glmjax: {name!r} differs; delete it to begin anew")
        return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in found])

    def _more(self, name: str, state: Any) -> Any:
        if state.steps > self.max_steps:
            raise ValueError(
                f"{self.path} has {state.steps} steps done, more than max_steps={self.max_steps}; ask for as many"
            )
        if state.status != Status.MAX_STEPS or not self.before <= state.steps < self.max_steps:
            return state
        names = list(self.known)
        for later in names[names.index(name) + 1 :]:
            del self.known[later]
        return state._replace(status=jnp.full_like(state.status, RUNNING))

    def _note(self, name: str, value: Any) -> None:
        if self.path is None:
            return
        self.known[name] = [np.asarray(leaf) for leaf in jax.tree.leaves(value)]
        self.whole = False
        if self.first and time.monotonic() - self.written >= 60 * self.every:
            self._write()

    def _write(self) -> None:
        reader, path = self.reader, str(self.path)
        if "rows" not in self.call:
            self.call |= first_rows(reader)
        description = {
            "holds": "log",
            "call": self.call,
            "max_steps": self.max_steps,
            "passes": reader.passes,
            "count": reader.count,
            "known": {name: len(leaves) for name, leaves in self.known.items()},
        }
        arrays = {f"{name}.{i}": leaf for name, leaves in self.known.items() for i, leaf in enumerate(leaves)}
        note_checkpoint(write_archive(path, description, arrays))
        self.written, self.whole = time.monotonic(), True


def _itself(chunk: Data) -> Data:
    return chunk


def open_log(reader: Reader, path: str | os.PathLike | None, every: float, max_steps: int, **call: Any) -> Log:
    """The log of a call, with what its file knows if there is one; raises where that is of another call."""
    check_number(every, "every", at_least=0)
    check_alike(mesh_of_source(reader.source), **call, max_steps=max_steps)
    if path is None:
        return Log(reader)
    text = {name: in_words(value) for name, value in call.items()}
    most = check_count(max_steps, "max_steps")
    log = Log(reader, os.fspath(path), float(every), text, max_steps=most, written=time.monotonic())
    together = mesh_of_source(reader.source) is not None
    log.first = not together or jax.process_index() == 0
    found = b""
    if log.first and Path(path).exists():
        found = b"+" + Path(path).read_bytes()
    elif log.first and not Path(path).parent.is_dir():  # which the first writing would find, after a while
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(Path(path).parent))
    found = from_first(found) if together else found
    if found or together:
        reader.peek()
        log.call |= first_rows(reader)
    if not found:
        return log
    try:
        description, arrays = read_archive(path, "log", found[1:])
    except ValueError as error:
        raise ValueError(f"{error}; or choose another checkpoint") from None
    for name in [*log.call, *(set(description["call"]) - set(log.call))]:
        there, here = (text.get(name, "none") for text in (description["call"], log.call))
        if there != here:
            what = f"{there} there and {here} here" if max(len(there), len(here)) < 32 else "another one there"
            raise ValueError(
                f"{os.fspath(path)} holds the run of another call: {name} is {what}; choose another checkpoint, or "
                "delete this one"
            )
    reader.passes, reader.count = description["passes"], description["count"]
    log.before = description["max_steps"]
    log.known = {name: [arrays[f"{name}.{i}"] for i in range(n)] for name, n in description["known"].items()}
    return log


def first_rows(reader: Reader) -> dict[str, str]:
    """What tells one source from others, as far as its first chunk does."""
    chunk = own_rows(reader.first[0])
    columns, words = f"{chunk.x.shape[1]} of {chunk.x.dtype}", in_words(chunk)
    if mesh_of_source(reader.source) is not None and jax.process_count() > 1:
        words = in_words(from_all(np.frombuffer(words.encode(), np.uint8)))
    return {"rows": f"{reader.rows}", "number of columns": columns, "first chunk of rows": words}


def in_words(value: Any) -> str:
    """A number, a name or None as text, anything else as what tells it from others of its kind."""
    if value is None or isinstance(value, str):
        return str(value)
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and np.ndim(leaves[0]) == 0 and leaves[0] is value:
        return repr(float(value))
    return digest(value)
