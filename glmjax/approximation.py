"""Universal approximation made constructive: a continuous function and an epsilon in, a one-hidden-layer network out.

No training: the parameters follow from values of f on a grid and from its modulus of continuity,
`omega(d) = sup |f(x) - f(y)| over |x - y| <= d`, given as a Lipschitz constant C (`omega(d) = C d`), as a Hoelder
pair (C, alpha) (`omega(d) = C d^alpha`), or as a function of d. What comes back are parameters of an ordinary MLP of
the normal family, `mlp(normal(), hidden=(H,), activation=...)` with `H = params[0].w.shape[1]`, for `predict`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .inputs import check_number
from .predictors import Dense

Modulus = float | tuple[float, float] | Callable[[float], float]

MAX_UNITS = 10_000_000
ROUNDING = 1 / 16  # of epsilon, left for the arithmetic of the network


def relu_approximation(
    f: Callable[[np.ndarray], Any], a: float, b: float, epsilon: float, modulus: Modulus
) -> tuple[Dense, Dense]:
    """A one-hidden-layer ReLU network within `epsilon` of f everywhere on [a, b]: the interpolating polygon of f.

    On m equal cells of width h, with knots x_i = a + i h and slopes s_i,
    `g(x) = f(a) + sum_i (s_i - s_(i-1)) relu(x - x_i)`: m units. A polygon strays from f by at most omega(h), and by
    omega(h / 2) where omega is concave, as the Lipschitz and Hoelder ones are; m is the least that keeps this below
    epsilon. That is about C (b - a) / (2 epsilon) units for a Lipschitz constant C. For a twice differentiable f
    the error seen is smaller still and falls as 1 / m^2.

    Args:
        f: from an array of points to the array of its values.
        a, b: the interval, a < b.
        epsilon: the largest error allowed, above 0.
        modulus: of continuity of f on [a, b]: C, (C, alpha), or a function of the distance.

    Returns:
        Parameters for `mlp(normal(), hidden=(m,), activation="relu")`, x of shape (n, 1).

    Raises:
        ValueError: epsilon not above 0, no interval, f not finite or of another shape, more than ten million units, or
            an epsilon that the float type cannot hold.

    Reference: Cybenko (1989); Hornik, Stinchcombe and White (1989); for ReLUs, Yarotsky (2017).
    """
    a, b = _interval(a, b)
    check_number(epsilon, "epsilon", above=0)
    omega, concave = _modulus(modulus)
    m = _least(lambda m: omega((b - a) / m / (2 if concave else 1)) <= (1 - ROUNDING) * epsilon, epsilon)
    knots = np.linspace(a, b, m + 1)
    values = _values(f, knots)
    slopes = np.diff(values) / np.diff(knots)
    bends = np.diff(slopes, prepend=0.0)
    return _network(np.ones((1, m)), -knots[:-1], bends, values[0], epsilon, largest_unit=b - a)


def sigmoid_approximation(
    f: Callable[[np.ndarray], Any], a: float, b: float, epsilon: float, modulus: Modulus, *, sharpness: float = 8.0
) -> tuple[Dense, Dense]:
    """A one-hidden-layer sigmoid network within `epsilon` of f everywhere on [a, b]: a staircase of steep sigmoids.

    On m equal cells of width h, with centers c_i and the thresholds t_i between them,
    `g(x) = f(c_0) + sum_i (f(c_i) - f(c_(i-1))) sigmoid(k (x - t_i))`: m - 1 units of steepness k = sharpness / h.
    At x, the step at the nearest threshold is made in part, which leaves g between two neighboring values, both
    within omega(h) of f(x); every other step is at distance (r - 1/2) h or more, r = 1, 2, ..., and wrong by at most
    exp(-k distance). In all `|f - g| <= omega(h) (1 + 1 / sinh(sharpness / 2))`. Near a threshold no steepness
    helps: beyond some, it is m that must grow, as C (b - a) / epsilon for a Lipschitz constant C.

    Arguments, result and errors are those of `relu_approximation`, with activation="sigmoid"; `sharpness`, above 0,
    is the steepness in units of 1 / h. Reference: Cybenko (1989); Funahashi (1989).
    """
    a, b = _interval(a, b)
    check_number(epsilon, "epsilon", above=0)
    omega, _ = _modulus(modulus)
    overshoot = _overshoot(sharpness)
    m = max(2, _least(lambda m: omega((b - a) / m) * overshoot <= (1 - ROUNDING) * epsilon, epsilon))
    centers, thresholds, steepness = _staircase(a, b, m, sharpness)
    values = _values(f, centers)
    weights = np.full((1, m - 1), steepness)
    return _network(weights, -steepness * thresholds, np.diff(values), values[0], epsilon, largest_unit=1.0)


def ridge_approximation(
    f: Callable[[np.ndarray, np.ndarray], Any], epsilon: float, modulus: Modulus, *, sharpness: float = 8.0
) -> tuple[Dense, Dense]:
    """A one-hidden-layer sigmoid network within `epsilon` of f everywhere on the unit square [0, 1]^2.

    1. A cosine polynomial `p(x, y) = sum c_mn cos(pi m x) cos(pi n y)`, m, n < N: the cosine series of f, or Jackson's
       means of it, which come near any continuous f. Its distance E to f is bounded by its errors on a grid and the
       moduli of f and p between the grid's points.
    2. `cos A cos B = (cos(A + B) + cos(A - B)) / 2` turns each term into ridge functions `c cos(pi u)` of one
       projection, u = m x + n y or u = m x - n y.
    3. Each ridge function is a staircase of steep sigmoids along its projection, as in `sigmoid_approximation`;
       epsilon - E is shared among them so that they need the fewest units.

    All staircases together are one hidden layer. The cost is about `(sum_r sqrt(pi |c_r| L_r))^2 / (epsilon - E)`
    units, L_r = m + n the length of projection r: a sum over all directions, where one dimension needs one. Of the N
    tried (to 64), the one that needs the fewest is taken.

    Args:
        f: from two arrays of coordinates to the array of values.
        epsilon: the largest error allowed, above 0.
        modulus: of continuity of f on the square, as in `relu_approximation`, in Euclidean distance.
        sharpness: steepness of the sigmoids in units of 1 / (width of a stair).

    Returns:
        Parameters for `mlp(normal(), hidden=(H,), activation="sigmoid")`, x of shape (n, 2).

    Raises:
        ValueError: as `relu_approximation`, or where 64 frequencies a side do not suffice.

    Reference: the ridge-function proof of Funahashi (1989) and Hornik et al. (1989); Jackson (1912).
    """
    check_number(epsilon, "epsilon", above=0)
    omega, _ = _modulus(modulus)
    overshoot = _overshoot(sharpness)
    budget = (1 - ROUNDING) * epsilon
    best = None
    for n in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        for damping in (np.ones(n), _jackson(n)):
            c, error = _cosine_polynomial(f, omega, damping, epsilon)
            ridges = _ridges(c)
            need = np.array([math.sqrt(math.pi * abs(a) * overshoot * (i + abs(j))) for a, i, j in ridges])
            units = need.sum() ** 2 / (budget - error) if error < budget else math.inf
            if best is None or units < best[0]:
                best = units, c, ridges, need, (budget - error) * need / max(need.sum(), 1e-300)
        if best is not None and n >= 2 * len(best[1]) and math.isfinite(best[0]):
            break  # more frequencies have not paid
    assert best is not None
    units, c, ridges, need, shares = best
    if units > MAX_UNITS:
        raise ValueError(
            f"epsilon={epsilon} needs more than {MAX_UNITS} units or 64 frequencies a side for this f and modulus; "
            "give a larger one"
        )
    weights, offsets, steps, bias = [np.zeros((2, 0))], [np.zeros(0)], [np.zeros(0)], c[0, 0]
    for (amplitude, m, n), root, share in zip(ridges, need, shares, strict=True):
        stairs = max(1, math.ceil(root**2 / share)) if share > 0 else 1
        centers, thresholds, steepness = _staircase(min(n, 0), m + max(n, 0), stairs, sharpness)
        values = amplitude * np.cos(np.pi * centers)
        weights.append(steepness * np.outer([m, n], np.ones(stairs - 1)))
        offsets.append(-steepness * thresholds)
        steps.append(np.diff(values))
        bias += values[0]
    return _network(np.hstack(weights), np.hstack(offsets), np.hstack(steps), bias, epsilon, largest_unit=1.0)


def _cosine_polynomial(
    f: Callable[..., Any], omega: Callable[[float], float], damping: np.ndarray, epsilon: float
) -> tuple[np.ndarray, float]:
    """Coefficients c_mn of a cosine polynomial, and a bound of its distance to f on the square."""
    size, n = 512, len(damping)
    points, frequencies = (np.arange(size) + 0.5) / size, np.arange(n)
    basis = np.cos(np.pi * np.outer(points, frequencies)) * np.where(frequencies == 0, 1, 2) * damping / size
    c = basis.T @ _values(f, *np.meshgrid(points, points, indexing="ij")) @ basis
    slope = np.pi * np.sum(np.abs(c) * np.hypot(*np.meshgrid(frequencies, frequencies)))  # a Lipschitz constant of p
    between = math.inf
    for cells in (128, 256, 512, 1024, 2048):
        # Half a diagonal from the nearest grid point, both f and p may have moved by this.
        between = omega(math.sqrt(0.5) / cells) + slope * math.sqrt(0.5) / cells
        if between <= epsilon / 16:
            break
    grid = np.linspace(0, 1, cells + 1)
    cosines = np.cos(np.pi * np.outer(grid, frequencies))
    error = np.abs(_values(f, *np.meshgrid(grid, grid, indexing="ij")) - cosines @ c @ cosines.T).max()
    return c, float(error + between)


def _ridges(c: np.ndarray) -> list[tuple[float, int, int]]:
    """The cosine polynomial without its constant as ridge functions: amplitude and direction (m, n)."""
    ridges = []
    for (m, n), amplitude in np.ndenumerate(c):
        if m and n:
            ridges += [(amplitude / 2, m, n), (amplitude / 2, m, -n)]
        elif m or n:
            ridges.append((amplitude, m, n))
    return ridges


def _jackson(n: int) -> np.ndarray:
    """Jackson's damping of frequencies 0..n-1: the kernel is positive, so the means do not overshoot f."""
    k, q = np.arange(n), math.pi / (n + 1)
    return ((n - k + 1) * np.cos(q * k) + np.sin(q * k) / math.tan(q)) / (n + 1)


def _staircase(low: float, high: float, stairs: int, sharpness: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Centers of the stairs, thresholds between them, and the steepness."""
    edges = np.linspace(low, high, stairs + 1)
    return (edges[:-1] + edges[1:]) / 2, edges[1:-1], sharpness * stairs / (high - low)


def _overshoot(sharpness: float) -> float:
    check_number(sharpness, "sharpness", above=0)
    return 1 + 1 / math.sinh(sharpness / 2)


def _interval(a: float, b: float) -> tuple[float, float]:
    for name, value in (("a", a), ("b", b)):
        check_number(value, name, above=-math.inf)
    if not a < b:
        raise ValueError(f"the interval [a, b] = [{a}, {b}] is empty; give a < b")
    return float(a), float(b)


def _modulus(modulus: Modulus) -> tuple[Callable[[float], float], bool]:
    """The modulus as a function, and whether it is known to be concave."""
    if callable(modulus):
        return modulus, False
    constant, exponent = modulus if isinstance(modulus, tuple) else (modulus, 1.0)
    check_number(constant, "modulus", at_least=0)
    check_number(exponent, "the exponent of modulus", above=0)
    if exponent > 1:
        raise ValueError(f"the exponent of modulus must be 1 at most, got {exponent}: f would be constant")
    return lambda distance: constant * distance**exponent, True


def _least(suffices: Callable[[int], bool], epsilon: float) -> int:
    """The least number of cells that suffices, by doubling and bisection."""
    high = 1
    while not suffices(high):
        high *= 2
        if high > MAX_UNITS:
            raise ValueError(
                f"epsilon={epsilon} needs more than {MAX_UNITS} units with this modulus; give a larger one"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _values(f: Callable[..., Any], *points: np.ndarray) -> np.ndarray:
    values = np.asarray(f(*points), np.float64)
    if values.shape != points[0].shape:
        raise ValueError(f"f must return a value a point: given {points[0].shape}, it returned {values.shape}")
    bad = ~np.isfinite(values)
    if bad.any():
        where = ", ".join(f"{p[bad][0]:g}" for p in points)
        raise ValueError(f"f is {values[bad][0]} at {where}; it must be finite and continuous on the whole domain")
    return values


def _network(
    weights: np.ndarray, offsets: np.ndarray, steps: np.ndarray, bias: float, epsilon: float, largest_unit: float
) -> tuple[Dense, Dense]:
    """The parameters in JAX's default float; raises where adding up the units would round by a part of epsilon."""
    if steps.size == 0:  # a constant needs no unit, but an MLP one
        weights, offsets, steps = np.zeros((len(weights), 1)), np.zeros(1), np.zeros(1)
    dtype = jax.dtypes.canonicalize_dtype(float)
    rounding = float(jnp.finfo(dtype).eps) * (np.abs(steps).sum() * largest_unit + abs(bias))
    if rounding > ROUNDING * epsilon:
        remedy = "; enable x64" if dtype == np.float32 else ""
        raise ValueError(
            f"epsilon={epsilon} is too small for {dtype}: {steps.size} units round by {rounding:.1g}{remedy}"
        )
    hidden = Dense(jnp.asarray(weights, dtype), jnp.asarray(offsets, dtype))
    return hidden, Dense(jnp.asarray(steps, dtype), jnp.asarray(bias, dtype))
