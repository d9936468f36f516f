"""Problems to race on, and how near to the optimum somebody's coefficients are: NumPy only, the same for everyone."""

from typing import NamedTuple

import numpy as np

FAMILIES, DESIGNS = ("poisson", "logistic"), ("independent", "correlated")
CHUNK = 8192  # rows


class Size(NamedTuple):
    """Rows and columns of x."""

    n: int
    d: int

    def __repr__(self) -> str:
        return f"{self.n}x{self.d}"


class Problem(NamedTuple):
    """What everybody fits, unpenalized and with a bias: x (n, d), y (n,), float64; center and sd of the columns."""

    family: str
    design: str
    x: np.ndarray
    y: np.ndarray
    center: np.ndarray
    sd: np.ndarray


def draw(family: str, design: str, size: Size, seed: int = 0) -> Problem:
    """A problem whose linear predictor has a standard deviation of 0.7.

    `independent`: standard normal columns. `correlated`: normal columns that are mixed with each other and share a
    factor, on scales from 1e-2 to 1e2 and up to some scales away from 0, as columns in their own units are.
    """
    rng = np.random.default_rng(seed)
    n, d = size
    correlated = design == "correlated"
    mix, factor = (np.eye(d) + rng.normal(size=(d, d)) / (2 * np.sqrt(d)), 1.0) if correlated else (np.eye(d), 0.0)
    scale = rng.permutation(np.logspace(-2, 2, d)) if correlated else np.ones(d)
    center = scale * rng.normal(0, 3, d) if correlated else np.zeros(d)
    w = rng.normal(size=d)
    w *= 0.7 / np.sqrt(w @ (mix.T @ mix + factor) @ w)
    x, eta = np.empty((n, d)), np.empty(n)
    for start in range(0, n, CHUNK):  # nothing but x and y is ever as large as x
        rows = slice(start, min(start + CHUNK, n))
        z = rng.normal(size=(rows.stop - start, d))
        if correlated:
            z = z @ mix + factor * rng.normal(size=(len(z), 1))
        eta[rows] = z @ w
        x[rows] = center + scale * z
    y = rng.poisson(np.exp(eta - 0.5)) if family == "poisson" else rng.random(n) < 1 / (1 + np.exp(0.5 - eta))
    mean = x.mean(axis=0)
    variance = sum(np.sum((x[i : i + CHUNK] - mean) ** 2, axis=0) for i in range(0, n, CHUNK)) / n
    return Problem(family, design, x, y.astype(float), mean, np.sqrt(variance))


def optimality(problem: Problem, w: np.ndarray, b: float) -> tuple[float, float]:
    """(mean loss, largest derivative of it) in standardized columns, bias included; NaN where w or b are not finite."""
    n, d = problem.x.shape
    loss, score, total = 0.0, np.zeros(d), 0.0
    with np.errstate(all="ignore"):
        w, b = np.asarray(w, float), float(b) + problem.center @ w
        for start in range(0, n, CHUNK):
            x, y = problem.x[start : start + CHUNK] - problem.center, problem.y[start : start + CHUNK]
            eta = x @ w + b
            if problem.family == "poisson":
                mean = np.exp(eta)
                loss += np.sum(mean - y * eta)
            else:
                mean = 1 / (1 + np.exp(-eta))
                loss += np.sum(np.logaddexp(0, eta) - y * eta)
            score += (mean - y) @ x
            total += np.sum(mean - y)
        return loss / n, float(np.max(np.abs(np.append(score / problem.sd, total)))) / n
