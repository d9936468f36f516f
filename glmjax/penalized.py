"""`firth_intervals`: intervals of a Firth fit by its penalized likelihood.

The ends of a coefficient's interval, a'theta, solve F = F(fit) + bar with a score of lambda a: of the quadratic that
F's system A tells about a theta with score g,

    u = theta - A^-1 g,   b = a'u +- sqrt(2 a'A^-1 a (F(fit) + bar - F + g'A^-1 g / 2))

u + A^-1 a (b - a'u) / a'A^-1 a is the next theta, halfway back where it is further from a solution. A need not be the
second derivative for that.

Reference: Venzon and Moolgavkar, Applied Statistics 37 (1988).
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import to_params, to_theta, to_theta_marks
from .data import Data, row_weight
from .distributions import by_expectation
from .factors import solve
from .firth import FAR, columns_of, firth_task
from .inferences import Names, names_of
from .influence import as_vector
from .inputs import check_level, is_traced
from .jeffreys import Penalized, penalized_at
from .lanes import chosen
from .linear import Task
from .programs import quick_jit
from .results import Fit, Status
from .tails import two_sided_quantile

MOST = 100  # evaluations an end


class FirthIntervals(NamedTuple):
    """The ends of each coefficient's interval, (q,), in the order of `inference`, whose `names` they have."""

    names: Names
    lower: Array
    upper: Array


class EndState(NamedTuple):
    """On the way to an end: the best theta, (p, 1), how far it is from a solution, and the trial that comes next."""

    theta: Array
    trial: Array
    gap: Array
    evaluations: Array
    done: Array


def firth_intervals(data: Data, fit: Fit, level: float | Array = 0.95) -> FirthIntervals:
    """Intervals of a Firth fit's coefficients by the penalized likelihood, as R's `logistf` prints.

        {b: 2 (l(fit) - max l(params)) <= quantile,  the maximum over params whose coefficient is b}

    l is the log-likelihood + log(det I) / 2, I the information about all coefficients, the one that is held too; the
    quantile chi-squared's with 1 degree of freedom. Where data are few or separated prefer them to Wald's.

    Given a coefficient the penalized likelihood may have several peaks, as when no count is above 0: the end is then
    that of the one which the steps from the fit have led to.

    Pure; `jax.vmap` it over fits and data. All ends of all coefficients are found in one program, as lanes.

    Args:
        data: the rows that the model was fitted to.
        fit: from `fit_firth`.
        level: above 0 and below 1.

    Returns:
        `FirthIntervals`; NaN for aliased coefficients, for ends that were not found, and for lanes that `fit_firth`
        has not brought to an optimum.

    Raises:
        ValueError: a fit that is not at the maximum of the penalized likelihood; as `fit_firth`.
        TypeError: `fit` is no `Fit`.

    Reference: Heinze and Schemper, Statistics in Medicine 21 (2002).
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be a Fit, from gj.fit_firth(model, data), got {type(fit).__name__}")
    check_level(level)
    if not is_traced(fit.status) and np.ndim(fit.status):
        raise ValueError(f"fit has lanes, its status is of shape {np.shape(fit.status)}; jax.vmap over them")
    task = firth_task(fit.model, data, fit.params, None, 1)
    if not is_traced(fit.status) and Status(int(fit.status)) not in ENDED:
        raise ValueError(f"the fit ended {Status(int(fit.status)).name}: {Status(int(fit.status)).sentence}")
    ends, left = _ends(task, fit, jnp.asarray(level, data.x.dtype))
    if not is_traced(left) and not left < NEAR:
        raise ValueError(
            "fit is not at the maximum of the penalized likelihood, a Newton step from it has a decrement of "
            f"{float(left):.1e}; give one from fit_firth, to the same data"
        )
    return FirthIntervals(names_of(task.model, data.x.shape[1]), ends[0], ends[1])


ENDED = (Status.CONVERGED, Status.RANK_DEFICIENT)
NEAR = 1e-3  # the decrement of what is a Firth fit, by another solver too


@quick_jit
def _ends(task: Task, fit: Fit, level: Array) -> tuple[Array, Array]:
    """The ends, (2, q), and the decrement at the fit."""
    model, data = replace(task.model, family=by_expectation(task.model.family)), task.data
    columns = columns_of(task)
    theta = to_theta(columns, task.params)
    kept = jnp.ones(theta.size, bool) if fit.aliased is None else ~to_theta_marks(fit.aliased).reshape(-1)
    found_at = partial(penalized_at, model, columns, data, kept=kept)
    best = found_at(theta=theta)
    left = jnp.sqrt(jnp.maximum(best.score @ solve(best.system, best.score), 0))
    weight = row_weight(data)
    total = jnp.asarray(len(data.x), theta.dtype) if weight is None else jnp.sum(weight)
    bar = two_sided_quantile(1 - level, None) ** 2 / (2 * total)
    eps = float(jnp.finfo(theta.dtype).eps)

    def coefficients(theta: Array) -> Array:
        return as_vector(to_params(columns, theta.reshape(-1, 1), task.params))

    rows = jax.vmap(coefficients)(jnp.eye(theta.size, dtype=theta.dtype)).T  # a coefficient each

    def next_of(found: Penalized, theta: Array, a: Array, side: Array) -> tuple[Array, Array]:
        """The step to the next theta, and how far this one is from a solution, in units of F."""
        u, v = solve(found.system, found.score), solve(found.system, jnp.where(kept, a, 0))
        spread, pull = a @ v, a @ u
        above = best.loss + bar - found.loss
        reach = side * jnp.sqrt(jnp.maximum(2 * spread * (above + 0.5 * (found.score @ u)), 0))
        off = jnp.maximum(found.score @ u - pull * pull / spread, 0)  # what the others would still gain, twice
        step = v * reach / spread - u
        most = jnp.max(jnp.abs(theta), initial=FAR)
        step = step * jnp.minimum(1, most / jnp.maximum(jnp.max(jnp.abs(step)), most))
        return step.reshape(theta.shape), jnp.abs(above) + off

    def advance(a: Array, side: Array, state: EndState) -> EndState:
        found = found_at(theta=state.trial)
        step, gap = next_of(found, state.trial, a, side)
        accepted = jnp.isfinite(gap) & jnp.all(jnp.isfinite(step)) & (found.noise < 0.1) & (gap <= 1.5 * state.gap)
        small = jnp.maximum(eps**0.65 * bar, 4 * eps * found.size)
        onward = EndState(state.trial, state.trial + step, gap, state.evaluations + 1, gap <= small)
        back = 0.5 * (state.theta + state.trial)
        return chosen(accepted, onward, state._replace(trial=back, evaluations=state.evaluations + 1))

    def end(a: Array, side: Array) -> Array:
        step, _ = next_of(best, theta, a, side)
        infinity = jnp.full((), jnp.inf, theta.dtype)
        start = EndState(theta, theta + step, infinity, jnp.zeros((), jnp.int32), jnp.asarray(False))
        state = jax.lax.while_loop(
            lambda state: ~state.done & (state.evaluations < MOST), partial(advance, a, side), start
        )
        return jnp.where(state.done, a @ state.trial[:, 0], jnp.nan)

    sides = jnp.asarray([-1, 1], theta.dtype)
    ends = jax.vmap(jax.vmap(end, (0, None)), (None, 0))(rows, sides)
    known = jnp.any(jnp.stack([fit.status == ended for ended in ENDED])) & (left < NEAR)
    marks = jnp.ones(len(rows), bool) if fit.aliased is None else ~as_vector(fit.aliased)
    return jnp.where(known & marks[None], ends, jnp.nan), left
