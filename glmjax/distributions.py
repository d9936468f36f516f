"""`Family`: what a row of the GLM table is, a static description over a `Distribution` of functions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array


class Distribution(NamedTuple):
    """What a family computes: module-level functions, each given the family first.

    `nll` and `deviance` take one observation, `eta` () or (k,) and `y` () or (k,), and return a number. `mean` and
    `variance` take one observation too. `support` is elementwise and uses operators only, so that it serves NumPy on
    the host and the compiled program; `domain` says in words what it accepts. `sample` draws all rows at once.
    """

    nll: Callable[["Family", Array, Array], Array]
    mean: Callable[["Family", Array], Array]
    deviance: Callable[["Family", Array, Array], Array]
    variance: Callable[["Family", Array], Array]
    support: Callable[["Family", Any], Any]
    sample: Callable[["Family", Array, Array], Array]
    domain: str


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["dispersion"],
    meta_fields=["name", "link", "distribution", "n_outputs", "target_shape", "n_classes", "reference"],
)
@dataclass(frozen=True)
class Family:
    """One row of the GLM table; make it with `normal`, `bernoulli`, `categorical` or `poisson`.

    The names and functions are static: an equal family made anew causes no new trace. `dispersion` is a number and
    a leaf: the factor phi of `var(t) = phi * variance(mean)` where the family has one (normal: sigma^2), None where
    it is 1. The objective is taken at dispersion 1, so it never depends on it; `sample` does.
    """

    name: str
    link: str
    distribution: Distribution = field(repr=False)
    n_outputs: int | None = None  # linear predictors an observation: None for one, without an axis; else k
    target_shape: tuple[int, ...] = ()  # of one observation's target
    n_classes: int | None = None  # categorical: K
    reference: int | None = None  # categorical: the class whose logit is fixed at 0
    dispersion: Any = None

    def nll(self, eta: Array, y: Array) -> Array:
        """Negative log-likelihood of one observation at linear predictor `eta`, up to terms free of eta."""
        return self.distribution.nll(self, eta, y)

    def mean(self, eta: Array) -> Array:
        """Mean of the target at `eta`; for the categorical family the probabilities of all K classes."""
        return self.distribution.mean(self, eta)

    def deviance(self, eta: Array, y: Array) -> Array:
        """Unit deviance of one observation: twice the nll above that of the saturated model (mean = y)."""
        return self.distribution.deviance(self, eta, y)

    def variance(self, mean: Array) -> Array:
        """Variance function V(mean) of one observation, at dispersion 1; a covariance where `mean` is a vector."""
        return self.distribution.variance(self, mean)

    def support(self, y: Any) -> Any:
        """Whether each target can come from this family; booleans shaped like `y`, NumPy or JAX."""
        return self.distribution.support(self, y)

    def sample(self, key: Array, eta: Array) -> Array:
        """Targets drawn at linear predictors `eta` of all rows, (n,) or (n, k), in `eta`'s dtype."""
        return self.distribution.sample(self, key, eta)
