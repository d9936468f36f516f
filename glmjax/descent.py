"""Proximal Newton steps for a smooth loss beside penalties and bounds that are separable in the coefficients.

    minimize  f(theta) + sum(l1 |theta|) + sum(l2 theta^2) / 2,   lower <= theta <= upper

With gradient g and information H of the mean loss f, in standardized columns:

1. start: the quadratic of the family's start, as R's first least squares; or the parameters given.
2. model: g's + s'(H + damping diag(H))s / 2 plus the penalties and bounds. Where H is not the Hessian (Fisher's) and
   steps shrink slowly, it is corrected by the changes of the gradient that the last steps have met (BFGS).
3. inner: sweeps of coordinate descent find which coefficients are 0 or at a bound; one linear system for the others
   then ends on the model's minimum to rounding, or on the way to it at the first coefficient that becomes 0.
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

from .factors import Penalty, factor_by_cholesky, solve
from .passes import LinearSums, Point
from .results import RUNNING, Status

MEMORY = 6
SWEEPS, ROUNDS = 3, 50  # of coordinate descent before each linear system, and how many such rounds a step may take


class Terms(NamedTuple):
    """What stands beside the loss, for each coefficient of flat theta, (p k,)."""

    l1: Array
    l2: Array
    lower: Array
    upper: Array


class Rules(NamedTuple):
    """What does not change during a run. `loose` (p, 1): rows of theta that nothing but a convention holds in place
    when a constant is added to all their classes.
    """

    terms: Terms
    loose: Array
    tol: Array
    max_steps: Array


class ProximalState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
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


def violation(terms: Terms, slope: Array, theta: Array) -> Array:
    """How steeply the objective falls when a coefficient moves either way that its bounds allow; 0 at an optimum.

    `slope` is the derivative of the smooth part, loss and l2.
    """
    left = slope + jnp.where(theta > 0, terms.l1, -terms.l1)
    right = slope + jnp.where(theta >= 0, terms.l1, -terms.l1)
    downhill = jnp.maximum(jnp.where(theta > terms.lower, left, 0), jnp.where(theta < terms.upper, -right, 0))
    return jnp.maximum(downhill, 0)


def sweep(system: Array, terms: Terms, t: Array, slope: Array) -> tuple[Array, Array]:
    """Coordinate descent once through all coefficients t; `slope` is the loss's, and kept up to date."""

    def update(j: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, slope = at
        row, l1 = system[j], terms.l1[j]
        pull = row[j] * t[j] - slope[j]
        curvature = row[j] + terms.l2[j]
        new = jnp.where(jnp.abs(pull) <= l1, 0, pull - jnp.sign(pull) * l1) / jnp.where(curvature > 0, curvature, 1)
        new = jnp.where((curvature > 0) | (l1 > 0), jnp.clip(new, terms.lower[j], terms.upper[j]), t[j])
        return t.at[j].set(new), slope + row * (new - t[j])

    return jax.lax.fori_loop(0, t.shape[0], update, (t, slope))


def polish(system: Array, terms: Terms, t: Array, slope: Array) -> Array:
    """Solve for the coefficients that are not 0 or at a bound, and go there, or as far as their signs and bounds hold.

    Solved for the change, so that the jitter that a singular system needs costs no digits.
    """
    p = t.shape[0]
    free = (t > terms.lower) & (t < terms.upper) & ((t != 0) | (terms.l1 == 0)) & (jnp.diag(system) + terms.l2 > 0)
    jitter = jnp.asarray(16 * p * jnp.finfo(t.dtype).eps, t.dtype)
    factor = factor_by_cholesky(system, Penalty(terms.l2, None), jitter, free)
    move = -solve(factor, slope + terms.l2 * t + terms.l1 * jnp.sign(t))
    move = jnp.where(jnp.all(jnp.isfinite(move)), move, 0)
    signed = terms.l1 > 0
    lower = jnp.where(signed & (t > 0), jnp.maximum(terms.lower, 0), terms.lower)
    upper = jnp.where(signed & (t < 0), jnp.minimum(terms.upper, 0), terms.upper)
    end = jnp.where(move < 0, lower, upper)
    share = jnp.where(move == 0, jnp.inf, (end - t) / jnp.where(move == 0, 1, move))
    length = jnp.minimum(1, jnp.min(share, initial=jnp.inf))
    return jnp.where(share <= length, end, t + length * move)


def minimize_model(system: Array, gradient: Array, base: Array, terms: Terms, goal: Array, running: Array) -> Array:
    """The minimum of the quadratic model about `base`, flat, with violations of at most `goal`."""

    def slope_at(t: Array) -> Array:
        return gradient + system @ (t - base)

    def body(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        t, slope, _, i = state
        t, slope = jax.lax.fori_loop(0, SWEEPS, lambda _, at: sweep(system, terms, *at), (t, slope))
        t = polish(system, terms, t, slope)
        slope = slope_at(t)
        return t, slope, jnp.max(violation(terms, slope + terms.l2 * t, t), initial=0), i + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        return running & (state[2] > goal) & (state[3] < ROUNDS)

    t = jnp.clip(base, terms.lower, terms.upper)
    first = (t, slope_at(t), jnp.full((), jnp.inf, t.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, body, first)[0]


def corrected(system: Array, pairs: Array) -> Array:
    """BFGS: the system that maps each move to its change of the gradient, the newest exactly; positive definite still.

    Pairs whose curvature is far from the system's are left out: they are empty, or rounding.
    """

    def update(b: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        s, y = pair
        bs = b @ s
        old, new = s @ bs, s @ y
        sane = (new > 0.01 * old) & (new < 100 * old)
        old, new = jnp.where(sane, old, 1), jnp.where(sane, new, 1)
        return b + jnp.where(sane, jnp.outer(y, y) / new - jnp.outer(bs, bs) / old, 0), None

    return jax.lax.scan(update, system, (pairs[0], pairs[1]))[0]


def proximal_init(theta: Array, status: Array, start: bool) -> ProximalState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start."""
    p, dtype = theta.size, theta.dtype
    zero, infinity, none = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return ProximalState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
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
    gradient, system, size = sums.score / total, sums.system / total, jnp.maximum(sums.size / total, 1)
    loss = sums.nll / total + jnp.sum(terms.l1 * jnp.abs(flat) + 0.5 * terms.l2 * flat**2)
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(system))
    # Without slack lanes would backtrack on rounding at the optimum; steps whose gain is less than the rounding of the
    # loss are taken on trust, since the gradient still tells.
    slack = 16 * eps * size
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    accepted = finite & (state.start | (loss <= state.loss + slack))
    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    slow = accepted & jnp.isfinite(state.loss) & (sums.reach <= 0.1) & (state.rate > 0.2) & (state.rate < 1)
    pair = jnp.stack([flat - state.theta.reshape(-1), gradient - state.gradient])
    pairs = jnp.where(slow, jnp.roll(state.pairs, -1, axis=1).at[:, -1].set(pair), 0)
    gradient, system = jnp.where(accepted, gradient, state.gradient), jnp.where(accepted, system, state.system)
    hessian = corrected(system, pairs)

    # The quadratic of a start is one about 0, and what is violated there says nothing of convergence.
    base = jnp.where(state.start & accepted, 0, jnp.where(accepted, flat, state.theta.reshape(-1)))
    residual = jnp.max(violation(terms, gradient + terms.l2 * base, base), initial=0) / size
    goal = jnp.maximum(jnp.minimum(0.1, residual) * residual, 0.25 * rules.tol) * size
    damped = hessian + jnp.diag(damping * jnp.diag(hessian))
    t = minimize_model(damped, gradient, base, terms, goal, state.status == RUNNING)
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
    at_rest = (moved_before & (sums.reach <= 0.1)) | (jnp.sum(jnp.abs(next_trial - base.reshape(shape))) <= 0.1)
    separated = accepted & (sums.reach > 0.1) & (state.decrement <= level) & (decrement <= level)
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
