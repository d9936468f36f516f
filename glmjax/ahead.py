"""A file's rows as its formula makes them, by a process of its own while this one imports JAX."""

import argparse
import gc
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

_SMALL = 1 << 20  # bytes of a file; what is made of a large one takes a while to hand over


def started(options: argparse.Namespace) -> Callable[[], Any]:
    """Begin `made` in another process; what is returned waits for it. None where that cannot be, or did not end well or
    without a warning: it is to be done here then, and what is wrong is told in its turn.
    """
    # A process is copied safely while it has one thread, and where JAX is here already there is no time to gain.
    if (
        not hasattr(os, "fork")
        or "jax" in sys.modules
        or options.family == "categorical"  # whose classes are in the file
        or not options.file.is_file()
        or options.file.stat().st_size > _SMALL
    ):
        return lambda: None
    result, sent = os.pipe()
    child = os.fork()
    if child == 0:
        gc.disable()
        try:
            with warnings.catch_warnings(record=True) as told, open(sent, "wb") as pipe:
                found = made(options, rows(options), options.family.replace("-", "_"), None)
                if not told:
                    pickle.dump(found, pipe, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)
    os.close(sent)

    def waited() -> Any:
        with open(result, "rb") as pipe:
            try:
                return pickle.load(pipe)
            except (EOFError, pickle.UnpicklingError):
                return None
            finally:
                os.waitpid(child, 0)

    return waited


def rows(options: argparse.Namespace) -> Any:
    """The columns of the file that are named."""
    from .tabular import read_file

    beside = [options.exposure, options.weight, options.precision, options.cluster]
    return read_file(options.file, [options.formula, *filter(None, beside)])


def made(options: argparse.Namespace, table: Any, family: str, n_classes: int | None) -> Any:
    """What the formula makes of them."""
    from .designs import made_of

    beside = {name: getattr(options, name) for name in ("weight", "precision", "cluster")}
    return made_of(options.formula, table, family, n_classes, options.exposure, options.missing, beside)
