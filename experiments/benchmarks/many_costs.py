"""What a batch costs: the machine's matrix-product rate, the products that the passes need, a pass alone, memory."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import glmjax as gj

from ..report import seconds
from .costs import _peak_beyond
from .many_problems import Batch, Kind, draw_batch
from .many_programs import programs
from .many_race import MAX_ITER
from .peers import FAMILIES


def product_rate(size: int, repeats: int) -> dict[str, float]:
    """Flops a second of a square float64 product of that size, the highest of the repeats: by JAX, and by NumPy."""
    a = np.random.default_rng(0).normal(size=(size, size))
    b = jnp.asarray(a)
    product = jax.jit(lambda b: b @ b)

    def highest(call: Any) -> float:
        return 2 * size**3 / min(seconds(call)[0] for _ in range(repeats + 1))

    return {"JAX": highest(partial(product, b)), "NumPy": highest(lambda: a @ a)}


def pass_flops(kind: Kind) -> int:
    """Flops of the products that one pass of all lanes needs: the information, each pair of columns once (the bias is
    a column too), the linear predictor and the score.
    """
    n, d = kind.size
    p = d + 1
    return kind.lanes * n * (p * (p + 1) + 4 * p)


def work(fit: gj.Fit) -> dict[str, float]:
    """The passes over all rows that the lanes took, and what those cost that had ended: they are computed on."""
    passes = np.asarray(fit.passes)
    most = int(passes.max())
    return {
        "passes, mean": float(passes.mean()),
        "passes, most": most,
        "share of done lanes": 1 - float(passes.mean()) / most,
    }


def pass_alone(batch: Batch, repeats: int, rate: float) -> dict[str, float]:
    """Seconds of one pass of all lanes for loss, score and information, medians: as what two more steps of
    `fit_newton` add that starts at zeros, where every pass is one, and as `fisher_information` of every lane under
    `vmap`; and the shares of the rate.
    """
    family, kind = FAMILIES[batch.kind.family], batch.kind
    model = gj.glm(family)
    zeros = gj.init(model, None, kind.size.d, dtype=jnp.float64)

    @jax.jit
    def fit(params: Any, shared: Any, each: Any, most: Any) -> gj.Fit:
        def lane(each: Any) -> gj.Fit:
            return gj.fit_newton(model, gj.Data(**shared, **each), params=params, tol=1e-14, max_steps=most)

        return jax.vmap(lane)(each)

    def steps(most: int) -> gj.Fit:
        return fit(zeros, batch.shared, batch.each, most)

    @jax.jit
    def information(params: Any, shared: Any, each: Any) -> Any:
        def lane(params: Any, each: Any) -> Any:
            return gj.fisher_information(model, params, gj.Data(**shared, **each))

        return jax.vmap(lane)(params, each)

    def compute(params: Any) -> Any:
        return information(params, batch.shared, batch.each)

    few, more = steps(1), steps(3)
    passes = int(np.max(more.passes)) - int(np.max(few.passes))
    jax.block_until_ready(compute(more.params))
    times = []
    for _ in range(repeats):
        short, long = seconds(lambda: steps(1))[0], seconds(lambda: steps(3))[0]
        times.append(((long - short) / passes, seconds(lambda: compute(more.params))[0]))
    own, public = np.median(times, axis=0)
    n, d = kind.size
    flops = kind.lanes * n * (d + 1) * (d + 2)
    return {
        "a step of fit_newton, s": float(own),
        "its share of the rate": pass_flops(kind) / float(own) / rate,
        "fisher_information, s": float(public),
        "its share of the rate, without eta and score": flops / float(public) / rate,
    }


def _measure(kind: Kind, name: str, lanes: int, tol: float) -> dict[str, float]:
    """What `peak_memory` returns, inside of that process."""
    with jax.enable_x64(True):
        batch: Any = draw_batch(kind)
        program = next(one for one in programs(batch, lanes)[0] if one.name == name)
        call = partial(program.fit, batch, tol, MAX_ITER)
        first, (time, _) = _peak_beyond(lambda: seconds(call))
        later, _ = _peak_beyond(call)
    return {"first call, s": time, "first call, bytes": first, "later call, bytes": later}


def peak_memory(kind: Kind, name: str, lanes: int, tol: float) -> dict[str, float]:
    """Seconds of a program's first call in a process of its own, and by how many bytes memory peaks above the batch
    there and in a later call.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, kind, name, lanes, tol).result()
