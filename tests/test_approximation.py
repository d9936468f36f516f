"""The constructive approximations: below epsilon everywhere, with the stated number of units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import glmjax as gj


def values(params, x, activation):
    model = gj.mlp(gj.normal(), (params[0].w.shape[1],), activation)
    return np.asarray(gj.predict(model, params, x.reshape(len(x), -1)))


FUNCTIONS = {
    "smooth": (np.exp, 0.0, 1.0, np.e),
    "kinked": (lambda x: np.abs(x - 0.3), -1.0, 1.0, 1.0),
    "oscillating": (lambda x: np.sin(40 * x), -1.0, 2.0, 40.0),
    "Hoelder": (lambda x: np.sqrt(np.abs(x)), -1.0, 1.0, (1.0, 0.5)),
    "modulus": (lambda x: np.cos(5 * x) + x, 3.0, 5.0, lambda d: 6 * d),
    "constant": (lambda x: np.full_like(x, 2.5), 0.0, 1.0, 0.0),
    "jax": (lambda x: jnp.tanh(3 * x), -2.0, 2.0, 3.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("epsilon", [0.5, 0.02])
@pytest.mark.parametrize(
    ("build", "activation"), [(gj.relu_approximation, "relu"), (gj.sigmoid_approximation, "sigmoid")]
)
def test_the_error_is_below_epsilon(name, epsilon, build, activation):
    f, a, b, modulus = FUNCTIONS[name]
    epsilon = max(epsilon, 0.1) if name == "Hoelder" else epsilon
    params = build(f, a, b, epsilon, modulus=modulus)
    x = np.linspace(a, b, 5001)
    assert np.abs(values(params, x, activation) - f(x)).max() < epsilon


def test_the_number_of_units_is_the_stated_one():
    for epsilon in (0.1, 0.01):
        # C (b - a) / (2 epsilon) and C (b - a) / epsilon (1 + 1 / sinh 4), with 1/16 of epsilon left for rounding
        relu = gj.relu_approximation(np.sin, 0, 4, epsilon, 1.0)[0].w.shape[1]
        assert relu == int(np.ceil(4 / (2 * epsilon * 15 / 16)))
        sigmoid = gj.sigmoid_approximation(np.sin, 0, 4, epsilon, 1.0)[0].w.shape[1]
        assert sigmoid == int(np.ceil(4 / (epsilon * 15 / 16) * (1 + 1 / np.sinh(4)))) - 1


def test_the_polygon_goes_through_f_at_its_knots():
    params = gj.relu_approximation(np.exp, -1, 1, 0.1, np.e)
    knots = -np.asarray(params[0].b)
    np.testing.assert_allclose(values(params, knots, "relu"), np.exp(knots), rtol=1e-13)


@pytest.mark.parametrize("sharpness", [0.5, 4.0, 100.0])
def test_any_steepness_keeps_the_promise(sharpness):
    params = gj.sigmoid_approximation(np.sin, 0, 3, 0.1, 1.0, sharpness=sharpness)
    x = np.linspace(0, 3, 4001)
    assert np.abs(values(params, x, "sigmoid") - np.sin(x)).max() < 0.1


@pytest.mark.parametrize(
    ("f", "modulus"),
    [
        (lambda x, y: np.sin(3 * x) * np.cos(2 * y), 3.61),
        (lambda x, y: np.abs(x - y), 2**0.5),
        (lambda x, y: np.sqrt(np.hypot(x - 0.5, y)), (1.0, 0.5)),
        (lambda x, y: 0 * x + 7.0, 0.0),
    ],
)
def test_the_square(f, modulus):
    params = gj.ridge_approximation(f, 0.3, modulus)
    grid = np.linspace(0, 1, 41)
    x = np.stack([axis.ravel() for axis in np.meshgrid(grid, grid)], axis=1)
    assert np.abs(values(params, x, "sigmoid") - f(*x.T)).max() < 0.3


def test_in_float32_a_promise_that_rounding_would_break_is_not_made():
    with jax.enable_x64(False):
        params = gj.relu_approximation(np.sin, 0, 3, 0.01, 1.0)
        assert params[0].w.dtype == np.float32
        x = np.linspace(0, 3, 5001)
        assert np.abs(values(params, x.astype(np.float32), "relu") - np.sin(x)).max() < 0.01
        with pytest.raises(ValueError, match=r"epsilon=0.0001 is too small for float32: .* enable x64"):
            gj.relu_approximation(lambda x: np.sin(40 * x), 0, 3, 1e-4, (40.0, 1.0))


BAD = {
    "epsilon 0": ("epsilon must be a finite number above 0.*, got 0", (np.sin, 0, 1, 0, 1.0)),
    "epsilon NaN": ("epsilon must be a finite number above 0", (np.sin, 0, 1, np.nan, 1.0)),
    "empty interval": (r"the interval \[a, b\] = \[1, 1\] is empty", (np.sin, 1, 1, 0.1, 1.0)),
    "infinite interval": ("b must be a finite number", (np.sin, 0, np.inf, 0.1, 1.0)),
    "f NaN": ("f is nan at .*; it must be finite", (lambda x: np.where(x > 0.5, np.nan, x), 0, 1, 0.1, 1.0)),
    "f infinite": ("f is inf at 0; it must be finite", (lambda x: np.where(x == 0, np.inf, x), -1, 1, 0.1, 1.1)),
    "f of another shape": (
        r"f must return a value a point: given \(\d+,\), it returned \(\)",
        (lambda x: 1.0, 0, 1, 0.1, 1.0),
    ),
    "negative modulus": ("modulus must be a finite number, 0 or more, got -1", (np.sin, 0, 1, 0.1, -1)),
    "exponent": ("the exponent of modulus must be 1 at most, got 2", (np.sin, 0, 1, 0.1, (1.0, 2))),
    "too fine": ("needs more than 10000000 units with this modulus", (np.sin, 0, 1, 1e-9, 1.0)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    message, arguments = BAD[case]
    for build in (gj.relu_approximation, gj.sigmoid_approximation):
        if case == "f infinite" and build is gj.sigmoid_approximation:
            continue  # its points lie elsewhere
        with pytest.raises(ValueError, match=message):
            build(*arguments)


def test_bad_input_on_the_square():
    for arguments, message in [
        ((lambda x, y: x / 0 * y, 0.1, 1.0), "f is .* at "),
        ((lambda x, y: x * y, -1, 1.0), "epsilon must be"),
        ((lambda x, y: np.sin(900 * x), 0.01, 900.0), "64 frequencies a side"),
    ]:
        with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
            gj.ridge_approximation(*arguments)
    with pytest.raises(ValueError, match="sharpness must be a finite number above 0"):
        gj.ridge_approximation(lambda x, y: x, 0.1, 1.0, sharpness=0)
