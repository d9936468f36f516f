"""Newton's method (iteratively reweighted least squares) for linear models.

In standardized columns z, with score g and information H of the objective (Fisher's where the link is not canonical):

1. start: least squares on the family's start, as R; or the parameters given.
2. step:  (H + damping diag(H)) s = g, and theta - s is tried; kept if the loss has not risen, up to rounding.
3. stop:  on the Newton decrement sqrt(g' s), which bounds how far the loss is above its minimum: when what the next
   pass would find is below `tol`, the last step is taken without another pass.

The step takes sums, never data, so that they may come from memory, from a disk or from a mesh. A system that is too
ill-conditioned for Cholesky ends the run as ILL; a second one then goes on by QR of the rows. Where there are many
rows the first steps are rehearsed on a sample of them, whose H, in float32, serves score-only passes from there on,
corrected by L-BFGS, as long as they converge fast.

Reference: McCullagh and Nelder (1989), Generalized Linear Models; Nocedal and Wright (2006), Numerical Optimization.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from .columns import Columns
from .data import Data
from .factors import Penalty, factor_by_cholesky, factor_by_qr, smallest_pivot, solve
from .lanes import any_lane, chosen
from .models import Model
from .passes import NEAR, LinearSums, Point, information_pass, score_pass
from .quasinewton import two_loop
from .results import RUNNING, Status
from .rotations import factor_pass

SCORE, INFORMATION = 0, 1  # what a pass is asked for
ILL = -2
MEMORY = 6
BLOCK = 512  # rows of x that a sample takes together


class Rules(NamedTuple):
    """What does not change during a run: the penalty on theta, when to stop, and for each step of a rehearsal its
    sample, one block in so many; None without. `serves` is whether the last sample's system serves the passes that
    follow, or that of the first pass over all rows, and `product` the dtype in which systems are computed. `lazy` is
    whether score-only passes may follow.
    """

    penalty: Penalty
    tol: Array
    max_steps: Array
    samples: tuple[int, ...] | None
    serves: bool
    product: DTypeLike | None
    lazy: Array


class NewtonState(NamedTuple):
    """A run between passes: the best theta so far with its sums, and the trial that the next pass is taken at."""

    theta: Array
    trial: Array
    start: Array  # whether the next pass is the first, on the family's start
    rehearsals: Array  # how many steps are to be rehearsed yet
    null: Array  # the bias alone, at a mean of the family's start, once that is known
    kind: Array  # what the next pass is asked for
    kept: Array  # columns that are independent of those before them
    pairs: Array  # (2, m, p k): the last moves of theta and of the score, newest first
    curvature: Array  # (m,): 1 / (move @ score's move), 0 where that is not positive or there is no pair
    loss: Array
    deviance: Array
    score: Array
    system: Array  # the information, or by QR its triangular factor
    upper: Array  # the factor that the last step was solved with
    weight: Array
    damping: Array
    decrement: Array
    rate: Array  # the last decrement over the one before
    reach: Array  # the largest change of any eta in the last step, 0 where that was not watched
    steps: Array
    passes: Array
    status: Array


def newton_init(theta: Array, status: Array, start: bool, rehearsals: Array | int) -> NewtonState:
    """The state before the first pass, at theta (p, k) or where `start` at the family's start."""
    p, dtype = theta.size, theta.dtype
    zero, infinity = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    none = jnp.zeros((), jnp.int32)
    return NewtonState(
        theta=theta,
        trial=theta,
        start=jnp.asarray(start),
        rehearsals=none + rehearsals,
        null=theta,
        kind=none + INFORMATION,
        kept=jnp.ones(p, bool),
        pairs=jnp.zeros((2, MEMORY, p), dtype),
        curvature=jnp.zeros(MEMORY, dtype),
        loss=infinity,
        deviance=zero,
        score=jnp.zeros(p, dtype),
        system=jnp.zeros((p, p), dtype),
        upper=jnp.eye(p, dtype=dtype),
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


def watched_point(state: NewtonState) -> Point:
    """`point`, the direction left out while decrements fall fast: how far those steps reach tells nothing."""
    watched = (state.rate > 0.2) & (state.rate < 1)
    return Point(state.trial, jnp.where(watched, state.trial - state.theta, 0), state.start)


def newton_step(
    rules: Rules, state: NewtonState, sums: LinearSums, bias: Array, orthogonal: bool = False
) -> NewtonState:
    """Take in the sums of a pass at `state.trial`; the state with the next trial. `bias` (p, k) marks the bias.

    `orthogonal`: the system is its triangular factor R, and its columns that are not `kept` stay out.
    """
    eps = float(jnp.finfo(state.loss.dtype).eps)
    penalty, shape = rules.penalty, state.theta.shape
    sampled = state.rehearsals > 0

    # What the pass found, as means over the rows, penalty included.
    total = jnp.where(sums.weight > 0, sums.weight, 1)
    flat = state.trial.reshape(-1)
    score = sums.score / total + penalty.diagonal * flat
    ridge, length = jnp.sum(jnp.stack([penalty.diagonal * flat**2, jnp.abs(flat)]), axis=1)
    loss = sums.nll / total + 0.5 * ridge
    size = jnp.maximum(sums.size / total, 1)
    fresh = state.kind == INFORMATION
    system = jnp.where(fresh, sums.system / (jnp.sqrt(total) if orthogonal else total), state.system)

    # Without slack lanes would backtrack on rounding at the optimum, of the loss and of eta, a sum of terms as large as
    # theta; steps whose gain is less than that are taken on trust, since the score still tells.
    slack = eps * size * (16 + length)
    slack = jnp.where(state.decrement**2 <= slack, 1e4 * slack, slack)
    # No entry of an information is larger than its diagonal.
    finite = jnp.all(jnp.isfinite(score) & jnp.isfinite(jnp.diag(system)))
    accepted = finite & (state.start | sampled | (loss <= state.loss + slack))

    damping = jnp.where(state.damping > 1e-4, state.damping / 10, 0)
    damping = jnp.where(accepted, damping, jnp.maximum(10 * state.damping, 1e-3))
    moved = score - state.score
    score = jnp.where(accepted, score, state.score)
    system = jnp.where(accepted, system, state.system)
    factor = (factor_by_qr if orthogonal else factor_by_cholesky)(system, penalty, damping, state.kept)
    # Secant pairs serve where the system is not the Hessian: one from a sample, or Fisher's near the optimum.
    slow = (sums.reach <= NEAR) & (state.rate > 0.2) & (state.rate < 1) & fresh
    useful = accepted & (~fresh | slow) & jnp.isfinite(state.loss) & (not orthogonal)
    move = jnp.stack([(state.trial - state.theta).reshape(-1), moved])
    pairs = jnp.concatenate([jnp.where(useful, move, 0)[:, None], state.pairs[:, :-1]], axis=1)
    bend = move[0] @ move[1]
    newest = jnp.where(bend > 0, 1 / jnp.where(bend > 0, bend, 1), 0)
    curvature = jnp.where(useful, jnp.append(newest, state.curvature[:-1]), 0)
    count = jnp.where(any_lane(jnp.any(curvature > 0)), MEMORY, 0)
    step = two_loop(score, pairs[0], pairs[1], curvature, partial(solve, factor), count)
    decrement = jnp.sqrt(jnp.maximum(score @ step, 0))
    step = step.reshape(shape)

    # How much the next pass would still find: a quadratic rate goes on falling, that of a sample's system does not.
    measured = jnp.isfinite(state.decrement) & accepted
    rate = jnp.where(measured, decrement / jnp.where(state.decrement > 0, state.decrement, 1), 1)
    falling = jnp.minimum(1, jnp.where(measured & fresh, rate / state.rate, 1))
    expected = decrement * jnp.where(slow, 1, rate * falling)
    scale, level = jnp.sqrt(size), float(eps) ** 0.5
    # Rows that keep moving by steps of one, while ever less loss is gained: their losses have no minimum.
    endless = measured & (sums.reach > NEAR) & (rate > 0.3)
    # Rounding: no pass will find less. An ill-conditioned system lifts the rounding of the score.
    floor = (decrement <= (level if orthogonal else max(1e-3 * level, 64 * eps)) * scale) & (rate > 0.5)
    small = (expected <= rules.tol * scale) & (not orthogonal)
    known = accepted & ~state.start & ~sampled
    converged = known & (damping == 0) & ~endless & (small | floor | (decrement <= eps**2))

    # At the start theta is the bias alone, a mean of the start: the fallback for a first trial outside the domain. That
    # of a start that is not finite is 0.
    diagonal = (jnp.sum(system**2, axis=0) if orthogonal else jnp.diag(system)) + penalty.diagonal
    null = jnp.where(bias, (-score / jnp.where(diagonal > 0, diagonal, 1)).reshape(shape), 0)
    lost = ~accepted & ~jnp.isfinite(state.loss)
    theta = jnp.where(state.start, null, jnp.where(accepted, state.trial, state.theta))
    trial = jnp.where(lost, state.theta, jnp.where(state.start, 0, theta) - step)

    steps = state.steps + jnp.where(state.start | sampled, 0, 1)
    status = jnp.where(steps >= rules.max_steps, Status.MAX_STEPS, RUNNING)
    nowhere = lost & ~state.start & jnp.all(state.trial == state.theta)
    status = jnp.where(nowhere | (damping > 1e12), Status.NONFINITE, status)
    status = jnp.where(converged, Status.CONVERGED, status)
    status = jnp.where(accepted & endless & (decrement <= max(level, 1e-6)), Status.SEPARATED, status)

    first = ~state.start & (state.passes == 0) & jnp.any(state.trial != state.null)
    fast = jnp.where(measured, rate < 0.3, sampled | first)
    lazy = rules.lazy & fast & accepted & ~state.start & (state.rehearsals <= (1 if rules.serves else 0))
    following = NewtonState(
        theta=theta,
        trial=trial,
        start=jnp.zeros_like(state.start),
        rehearsals=jnp.maximum(state.rehearsals - 1, 0),
        null=jnp.where(state.start, null, state.null),
        kind=jnp.where(lazy, SCORE, INFORMATION).astype(jnp.int32),
        kept=state.kept,
        pairs=pairs,
        curvature=curvature,
        loss=jnp.where(known, loss, state.loss),
        deviance=jnp.where(known, sums.deviance, state.deviance),
        score=score,
        system=system,
        upper=factor.upper,
        weight=sums.weight,
        damping=damping,
        decrement=jnp.where(known, decrement, state.decrement),
        rate=jnp.where(measured, rate, state.rate),
        reach=sums.reach,
        steps=steps,
        passes=state.passes + jnp.where(sampled, 0, 2 if orthogonal else 1),
        status=jnp.where(sampled, RUNNING, status).astype(jnp.int32),
    )
    if orthogonal:
        return following

    # Too ill-conditioned for Cholesky: the same pass again, by QR. After a rehearsal that went wrong, all over again.
    precision = float(jnp.finfo(rules.product or state.loss.dtype).eps)
    well = smallest_pivot(factor) > precision**0.6
    ill = accepted & ~sampled & fresh & (damping == 0) & ~well
    again = state._replace(weight=sums.weight, passes=state.passes + 1, status=jnp.full_like(state.status, ILL))
    following = chosen(ill, again, following)
    if rules.samples is None:
        return following
    # A lane among others starts at a point like theirs: only the first pass of all is at the family's start.
    begin = jnp.zeros_like(theta) if rules.serves else following.null
    afresh = newton_init(begin, state.status, rules.serves, following.rehearsals)
    afresh = afresh._replace(passes=following.passes)
    # Nor is one of use that has led far from the optimum, as where a level had no events among its rows.
    wrong = jnp.where(sampled, ~(accepted & well), first & (lost | (decrement > 0.5 * scale)))
    return chosen(wrong, afresh, following)


def newton_run(
    rules: Rules,
    state: NewtonState,
    bias: Array,
    sums_at: Callable[[NewtonState], LinearSums],
    orthogonal: bool = False,
) -> NewtonState:
    """Steps until every lane has ended; `sums_at` takes the pass that a state asks for."""
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING,
        lambda state: newton_step(rules, state, sums_at(state), bias, orthogonal),
        state,
    )


def memory_sums(rules: Rules, model: Model, columns: Columns, data: Data, state: NewtonState) -> LinearSums:
    """The pass that a state asks for, over rows in memory."""
    at = watched_point(state)
    if rules.samples is None:
        return information_pass(model, columns, data, at)
    # Lanes rehearse in step, those too that have had to start afresh.
    running, every = state.status == RUNNING, jnp.asarray(rules.samples[0])
    for step, sample in enumerate((*rules.samples[1:], 1), start=1):
        every = jnp.where(any_lane(running & (state.rehearsals == len(rules.samples) - step)), sample, every)
    asked = running & (state.kind == INFORMATION)

    def whole() -> LinearSums:
        return information_pass(model, columns, data, at, every, BLOCK, rules.product)

    if rules.serves:
        return jax.lax.cond(any_lane(asked), whole, lambda: score_pass(model, columns, data, at))
    # All lanes ask until a first pass over all rows; then what one of them asks for must not change another's bits.
    return jax.lax.cond(
        any_lane(running & (state.passes == 0)),
        whole,
        lambda: information_pass(model, columns, data, at, 1, BLOCK, rules.product, asked),
    )


def orthogonal_sums(model: Model, columns: Columns, data: Data, state: NewtonState) -> LinearSums:
    """The same with the triangular factor of the information for the information."""
    at = watched_point(state)
    factor = factor_pass(model, columns, data, at)
    return information_pass(model, columns, data, at)._replace(system=factor)
