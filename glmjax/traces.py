"""What one process has traced the next need not: programs as JAX exports them, in the folder of the compiled ones."""

import functools
import hashlib
import os
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
from jax import export

from .files import write_atomic

_FOLDER: ContextVar[Path | None] = ContextVar("folder", default=None)
_TAKEN: dict[Path, Callable[..., Any]] = {}


@contextmanager
def keeping_traces(folder: Path) -> Iterator[None]:
    """Within it, what `quick_jit` traces is written to a folder, and taken from there where it has been traced before.

    For a process that is this library's alone, as the command line is: a trace is known again by the functions' names,
    by the source of this library and by the environment's settings of JAX, and not by what a user has changed since.
    """
    before = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(before)


def kept(
    function: Callable[..., Any], args: tuple[Any, ...], compiled: Callable[..., Any]
) -> Callable[..., Any] | None:
    """The function's program for such arguments, `compiled` as `jax.jit` does; None where none is kept, or can be."""
    folder = _FOLDER.get()
    if folder is None or jax.__version_info__ < (0, 10):  # an earlier one may call LAPACK before it is there
        return None
    try:
        leaves, tree = jax.tree.flatten(args)
        likes = [jax.typeof(leaf) for leaf in leaves]
        outline = jax.tree.unflatten(tree, [(like.shape, str(like.dtype), like.weak_type) for like in likes])
        asked = (_surroundings(), jax.config.jax_enable_x64, function.__module__, function.__qualname__, outline)  # type: ignore[attr-defined]
        path = folder / f"traced_{function.__name__}-{hashlib.sha256(_plainly(asked)).hexdigest()}-cache"
        if path not in _TAKEN:
            results, exported = _read(path) or _traced(path, function, tree, likes)
            _TAKEN[path] = _calling(compiled(exported.call), jax.tree.structure(results))
        return _TAKEN[path]
    except Exception:  # what cannot be written down, or exported; errors of the function's own come again
        return None


def _calling(program: Callable[..., Any], results: Any) -> Callable[..., Any]:
    return lambda *args: jax.tree.unflatten(results, program(*jax.tree.leaves(args)))


def _traced(path: Path, function: Callable[..., Any], tree: Any, likes: list[Any]) -> tuple[Any, export.Exported]:
    """The outline of the function's results and its program, which are written down."""
    found = []

    def flat(*leaves: Any) -> list[Any]:
        results, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        found.append(jax.tree.unflatten(structure, range(len(results))))
        return results

    exported = export.export(jax.jit(flat))(*likes)
    content = zlib.compress(pickle.dumps((found[-1], bytes(exported.serialize()))), 1)
    with suppress(OSError):
        write_atomic(path, lambda file: file.write(content))
    return found[-1], exported


def _read(path: Path) -> tuple[Any, export.Exported] | None:
    """What `_traced` has written, None where that is not there, or not whole."""
    try:
        results, program = pickle.loads(zlib.decompress(path.read_bytes()))
        return results, export.deserialize(bytearray(program))
    except Exception:
        return None


def _plainly(value: Any) -> bytes:
    """A value in bytes that are the same for equal ones, which parts they share or not."""
    file = BytesIO()
    pickler = pickle.Pickler(file)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()


@functools.cache
def _surroundings() -> tuple[Any, ...]:
    """What else a trace depends on: the source of this library, versions, settings of JAX."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source.update(path.read_bytes())
    settings = sorted(item for item in os.environ.items() if item[0].startswith(("JAX_", "XLA_")))
    return source.hexdigest(), jax.__version__, jax.lib.__version__, sys.version, settings
