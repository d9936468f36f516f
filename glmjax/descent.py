"""Proximal Newton steps for a smooth loss beside penalties and bounds that are separable in the coefficients.

    minimize  f(theta) + sum(l1 |theta|) + sum(l2 theta^2) / 2,   lower <= theta <= upper

With gradient g and information H of the mean loss f, in standardized columns:

1. start: the quadratic of the family's start, as R's first least squares; or the parameters given.
2. model: g's + s'(H + damping diag(H))s / 2 plus the penalties and bounds. Where H is not the Hessian (Fisher's) and
   steps shrink slowly, it is corrected by the changes of the gradient that the last steps have met (BFGS).
3. inner: its minimum, by coordinate descent and linear systems (`coordinates`).
4. step:  the model's minimum is tried, and kept if the objective has not risen, up to rounding; else more damping.
5. stop:  where no coefficient has a way downhill: on the largest violation of the conditions of optimality.

The step takes sums, never data, so that they may come from memory, from a disk or from a mesh.

Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate
descent; Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .coordinates import Terms, bfgs, corrected, minimize_model, violation
from .lanes import chosen
from .passes import NEAR, LinearSums, Point
from .results import RUNNING, Status

SCORE, INFORMATION = 0, 1  # what a pass is asked for
MEMORY = 6


class Rules(NamedTuple):
    """What does not change during a run. `loose` (p, 1): rows of theta that nothing but a convention holds in place
    when a constant is added to all their classes. `lazy`: whether H may serve score-only passes, corrected by what
    they show (BFGS), as long as they converge fast; None where it never does.
    """

    terms: Terms
    loose: Array
    tol: Array
    max_steps: Array
    lazy: Array | None = None


class ProximalState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
    kind: Array  # what the next pass is asked for
    nll: Array  # its mean, and that of its size
    size: Array
    loss: Array
    deviance: Array
    gradient: Array
    system: Array
    pairs: Array  # (2, m, p k): the last moves of theta and of the gradient, newest last
    damping: Array
    decrement: Array
    rate: Array  # the last decrement over the one before
    residual: Array  # the largest violation at theta
    steps: Array
    passes: Array
    status: Array


def proximal_init(theta: Array, status: Array, start: bool) -> ProximalState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start."""
    p, dtype = theta.size, theta.dtype
    zero, infinity, none = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return ProximalState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
        kind=none + INFORMATION,
        nll=zero,
        size=zero + 1,
        loss=infinity,
        deviance=zero,
        gradient=jnp.zeros(p, dtype),
        system=jnp.zeros((p, p), dtype),
        pairs=jnp.zeros((2, MEMORY, p), dtype),
        damping=zero,
        decrement=infinity,
        rate=jnp.ones((), dtype),
        residual=infinity,
        steps=none,
        passes=none,
        status=status,
    )


def proximal_step(rules: Rules, state: ProximalState, sums: LinearSums, bias: Array) -> ProximalState:
    """Take in the sums of a pass at `state.trial`; the state with the next trial. `bias` (p, k) marks the bias."""
    terms, shape, dtype = rules.terms, state.theta.shape, state.theta.dtype
    eps = jnp.finfo(dtype).eps

    # What the pass found, as means over the rows.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    flat = state.trial.reshape(-1)
    gradient, nll, size = sums.score / total, sums.nll / total, jnp.maximum(sums.size / total, 1)
    fresh, lazy = state.kind == INFORMATION, jnp.asarray(False) if rules.lazy is None else rules.lazy
    system = jnp.where(fresh, sums.system / total, state.system)
    loss = nll + jnp.sum(terms.l1 * jnp.abs(flat) + 0.5 * terms.l2 * flat**2)
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(system))
    # Without slack lanes would backtrack on rounding at the optimum; steps whose gain is less than the rounding of the
    # loss are taken on trust, since the gradient still tells.
    slack = 16 * eps * size
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    accepted = finite & (state.start | (loss <= state.loss + slack))
    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    moved, turned = flat - state.theta.reshape(-1), gradient - state.gradient
    reach = jnp.where(fresh, sums.reach, jnp.sum(jnp.abs(moved)))  # columns are at most 1 in size
    slow = accepted & jnp.isfinite(state.loss) & (reach <= NEAR) & (state.rate > 0.2) & (state.rate < 1)
    pairs = jnp.where(slow, jnp.roll(state.pairs, -1, axis=1).at[:, -1].set(jnp.stack([moved, turned])), 0)
    if rules.lazy is not None:
        system = jnp.where(fresh, system, bfgs(system, moved, turned))
    gradient, system = jnp.where(accepted, gradient, state.gradient), jnp.where(accepted, system, state.system)
    hessian = corrected(system, pairs) if rules.lazy is None else system

    # The quadratic of a start is one about 0, and what is violated there says nothing of convergence.
    base = jnp.where(state.start & accepted, 0, jnp.where(accepted, flat, state.theta.reshape(-1)))
    residual = jnp.max(violation(terms, gradient + terms.l2 * base, base), initial=0) / size
    goal = jnp.maximum(jnp.minimum(0.1, residual) * residual, 0.25 * rules.tol) * size
    damped = hessian + jnp.diag(damping * jnp.diag(hessian))
    t = minimize_model(damped, gradient, base, terms, goal, state.status == RUNNING, ~lazy)
    move = t - base
    decrement = jnp.sqrt(jnp.maximum(move @ (hessian @ move), 0))
    measured = jnp.isfinite(state.decrement) & accepted
    rate = jnp.where(measured, decrement / jnp.where(state.decrement > 0, state.decrement, 1), 1)
    next_trial = t.reshape(shape)
    next_trial = next_trial - jnp.where(rules.loose, jnp.mean(next_trial, axis=1, keepdims=True), 0)

    # A start that is not finite, or a first trial outside the link's domain: go on from the bias alone, then from 0.
    pull = -gradient / jnp.where(jnp.diag(system) > 0, jnp.diag(system), 1)
    null = jnp.clip(jnp.where(bias.reshape(-1) & finite, pull, 0), terms.lower, terms.upper).reshape(shape)
    lost = ~accepted & ~jnp.isfinite(state.loss)
    theta = jnp.where(state.start, null, jnp.where(accepted, state.trial, state.theta))
    trial = jnp.where(lost, jnp.where(state.start, null, state.theta), next_trial)

    # No loss is left to gain, yet rows keep moving by steps of one: their losses have no minimum. Columns are at most
    # 1 in size, so that a small sum says without a pass that no row will move.
    level = jnp.sqrt(eps)
    known = accepted & ~state.start
    moved_before = jnp.isfinite(state.loss)
    at_rest = (moved_before & (reach <= NEAR)) | (jnp.sum(jnp.abs(next_trial - base.reshape(shape))) <= NEAR)
    separated = accepted & fresh & (reach > NEAR) & (state.decrement <= level) & (decrement <= level)
    separated &= rate > 0.3
    floor = (residual <= 64 * rules.tol) & (residual > 0.5 * state.residual)
    converged = known & at_rest & ((residual <= rules.tol) | floor)

    steps = state.steps + jnp.where(state.start, 0, 1)
    status = jnp.where(steps >= rules.max_steps, Status.MAX_STEPS, RUNNING)
    nowhere = lost & ~state.start & ~jnp.any(jnp.abs(state.trial - state.theta) > 0)  # or NaN
    status = jnp.where(nowhere | (damping > 1e12), Status.NONFINITE, status)
    status = jnp.where(separated, Status.SEPARATED, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    return ProximalState(
        theta=theta,
        trial=trial,
        start=jnp.zeros_like(state.start),
        kind=jnp.where(lazy & known & (rate < 0.3), SCORE, INFORMATION).astype(jnp.int32),
        nll=jnp.where(known, nll, state.nll),
        size=jnp.where(known, size, state.size),
        loss=jnp.where(known, loss, state.loss),
        deviance=jnp.where(known, sums.deviance, state.deviance),
        gradient=gradient,
        system=system,
        pairs=pairs,
        damping=jnp.where(lost, 0, damping),
        decrement=jnp.where(known, decrement, state.decrement),
        rate=jnp.where(measured, rate, state.rate),
        residual=jnp.where(known, residual, state.residual),
        steps=steps,
        passes=state.passes + 1,
        status=status.astype(jnp.int32),
    )


def proximal_restart(rules: Rules, ended: ProximalState, bias: Array, kind: Array) -> ProximalState:
    """The state of a run that has ended, on its way to the minimum beside other terms: what its last pass found at
    theta tells the next trial, at which a pass of `kind` is taken.
    """
    one, none = jnp.ones_like(ended.nll), jnp.zeros_like(ended.nll)
    sums = LinearSums(ended.nll, ended.size, one, ended.deviance, ended.gradient, ended.system, none)
    begun = proximal_init(ended.theta, jnp.full_like(ended.status, RUNNING), False)
    state = proximal_step(rules, begun, sums, bias)
    state = state._replace(kind=kind, steps=state.steps - 1, passes=state.passes - 1)
    # Where no pass has found anything there is nothing to go on from.
    return chosen(jnp.isfinite(ended.loss), state, ended)


def point(state: ProximalState) -> Point:
    """Where the next pass is taken, and the direction to it."""
    return Point(state.trial, state.trial - state.theta, state.start)


def proximal_run(
    rules: Rules, state: ProximalState, bias: Array, sums_at: Callable[[ProximalState], LinearSums]
) -> ProximalState:
    """Steps until every lane has ended; `sums_at` takes the pass that a state asks for."""
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING, lambda state: proximal_step(rules, state, sums_at(state), bias), state
    )
