"""What a fit would be without each row, to first order: leverages, Cook's distances and DFBETAS, as R's."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .columns import standardize
from .data import Data, clean
from .inferences import determined, no_errors
from .influence import effects_task
from .inputs import check_number
from .linear import Task
from .losses import pearson_chi2
from .optima import forms_of, make_optimum, to_flat, whitened
from .programs import quick_jit
from .residuals import deviance_residuals, pearson_residuals, slope_sign
from .results import Fit


class InfluenceMeasures(NamedTuple):
    """How much each row weighs in a fit, (n,), and in each of its q coefficients, (n, q); free of units throughout.

    `leverage`, from 0 to 1, sums to the number of coefficients over all copies of rows. `pearson` and `deviance` are
    the standardized residuals, of variance about 1. Of `cooks_distance` those above 1, of `dfbetas` those above
    2 / sqrt(n) want a look. Coefficients are in the order of `inference`, without alpha.
    """

    leverage: Array
    pearson: Array
    deviance: Array
    cooks_distance: Array
    dfbetas: Array


def influence_measures(data: Data, fit: Fit, *, dispersion: float | Array | None = None) -> InfluenceMeasures:
    """Leverages, standardized residuals, Cook's distances and DFBETAS of a linear model, in one step and no refit.

        leverage = I_i z_i' H^-1 z_i,    H = sum(weight I_i z_i z_i') + sum(weight) diag(l2)
        pearson, deviance = residual / sqrt(dispersion (1 - leverage))
        cooks_distance = pearson^2 leverage / ((1 - leverage) p)
        dfbetas = H^-1 z_i sqrt(I_i) e_i / (1 - leverage) / (s_i sqrt(diag(H^-1)))

    as R's `hatvalues`, `rstandard`, `cooks.distance` and `dfbetas`: z_i is the row of x with a 1 for the bias, I_i its
    expected information, e_i its deviance residual, p the effective degrees of freedom, and s_i^2 the sum of the
    others' squares `(sum(weight e^2) - e_i^2 / (1 - leverage)) / (n - p - 1)`, n = sum(weight). All for one copy of a
    row. Where a link falls, such as gamma's inverse, the sign of `dfbetas` is the opposite of R's 4.2, which points
    away from the refit. `jackknife` has the exact Newton step instead.

    NaN where a row's leverage is 1; for a lane without an optimum; for aliased and infinite coefficients. Pure;
    `jax.vmap` it over fits and data. An estimated alpha counts as given.

    Args:
        data: the rows that the model was fitted to.
        fit: of a linear model with one output, at an optimum; without `l1`.
        dispersion: above 0; None is 1 where the family has none, else Pearson's chi-squared / (n - p).

    Returns:
        `InfluenceMeasures`.

    Raises:
        ValueError: several outputs or classes; a fit that has no standard errors (see `inference`); a dispersion not
            above 0; shapes that do not fit.
        TypeError: `fit` is no `Fit`.

    Reference: Pregibon, Logistic regression diagnostics (1981); Belsley, Kuh and Welsch, Regression Diagnostics (1980);
    Williams, Applied Statistics 36 (1987).
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"fit must be a Fit, such as gj.fit_newton(model, data), got {type(fit).__name__}")
    sentence = no_errors(fit)
    if fit.model.family.n_outputs is not None:
        sentence = "a row of several outputs has a matrix for a leverage; fit one output at a time, or use jackknife"
    if sentence:
        raise ValueError(f"there are no influence measures: {sentence}")
    if dispersion is not None:
        check_number(dispersion, "dispersion", above=0)
        dispersion = jnp.asarray(dispersion, data.x.dtype)
    given = fit._replace(model=replace(fit.model, family=replace(fit.model.family, estimates_alpha=False)))
    return _measures(effects_task(given, data), given, dispersion)


@quick_jit
def _measures(task: Task, fit: Fit, dispersion: Array | None) -> InfluenceMeasures:
    model, params, data = task.model, task.params, task.data
    optimum = make_optimum(task, fit)
    rows = clean(data)
    z = standardize(optimum.columns, rows.x)
    eta = (optimum.theta.T @ z.T).T
    forms = forms_of(model, rows, jnp.ones(len(z), bool), eta)
    v = jnp.sqrt(jnp.maximum(forms.expected[:, 0], 0)) * whitened(optimum, z)[:, 0]  # H is the identity
    leverage = jnp.sum(v * v, axis=1)
    rest = jnp.where(leverage < 1 - 64 * jnp.finfo(v.dtype).eps, 1 - leverage, jnp.nan)

    pearson, e = pearson_residuals(model, params, data), deviance_residuals(model, params, data)
    df = optimum.rows - optimum.edf
    if dispersion is None:
        one = jnp.ones_like(df)
        dispersion = one if model.family.dispersion is None else pearson_chi2(model, params, data) / df
    pearson = pearson / jnp.sqrt(dispersion * rest)

    square = jnp.sum(jnp.where(forms.copies == 0, 0, forms.copies * e * e))
    spread = jnp.sqrt((square - e * e / rest) / (df - 1))
    back = to_flat(optimum, optimum.root)
    eta = eta[:, 0] if rows.offset is None else eta[:, 0] + rows.offset
    e_eta = e * jax.vmap(lambda eta: slope_sign(model.family, eta))(eta)  # on the side of eta
    moves = (v * (e_eta / rest)[:, None]) @ back.T

    known, marks = determined(fit, optimum)
    measures = InfluenceMeasures(
        leverage=leverage,
        pearson=pearson,
        deviance=e / jnp.sqrt(dispersion * rest),
        cooks_distance=pearson**2 * leverage / (rest * optimum.edf),
        dfbetas=jnp.where(
            marks[None], moves / (spread[:, None] * jnp.sqrt(jnp.sum(back * back, axis=1))[None]), jnp.nan
        ),
    )
    return jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.nan), measures)
