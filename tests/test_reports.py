"""Tables as text, Markdown, HTML and data frames, and adjusted p-values."""

import sys
from xml.etree import ElementTree

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
    fit = gj.fit_newton(gj.glm(gj.gamma()), data)
    table = gj.inference(data, fit)
    assert table.model.family.dispersion == fit.model.family.dispersion
    assert (table.rows, table.status, table.steps) == (9, fit.status, fit.steps)
    assert gj.summary(table, stars=True) == (
        'glm(gamma(link="log")) on 9 rows: CONVERGED in ' + f"{table.steps} steps\n\n"
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


@pytest.fixture(scope="module")
def tables():
    """Three lanes, the last of which has no answer."""
    model, _, data = problem("poisson")
    ys = jnp.stack([data.y, data.y + 1, -1 - data.y])
    return jax.vmap(lambda y: gj.inference(data._replace(y=y), gj.fit_newton(model, data._replace(y=y))))(ys)


def lane(tables, i):
    return jax.tree.map(lambda leaf: leaf[i], tables)


def test_a_batch_has_a_row_a_lane_and_coefficient(tables):
    lines = gj.summary(tables, adjust=gj.holm).splitlines()
    assert lines[0] == 'glm(poisson(link="log")), 3 lanes of 24 rows: 1 INVALID_TARGET, 2 CONVERGED'
    assert len(lines) == 15
    assert lines[3].startswith("lane 0  b ")
    assert lines[14].split() == ["lane", "2", "w[2]", *["NA"] * 6]
    assert gj.summary(tables, rows=5).endswith("... 7 rows more")
    with pytest.raises(ValueError, match="of one fit"):
        gj.summary(jax.tree.map(lambda leaf: leaf[0], tables), adjust=gj.holm)
    with pytest.raises(ValueError, match="along 2 axes"):
        gj.summary(jax.tree.map(lambda leaf: leaf[None], tables))
    with pytest.raises(TypeError, match=r"gj\.inference\(data, fit\), got dict"):
        gj.summary({})
    with pytest.raises(ValueError, match="names has 2 names for 4 coefficients"):
        gj.summary(tables._replace(names=gj.Names(["a", "b"])))


def test_a_fit_that_is_not_whole_says_so(tables):
    text = gj.summary(lane(tables, 2)).splitlines()
    assert text[0] == 'glm(poisson(link="log")) on 24 rows: INVALID_TARGET in 0 steps'
    assert text[1] == gj.Status.INVALID_TARGET.sentence
    assert text[3].split() == ["estimate", "std", "error", "z", "P(>|z|)", "from", "to"]  # no interval, so no level
    half = lane(tables, 0)._replace(rows=jnp.asarray(1234567.5), steps=jnp.asarray(1))
    assert "on 1234567.5 rows: CONVERGED in 1 step\n" in gj.summary(half)
    some = tables._replace(rows=jnp.array([24.0, 30, 20]))
    assert "3 lanes of 20 to 30 rows" in gj.summary(some)


CALLS = [
    (gj.glm(gj.normal(3, "log"), bias=False), 'glm(normal(3, link="log"), bias=False)'),
    (gj.glm(gj.categorical(3, reference=0)), "glm(categorical(3, reference=0, link="),
    (gj.glm(gj.negative_binomial(0.5)), 'glm(negative_binomial(alpha=0.5, link="log"))'),
    (gj.glm(gj.negative_binomial()), 'glm(negative_binomial(link="log"))'),
    (gj.glm(gj.tweedie(1.5)), 'glm(tweedie(power=1.5, link="log"))'),
]


@pytest.mark.parametrize(("model", "text"), CALLS)
def test_the_head_is_the_model_as_it_is_written(tables, model, text):
    assert gj.summary(lane(tables, 0)._replace(model=model)).startswith(text)


def test_a_model_goes_through_vmap_with_its_numbers(tables):
    alphas = jnp.array([0.2, 0.7])
    one = lane(tables, 0)
    many = jax.vmap(lambda alpha: one._replace(model=gj.glm(gj.negative_binomial(alpha))))(alphas)
    np.testing.assert_array_equal(many.model.family.alpha, alphas)
    assert gj.summary(many).startswith('glm(negative_binomial(link="log")), 2 lanes')
    assert gj.summary(lane(many, 1)).startswith('glm(negative_binomial(alpha=0.7, link="log")) on')


def test_a_frame_has_the_numbers(tables, monkeypatch):
    one = lane(tables, 1)._replace(names=gj.Names(["intercept", "age", "dose", "site"]))
    frame = gj.summary_frame(one)
    assert list(frame.columns) == ["estimate", "std_error", "statistic", "p_value", "lower", "upper"]
    for name in frame.columns:
        np.testing.assert_array_equal(frame[name], getattr(one, name))
    assert frame.loc["dose", "estimate"] == one.estimate[2]
    wanted = {"family": "poisson", "link": "log", "rows": 24, "status": "CONVERGED", "aic": one.aic, "df_resid": 20}
    assert {name: frame.attrs[name] for name in wanted} == wanted

    for adjust in (gj.holm, gj.benjamini_hochberg):
        frame = gj.summary_frame(tables, adjust=adjust)
        assert frame.shape == (12, 8)
        assert frame.index.names == ["lane", "coefficient"]
        assert frame.loc[(1, "w[0]"), "p_value"] == tables.p_value[1, 1]
        assert frame.loc[(1, "w[0]"), "p_adjusted"] == adjust(tables.p_value)[1, 1]
        assert frame.loc[2, "status"].tolist() == 4 * ["INVALID_TARGET"]
        assert frame.loc[2, "p_adjusted"].isna().all()
    assert frame.attrs["status"] == ["CONVERGED", "CONVERGED", "INVALID_TARGET"]
    with pytest.raises(ValueError, match="of one fit"):
        gj.summary_frame(one, adjust=gj.holm)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        gj.summary_frame(one)


def words(text):
    """The cells of each row of a text table whose columns are two or more spaces apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines() if line.strip()]


HOSTILE = gj.Names(["<b>|x|</b>", "a & b", "*stars*", "snake_case"])


def test_html_and_markdown_say_what_the_text_says(tables):
    one = lane(tables, 0)._replace(names=HOSTILE)
    for table, options in ((one, {"stars": True}), (tables, {"adjust": gj.holm, "rows": 6})):
        text = words(gj.summary(table, **options))
        tree = ElementTree.fromstring(gj.summary_html(table, **options))  # raises where it is not well-formed
        assert tree.tag == "table"
        assert tree.find("caption").text == text[0][0]
        rows = [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
        assert [[cell for cell in row if cell] for row in rows] == text[1:]
        shown = gj.summary_markdown(table, **options)
        for mark in "|*_<&\\":
            shown = shown.replace("\\" + mark, {"|": "¦"}.get(mark, mark))
        grid = [line for line in shown.splitlines() if line.startswith("|")]
        cells = [[cell.strip().replace("¦", "|") for cell in line.split("|")[1:-1]] for line in grid]
        assert len({len(row) for row in cells}) == 1
        assert all(set(cell) <= set("-:") for cell in cells[1])
        body = [[cell for cell in row if cell] for row in [cells[0], *cells[2:]]]
        assert body == text[1 : 1 + len(body)]
        for line in text[1 + len(body) :]:
            assert line[0] in shown
