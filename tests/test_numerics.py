"""The helpers of `numerics` and their first two derivatives against 130-digit decimals, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import D

from glmjax import numerics

SIGNED = [-40.0, -9.0, -0.75, -0.6875, -0.25, -(2.0**-20), 2.0**-20, 0.25, 0.6875, 0.75, 9.0, 40.0]
SMALL = [-0.75, -0.5, -0.4921875, -0.4375, -0.390625, -0.25, -(2.0**-30)]
NORMAL = [-(2.0**14), -30.0, -9.0, -5.0078125, -4.9921875, -2.0, -0.25, 0.0, 0.25, 0.75, 3.0, 8.0]


def stirling_at_inverse(t):
    return oracle.stirling_remainder(1 / t)


# name: (the function, its truth, arguments that float32 has)
ONE_ARGUMENT = {
    "expm1_excess": (numerics.expm1_excess, lambda x: oracle.expm1(x) - x, SIGNED),
    "log1m": (numerics.log1m, lambda x: oracle.log1p(-x), [-x for x in SMALL] + [0.9375, 1 - 2.0**-20]),
    "log1p_ratio": (numerics.log1p_ratio, lambda x: oracle.log1p(x) / x, [*SMALL, 2.0**-30, 0.25, 0.5, 3.0, 2.0**40]),
    "log1p_shortfall": (
        numerics.log1p_shortfall,
        lambda x: 1 - oracle.log1p(x) / x,
        [*SMALL, 2.0**-30, 0.25, 0.5, 3.0, 2.0**20],
    ),
    "stirling_remainder": (numerics.stirling_remainder, stirling_at_inverse, [2.0**-30, 2.0**-7, 0.09375]),
    "log_peak": (
        numerics.log_peak,
        lambda y: y * y.ln() - y - oracle.log_gamma(y + 1),
        [0.5, 1.0, 2.5, 9.0, 64.0, 2.0**40],
    ),
    "log_normal_cdf": (numerics.log_normal_cdf, lambda x: oracle.probit_pair(x)[0], NORMAL),
    "log_cloglog": (
        numerics.log_cloglog,
        lambda x: oracle.cloglog_pair(x)[0],
        [-80.0, -9.0, -0.5, -(2.0**-20), 2.0**-20, 0.015625, 0.5, 2.0, 3.6875],
    ),
    "log1mexp": (
        numerics.log1mexp,
        lambda u: (-oracle.expm1(u)).ln(),
        [-80.0, -9.0, -0.9375, -0.703125, -0.6875, -(2.0**-20)],
    ),
}
EXPONENTS, LOGS = [-2.0, -0.5, -(2.0**-20), 0.0, 2.0**-20, 0.5, 1.0, 2.0], [-30.0, -1.0, -(2.0**-10), 0.25, 0.75, 30.0]


def derivatives(f, argument):
    """f and its first two derivatives by one argument."""
    g = jax.grad(f, argument)
    return lambda *x: (f(*x), g(*x), jax.grad(g, argument)(*x))


def check(f, truth, points, argument, ulps):
    """Each derivative as if its argument had been off by a few units in the last place."""
    want, first = [], []
    for point in points:
        point = [D(x) for x in point]

        def moved(x, point=point):
            return truth(*point[:argument], x, *point[argument + 1 :])

        x = point[argument]
        found = oracle.derivatives(moved, x)
        third = (oracle.derivatives(moved, x * D("1.0000000001"))[2] - found[2]) / (x * D("1e-10")) if x else D(0)
        found = [*found, third]
        want.append([float(value) for value in found[:3]])
        first.append([float(abs(found[k]) + abs(x * found[k + 1])) for k in range(3)])
    want, first = np.array(want).T, np.array(first).T
    for dtype in (np.float64, np.float32):
        limits = jnp.finfo(dtype)
        columns = [jnp.asarray(np.array(column, dtype)) for column in zip(*points, strict=True)]
        got = np.array(jax.jit(jax.vmap(derivatives(f, argument)))(*columns), np.float64)
        for k in range(3):
            allowed = ulps[k] * float(limits.eps) * first[k] + float(limits.tiny / limits.eps)
            inside = first[k] < 0.01 * float(limits.max)
            error = np.where(inside, np.abs(got[k] - want[k]) / allowed, 0)
            worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
            assert error[worst] <= 1, (
                f"derivative {k} in {np.dtype(dtype)} at {points[worst]}: {got[k, worst]}, should be {want[k, worst]}, "
                f"error {error[worst]:.3g} of what is allowed"
            )


@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_a_function_of_one_number(name):
    f, truth, points = ONE_ARGUMENT[name]
    check(f, truth, [(x,) for x in points], 0, (4, 16, 64))


@pytest.mark.parametrize("argument", [0, 1])
def test_the_box_cox_transform_by_power_and_by_log(argument):
    def truth(a, u):
        return oracle.expm1(a * u) / a if a else u

    points = [(a, u) for a in EXPONENTS for u in LOGS if not (a == 0 and argument == 0)]
    check(numerics.power_integral, truth, points, argument, (4, 16, 64))


def test_the_box_cox_transform_at_power_0_by_the_power():
    """Its series u + a u^2 / 2 + a^2 u^3 / 6."""
    u = jnp.array(LOGS)
    got = jax.vmap(derivatives(numerics.power_integral, 0), in_axes=(None, 0))(jnp.array(0.0), u)
    np.testing.assert_allclose(got, [u, u**2 / 2, u**3 / 3], rtol=1e-15)


def test_the_gap_of_the_negative_binomial_deviance():
    def truth(w, t):
        return oracle.log1p(w * oracle.expm1(t)) / w - t

    points = [(w, t) for w in (2.0**-40, 0.015625, 0.5) for t in (*SIGNED[1:-1], 0.28125, 0.3125, 19.0)]
    check(numerics.log1p_expm1_gap, truth, points, 1, (8, 32, 256))
    np.testing.assert_allclose(numerics.log1p_expm1_gap(jnp.array(0.0), jnp.array(1.0)), np.e - 2, rtol=1e-15)


def test_stirlings_remainder_of_small_arguments_to_eps():
    """It is one of several summands of order 1 there; a derivative by t = 1 / x multiplies rounding by x."""
    t = np.array([0.109375, 0.5, 1.0, 7.0, 1024.0])
    truth = np.array([[float(value) for value in oracle.derivatives(stirling_at_inverse, D(x))] for x in t])
    for dtype in (np.float64, np.float32):
        got = np.array(jax.vmap(derivatives(numerics.stirling_remainder, 0))(jnp.asarray(t, dtype)))
        for k in range(3):
            allowed = 8 * float(np.finfo(dtype).eps) * np.maximum(1, 1 / t) ** k
            assert np.all(np.abs(got[k] - truth[:, k]) <= allowed), k


def test_limits_have_derivatives():
    """What is 0 / 0 by the textbook formula: value, slope and curvature at the limit."""
    for f, x, want in [
        (numerics.expm1_excess, 0.0, (0, 0, 1)),
        (numerics.log1p_ratio, 0.0, (1, -1 / 2, 2 / 3)),
        (numerics.log1p_shortfall, 0.0, (0, 1 / 2, -2 / 3)),
        (numerics.stirling_remainder, 0.0, (0, 1 / 12, 0)),
        (numerics.log_peak, 0.0, (0, 0, 0)),
        (numerics.log_cloglog, 0.0, (np.log(-np.expm1(-1)), 1 / (np.e - 1), -1 / (np.e - 1) ** 2)),
        (numerics.log_cloglog, 800.0, (0, 0, 0)),
        (numerics.log_normal_cdf, 800.0, (0, 0, 0)),
    ]:
        np.testing.assert_allclose(derivatives(f, 0)(jnp.array(x)), want, rtol=1e-14, err_msg=str(f))
