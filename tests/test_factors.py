"""Triangular factors: the condition that a fit reports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmjax.factors import FEW, reciprocal_condition


@pytest.mark.parametrize("p", [1, FEW, FEW + 1, 30])
def test_the_condition_is_numpys_in_the_1_norm(p):
    rng = np.random.default_rng(p)
    upper = np.triu(rng.normal(size=(200, p, p))) + 2 * np.eye(p)
    found = jax.vmap(reciprocal_condition)(jnp.asarray(upper))
    ratio = np.asarray(found) * np.linalg.cond(upper, 1)
    if p <= FEW:
        np.testing.assert_allclose(ratio, 1, rtol=1e-12)
    else:  # an estimate, from below for |R^-1|
        assert ratio.min() > 1 - 1e-9
        assert np.median(ratio) < 1.1
        assert ratio.max() < 4
