"""Profile-likelihood intervals of a linear model's coefficients: how far one may go before the deviance is too large.

The end of coefficient j maximizes c'theta, c the coefficient's unit vector in theta and its sign the side, within the
set where the objective f, sum(weight nll), is at most `bar`. There grad f is a multiple of c. With score g and
information H at theta, v = c'H^-1 c, the objective's best at the coefficient's value, to second order, its slope by
the coefficient, and how the others get there, are

    f - gap / 2,   gap = g'H^-1 g - m^2 v,   m = c'H^-1 g / v,   s = m H^-1 c - H^-1 g

so one pass over the rows serves both the others' Newton step s and the root of m d + d^2 / (2 v) = bar - (f - gap / 2)
for the coefficient's own step d, along H^-1 c / v. All coefficients and both sides are lanes of one `vmap`.

Reference: Venzon and Moolgavkar, Applied Statistics 37 (1988); Bates and Watts, Nonlinear Regression Analysis (1988).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, measure, to_params, to_theta, to_theta_marks
from .data import Data
from .factors import Penalty, factor_by_cholesky, solve
from .inferences import Goodness, Names, inference
from .influence import as_vector, effects_task
from .inputs import is_traced
from .lanes import chosen
from .linear import Task
from .models import Model
from .passes import LinearSums, Point, information_pass
from .programs import quick_jit
from .results import RUNNING, Fit, Status
from .tails import two_sided_quantile

MOST = 150  # passes
AHEAD = 8  # times as far as a coefficient has come already, or a standard interval, is as far as a step may go
HIGH = 4  # times the rise that is asked for is what a point may have risen to, and still be one to go on from
FLAT = 1e-6  # of the rise that is left, what e times as far would bring: no profile gets there


class ProfileIntervals(NamedTuple):
    """Intervals of q coefficients, (q,) each but `names`; under `vmap` lanes come first."""

    names: Names
    estimate: Array
    lower: Array
    upper: Array


class Walk(NamedTuple):
    """One coefficient on its way to one end; distances are the coefficient's, outward from its estimate."""

    theta: Array  # (p k,)
    step: Array  # of theta, to be tried next
    forward: Array  # how far that step goes
    come: Array
    value: Array  # the objective above that of the fit
    low: Array  # the profile is below its bar here
    high: Array  # and above it here
    radius: Array  # how far a step may go
    passes: Array
    status: Array


class View(NamedTuple):
    """What a pass shows at a point, in the letters of this room's docstring."""

    value: Array  # f above that of the fit
    profile: Array  # value - gap / 2
    gap: Array
    slope: Array  # m
    variance: Array  # v
    others: Array  # s
    tangent: Array  # H^-1 c / v
    noise: Array  # rounding of the value


def profile_intervals(
    data: Data,
    fit: Fit,
    *,
    dispersion: Callable[[Goodness], Array] | float | Array | None = None,
    level: float | Array = 0.95,
) -> ProfileIntervals:
    """Profile-likelihood intervals of a linear model's coefficients, without a normal approximation.

        (D(b) - D(estimate)) / dispersion = q^2,   D(b) the least deviance with the coefficient held at b

    at both ends, q the normal quantile where the dispersion is known, else that of t with n - p degrees of freedom, as
    the tests of `inference`. R's `confint` takes the normal one always, as a dispersion given here does, and
    interpolates. An end is infinite where the profile never gets there, as where a coefficient is infinite in a
    SEPARATED fit: the other end then says what is known of it.

    Pure; `jax.vmap` it over fits and data. Some 5 passes over the rows for all ends, which hold (q, q) numbers each.
    An estimated alpha counts as given. An end is NaN where the coefficient is aliased, where the link's domain ends
    before it is reached, where the system is too ill-conditioned for Cholesky, and in lanes without errors.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model, at an optimum; without a penalty.
        dispersion: as `inference` takes it.
        level: above 0 and below 1.

    Returns:
        `ProfileIntervals`, in the order of `inference`, without alpha.

    Raises:
        ValueError: as `inference`; a fit with l2.

    Reference: Venzon and Moolgavkar, Applied Statistics 37 (1988).
    """
    if isinstance(fit, Fit) and not is_traced(fit.l2) and np.any(np.asarray(fit.l2) != 0):
        raise ValueError("there are no profile intervals of a fit with l2: its deviance is not the least; fit without")
    table = inference(data, fit, dispersion=dispersion, level=level)
    q = fit.params.w.size + (0 if fit.params.b is None else fit.params.b.size)
    estimate, names = table.estimate[:q], Names(table.names[:q])
    tail = 1 - jnp.asarray(level, data.x.dtype)
    lower, upper = _ends(effects_task(fit, data), fit, estimate, table.dispersion, table.df, tail)
    return ProfileIntervals(names, estimate, lower, upper)


@quick_jit
def _ends(task: Task, fit: Fit, estimate: Array, dispersion: Array, df: Array, tail: Array) -> tuple[Array, Array]:
    model, data = task.model, task.data
    columns = measure(data, model.predictor.bias, jnp.asarray(False))  # type: ignore[union-attr]
    start = to_theta(columns, task.params)
    shape, theta = start.shape, start.reshape(-1)
    kept = jnp.ones(theta.size, bool) if fit.aliased is None else ~to_theta_marks(fit.aliased).reshape(-1)
    bar = two_sided_quantile(tail, df) ** 2 * dispersion / 2

    def look(theta: Array) -> LinearSums:
        return _sums(model, columns, data, theta.reshape(shape))

    first = look(theta)
    units = jax.vmap(lambda unit: as_vector(to_params(columns, unit.reshape(shape), task.params)))
    directions = jnp.where(kept[None], units(jnp.eye(theta.size, dtype=theta.dtype)).T, 0)
    endless = jnp.isinf(estimate)

    def end(direction: Array, side: Array, endless: Array, sign: Array) -> Array:
        c = side * direction
        seen = _view(first, first.nll, c, kept)
        spread = jnp.sqrt(2 * bar * seen.variance)
        # Where a coefficient is infinite the fit has stopped on a plateau, some 40 of eta from where it begins: what
        # is flat there is so only if it is for far longer.
        far = jnp.where(endless, jnp.sum(jnp.abs(c)) * (300 + 10 * jnp.max(jnp.abs(theta), initial=0)), spread)
        zero, infinity = jnp.zeros_like(bar), jnp.full_like(bar, jnp.inf)
        none = jnp.zeros((), jnp.int32)
        status = jnp.where(endless & (sign == side), Status.SEPARATED, RUNNING)
        status = jnp.where(jnp.any(direction != 0) & (bar > 0) & jnp.isfinite(bar), status, Status.NONFINITE)
        walk = Walk(theta, 0 * theta, zero, zero, zero, zero, infinity, infinity, none, status.astype(jnp.int32))
        walk = chosen(status == RUNNING, _onward(walk, walk, seen, jnp.asarray(True), bar, spread, far), walk)

        def step(walk: Walk) -> Walk:
            at = walk.theta + walk.step
            sums = look(at)
            seen = _view(sums, first.nll, c, kept)
            reached = walk._replace(theta=at, come=walk.come + walk.forward, value=seen.value)
            # Own steps may overshoot, and so may those of the others; what they may not is rise without need.
            most = jnp.where(walk.forward == 0, walk.value, jnp.maximum(walk.value, HIGH * bar))
            good = jnp.isfinite(seen.profile) & jnp.isfinite(seen.variance) & (seen.variance > 0)
            good &= seen.value <= most + seen.noise
            return _onward(walk, reached, seen, good, bar, spread, far)

        walk = jax.lax.while_loop(lambda walk: walk.status == RUNNING, step, walk)
        ended = jnp.where(walk.status == Status.CONVERGED, direction @ (walk.theta + walk.step), jnp.nan)
        return jnp.where(walk.status == Status.SEPARATED, side * jnp.inf, ended)

    lanes = jax.vmap(jax.vmap(end, (0, None, 0, 0)), (None, 0, None, None))
    sides = jnp.asarray([-1, 1], theta.dtype)
    lower, upper = lanes(directions, sides, endless, jnp.sign(estimate))
    known = ~jnp.isnan(estimate) & jnp.all(fit.l2 == 0)
    return jnp.where(known, lower, jnp.nan), jnp.where(known, upper, jnp.nan)


def _sums(model: Model, columns: Columns, data: Data, theta: Array) -> LinearSums:
    return information_pass(model, columns, data, Point(theta, jnp.zeros_like(theta), jnp.asarray(False)))


def _view(sums: LinearSums, least: Array, c: Array, kept: Array) -> View:
    """What the sums of a pass tell about the direction c."""
    eps = jnp.finfo(c.dtype).eps
    # Plateaus leave little of the information; the damping only turns steps, which later passes put right.
    damping = jnp.asarray(4 * len(c) * eps, c.dtype)
    factor = factor_by_cholesky(sums.system, Penalty(jnp.zeros_like(c), None), damping, kept)
    along, newton = solve(factor, c), solve(factor, sums.score)
    variance = c @ along
    tangent = along / variance
    slope = c @ newton / variance
    gap = jnp.maximum(sums.score @ newton - slope**2 * variance, 0)
    value = sums.nll - least
    noise = 16 * eps * sums.size
    return View(value, value - gap / 2, gap, slope, variance, slope * along - newton, tangent, noise)


def _onward(before: Walk, reached: Walk, seen: View, good: Array, bar: Array, spread: Array, far: Array) -> Walk:
    """The walk with its next step: from the point reached, or where that is not `good` a shorter one from before."""
    eps = float(jnp.finfo(bar.dtype).eps)
    left = bar - seen.profile
    come = reached.come

    # A bracket knows the profile as well as the others have settled.
    told = seen.gap <= 0.1 * jnp.abs(left)
    low = jnp.where(told & (left > 0), jnp.maximum(reached.low, come), reached.low)
    high = jnp.where(told & (left < 0), jnp.minimum(reached.high, come), reached.high)

    # The root of the profile's parabola; above the bar, where it may have none, Newton's step.
    under = seen.slope**2 + 2 * left / seen.variance
    root = seen.slope + jnp.sqrt(jnp.maximum(under, 0))
    own = jnp.where(left > 0, 2 * left / root, left / seen.slope)
    own = jnp.where(left == 0, 0, own)
    most = jnp.minimum(reached.radius, AHEAD * jnp.maximum(come, spread))
    bounded = jnp.minimum(own, most)
    inside = (come + bounded > low) & (come + bounded < high)
    half = jnp.where(jnp.isfinite(high), (low + high) / 2 - come, most)
    move = jnp.where(inside, bounded, half)
    move = jnp.where(seen.gap <= 0.1 * bar, move, 0)

    tolerance = seen.noise + jnp.asarray([1e-5, max(1e-9, eps)], bar.dtype) * bar
    settled = (jnp.abs(left) <= tolerance[0]) & (seen.gap <= tolerance[1])
    met = jnp.isfinite(high) & (high - low <= 4 * eps * high) & (seen.gap <= tolerance[1])
    flat = (seen.slope * come <= FLAT * left) & (come >= far) & (seen.gap <= 0.1 * left)
    status = jnp.where(flat, Status.SEPARATED, jnp.where(settled | met, Status.CONVERGED, RUNNING))
    move = jnp.where(settled, own, move)
    ahead = reached._replace(
        step=seen.others + move * seen.tangent,
        forward=move,
        low=low,
        high=high,
        radius=jnp.where(reached.forward >= 0.9 * reached.radius, 4 * reached.radius, reached.radius),
        status=status.astype(jnp.int32),
    )

    # A rise goes with the square of a step, or with the step itself where rows are far from where they are undecided.
    rise = jnp.where(seen.value > 0, bar / seen.value, 1)
    shrink = jnp.where(jnp.isfinite(seen.value), jnp.clip(jnp.sqrt(rise), 0.01, 0.5), 0.25)
    shorter = before._replace(
        step=shrink * before.step,
        forward=shrink * before.forward,
        radius=jnp.where(before.forward == 0, before.radius, shrink * jnp.abs(before.forward)),
    )
    following = chosen(good, ahead, shorter)
    passes = before.passes + 1
    over = (following.status == RUNNING) & (passes >= MOST)
    return following._replace(
        passes=passes, status=jnp.where(over, Status.MAX_STEPS, following.status).astype(jnp.int32)
    )
