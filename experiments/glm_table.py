"""One gradient for every row of the GLM table.

A generalized linear model says how the mean y(x) of the target follows from eta = x w + b. In each row of the table
(normal, Bernoulli, categorical, Poisson) the mean is the one that belongs to the row's distribution in canonical form,
and so the gradient of the negative log-likelihood is the same in all of them: the error times the input,
(y(x) - t) x, averaged over the examples. One routine of gradient descent therefore fits the whole table.

Does it find the truth? Here every row is fitted to data drawn from its own distribution with known parameters, many
times over. The estimates scatter around the truth as Fisher's information predicts: their covariance is the inverse of
n times the second derivative of the loss. Their mean is off by a little, because the loss is not quite a parabola; that
bias shrinks as 1/n, and its leading term follows from the third derivative of the loss (Cox and Snell, 1968).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Finding, at_most, between

N, D = 400, 2


class Row(NamedTuple):
    """One row of the table with the parameters its data are drawn from, and the step of its descent."""

    label: str
    family: gj.Family
    truth: gj.Dense
    learning_rate: float


class Spread(NamedTuple):
    """Estimates of one row, (replicates, p), what theory says of their spread and bias, (p,) each, and the gradient."""

    truth: np.ndarray
    estimates: np.ndarray
    optimality: np.ndarray
    fisher: np.ndarray
    bias: np.ndarray
    gradient_difference: float

    @property
    def excess(self) -> np.ndarray:
        """Mean estimate less truth and predicted bias, in standard errors of that mean."""
        error = self.estimates.std(0, ddof=1) / np.sqrt(len(self.estimates))
        return (self.estimates.mean(0) - self.truth - self.bias) / error

    @property
    def ratio(self) -> np.ndarray:
        """Standard deviation of the estimates over the Fisher standard error."""
        return self.estimates.std(0, ddof=1) / self.fisher


def table() -> list[Row]:
    """The four rows; the categorical one with class 0's logit fixed at 0, so that its parameters are unique."""
    w, b = jnp.array([0.8, -0.5]), jnp.array(0.3)
    three = gj.Dense(jnp.array([[0.8, -0.4], [-0.5, 0.6]]), jnp.array([0.3, -0.2]))
    return [
        Row("normal", gj.normal(dispersion=0.49), gj.Dense(w, b), 0.8),
        Row("Bernoulli", gj.bernoulli(), gj.Dense(w, b), 4.0),
        Row("categorical", gj.categorical(3, reference=0), three, 4.5),
        Row("Poisson", gj.poisson(), gj.Dense(w / 2, b), 0.5),
    ]


def fits(row: Row, x: np.ndarray, key: Array, replicates: int) -> tuple[Array, Array, Array]:
    """Targets (replicates, n), estimates and optimality of as many data sets on one design, as one program."""
    model = gj.glm(row.family)
    order = jnp.arange(N)[None]  # one minibatch of all rows: gradient descent

    def fit(key: Array) -> tuple[Array, Array, Array]:
        data = gj.make_data(x, gj.sample(model, row.truth, x, key))
        fit = gj.fit_sgd(model, data, None, order=order, learning_rate=row.learning_rate, epochs=60)
        return data.y, ravel_pytree(fit.params)[0], fit.optimality

    return jax.jit(jax.vmap(fit))(jax.random.split(key, replicates))


def formula(row: Row, params: gj.Dense, data: gj.Data) -> gj.Dense:
    """The mean of (y(x) - t) x, with x = 1 for the bias."""
    error, target = gj.predict(gj.glm(row.family), params, data.x), data.y
    if row.family.n_classes is not None:  # targets as one-hot rows, less the class whose logit is fixed
        error, target = error[:, 1:], jax.nn.one_hot(target.astype(int), row.family.n_classes)[:, 1:]
    error = error - target
    return gj.Dense(data.x.T @ error / N, error.mean(0))


def spread(row: Row, x: np.ndarray, key: Array, replicates: int) -> Spread:
    """Fits of one row; Fisher's standard errors, the bias to expect, and the gradient of the loss against its formula.

    With U the score, I the information and T the third derivative, all of n times the loss at the truth, the
    expansion 0 = U - I e - T[e, e] / 2 of the estimate's error e has mean -I^-1 T : cov(e) / 2. In canonical form I
    and T do not depend on the targets, so this is the whole of the bias but for terms of order 1 / n^2.
    """
    targets, estimates, optimality = fits(row, x, key, replicates)
    truth, unravel = ravel_pytree(row.truth)
    data = gj.make_data(x, targets[0], family=row.family)

    def loss(flat: Array) -> Array:
        return gj.loss(gj.glm(row.family), unravel(flat), data)

    derivatives = jax.jit(lambda flat: (jax.grad(loss)(flat), N * jax.hessian(loss)(flat)))
    elsewhere = truth + 0.7  # not at the minimum
    difference = derivatives(elsewhere)[0] - ravel_pytree(formula(row, unravel(elsewhere), data))[0]

    step = 1e-4  # central differences of the second derivative: off by 1e-8, and no third derivative to compile
    information = derivatives(truth)[1]
    third = [(derivatives(truth + e)[1] - derivatives(truth - e)[1]) / (2 * step) for e in step * np.eye(len(truth))]
    # The loss is taken at dispersion 1; at dispersion phi the score's covariance is phi times this information.
    phi = 1.0 if row.family.dispersion is None else row.family.dispersion
    inverse = np.linalg.inv(information)
    bias = -inverse @ np.einsum("ijk,jk->i", np.array(third), phi * inverse) / 2
    fisher = np.sqrt(phi * np.diag(inverse))
    return Spread(
        np.asarray(truth), np.asarray(estimates), np.asarray(optimality), fisher, bias, float(abs(difference).max())
    )


def investigate(quick: bool) -> Finding:
    """The gradient in every row; estimates over many data sets against the truth, Fisher's spread and the bias."""
    replicates, tolerance = (200, 0.15) if quick else (4_000, 0.08)
    rows = table()
    x = np.random.default_rng(0).normal(size=(N, D))
    keys = jax.random.split(jax.random.key(1), len(rows))
    spreads = [spread(row, x, key, replicates) for row, key in zip(rows, keys, strict=True)]

    claims = [
        at_most(f"gradient less the mean of (y(x) - t) x, {row.label}", s.gradient_difference, 1e-12)
        for row, s in zip(rows, spreads, strict=True)
    ]
    worst = max(s.optimality.max() for s in spreads)
    claims.append(at_most(f"largest gradient left after descent, 4 rows x {replicates:,} fits", worst, 1e-6))
    for row, s in zip(rows, spreads, strict=True):
        name = f"mean estimate less truth less the 1/n bias, in standard errors, {row.label}: the largest"
        claims.append(at_most(name, abs(s.excess).max(), 4))
    for row, s in zip(rows, spreads, strict=True):
        farthest = s.ratio[abs(s.ratio - 1).argmax()]
        name = f"sd of the estimates over the Fisher standard error, {row.label}: the farthest from 1"
        claims.append(between(name, farthest, 1 - tolerance, 1 + tolerance))

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = -1.2, 1.5
    left.plot([low, high], [low, high], color="0.6", linewidth=1)
    ends = np.array([0.9 * min(s.fisher.min() for s in spreads), 1.1 * max(s.fisher.max() for s in spreads)])
    right.plot(ends, ends, color="0.6", linewidth=1, label="equal")
    right.fill_between(ends, ends * (1 - tolerance), ends * (1 + tolerance), color="0.92", label=f"±{tolerance:.0%}")
    for i, (row, s) in enumerate(zip(rows, spreads, strict=True)):
        shift = 0.025 * (i - 1.5)  # rows share true values; side by side they can be told apart
        where, seen = s.truth + shift, s.estimates[:200]
        left.plot(np.tile(where, (len(seen), 1)), seen, ".", color=f"C{i}", markersize=2, alpha=0.25)
        left.plot(where, s.estimates.mean(0), "_", color=f"C{i}", markersize=9, markeredgewidth=2, label=row.label)
        right.plot(s.fisher, s.estimates.std(0, ddof=1), "o", color=f"C{i}", markersize=5, label=row.label)
    left.set(
        xlabel="true parameter (rows side by side)", ylabel="estimate", xlim=(low + 0.5, high - 0.5), ylim=(low, high)
    )
    left.set_title(f"fits to {N} rows find the truth (bars: means)")
    right.set(xlabel="Fisher standard error", ylabel="standard deviation of the estimates")
    right.set_title(f"and scatter as predicted ({replicates:,} data sets)")
    left.legend(frameon=False)
    right.legend(frameon=False)
    figures = {
        row.label: {
            "truth": s.truth,
            "mean": s.estimates.mean(0),
            "sd": s.estimates.std(0, ddof=1),
            "Fisher standard error": s.fisher,
            "predicted bias": s.bias,
        }
        for row, s in zip(rows, spreads, strict=True)
    }
    return Finding(claims, figure, {"n": N, "replicates": replicates, **figures})
