"""Least squares is maximum likelihood under normal noise.

The mean squared error and the normal negative log-likelihood differ by a factor and a constant that do not depend on
the weights, so they have one minimizer: the closed-form least squares solution, whatever the noise variance. The
likelihood then also says how large the noise is: its maximum in sigma^2 is the mean squared residual, which is too
small by the factor (n - p) / n, since p parameters were fitted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Finding, at_most

SIGMA, N, D = 0.7, 60, 3
MODEL = gj.glm(gj.normal())
TRUTH = ((0.5, -1.0, 2.0), 0.3)


def draw(key: Array) -> gj.Data:
    """N rows with normal noise of standard deviation SIGMA."""
    k_x, k_t = jax.random.split(key)
    model = gj.glm(gj.normal(dispersion=SIGMA**2))
    params = gj.Dense(jnp.array(TRUTH[0]), jnp.array(TRUTH[1]))
    x = jax.random.normal(k_x, (N, D))
    return gj.make_data(x, gj.sample(model, params, x, k_t))


def mse(params: Any, data: gj.Data) -> Array:
    """Mean squared error."""
    return jnp.mean((gj.predict(MODEL, params, data.x) - data.y) ** 2)


def gaussian_nll(params: Any, data: gj.Data, variance: Array) -> Array:
    """Mean negative log-likelihood of N(mean, variance), all its terms."""
    return mse(params, data) / (2 * variance) + 0.5 * jnp.log(2 * jnp.pi * variance)


@partial(jax.jit, static_argnums=0)
def minimizer(objective: Callable[..., Array], *arguments: Any) -> Array:
    """Where a quadratic function of the parameters is least: one Newton step from anywhere, by autodiff."""
    flat, unravel = ravel_pytree(gj.init(MODEL, jax.random.key(9), D, bound=3.0))
    f = lambda p: objective(unravel(p), *arguments)  # noqa: E731
    return flat - jnp.linalg.solve(jax.hessian(f)(flat), jax.grad(f)(flat))


def investigate(quick: bool) -> Finding:
    """Three minimizers and the closed form; the variance estimate and its bias."""
    data = draw(jax.random.key(0))
    design = np.c_[data.x, np.ones(N)]
    closed, rss, *_ = np.linalg.lstsq(design, np.asarray(data.y), rcond=None)
    closed_params = gj.Dense(jnp.array(closed[:D]), jnp.array(closed[D]))
    order = jnp.arange(N)[None]  # one minibatch of all rows: gradient descent
    fit = gj.check(gj.fit_sgd(MODEL, data, None, order=order, learning_rate=0.5, epochs=400))

    def distance(params: Array) -> float:
        flat = ravel_pytree(closed_params)[0]
        return float(jnp.abs(params - flat).max() / jnp.abs(flat).max())

    claims = [
        at_most("minimizer of the MSE less closed-form least squares, relative", distance(minimizer(mse, data)), 1e-13)
    ]
    for sigma in (0.1, 1.0, 10.0):
        found = minimizer(gaussian_nll, data, jnp.array(sigma**2))
        claims.append(at_most(f"... of the normal likelihood at sigma = {sigma:g}", distance(found), 1e-13))
    claims.append(at_most("... of fit_sgd by full-batch descent", distance(ravel_pytree(fit.params)[0]), 1e-13))
    identity = gj.loss(MODEL, closed_params, data) - (mse(closed_params, data) / 2 + 0.5 * jnp.log(2 * jnp.pi))
    claims.append(at_most("loss less (MSE / 2 + log(2 pi) / 2)", float(abs(identity)), 1e-15))
    estimate = float(fit.model.family.dispersion)
    claims.append(at_most("sigma^2 of the fit less the mean squared residual", abs(estimate - rss[0] / N), 1e-14))

    replicates = 500 if quick else 20_000

    def variance(key: Array) -> Array:
        sample = draw(key)
        return gj.fit_sgd(MODEL, sample, None, order=order, learning_rate=0.4, epochs=60).model.family.dispersion

    estimates = np.asarray(jax.jit(jax.vmap(variance))(jax.random.split(jax.random.key(1), replicates)))
    expected = SIGMA**2 * (N - D - 1) / N
    error = estimates.std() / np.sqrt(replicates)
    claims.append(
        at_most(f"mean of sigma^2 over {replicates} data sets less sigma^2 (n - p) / n, in its standard errors",
                abs(estimates.mean() - expected) / error, 4)
    )  # fmt: skip

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    variances = np.geomspace(0.2, 1.5, 200)
    profile = jax.vmap(lambda v: gaussian_nll(closed_params, data, v))(jnp.asarray(variances))
    left.plot(variances, profile)
    left.axvline(rss[0] / N, color="C1", label="mean squared residual")
    left.set(
        xlabel="σ²", ylabel="negative log-likelihood a row", title="the likelihood is best at the mean squared residual"
    )
    left.legend(frameon=False)
    right.hist(estimates, 60, color="0.7", density=True)
    right.axvline(SIGMA**2, color="C2", label="true σ²")
    right.axvline(expected, color="C1", label="σ² (n − p) / n")
    right.axvline(estimates.mean(), color="k", linestyle=":", label="mean of the estimates")
    right.set(xlabel="estimated σ²", yticks=[], title=f"over {replicates:,} data sets it is a little too small")
    right.legend(frameon=False)
    figures = {"sigma^2": estimate, "mean of sigma^2": estimates.mean(), "expected": expected, "least squares": closed}
    return Finding(claims, figure, figures)
