"""`Family`: what a row of the GLM table is, a static description over a `Distribution` of functions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .links import LINKS


def mean_of_link(family: "Family", eta: Array) -> Array:
    """The inverse of the family's link."""
    return LINKS[family.link].inverse(eta)


def link_of_target(family: "Family", y: Array) -> Array:
    """The linear predictor at which the mean is the target itself."""
    return LINKS[family.link].forward(y)


def near_target(family: "Family", y: Array) -> Array:
    """The linear predictor at which the mean is the target; 0 where that is infinite, on the edge of the support."""
    eta = link_of_target(family, y)
    return jnp.where(jnp.isfinite(eta), eta, 0)


def hessian(family: "Family", eta: Array, y: Array) -> Array:
    """The observed information of one observation, the second derivative of its nll: () or (k, k)."""
    return jax.hessian(family.nll)(eta, y)


def expected_hessian(family: "Family", eta: Array, y: Array) -> Array:
    """The Fisher information of one observation: its nll is affine in the target in an exponential family with any
    link, so the second derivative at `y = mean` is the expected one.
    """
    return jax.hessian(family.nll)(eta, jax.lax.stop_gradient(family.mean(eta)))


def expected_curvature(family: "Family", eta: Array, y: Array) -> Array:
    """The Fisher information."""
    return family.information(eta, y)


def has_expectation(family: "Family") -> bool:
    """Whether the family has its expected information, and not the observed one for want of a closed form."""
    return family.distribution.information is not hessian


def score_and_information(family: "Family", eta: Array, y: Array) -> tuple[Array, Array]:
    """r and h, the derivative of one observation's nll and the expected second one; by the moments where the family has
    no expected one. `-r / sqrt(h)` is `(y - mean) / sqrt(V)` up to the sign of the mean's slope, and `-r / h` is
    `(y - mean) / slope`, with all digits in the tails.
    """
    if has_expectation(family):
        return jax.grad(family.nll)(eta, y), family.information(eta, y)
    mean, slope = jax.value_and_grad(family.mean)(eta)
    variance = family.variance(mean)
    return (mean - y) * slope / variance, slope * slope / variance


def excess_nll(family: "Family", eta: Array, y: Array) -> Array:
    """Unit deviance as twice the nll above that at `mean = y`; cancels near the data: families here have their own."""
    best = link_of_target(family, y)
    edge = jnp.log(jnp.finfo(eta.dtype).max)  # as good as infinity, and 0 times it is 0
    return 2 * (family.nll(eta, y) - family.nll(jnp.where(jnp.isinf(best), jnp.sign(best) * edge, best), y))


def any_finite(family: "Family", y: Any) -> Any:
    """Any finite number is a target."""
    return y - y == 0  # false for NaN and infinity


def unit_variance(family: "Family", mean: Array) -> Array:
    """Constant variance: 1, or the identity where the mean is a vector."""
    return jnp.ones_like(mean) if mean.ndim == 0 else jnp.eye(mean.shape[0], dtype=mean.dtype)


def no_sample(family: "Family", key: Array, eta: Array) -> Array:
    """The family has no distribution to draw from."""
    raise ValueError(f"the {family.name} family has no distribution to sample from: it is its first two moments only")


def no_log_likelihood(family: "Family", eta: Array, y: Array, dispersion: Array) -> Array:
    """The family has no likelihood: NaN."""
    return jnp.full((), jnp.nan, eta.dtype)


class Masses(NamedTuple):
    """Logarithms of the probabilities of a target `below`, `at` and `above` the one that was observed; their sum is 1.
    A continuous distribution has none at it, -inf.
    """

    below: Array
    at: Array
    above: Array


def no_masses(family: "Family", eta: Array, y: Array, dispersion: Array) -> Masses:
    """The family has no distribution function, or none that is computed."""
    raise ValueError(
        f"the {family.name} family has no quantile residuals: quasi families are moments only, classes have no order, "
        "and Tweedie's distribution function is a series that is not computed; use pearson_residuals"
    )


class Distribution(NamedTuple):
    """What a family computes: module-level functions, each given the family first. `nll` alone makes a family; the
    defaults are those of an exponential family with the link's mean and any finite target.

    `nll`, `information`, `deviance` and `log_likelihood` take one observation, `eta` () or (k,) and `y` () or (k,);
    `mean`, `variance` and `start` too. An nll that is not finite says that eta is outside the link's domain.
    `information` is the expected (Fisher) information; `curvature`, 0 or more, is what Newton steps by in its place,
    and may know the target. `start` is a linear predictor near the target, where the first step is taken.
    `log_likelihood` is the complete one, at a given dispersion; that of the saturated model is it plus half the unit
    deviance over the dispersion. `masses` are the logarithms of what the distribution has below, at and above a target,
    with all digits of the smaller side; NaN where it cannot give that target. `support` is elementwise and uses
    operators only, so that it serves NumPy on the host and the compiled program; `domain` says in words what it
    accepts. `sample` draws all rows at once.
    """

    nll: Callable[["Family", Array, Array], Array]
    mean: Callable[["Family", Array], Array] = mean_of_link
    deviance: Callable[["Family", Array, Array], Array] = excess_nll
    variance: Callable[["Family", Array], Array] = unit_variance
    support: Callable[["Family", Any], Any] = any_finite
    sample: Callable[["Family", Array, Array], Array] = no_sample
    domain: str = "a finite number"
    information: Callable[["Family", Array, Array], Array] = expected_hessian
    curvature: Callable[["Family", Array, Array], Array] = expected_curvature
    start: Callable[["Family", Array], Array] = near_target
    log_likelihood: Callable[["Family", Array, Array, Array], Array] = no_log_likelihood
    masses: Callable[["Family", Array, Array, Array], Masses] = no_masses


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["dispersion", "alpha", "power"],
    meta_fields=[
        "name",
        "link",
        "distribution",
        "n_outputs",
        "target_shape",
        "n_classes",
        "reference",
        "estimates_alpha",
    ],
)
@dataclass(frozen=True)
class Family:
    """One row of the GLM table; make it with `normal`, `bernoulli`, `categorical`, `poisson`, ...

    The names and functions are static: an equal family made anew causes no new trace. The numbers are leaves:
    `dispersion`, the factor phi of `var(t) = phi * variance(mean)` where the family has one (normal: sigma^2), None
    where it is 1; `alpha` (negative binomial) and `power` (Tweedie). The objective is taken at dispersion 1, so it
    never depends on it; `sample` does.
    """

    name: str
    link: str
    distribution: Distribution = field(repr=False)
    n_outputs: int | None = None  # linear predictors an observation: None for one, without an axis; else k
    target_shape: tuple[int, ...] = ()  # of one observation's target
    n_classes: int | None = None  # categorical: K
    reference: int | None = None  # categorical: the class whose logit is fixed at 0
    estimates_alpha: bool = False  # negative binomial: alpha is a start, and found by maximum likelihood
    dispersion: Any = None
    alpha: Any = None
    power: Any = None

    def nll(self, eta: Array, y: Array) -> Array:
        """Negative log-likelihood of one observation at linear predictor `eta`, up to terms free of eta."""
        return self.distribution.nll(self, eta, y)

    def mean(self, eta: Array) -> Array:
        """Mean of the target at `eta`; for the categorical family the probabilities of all K classes."""
        return self.distribution.mean(self, eta)

    def information(self, eta: Array, y: Array) -> Array:
        """Expected (Fisher) information about `eta` of one observation, () or (k, k), at dispersion 1."""
        return self.distribution.information(self, eta, y)

    def curvature(self, eta: Array, y: Array) -> Array:
        """What Newton's method takes for the second derivative of `nll`: the information, or nearer to the truth."""
        return self.distribution.curvature(self, eta, y)

    def deviance(self, eta: Array, y: Array) -> Array:
        """Unit deviance of one observation: twice the nll above that of the saturated model (mean = y)."""
        return self.distribution.deviance(self, eta, y)

    def log_likelihood(self, eta: Array, y: Array, dispersion: Array) -> Array:
        """Complete log-likelihood of one observation; NaN where the family has none (quasi families, Tweedie)."""
        return self.distribution.log_likelihood(self, eta, y, dispersion)

    def masses(self, eta: Array, y: Array, dispersion: Array) -> Masses:
        """Log-probabilities of a target below, at and above `y`; raises where the family has no distribution."""
        return self.distribution.masses(self, eta, y, dispersion)

    def variance(self, mean: Array) -> Array:
        """Variance function V(mean) of one observation, at dispersion 1; a covariance where `mean` is a vector."""
        return self.distribution.variance(self, mean)

    def start(self, y: Array) -> Array:
        """A linear predictor near one target, inside the link's domain."""
        return self.distribution.start(self, y)

    def support(self, y: Any) -> Any:
        """Whether each target can come from this family; booleans shaped like `y`, NumPy or JAX."""
        return self.distribution.support(self, y)

    def sample(self, key: Array, eta: Array) -> Array:
        """Targets drawn at linear predictors `eta` of all rows, (n,) or (n, k), in `eta`'s dtype."""
        return self.distribution.sample(self, key, eta)


def by_expectation(family: Family) -> Family:
    """The family with its Fisher information for curvature."""
    return replace(family, distribution=family.distribution._replace(curvature=expected_curvature))
