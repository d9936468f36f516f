"""Newton's method (iteratively reweighted least squares) for linear models.

In standardized columns z, with score g and information H of the objective (Fisher's where the link is not canonical):

1. start: least squares on the family's start, as R; or the parameters given.
2. step:  (H + damping diag(H)) s = g, and theta - s is tried; kept if the loss has not risen, up to rounding.
3. stop:  on the Newton decrement sqrt(g' s), which bounds how far the loss is above its minimum: when what the next
   pass would find is below `tol`, the last step is taken without another pass.

The step takes sums, never data, so that they may come from memory, from a disk or from a mesh. Ill-conditioned systems
are factored by QR of the rows instead of Cholesky. While many rows are far from deciding anything, H comes from a
sample of them (see `newton`), and score-only passes go on from it by L-BFGS, as long as they converge fast.

Reference: McCullagh and Nelder (1989), Generalized Linear Models; Nocedal and Wright (2006), Numerical Optimization.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import Columns, bias_marks
from .data import Data
from .factors import Factor, Penalty, factorize, independent, penalized_rows, smallest_pivot, solve
from .lanes import any_lane
from .models import Model
from .passes import LinearSums, Point, factor_pass, information_pass, score_pass
from .results import Status

SCORE, INFORMATION, FACTOR = 0, 1, 2  # what a pass is asked for; FACTOR is INFORMATION by QR
RUNNING = -1
MEMORY = 6


class Rules(NamedTuple):
    """What does not change during a run: the penalty on theta, and when to stop."""

    penalty: Penalty
    tol: Array
    max_steps: Array
    lazy: Array | None  # whether score-only passes may be asked for; None where they never are


class NewtonState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
    kind: Array  # what the next pass is asked for
    orthogonal: Array  # whether `system` is a triangular factor
    kept: Array  # columns that are independent of those before them
    pairs: Array  # (2, m, p k): the last moves of theta and of the score
    loss: Array
    deviance: Array
    score: Array
    system: Array
    weight: Array
    damping: Array
    decrement: Array
    rate: Array  # the last decrement over the one before
    reach: Array  # the largest change of any eta in the last step
    steps: Array
    passes: Array
    status: Array


def newton_init(theta: Array, status: Array, start: bool) -> NewtonState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start."""
    p, dtype = theta.size, theta.dtype
    zero, infinity = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    none = jnp.zeros((), jnp.int32)
    return NewtonState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
        kind=none + INFORMATION,
        orthogonal=jnp.asarray(False),
        kept=jnp.ones(p, bool),
        pairs=jnp.zeros((2, MEMORY, p), dtype),
        loss=infinity,
        deviance=zero,
        score=jnp.zeros(p, dtype),
        system=jnp.zeros((p, p), dtype),
        weight=zero,
        damping=zero,
        decrement=infinity,
        rate=jnp.ones((), dtype),
        reach=zero,
        steps=none,
        passes=none,
        status=status,
    )


def point(state: NewtonState) -> Point:
    """Where the next pass is taken, and the direction to it."""
    return Point(state.trial, state.trial - state.theta, state.start)


def newton_step(rules: Rules, state: NewtonState, sums: LinearSums, bias: Array) -> NewtonState:
    """Take in the sums of a pass at `state.trial`; the state with the next trial. `bias` (p, k) marks the bias."""
    eps = jnp.finfo(state.loss.dtype).eps
    penalty, shape = rules.penalty, state.theta.shape

    # What the pass found, as means over the rows, penalty included.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    flat = state.trial.reshape(-1)
    score = sums.score / total + penalty.diagonal * flat
    loss = sums.nll / total + 0.5 * jnp.sum(penalty.diagonal * flat**2)
    size = jnp.maximum(sums.size / total, 1)
    by_qr = state.kind == FACTOR
    fresh = state.kind != SCORE
    system = jnp.where(fresh, sums.system / jnp.where(by_qr, jnp.sqrt(total), total), state.system)

    # The first factor by QR decides which columns are dependent.
    orthogonal = by_qr | state.orthogonal
    deciding = by_qr & ~state.orthogonal
    kept = jax.lax.cond(
        any_lane(deciding),
        lambda: jnp.where(deciding, independent(penalized_rows(system, penalty), max(1e-11, 64 * eps)), state.kept),
        lambda: state.kept,
    )
    # Without slack lanes would backtrack on rounding at the optimum; steps whose gain is less than the rounding of the
    # loss are taken on trust, since the score still tells.
    slack = 16 * eps * size
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    finite = jnp.all(jnp.isfinite(score)) & jnp.all(jnp.isfinite(system))
    accepted = finite & (state.start | (loss <= state.loss + slack))

    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    moved = score - state.score
    score = jnp.where(accepted, score, state.score)
    system = jnp.where(accepted, system, state.system)
    factor = factorize(system, orthogonal, penalty, damping, kept)
    # Secant pairs serve where the system is not the Hessian: one from a sample, or Fisher's near the optimum.
    move = jnp.stack([(state.trial - state.theta).reshape(-1), moved])
    slow = (sums.reach <= 0.1) & (state.rate > 0.2) & (state.rate < 1) & fresh
    pairs = jnp.where(accepted & (~fresh | slow), jnp.roll(state.pairs, -1, axis=1).at[:, -1].set(move), 0)
    pairs = jnp.where(jnp.isfinite(state.loss) & ~orthogonal, pairs, 0)
    step = quasi_newton(factor, pairs, score)
    decrement = jnp.sqrt(jnp.maximum(score @ step, 0))
    step = step.reshape(shape)

    # Too ill-conditioned for Cholesky: the same pass again, by QR.
    ill = accepted & fresh & ~orthogonal & (damping == 0) & ~(smallest_pivot(factor) > eps**0.6)

    # How much the next pass would still find: a quadratic rate goes on falling, a linear one does not.
    measured = jnp.isfinite(state.decrement) & accepted
    rate = jnp.where(measured, decrement / jnp.where(state.decrement > 0, state.decrement, 1), 1)
    expected = decrement * jnp.where(slow, 1, rate * jnp.minimum(1, jnp.where(measured, rate / state.rate, 1)))
    scale, level = jnp.sqrt(size), jnp.sqrt(eps)
    # Rows that keep moving by steps of one, while ever less loss is gained: their losses have no minimum.
    endless = measured & (sums.reach > 0.1) & (rate > 0.3)
    # Rounding: no pass will find less. An ill-conditioned system lifts the rounding of the score.
    floor = (decrement <= jnp.where(orthogonal, level, 1e-3 * level) * scale) & (rate > 0.5)
    small = (expected <= rules.tol * scale) & ~orthogonal
    converged = accepted & ~state.start & (damping == 0) & ~endless & (small | floor | (decrement <= eps**2))

    # At the start theta is the bias alone, a mean of the start: the fallback for a first trial outside the domain.
    diagonal = jnp.where(by_qr, jnp.sum(system**2, axis=0), jnp.diag(system)) + penalty.diagonal
    null = jnp.where(bias, (-score / jnp.where(diagonal > 0, diagonal, 1)).reshape(shape), 0)
    lost = ~accepted & ~jnp.isfinite(state.loss)
    theta = jnp.where(state.start, null, jnp.where(accepted, state.trial, state.theta))
    trial = jnp.where(lost, state.theta, jnp.where(state.start, 0, theta) - step)

    steps = state.steps + jnp.where(state.start | ill, 0, 1)
    status = jnp.where(steps >= rules.max_steps, Status.MAX_STEPS, RUNNING)
    nowhere = lost & (state.start | jnp.all(state.trial == state.theta))
    status = jnp.where(nowhere | (damping > 1e12), Status.NONFINITE, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    status = jnp.where(accepted & endless & (decrement <= jnp.maximum(level, 1e-6)), Status.SEPARATED, status)
    fast = jnp.where(measured, rate < 0.3, state.kind == SCORE)
    lazy = jnp.asarray(False) if rules.lazy is None else rules.lazy & fast & accepted & ~state.start
    known = accepted & ~ill & ~state.start
    return NewtonState(
        theta=jnp.where(ill, state.theta, theta),
        trial=jnp.where(ill, state.trial, trial),
        start=state.start & ill,
        kind=jnp.where(orthogonal | ill, FACTOR, jnp.where(lazy, SCORE, INFORMATION)).astype(jnp.int32),
        orthogonal=orthogonal,
        kept=kept,
        pairs=pairs,
        loss=jnp.where(known, loss, state.loss),
        deviance=jnp.where(known, sums.deviance, state.deviance),
        score=score,
        system=system,
        weight=sums.weight,
        damping=damping,
        decrement=jnp.where(known, decrement, state.decrement),
        rate=jnp.where(measured & ~ill, rate, state.rate),
        reach=sums.reach,
        steps=steps,
        passes=state.passes + jnp.where(by_qr, 2, 1),
        status=jnp.where(ill, RUNNING, status).astype(jnp.int32),
    )


def quasi_newton(factor: Factor, pairs: Array, score: Array) -> Array:
    """L-BFGS's two loops over the pairs, from the factored information: the step for a score, (p k,)."""
    moves, changes = pairs
    products = jnp.sum(moves * changes, axis=1)
    rho = jnp.where(products > 0, 1 / jnp.where(products > 0, products, 1), 0)

    def back(q: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        s, y, r = pair
        a = r * (s @ q)
        return q - a * y, a

    def forth(step: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        s, y, r, a = pair
        return step + (a - r * (y @ step)) * s, None

    q, a = jax.lax.scan(back, score, (moves, changes, rho), reverse=True)
    return jax.lax.scan(forth, solve(factor, q), (moves, changes, rho, a))[0]


def newton_run(rules: Rules, state: NewtonState, model: Model, columns: Columns, data: Data) -> NewtonState:
    """Steps until every lane has ended, the passes taken from memory."""
    bias = bias_marks(columns, state.theta)

    def body(state: NewtonState) -> NewtonState:
        running = state.status == RUNNING
        at = point(state)

        def with_information() -> LinearSums:
            return information_pass(model, columns, data, at)

        if rules.lazy is None:
            sums = with_information()
        else:
            wanted = any_lane(running & (state.kind != SCORE))
            sums = jax.lax.cond(wanted, with_information, lambda: score_pass(model, columns, data, at))
        by_qr = state.kind == FACTOR
        factor = jax.lax.cond(
            any_lane(running & by_qr),
            lambda: factor_pass(model, columns, data, at),
            lambda: jnp.zeros_like(sums.system),
        )
        sums = sums._replace(system=jnp.where(by_qr, factor, sums.system))
        return newton_step(rules, state, sums, bias)

    return jax.lax.while_loop(lambda state: state.status == RUNNING, body, state)
