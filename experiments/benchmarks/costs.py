"""What a fit must cost on this machine, one read of x and one symmetric product, and the memory that a program takes."""

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from ..report import seconds
from .peers import fit_data, fit_glmjax, make_data, programs
from .problems import CHUNK, Problem, Size, draw


def floor(problem: Problem, repeats: int) -> dict[str, float]:
    """Seconds of NumPy's fastest read of x (x @ w and r @ x, of all rows or by chunks that stay in cache) and of its
    symmetric product x'x: the better of default BLAS threads and one, the lowest of the repeats.
    """
    x, w = problem.x, np.ones(problem.x.shape[1])

    def whole() -> np.ndarray:
        return (x @ w) @ x

    def chunks() -> np.ndarray:
        parts = (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))
        return sum(((part @ w) @ part for part in parts), np.zeros(len(w)))

    def product() -> np.ndarray:
        return x.T @ x

    def lowest(call: Callable[[], Any]) -> float:
        times = []
        for threads in (None, 1):
            with threadpool_limits(threads):
                times += [seconds(call)[0] for _ in range(repeats + 1)]
        return min(times)

    return {"read pass, s": min(lowest(whole), lowest(chunks)), "symmetric product, s": lowest(product)}


def split(problem: Problem, tol: float, max_iter: int, repeats: int) -> dict[str, float]:
    """Median seconds of glmjax's two parts, one after the other and nobody else between: `make_data`, and the fit."""
    pairs = []
    for _ in range(repeats + 1):
        before, data = seconds(lambda: make_data(problem))
        pairs.append((before, seconds(partial(fit_data, problem.family, data, tol, max_iter))[0]))
    make, fit = np.median(pairs[1:], axis=0)
    return {"make_data, s": float(make), "fit, s": float(fit)}


def _memory(key: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def _peak_beyond(call: Callable[[], Any]) -> tuple[int, Any]:
    """By how many bytes memory peaks above what is held before the call, and the result."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _memory("VmRSS")
    result = jax.block_until_ready(call())
    return _memory("VmHWM") - before, result


def _measure(name: str, family: str, design: str, size: Size, tol: float, max_iter: int) -> dict[str, float]:
    """What `fresh_process` returns, inside of that process."""
    with jax.enable_x64(True):
        fast, slow, _ = programs()
        program = next(one for one in fast + slow if one.name == name)
        problem = draw(family, design, size)
        peak, (time, _) = _peak_beyond(lambda: seconds(lambda: program.fit(problem, tol, max_iter)))
        figures = {"x, bytes": problem.x.nbytes, "first call, s": time, "first call, bytes": peak}
        figures["later call, bytes"], _ = _peak_beyond(lambda: program.fit(problem, tol, max_iter))
        if program.call is fit_glmjax:
            figures["make_data, bytes"], data = _peak_beyond(lambda: make_data(problem))
            peak, _ = _peak_beyond(lambda: fit_data(family, data, tol, max_iter))
            figures["fit after make_data, bytes"] = peak
    return figures


def fresh_process(*problem: Any) -> dict[str, float]:
    """Seconds of a program's first call in a process of its own, and by how many bytes memory peaks above x and y.

    In the first call, where glmjax compiles, and in a later one; for glmjax also in `make_data`, which may copy x, and
    in the fit after it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, *problem).result()
