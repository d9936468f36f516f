"""Tail probabilities and quantiles, against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from problems import differences

from glmjax.tails import chi2_tail, f_tail, two_sided_quantile, two_sided_tail

T = np.array([0.0, 0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 30.0])


def test_the_normal_has_its_digits_in_the_far_tail():
    z = np.append(T, [20.0, 37.0])
    np.testing.assert_allclose(two_sided_tail(-z, None), 2 * scipy.stats.norm.sf(z), rtol=1e-13)
    tail = np.array([0.9, 0.05, 1e-8, 1e-300])
    np.testing.assert_allclose(two_sided_quantile(tail, None), scipy.stats.norm.isf(tail / 2), rtol=1e-14)


@pytest.mark.parametrize(("df", "bar"), [(0.5, 1e-13), (1, 1e-13), (5, 1e-13), (44, 1e-12), (1e3, 1e-11), (1e5, 1e-9)])
def test_students_t(df, bar):
    t = T if df > 100 else np.append(T, [1e3, 1e6])
    wanted = 2 * scipy.stats.t.sf(t, df)
    np.testing.assert_allclose(two_sided_tail(t, jnp.asarray(df)), wanted, rtol=bar, atol=1e-300)
    tail = jnp.array([0.9, 0.5, 0.05, 1e-4, 1e-12, 1e-30])
    found = jax.vmap(two_sided_quantile, (0, None))(tail, jnp.asarray(df))
    np.testing.assert_allclose(found, scipy.stats.t.isf(np.asarray(tail) / 2, df), rtol=bar)


def test_no_degrees_of_freedom_are_nan():
    for df in (0.0, -1.0):
        assert np.isnan(two_sided_tail(jnp.array(1.0), jnp.array(df)))
        assert np.isnan(two_sided_quantile(jnp.array(0.05), jnp.array(df)))


def test_chi_squared_and_f():
    x = np.array([0.0, 0.3, 1.0, 10.0, 100.0, 1000.0])
    for df in (1.0, 2.0, 7.0, 50.0):
        np.testing.assert_allclose(chi2_tail(x, jnp.asarray(df)), scipy.stats.chi2.sf(x, df), rtol=1e-12)
        for other in (1.0, 6.0, 44.0):
            found = jax.vmap(lambda f: f_tail(f, df, other))(x)  # noqa: B023
            np.testing.assert_allclose(found, scipy.stats.f.sf(x, df, other), rtol=1e-12)


@pytest.mark.parametrize("f", [lambda t, df: two_sided_tail(2 + t, df), lambda t, df: two_sided_quantile(t, df)])
def test_derivatives(f):
    at = jnp.array(0.1), jnp.array(6.5)
    for i in (0, 1):
        wanted = differences(lambda v: f(*at[:i], v, *at[i + 1 :]), at[i], 1.0, 1e-4)  # noqa: B023
        assert jax.grad(f, argnums=i)(*at) == pytest.approx(float(wanted), rel=1e-5)
