"""The steps of limited-memory BFGS, a quasi-Newton method, on sums of a pass over the rows.

    minimize  f(u) = sum(weight nll) / sum(weight) + sum(l2 u^2) / 2  over one flat vector u

1. direction: -H g, with H from the last few changes s of u and y of the gradient, by the two-loop recursion about
   the scale s'y / y'y of the newest; the first time -g.
2. line search: one pass per trial. A length is kept if the loss fell by enough and the slope rose by enough (weak
   Wolfe); else the bracket is halved, or the length doubled while there is none. Where the loss is down to its
   rounding the slopes decide.
3. stop: max|g| <= tol max(1, |f|).

The step takes sums, never data, so that they may come from memory, from a disk or from a mesh.

Reference: Nocedal and Wright (2006), Numerical Optimization, chapter 7; Lewis and Overton (2013), Nonsmooth
optimization via quasi-Newton methods; Hager and Zhang (2005), for the approximate Wolfe conditions.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .results import RUNNING, Status


class GradientSums(NamedTuple):
    """What a pass adds up: of weight * nll its value, its size and its gradient by u; weight and deviance."""

    nll: Array
    size: Array
    weight: Array
    deviance: Array
    gradient: Array


class Rules(NamedTuple):
    """What does not change during a run: the ridge penalty on each of u, and when to stop."""

    l2: Array
    tol: Array
    max_steps: Array


class LBFGSState(NamedTuple):
    """A run between passes: the best u so far, and the line along which the next pass is taken, at `length`.

    `moves` and `turns` (memory, p) hold the changes of u and of the gradient, newest first, and `curvature` (memory,)
    1 / (move @ turn), 0 where nothing is remembered yet.
    """

    at: Array
    loss: Array
    deviance: Array
    gradient: Array
    direction: Array
    slope: Array
    length: Array
    low: Array
    high: Array
    moves: Array
    turns: Array
    curvature: Array
    steps: Array
    passes: Array
    status: Array


def lbfgs_init(at: Array, status: Array, memory: int) -> LBFGSState:
    """The state before the first pass, which is taken at `at` itself."""
    dtype = at.dtype
    zero, infinity, none = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
    return LBFGSState(
        at=at,
        loss=infinity,
        deviance=zero,
        gradient=jnp.zeros_like(at),
        direction=jnp.zeros_like(at),
        slope=zero,
        length=zero,
        low=zero,
        high=infinity,
        moves=jnp.zeros((memory, at.size), dtype),
        turns=jnp.zeros((memory, at.size), dtype),
        curvature=jnp.zeros(memory, dtype),
        steps=none,
        passes=none,
        status=status,
    )


def trial(state: LBFGSState) -> Array:
    """Where the next pass is taken."""
    return state.at + state.length * state.direction


def two_loop(
    gradient: Array,
    moves: Array,
    turns: Array,
    curvature: Array,
    initial: Callable[[Array], Array],
    count: Array | int,
) -> Array:
    """H g, H the inverse Hessian about `initial` that the first `count` pairs of moves and turns tell; pairs whose
    curvature is 0 change nothing.
    """

    def back(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, alphas = state
        alpha = curvature[i] * (moves[i] @ q)
        return q - alpha * turns[i], alphas.at[i].set(alpha)

    q, alphas = jax.lax.fori_loop(0, count, back, (gradient, jnp.zeros_like(curvature)))

    def forth(j: Array, r: Array) -> Array:
        i = count - 1 - j
        return r + (alphas[i] - curvature[i] * (turns[i] @ r)) * moves[i]

    return jax.lax.fori_loop(0, count, forth, initial(q))


def lbfgs_step(rules: Rules, state: LBFGSState, sums: GradientSums) -> LBFGSState:
    """Take in the sums of a pass at `trial(state)`; the state with the next trial."""
    eps = jnp.finfo(state.at.dtype).eps
    here = trial(state)

    # What the pass found, as means over the rows, penalty included.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    loss = sums.nll / total + 0.5 * jnp.sum(rules.l2 * here**2)
    gradient = sums.gradient / total + rules.l2 * here
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))
    slope = gradient @ state.direction
    first = jnp.isinf(state.loss)

    # Wolfe. Near the optimum the loss cannot tell two points apart: up to rounding, the slope then has to.
    slack = 16 * eps * jnp.maximum(sums.size / total, 1)
    fell = loss <= state.loss + 1e-4 * state.length * state.slope
    level = (loss <= state.loss + slack) & (slope <= -0.8 * state.slope)
    low_enough = finite & (fell | level)
    accepted = finite & (first | (low_enough & (slope >= 0.9 * state.slope)))

    # The bracket; where it has closed on nothing, once more along the gradient itself, and then no more.
    low = jnp.where(low_enough, state.length, state.low)
    high = jnp.where(low_enough, state.high, state.length)
    length = jnp.where(jnp.isinf(high), 2 * state.length, (low + high) / 2)
    step = jnp.max(jnp.abs(state.direction), initial=0)
    closed = (high - low) * step <= eps * jnp.max(jnp.abs(state.at), initial=1)
    closed = ~accepted & ~first & (closed | (length * step > 1 / eps))
    remembered = state.curvature[0] > 0
    stuck = closed & ~remembered

    # Memory. The change of the gradient must be curvature and not rounding.
    move, turn = here - state.at, gradient - state.gradient
    product = move @ turn
    useful = accepted & ~first & (product > eps * jnp.linalg.norm(move) * jnp.linalg.norm(turn))

    def pushed(old: Array, new: Array) -> Array:
        return jnp.where(useful, jnp.concatenate([new[None], old[:-1]]), old)

    moves, turns = pushed(state.moves, move), pushed(state.turns, turn)
    curvature = pushed(state.curvature, 1 / jnp.where(useful, product, 1))
    curvature = jnp.where(closed, 0, curvature)

    at = jnp.where(accepted, here, state.at)
    loss, gradient = jnp.where(accepted, loss, state.loss), jnp.where(accepted, gradient, state.gradient)
    # About the scale of the newest pair; with none the step is the gradient, cut to a length of 1.
    newest = curvature[0] * (turns[0] @ turns[0])
    scale = jnp.where(curvature[0] > 0, newest, jnp.maximum(1, jnp.linalg.norm(gradient)))
    direction = -two_loop(gradient, moves, turns, curvature, lambda q: q / scale, len(moves))
    downhill = gradient @ direction
    uphill = ~(downhill < 0)
    direction = jnp.where(uphill, -gradient / jnp.maximum(1, jnp.linalg.norm(gradient)), direction)
    curvature = jnp.where(uphill & (accepted | closed), 0, curvature)
    turned = accepted | closed

    residual = jnp.max(jnp.abs(gradient), initial=0) / jnp.maximum(1, jnp.abs(loss))
    converged = (accepted & (residual <= rules.tol)) | (stuck & (residual <= 100 * rules.tol))
    steps = state.steps + jnp.where(accepted & ~first, 1, 0)
    status = jnp.where((steps >= rules.max_steps) | stuck, Status.MAX_STEPS, RUNNING)
    status = jnp.where(first & ~finite, Status.NONFINITE, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    return LBFGSState(
        at=at,
        loss=loss,
        deviance=jnp.where(accepted, sums.deviance, state.deviance),
        gradient=gradient,
        direction=jnp.where(turned, direction, state.direction),
        slope=jnp.where(turned, gradient @ direction, state.slope),
        length=jnp.where(turned, 1, length),
        low=jnp.where(turned, 0, low),
        high=jnp.where(turned, jnp.inf, high),
        moves=moves,
        turns=turns,
        curvature=curvature,
        steps=steps,
        passes=state.passes + 1,
        status=status.astype(jnp.int32),
    )


def lbfgs_run(rules: Rules, state: LBFGSState, evaluate: Callable[[Array], GradientSums]) -> LBFGSState:
    """Steps until every lane has ended; `evaluate` is a pass at u."""
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING, lambda state: lbfgs_step(rules, state, evaluate(trial(state))), state
    )
