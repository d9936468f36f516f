"""How much a model explains: pseudo-R2, for linear models and networks alike."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from .data import Data
from .losses import deviance, log_likelihood, with_dispersion
from .models import Model
from .newton import null_deviance, null_fit


def deviance_r2(model: Model, params: Any, data: Data) -> Array:
    """`1 - deviance / null deviance`, (): the share of the null model's deviance that is explained; R2 if normal.

    Arguments and errors are those of `loss`; of a fit pass `fit.model`.

    Reference: Cameron and Windmeijer, Journal of Econometrics 77 (1997).
    """
    return 1 - deviance(model, params, data) / null_deviance(model, data)


def mcfadden_r2(model: Model, params: Any, data: Data) -> Array:
    """`1 - log-likelihood / that of the null model`, (). For discrete targets: densities may be above 1.

    NaN for quasi families and Tweedie. An estimated alpha is that of the model in both. Arguments and errors are those
    of `loss`; of a fit pass `fit.model`.

    Reference: McFadden, Conditional logit analysis of qualitative choice behavior (1974).
    """
    return 1 - log_likelihood(model, params, data) / null_log_likelihood(model, data)


def cox_snell_r2(model: Model, params: Any, data: Data) -> Array:
    """`1 - (null likelihood / likelihood)^(2 / n)`, (), n = sum(weight): R2 if normal; below 1 for discrete targets.

    The rest is as for `mcfadden_r2`.

    Reference: Cox and Snell, Analysis of Binary Data (1989).
    """
    n = len(data.x) if data.weight is None else jnp.sum(data.weight)
    return -jnp.expm1(2 * (null_log_likelihood(model, data) - log_likelihood(model, params, data)) / n)


def null_log_likelihood(model: Model, data: Data) -> Array:
    """The log-likelihood, (), of the model that knows no features; a dispersion is at its own deviance / n."""
    null, params, bare = null_fit(model, data)
    return log_likelihood(with_dispersion(null, bare, deviance(null, params, bare)), params, bare)
