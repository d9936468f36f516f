"""Functions of one number that the families need without cancellation, in value and under two `jax.grad`s.

Each is a series where the textbook formula cancels and the formula elsewhere; both branches of a `where` get an
argument they are finite at, since a derivative looks into the branch that was not taken.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# B_2k / (2k (2k - 1)), k = 1..12: Stirling's series.
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
    43867 / 244188,
    -174611 / 125400,
    77683 / 5796,
    -236364091 / 1506960,
)
_SHIFTS = 10  # gamma functions are shifted to an argument above this, where Stirling's series has all digits


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """The polynomial `c[0] + c[1] x + c[2] x^2 + ...`."""
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


_EXCESS = tuple(1 / math.factorial(k) for k in range(2, 19))


def expm1_excess(x: Array) -> Array:
    """`expm1(x) - x`, 0 or more and x^2 / 2 near 0."""
    small = jnp.abs(x) < 0.7
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    return jnp.where(small, near * near * _horner(_EXCESS, near), jnp.exp(far) - (1 + far))


def log1m(p: Array) -> Array:
    """`log(1 - p)`, p below 1."""
    return -jnp.log1p(p / (1 - p))  # XLA's log1p in float64 loses two digits from -0.42 to -0.35


_ATANH = tuple(1 / (2 * k + 1) for k in range(18))


@jax.custom_jvp
def log1p_unit(t: Array) -> Array:
    """`log1p(t)` for t from 0 to 1, as a series: XLA's own, where it is not part of a sum, takes 5 times as long."""
    s = t / (2 + t)  # log1p(t) = 2 atanh(s), s up to 1/3
    return 2 * s * _horner(_ATANH, s * s)


@log1p_unit.defjvp
def _log1p_unit_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log1p_unit(*primals), tangents[0] / (1 + primals[0])


def log1p_ratio(c: Array) -> Array:
    """`log1p(c) / c`, 1 at 0."""
    small = jnp.abs(c) < 0.5
    near, far = jnp.where(small, c, 0), jnp.where(small, 1, c)
    s = near / (2 + near)  # log1p(c) = 2 atanh(s)
    return jnp.where(small, 2 / (2 + near) * _horner(_ATANH, s * s), jnp.log1p(far) / far)


def log1p_shortfall(c: Array) -> Array:
    """`1 - log1p(c) / c`, c / 2 near 0."""
    small = jnp.abs(c) < 0.5
    near, far = jnp.where(small, c, 0), jnp.where(small, 1, c)
    s = near / (2 + near)
    series = s - 2 * s * s / (2 + near) * _horner(_ATANH[1:], s * s)
    return jnp.where(small, series, 1 - jnp.log1p(far) / far)


def log1p_expm1_gap(w: Array, t: Array) -> Array:
    """`log1p(w expm1(t)) / w - t`, w from 0 to 1/2 and t not so large that exp(t) overflows; (1 - w) t^2 / 2 near 0."""
    e = jnp.expm1(t)
    far = t > 0.3
    large = far & (w * e > 1)
    near = jnp.where(far, 0, t)
    c = w * jnp.where(far, 0, e)
    small = expm1_excess(near) - jnp.where(far, 0, e) * log1p_shortfall(c)
    middle = jnp.where(large, 1, e)
    # log(1 - w + w exp(t)) is almost linear there
    v, u = jnp.where(large, w, 1), jnp.where(large, t, 0)
    linear = (u + jnp.log(v) + jnp.log1p((1 - v) / v * jnp.exp(-u))) / v
    return jnp.where(far, jnp.where(large, linear, middle * log1p_ratio(w * middle)) - t, small)


_EXPM1 = tuple(1 / math.factorial(k) for k in range(1, 17))


def power_integral(a: Array, u: Array) -> Array:
    """`expm1(a u) / a`, u at a = 0: the integral of m^(a - 1) from m = 1 to exp(u); a power's Box-Cox transform."""
    small = jnp.abs(a * u) < 0.7
    x, safe = jnp.where(small, a * u, 0), jnp.where(small, 1, a)
    far = jnp.exp(safe * jnp.where(small, 1, u)) - 1  # JAX's derivative of expm1 is it plus 1: 0 where exp is tiny
    return jnp.where(small, u * _horner(_EXPM1, x), far / safe)


def stirling_remainder(t: Array) -> Array:
    """`lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2` at x = 1 / t; t / 12 near 0, so that x may be infinite."""
    large = t * _SHIFTS <= 1
    near, x = jnp.where(large, t, 0), 1 / jnp.where(large, 1, t)
    shifted = 1 / (x + _SHIFTS)
    steps = x[..., None] + jnp.arange(
        _SHIFTS, dtype=x.dtype
    )  # along an axis: ten logarithms written out compile slowly
    moved = jnp.sum((steps + 0.5) * jnp.log1p(1 / steps) - 1, axis=-1) + shifted * _horner(_STIRLING, shifted * shifted)
    return jnp.where(large, near * _horner(_STIRLING, near * near), moved)


def log_peak(y: Array) -> Array:
    """`y log(y) - y - log(y!)`, the log-probability of y under a Poisson distribution of mean y; 0 at 0."""
    positive = y > 0
    safe = jnp.where(positive, y, 1)
    return jnp.where(positive, -0.5 * jnp.log(safe) - HALF_LOG_2PI - stirling_remainder(1 / safe), 0)


def _mills_fraction(terms: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Laplace's continued fraction of x Q(x) / phi(x) as the two polynomials in t = 1 / x^2 of its last convergent."""
    # 1 / (1 + t / (1 + 2 t / (1 + 3 t / ...))), each convergent from the two before it
    above: list[list[int]] = [[0], [1]]
    below: list[list[int]] = [[1], [1]]
    for k in range(1, terms):
        for rows in (above, below):
            last, before = rows[-1], [0, *(k * value for value in rows[-2])]
            size = max(len(last), len(before))
            pad = [[*row, *[0] * (size - len(row))] for row in (last, before)]
            rows.append([p + q for p, q in zip(*pad, strict=True)])
    return tuple(map(float, above[-1])), tuple(map(float, below[-1]))


_MILLS_ABOVE, _MILLS_BELOW = _mills_fraction(24)


def log_normal_cdf(x: Array) -> Array:
    """`log(Phi(x))`, Phi the standard normal distribution function."""
    # JAX's own loses its derivative's digits in the lower tail, where it takes x^2 / 2 from itself.
    tail, upper = x < -5, x > 0
    center = jnp.where(tail | upper, 0, x)
    z = jnp.where(tail, x, -5)
    t = 1 / (z * z)
    ratio = jnp.log(_horner(_MILLS_ABOVE, t)) - jnp.log(_horner(_MILLS_BELOW, t))
    lower = ratio - 0.5 * z * z - jnp.log(-z) - HALF_LOG_2PI
    middle = jnp.log(jax.scipy.special.ndtr(center))
    return jnp.where(tail, lower, jnp.where(upper, log1m(jax.scipy.special.ndtr(-jnp.where(upper, x, 0))), middle))


_SINHC = tuple(1 / math.factorial(2 * k + 3) for k in range(8))


def log_cloglog(eta: Array) -> Array:
    """`log(1 - exp(-exp(eta)))`."""
    small = eta < 0
    half = 0.5 * jnp.exp(jnp.where(small, eta, 0))
    # log(1 - exp(-m)) = log(m) - m / 2 + log(sinh(m / 2) / (m / 2)), m = exp(eta)
    near = eta - half + jnp.log1p(half * half * _horner(_SINHC, half * half))
    m = jnp.exp(jnp.minimum(jnp.where(small, 0, eta), 7))  # exp(-exp(7)) is 0 in every dtype
    return jnp.where(small, near, log1m(jnp.exp(-m)))


def log1mexp(u: Array) -> Array:
    """`log(1 - exp(u))` for u below 0."""
    near = u > -0.7
    return jnp.where(near, jnp.log(-jnp.expm1(jnp.where(near, u, -1))), log1m(jnp.exp(jnp.where(near, -1, u))))
