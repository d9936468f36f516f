"""Elastic-net paths: penalties one after another, each fit started where the last one has ended.

A run goes on with what its last pass found: the gradient and the information there tell the first step at the next
penalty. A penalty then costs a few score-only passes, and the information is taken anew now and then. The steps are
those of `descent`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .columns import Columns, bias_marks
from .data import Data, cleaned
from .descent import INFORMATION, SCORE, ProximalState, proximal_restart
from .implicit import without_tangent
from .inputs import check_count, check_number, is_traced
from .linear import Solution, as_fit, as_leaf, check_penalty
from .models import Model
from .nets import Net, make_net, measure_net, net_tangent, theta_terms
from .programs import quick_jit
from .proximal import net_conclusion, net_rules, net_run, net_start
from .results import Fit, Status

REFRESH = 10  # penalties that an information pass serves


class Path(NamedTuple):
    """Fits along `penalty` (m,), the largest first; every field of `fit` has the penalties first."""

    penalty: Array
    fit: Fit


class Mixture(NamedTuple):
    """What an elastic net is but for its penalty: l1 = penalty * ratio * factor, l2 = penalty * (1 - ratio) * factor;
    the rest as in `fit_elastic_net`.
    """

    ratio: Any
    factor: Any
    standardize: bool
    lower: Any
    upper: Any
    tol: Any
    max_steps: Any

    def net(self, model: Model, data: Data) -> Net:
        """The net at a penalty of 1."""
        l1, l2 = self.penalties(1)
        eps = float(jnp.finfo(data.x.dtype).eps)
        return make_net(
            model, data, None, l1, l2, self.standardize, self.lower, self.upper, self.tol, self.max_steps, eps**-0.5
        )

    def penalties(self, penalty: Any) -> tuple[Any, Any]:
        """l1 and l2 at a penalty."""
        return penalty * self.ratio * self.factor, penalty * (1 - self.ratio) * self.factor


def at_penalty(net: Net, penalty: Array) -> Net:
    """The net, given at a penalty of 1, at another."""
    return net._replace(l1=penalty * net.l1, task=net.task._replace(l2=penalty * net.task.l2))


def null_run(net: Net, rows: Data) -> tuple[Columns, ProximalState]:
    """The run without the penalized columns, on rows that are clean, and the standardized columns that it is in."""
    columns = measure_net(net)
    penalized = (net.l1 > 0) | (net.task.l2 > 0)
    lower, upper = jnp.where(penalized, 0, net.lower), jnp.where(penalized, 0, net.upper)
    null = at_penalty(net, jnp.zeros((), net.l1.dtype))._replace(lower=lower, upper=upper)
    rules = net_rules(null, columns)
    state = net_start(null, columns, rules)
    return columns, net_run(net.task.model, rows, columns, rules, state)


@quick_jit
def largest_penalty(net: Net) -> Array:
    """The least penalty at which no coefficient that has an l1 leaves 0, ()."""
    columns, state = null_run(net, cleaned(net.task.data))
    l1 = theta_terms(net, columns).l1
    return jnp.max(jnp.where(l1 > 0, jnp.abs(state.gradient) / jnp.where(l1 > 0, l1, 1), 0), initial=0)


def solve_path(net: Net, penalty: Array) -> Solution:
    """The runs at each of `penalty` (m,), every one from the end of the last."""
    rows = cleaned(net.task.data)
    columns, state = null_run(net, rows)
    # Score-only passes standardize in the coefficients: not where the columns are far from 0. Nor do they see that
    # there is no minimum; penalties leave one exactly where there is one without the penalized columns.
    near = jnp.max(jnp.abs(columns.center / columns.scale), initial=0) < 1e4
    lazy = near & (state.status == Status.CONVERGED)
    bias = bias_marks(columns, state.theta)

    def step(state: ProximalState, at: tuple[Array, Array]) -> tuple[ProximalState, Solution]:
        penalty, place = at
        here = at_penalty(net, penalty)
        light = lazy & (penalty > 0)
        rules = net_rules(here, columns, light)
        kind = jnp.where(light & (place % REFRESH > 0), SCORE, INFORMATION).astype(jnp.int32)
        state = proximal_restart(rules, state, bias, kind)
        state = net_run(net.task.model, rows, columns, rules, state)
        return state, net_conclusion(here, columns, rules, state)

    return jax.lax.scan(step, state, (penalty, jnp.arange(len(penalty))))[1]


@jax.custom_jvp
def path_solution(net: Net, penalty: Array) -> Solution:
    """`solve_path`, differentiable by the implicit function theorem where the sets of zeros stay as they are."""
    return solve_path(net, penalty)


@path_solution.defjvp
def _path_tangent(primals: tuple[Net, Array], tangents: tuple[Net, Array]) -> tuple[Solution, Solution]:
    (net, penalty), (moved, shift) = primals, tangents
    solution = path_solution(net, penalty)

    def tangent(penalty: Array, shift: Array, params: Any) -> tuple[Any, Array, Array]:
        l1, l2 = penalty * moved.l1 + shift * net.l1, penalty * moved.task.l2 + shift * net.task.l2
        moves = (moved.task.model, moved.task.data, l1, l2, moved.lower, moved.upper)
        return net_tangent(at_penalty(net, penalty), params, moves)

    params, loss, deviance = jax.vmap(tangent)(penalty, shift, solution.params)
    return solution, without_tangent(solution)._replace(params=params, loss=loss, deviance=deviance)


@quick_jit
def path_fit(net: Net, penalty: Array, l1: Array, l2: Array) -> Fit:
    """The fits, with what l1 and l2 were at a penalty of 1 before columns were standardized."""
    model, data = net.task.model, net.task.data

    def one(solution: Solution, penalty: Array) -> Fit:
        return as_fit(model, data, solution, penalty * l1, penalty * l2)

    return jax.vmap(one)(path_solution(net, penalty), penalty)


def fit_path(
    model: Model,
    data: Data,
    *,
    penalties: Array | None = None,
    n_penalties: int = 100,
    smallest: float | None = None,
    l1_ratio: float | Array = 1.0,
    factor: float | Array = 1.0,
    standardize: bool = False,
    lower: float | Array | None = None,
    upper: float | Array | None = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Path:
    """Fit an elastic net at each of a sequence of penalties, from the largest, which leaves no column, down.

    At `penalty` the fit is `fit_elastic_net` with `l1 = penalty * l1_ratio * factor` and
    `l2 = penalty * (1 - l1_ratio) * factor`, started where the last one ended: glmnet's lambda, alpha and
    penalty.factor (which glmnet rescales to a mean of 1). Pure: `jax.vmap` it over y, weight, offset, factors.

    Args:
        model: from `glm`.
        data: from `make_data`.
        penalties: (m,), 0 or more, falling; None for `n_penalties` evenly spaced in the logarithm from the least one
            that leaves no penalized column, max_j |x_j'u| / (sum(weight) l1_ratio factor_j), u the residual of the fit
            without them, to `smallest` times that.
        n_penalties: how many.
        smallest: above 0, below 1; None is 1e-4, or 1e-2 where there are more columns than rows, as glmnet.
        l1_ratio: share of the lasso, 0 to 1; 0 is ridge, whose first penalty is that of an `l1_ratio` of 0.001.
        factor: each coefficient's own share of the penalty, 0 or more, one number or broadcast to w; 0 is unpenalized.
        standardize, lower, upper: as in `fit_elastic_net`.
        tol: as in `fit_elastic_net`; None is eps^0.5, 1e-8 in float64.
        max_steps: Newton steps at most, for each penalty.

    Returns:
        `Path`; every lane of its `fit` has its own status.

    Raises:
        ValueError: penalties that are not a falling sequence, an `l1_ratio` outside of 0 to 1, `smallest` outside of 0
            to 1; what `fit_elastic_net` raises.

    Reference: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via
    coordinate descent, Journal of Statistical Software 33.
    """
    mixture = make_mixture(model, data, l1_ratio, factor, standardize, lower, upper, tol, max_steps)
    penalty = make_penalties(model, data, mixture, penalties, n_penalties, smallest)
    return Path(penalty, path_fit(mixture.net(model, data), penalty, *mixture.penalties(1)))


def make_mixture(
    model: Model,
    data: Data,
    ratio: Any,
    factor: Any,
    standardize: bool,
    lower: Any,
    upper: Any,
    tol: Any,
    max_steps: Any,
) -> Mixture:
    """What paths share, checked; raises as `fit_path` says."""
    check_number(ratio, "l1_ratio", at_least=0)
    if not is_traced(ratio) and ratio > 1:
        raise ValueError(f"l1_ratio must be 0 to 1, got {ratio}; it is the share of the lasso, glmnet's alpha")
    outputs = () if model.family.n_outputs is None else (model.family.n_outputs,)
    shape, dtype = (data.x.shape[1], *outputs), data.x.dtype
    check_penalty(factor, "factor", shape)
    return Mixture(as_leaf(ratio, dtype), as_leaf(factor, dtype, shape), standardize, lower, upper, tol, max_steps)


def make_penalties(
    model: Model, data: Data, mixture: Mixture, penalties: Any, n_penalties: int, smallest: Any
) -> Array:
    """The penalties given, checked, or those that suit the data, (m,)."""
    dtype = data.x.dtype
    if penalties is not None:
        if np.ndim(penalties) != 1 or np.shape(penalties)[0] == 0:
            raise ValueError(f"penalties must be (m,), one or more numbers, got shape {np.shape(penalties)}")
        check_penalty(penalties, "penalties", np.shape(penalties))
        if not is_traced(penalties) and np.any(np.diff(np.asarray(penalties)) > 0):
            raise ValueError("penalties must fall from the largest, so that each fit starts near its end; sort them")
        return as_leaf(penalties, dtype, np.shape(penalties))
    n, d = data.x.shape
    n_penalties = check_count(n_penalties, "n_penalties")
    smallest = (1e-2 if n < d else 1e-4) if smallest is None else smallest
    check_number(smallest, "smallest", above=0)
    if not is_traced(smallest) and smallest >= 1:
        raise ValueError(f"smallest must be below 1, got {smallest}; it is a share of the largest penalty")
    # Ridge has no penalty from which on all are 0: a ratio below 0.001 counts as that, as in glmnet.
    lasso = mixture._replace(ratio=jnp.maximum(mixture.ratio, 1e-3))
    largest = largest_penalty(lasso.net(model, data))
    share = np.linspace(0, 1, n_penalties) if n_penalties > 1 else np.zeros(1)
    return largest * jnp.asarray(smallest, dtype) ** jnp.asarray(share, dtype)
