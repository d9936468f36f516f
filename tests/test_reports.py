"""The text of tables, and adjusted p-values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import problem

import glmjax as gj

P = np.array([0.01, 0.02, 0.03, 0.04, 0.05, np.nan, 0.001, 0.9])


def test_adjusted_p_values_are_those_of_statsmodels_and_of_each_column():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    tests = ~np.isnan(P)
    for adjust, name in ((gj.holm, "holm"), (gj.benjamini_hochberg, "fdr_bh")):
        wanted = np.full(P.shape, np.nan)
        wanted[tests] = multipletests(P[tests], method=name)[1]
        np.testing.assert_allclose(adjust(jnp.asarray(P)), wanted, rtol=1e-13)
        np.testing.assert_allclose(jax.jit(adjust)(jnp.stack([P, P[::-1]], axis=1))[:, 1], wanted[::-1], rtol=1e-13)


def test_one_fit():
    x = jnp.arange(9.0)[:, None]
    y = jnp.array([118, 58, 42, 35, 27, 25, 21, 19, 18.0])
    data = gj.make_data(jnp.log(jnp.array([5.0, 10, 15, 20, 30, 40, 60, 80, 100]))[:, None], y)
    table = gj.inference(data, gj.fit_newton(gj.glm(gj.gamma()), data))
    assert gj.summary(table, stars=True) == (
        "      estimate  std error        t  P(>|t|)  95% from        to\n"
        "b       5.5032     0.1903   28.919  1.5e-08    5.0532    5.9532  ***\n"
        "w[0]  -0.60192   0.055308  -10.883  1.2e-05   -0.7327  -0.47114  ***\n"
        "\n"
        "dispersion estimated as 0.024354\n"
        "deviance 0.16261 on 7 degrees of freedom, null 3.5128\n"
        "log-likelihood -26.241, AIC 58.482, BIC 59.073"
    )
    twice = data._replace(x=jnp.concatenate([data.x, data.x, x], axis=1))
    text = gj.summary(gj.inference(twice, gj.fit_newton(gj.glm(gj.gamma()), twice), level=0.9, dispersion=1.0))
    assert "w[1]        NA         NA" in text
    assert "P(>|z|)  90% from" in text
    assert "dispersion taken to be 1\n" in text


def test_a_batch_has_a_row_a_lane_and_coefficient():
    model, _, data = problem("poisson")
    ys = jnp.stack([data.y, data.y + 1, -1 - data.y])
    tables = jax.vmap(lambda y: gj.inference(data._replace(y=y), gj.fit_newton(model, data._replace(y=y))))(ys)
    lines = gj.summary(tables, adjust=gj.holm).splitlines()
    assert len(lines) == 13
    assert lines[1].startswith("lane 0  b ")
    assert lines[12].split() == ["lane", "2", "w[2]", *["NA"] * 6]
    assert gj.summary(tables, rows=5).endswith("... 7 rows more")
    with pytest.raises(ValueError, match="of one fit"):
        gj.summary(jax.tree.map(lambda leaf: leaf[0], tables), adjust=gj.holm)
    with pytest.raises(ValueError, match="along 2 axes"):
        gj.summary(jax.tree.map(lambda leaf: leaf[None], tables))
