"""The programs in the race of many fits: glmjax all at once and one after another, a textbook's Newton under `vmap`,
and peers in a Python loop.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import glmjax as gj

from . import peers
from .many_problems import Batch
from .peers import FAMILIES, Fitted, Program

nemos: Any = importlib.import_module("nemos") if importlib.util.find_spec("nemos") else None

Call = Callable[[Any, float, int], Fitted]  # of a Batch, where `peers.Program` has a Problem
OWN = ("glmjax", "naive")  # those that are no peers
HEAD, LOOP, NAIVE = "glmjax vmap", "glmjax loop", "naive vmap"


def fit_lane(model: gj.Model, shared: Any, each: Any, tol: Any, max_steps: Any) -> gj.Fit:
    """One lane; what all lanes share is an argument too, since XLA would fold what is closed over."""
    return gj.fit_newton(model, gj.Data(**shared, **each), tol=tol, max_steps=max_steps)


LANES = (None, None, 0, None, None)  # in_axes of `fit_lane`
fit_vmap = jax.jit(jax.vmap(fit_lane, LANES))


@jax.jit
def fit_loop(model: gj.Model, shared: Any, each: Any, tol: Any, max_steps: Any) -> gj.Fit:
    """Lanes one after another."""
    return jax.lax.map(lambda lane: fit_lane(model, shared, lane, tol, max_steps), each)


def fit_batches(model: gj.Model, shared: Any, each: Any, tol: Any, max_steps: Any) -> gj.Fit:
    """`fit_many`: on all local devices, into NumPy arrays."""
    return gj.fit_many(fit_lane, model, shared, each, tol, max_steps, in_axes=LANES, devices=jax.local_devices())


@partial(jax.jit, static_argnums=0)
def fit_naive(family: str, shared: Any, each: Any, tol: Any, max_steps: Any) -> Array:
    """Newton's method as one would write it, under `vmap`: coefficients, (lanes, 1 + d), bias first."""

    def lane(each: Any) -> Array:
        data = gj.Data(**shared, **each)
        x = jnp.column_stack([jnp.ones(len(data.x)), data.x])
        weight = jnp.ones(len(x)) if data.weight is None else data.weight

        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            beta, _, steps = state
            mean = jnp.exp(x @ beta) if family == "poisson" else jax.nn.sigmoid(x @ beta)
            gradient = x.T @ (weight * (mean - data.y))
            w = weight * (mean if family == "poisson" else mean * (1 - mean))
            hessian = x.T @ (x * w[:, None])
            size = jnp.max(jnp.abs(gradient)) / jnp.sum(weight)
            return beta - jnp.linalg.solve(hessian, gradient), size, steps + 1

        def unfinished(state: tuple[Array, Array, Array]) -> Array:
            return (state[1] > tol) & (state[2] < max_steps)

        start = (jnp.zeros(x.shape[1]), jnp.asarray(jnp.inf), jnp.asarray(0))
        return jax.lax.while_loop(unfinished, step, start)[0]

    return jax.vmap(lane)(each)


def call_fit(fit: Callable[..., gj.Fit]) -> Call:
    """A program of glmjax's, from NumPy arrays to the coefficients."""

    def call(batch: Batch, tol: float, max_iter: int) -> Fitted:
        found = fit(gj.glm(FAMILIES[batch.kind.family]), batch.shared, batch.each, tol, max_iter)
        return Fitted(found.params.w, found.params.b, found)

    return call


def call_naive(batch: Any, tol: float, max_iter: int) -> Fitted:
    """The textbook's; its tolerance is the largest derivative's."""
    beta = fit_naive(batch.kind.family, batch.shared, batch.each, tol, max_iter)
    return Fitted(beta[:, 1:], beta[:, 0])


def call_nemos(batch: Any, tol: float, max_iter: int) -> Fitted:
    """nemos' population of Poisson models, one L-BFGS for all; its tolerance is that of all derivatives together."""
    settings = {"tol": tol, "maxiter": max_iter}
    model = nemos.glm.PopulationGLM(solver_name="LBFGS", solver_kwargs=settings)
    model.fit(batch.shared["x"], batch.each["y"].T)
    return Fitted(np.asarray(model.coef_).T, np.asarray(model.intercept_))


def call_loop(call: peers.Call, lanes: int) -> Call:
    """A peer's fits of the first lanes, one after another; the time of the loop alone."""

    def loop(batch: Batch, tol: float, max_iter: int) -> Fitted:
        problems = [batch.lane(i) for i in range(min(lanes, batch.kind.lanes))]
        start = time.perf_counter()
        fits = [call(problem, tol, max_iter) for problem in problems]
        elapsed = time.perf_counter() - start
        w, b = (
            np.stack([np.asarray(value) for value in values]) for values in zip(*(f[:2] for f in fits), strict=True)
        )
        return Fitted(w, b, seconds=elapsed)

    return loop


def call_first(call: Call, lanes: int) -> Call:
    """A program's fits of the first lanes."""
    return lambda batch, tol, max_iter: call(batch.first(min(lanes, batch.kind.lanes)), tol, max_iter)


def programs(batch: Batch, lanes: int) -> tuple[list[Program], list[str]]:
    """Everybody who can be raced, and a sentence for each who is not installed; loops take the first `lanes`."""
    own = [Program("glmjax", "vmap", None, call_fit(fit_vmap))]
    own.append(Program("glmjax", "fit_many", None, call_fit(fit_batches)))
    own.append(Program("glmjax", "loop", None, call_first(call_fit(fit_loop), lanes)))
    own.append(Program("naive", "vmap", None, call_naive))
    fast, slow, absent = peers.programs()
    raced = [p._replace(call=call_loop(p.call, lanes)) for p in fast + slow if p.peer not in ("glmjax", "R")]
    absent = [line for line in absent if not line.startswith("R ")]
    if nemos is None:
        absent.append("nemos is not installed (pip install nemos): its population model is left out")
    elif batch.kind.family == "poisson" and "x" in batch.shared:
        raced.append(Program("nemos", "population", None, call_nemos))
    return own + raced, absent
