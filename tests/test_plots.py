"""Plots: what is drawn is what was given, on the axes given, with names on them; never a picture of what is not."""

import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.stats

import glmjax as gj
from glmjax import drawing, plots

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N = 40
RNG = np.random.default_rng(8)
X = RNG.normal(size=(N, 2))
Y = RNG.poisson(np.exp(0.5 + X @ [0.6, -0.4])).astype(float)
DATA = gj.make_data(X, Y)
POISSON = gj.glm(gj.poisson())
PARAMS = gj.Dense(jnp.array([0.6, -0.4]), jnp.array(0.5))


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    figure.canvas.draw()  # what cannot be drawn fails here
    plt.close(figure)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def table_of(lanes=None, q=3):
    """A table made by hand: estimates and intervals of q coefficients."""
    shape = (q,) if lanes is None else (lanes, q)
    rest = () if lanes is None else (lanes,)
    estimate = jnp.asarray(RNG.normal(size=shape))
    one = jnp.ones(rest)
    return gj.Inference(
        names=gj.Names(f"w[{j}]" for j in range(q)),
        estimate=estimate,
        std_error=jnp.ones(shape),
        statistic=estimate,
        p_value=jnp.ones(shape),
        lower=estimate - 1.959964,
        upper=estimate + 1.959964,
        covariance=jnp.ones((*shape, q)),
        model=POISSON,
        status=jnp.full(rest, int(gj.Status.CONVERGED)),
        df=one * jnp.inf,
        **{
            name: one
            for name in (
                "dispersion",
                "log_likelihood",
                "deviance",
                "null_deviance",
                "pearson_chi2",
                "aic",
                "bic",
                "df_resid",
                "edf",
                "rows",
                "steps",
            )
        },
    )


def fit_of(params=PARAMS, status=gj.Status.CONVERGED, history=None, lanes=()):
    zero = jnp.zeros(lanes)
    status = jnp.broadcast_to(jnp.asarray(status, jnp.int32), lanes)
    return gj.Fit(POISSON, params, zero, zero, zero, zero, status, None, None, None, zero, zero, history)


def points(collection):
    return np.asarray(collection.get_offsets())


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def named(ax):
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    return ax


MEASURES = gj.InfluenceMeasures(
    leverage=jnp.array([0.1, 0.3, 0.6, 1.0]),
    pearson=jnp.array([0.5, -1.0, 3.0, jnp.nan]),
    deviance=jnp.array([0.5, -1.0, 3.0, jnp.nan]),
    cooks_distance=jnp.array([0.25 * 0.1 / 0.9, 0.3 / 0.7, 9 * 0.6 / 0.4, jnp.nan]) / 2,  # p is 2
    dfbetas=jnp.zeros((4, 2)),
)
CALIBRATION = gj.Calibration(
    prediction=jnp.array([0.1, jnp.nan, 0.7, 0.9]),
    frequency=jnp.array([0.0, jnp.nan, 0.5, 1.0]),
    weight=jnp.array([10.0, 0, 40, 5]),
    expected_error=jnp.asarray(0.17),
    brier=jnp.asarray(0.1),
)


def path_of(lanes=()):
    penalty = jnp.array([1.0, 0.1, 0.01, 0.001])
    w = jnp.array([[0.0, 0, 0], [0.5, 0, 0], [0.8, -0.2, 0], [1.0, -0.3, 0.29]])
    status = jnp.array([5, 5, 6, 5])  # the third did not converge
    fit = fit_of(gj.Dense(w, jnp.zeros(4)), status, lanes=(4,))
    path = gj.Path(penalty, fit)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*lanes, *leaf.shape)), path)


def history_of():
    loss = jnp.array([[3.0, 2, 1, 0.5], [5, 4, jnp.nan, jnp.nan], [9, jnp.nan, jnp.nan, jnp.nan]])
    watched = jnp.array([[4.0, 3, 2, 2.5], [6, 5, jnp.nan, jnp.nan], [jnp.nan] * 4])
    status = jnp.array([gj.Status.COMPLETED, gj.Status.STOPPED_EARLY, gj.Status.NONFINITE])
    return fit_of(status=status, history=gj.History(loss, watched), lanes=(3,))


CLASSES = gj.make_data(X, (X[:, 0] > 0).astype(float))
LOGISTIC = (gj.glm(gj.bernoulli()), gj.Dense(jnp.array([2.0, 1.0]), jnp.array(-0.5)))
PLOTS = {
    "forest": lambda ax: plots.forest(table_of(), ax=ax),
    "residuals_fitted": lambda ax: plots.residuals_fitted(X[:, 0], X[:, 1], ax=ax),
    "qq": lambda ax: plots.qq(X[:, 0], ax=ax),
    "leverage": lambda ax: plots.leverage(MEASURES, ax=ax),
    "calibration": lambda ax: plots.calibration(CALIBRATION, ax=ax),
    "rootogram": lambda ax: plots.rootogram(POISSON, PARAMS, DATA, ax=ax),
    "path": lambda ax: plots.path(path_of(), ax=ax),
    "learning_curves": lambda ax: plots.learning_curves(history_of(), ax=ax),
    "decision_regions": lambda ax: plots.decision_regions(*LOGISTIC, CLASSES, points=20, ax=ax),
}


def test_every_plot_is_listed():
    assert set(PLOTS) == set(plots.__all__)
    assert gj.plots is plots


@pytest.mark.parametrize("name", PLOTS)
def test_each_draws_on_the_axes_given_and_else_on_new_ones(name, ax, monkeypatch):
    assert PLOTS[name](ax) is named(ax)
    before = len(ax.get_children())
    other = named(PLOTS[name](None))
    assert other is not ax
    assert other.figure is not ax.figure
    assert len(ax.get_children()) == before
    other.figure.canvas.draw()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'glmjax\[plots\]'"):
        PLOTS[name](None)


# what is drawn ---------------------------------------------------------------------------------------------------------


def test_forest(ax):
    table = table_of()
    table = table._replace(lower=table.lower.at[0].set(jnp.nan), upper=table.upper.at[0].set(jnp.nan))
    plots.forest(table, ax=ax)
    bars = ax.containers[0]
    np.testing.assert_array_equal(bars.lines[0].get_xdata(), table.estimate)
    np.testing.assert_array_equal(bars.lines[0].get_ydata(), [0, 1, 2])
    ends = np.stack([segment[:, 0] for segment in bars.lines[2][0].get_segments() if len(segment)])
    np.testing.assert_allclose(ends[-2:], np.stack([table.lower, table.upper], axis=1)[1:], rtol=1e-12)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["w[0]", "w[1]", "w[2]"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from the top down
    assert ax.get_xlabel() == "estimate, with 95% interval"


def test_forest_of_lanes_and_of_some_coefficients(ax):
    table = table_of(3)
    plots.forest(table, names=["w[2]", "w[0]"], ax=ax)
    assert labels(ax) == ["lane 0", "lane 1", "lane 2"]
    for lane, bars in enumerate(ax.containers):
        np.testing.assert_array_equal(bars.lines[0].get_xdata(), np.asarray(table.estimate)[lane, [2, 0]])
    heights = np.stack([bars.lines[0].get_ydata() for bars in ax.containers])
    assert np.all(np.round(heights) == [0, 1])
    assert np.all(np.diff(heights, axis=0) > 0)


def test_a_forest_of_many_coefficients_is_as_tall_as_their_names():
    plots.forest(table_of(q=60)).figure.canvas.draw()
    heights = [label.get_window_extent().y0 for label in plt.gca().get_yticklabels()]
    size = plt.gca().get_yticklabels()[0].get_window_extent().height
    assert np.all(-np.diff(heights) > size)


def test_residuals_fitted(ax):
    plots.residuals_fitted(X[:, 0], X[:, 1], ax=ax)
    np.testing.assert_array_equal(points(ax.collections[0]), X)
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), 0)


def test_the_smooth_line_is_that_of_its_definition_and_of_lowess():
    line = 2 - 3 * X[:, 0]
    places, values = drawing.smooth_line(X[:, 0], line)
    np.testing.assert_allclose(values, 2 - 3 * places, rtol=1e-9, atol=1e-9)
    lowess = pytest.importorskip("statsmodels.nonparametric.smoothers_lowess").lowess
    places, values = drawing.smooth_line(X[:, 0], X[:, 1], share=0.6, points=N)
    wanted = lowess(X[:, 1], X[:, 0], frac=0.6, it=0, xvals=places)
    np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-6)
    for x in (np.zeros(5), np.array([0.0, 1, 1, 1, 1])):  # all at one place; and few places
        places, values = drawing.smooth_line(x, np.arange(5.0))
        assert np.all(np.isfinite(values))
    assert values[-1] == pytest.approx(2.5)


@pytest.mark.parametrize("n", [1, 2, 20, 3000])
def test_the_band_is_of_order_statistics(n):
    ranks, lower, upper = drawing.uniform_band(n, 0.9)
    assert ranks[0] == 1
    assert ranks[-1] == n
    np.testing.assert_allclose(lower, scipy.stats.beta.ppf(0.05, ranks, n + 1 - ranks), rtol=1e-8)
    np.testing.assert_allclose(upper, scipy.stats.beta.ppf(0.95, ranks, n + 1 - ranks), rtol=1e-8)


def test_qq(ax):
    plots.qq(X[:, 0], level=0.8, ax=ax)
    wanted = np.stack([scipy.stats.norm.ppf((np.arange(N) + 0.5) / N), np.sort(X[:, 0])], axis=1)
    np.testing.assert_allclose(points(ax.collections[1]), wanted, rtol=1e-9, atol=1e-12)
    assert labels(ax) == ["80% band of each point"]
    band = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(band[:, 1].max(), scipy.stats.norm.ppf(scipy.stats.beta.ppf(0.9, N, 1)), rtol=1e-7)
    line = ax.get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())


def test_leverage(ax):
    plots.leverage(MEASURES, ax=ax)
    np.testing.assert_array_equal(
        points(ax.collections[0]), np.stack([MEASURES.leverage, MEASURES.pearson], axis=1)[:3]
    )
    found = {line.get_label(): line for line in ax.get_lines()}
    for distance in ("0.5", "1"):
        h, r = found[f"Cook's distance {distance}"].get_data()
        np.testing.assert_allclose(r**2 * h / ((1 - h) * 2), float(distance), rtol=1e-9)
        np.testing.assert_array_equal(found[f"_Cook's distance {distance}"].get_ydata(), -r)
    assert sorted(text.get_text() for text in ax.texts) == ["0", "1", "2"]


def test_calibration(ax):
    plots.calibration(CALIBRATION, ax=ax)
    bars = ax.containers[0]
    np.testing.assert_array_equal(bars.lines[0].get_data(), [[0.1, 0.7, 0.9], [0, 0.5, 1]])
    segments = np.stack([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    for segment, hits, n in zip(segments, (0, 20, 5), (10, 40, 5), strict=True):
        wanted = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(segment, wanted, atol=1e-7)
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    assert [bar.get_height() for bar in twin.containers[0]] == [10, 0, 40, 5]
    assert twin.get_ylabel()
    assert labels(ax)[1] == "expected error 0.170, 95% intervals"


@pytest.mark.parametrize(("model", "largest"), [(POISSON, None), (gj.glm(gj.negative_binomial(0.5)), 3)])
def test_rootogram(ax, model, largest):
    weight = np.arange(N) % 3 + 0.5
    weight[7] = 0
    data = DATA._replace(weight=jnp.asarray(weight), y=DATA.y.at[7].set(-1.5))  # a row of weight 0 may hold anything
    plots.rootogram(model, PARAMS, data, largest=largest, ax=ax)
    y, mean = Y, np.exp(0.5 + X @ [0.6, -0.4])
    law = scipy.stats.poisson(mean) if largest is None else scipy.stats.nbinom(2, 1 / (1 + 0.5 * mean))
    last = int(Y.max()) if largest is None else largest
    expected = np.array([np.sum(weight * law.pmf(k)) for k in range(last + 1)])
    observed = np.array([np.sum(weight[y == k]) for k in range(last + 1)])
    if largest:
        expected[-1], observed[-1] = np.sum(weight * law.sf(last - 1)), np.sum(weight[y >= last])
    bars = ax.containers[0]
    tops = np.array([bar.get_y() + max(bar.get_height(), 0) for bar in bars])
    np.testing.assert_allclose(tops, np.sqrt(expected), rtol=1e-8)
    np.testing.assert_allclose([abs(bar.get_height()) for bar in bars], np.sqrt(observed), rtol=1e-8)
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ("3+" in ticks) == (largest == 3)
    assert ax.get_ylim()[1] > tops.max()


def test_path(ax):
    plots.path(path_of(), names=["age", "dose", "site"], ax=ax)
    lines = ax.get_lines()[1:]
    wanted = np.asarray(path_of().fit.params.w)[[0, 1, 3]]  # without the penalty that failed
    for line, column in zip(lines, wanted.T, strict=True):
        np.testing.assert_array_equal(line.get_data(), [[1, 0.1, 0.001], column])
    assert ax.get_xscale() == "log"
    assert ax.get_xlim() == (1, 0.001)
    assert [text.get_text() for text in ax.texts] == ["age", "dose", "site"]
    (top,) = ax.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["0", "1", "3"]


def test_learning_curves_carry_on_lanes_that_stopped_and_leave_out_those_that_failed(ax):
    plots.learning_curves(history_of(), ax=ax)
    training, watched = ax.get_lines()
    np.testing.assert_allclose(training.get_data(), [[1, 2, 3, 4], [4, 3, 2.5, 2.25]])
    np.testing.assert_allclose(watched.get_ydata(), [5, 4, 3.5, 3.75])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(4 + 1)
    assert labels(ax)[0] == "training, mean of 2 ± sd (1 of 3 failed, left out)"
    one = fit_of(status=gj.Status.COMPLETED, history=gj.History(jnp.array([3.0, 2, 1, 0.5]), jnp.full(4, jnp.nan)))
    plots.learning_curves(one, label="rate 0.1", ax=ax)
    assert labels(ax)[2:] == ["rate 0.1, training"]
    np.testing.assert_array_equal(ax.get_lines()[2].get_ydata(), [3, 2, 1, 0.5])


def test_decision_regions(ax):
    model, params = LOGISTIC
    plots.decision_regions(model, params, CLASSES, points=50, ax=ax)
    shown = [points(part) for part in ax.collections if len(points(part)) > 1]
    np.testing.assert_array_equal(shown[0], X[X[:, 0] <= 0])
    np.testing.assert_array_equal(shown[1], X[X[:, 0] > 0])
    image, (left, right, low, high) = np.asarray(ax.images[0].get_array()), ax.images[0].get_extent()
    across = left + (np.arange(50) + 0.5) * (right - left) / 50
    up = low + (np.arange(50) + 0.5) * (high - low) / 50
    first = 2 * across[None] + up[:, None] - 0.5 > 0
    bluer = image[..., 2] > image[..., 0]  # class 0 is blue, class 1 orange
    np.testing.assert_array_equal(bluer, ~first)
    assert labels(ax) == ["class 0", "class 1"]


def test_decision_regions_of_classes(ax):
    params = gj.Dense(jnp.array([[1.0, 0, -1], [0, 1.0, -1]]), jnp.zeros(3))
    data = gj.make_data(X, np.arange(N) % 3)
    plots.decision_regions(gj.glm(gj.categorical(3)), params, data, points=20, ax=ax)
    assert labels(ax) == ["class 0", "class 1", "class 2"]
    assert sum(len(points(part)) for part in ax.collections if len(points(part)) > 1) == N


# what is refused -------------------------------------------------------------------------------------------------------


def lanes_of(value, lanes):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*lanes, *leaf.shape)), value)


REFUSED = {
    "a forest of many": (lambda: plots.forest(table_of(11)), ValueError, "a forest of 11 lanes"),
    "a forest of a grid": (lambda: plots.forest(lanes_of(table_of(), (2, 2))), ValueError, "along 2 axes"),
    "unknown names": (lambda: plots.forest(table_of(), names=["age"]), ValueError, r"w\[2\]; got \['age'\]"),
    "a forest of a fit": (lambda: plots.forest(fit_of()), TypeError, r"gj\.inference\(data, fit\), got Fit"),
    "two columns": (lambda: plots.qq(X), ValueError, r"residuals must be \(n,\).*\(40, 2\)"),
    "NaN": (lambda: plots.qq([0.0, np.nan]), ValueError, "1 of 2 numbers"),
    "a level of 1": (lambda: plots.qq(X[:, 0], level=1), ValueError, "level must be above 0 and below 1, got 1"),
    "other lengths": (lambda: plots.residuals_fitted(X[:, 0], X[1:, 0]), ValueError, r"fitted must be \(39,\)"),
    "measures in lanes": (lambda: plots.leverage(lanes_of(MEASURES, (2,))), ValueError, r"measures has lanes.*\(2,\)"),
    "no measures": (
        lambda: plots.leverage(lanes_of(MEASURES, ())._replace(pearson=jnp.full(4, jnp.nan))),
        ValueError,
        "no row",
    ),
    "a leverage of an array": (lambda: plots.leverage(X), TypeError, "gj.influence_measures"),
    "calibration in lanes": (lambda: plots.calibration(lanes_of(CALIBRATION, (2,))), ValueError, "result has lanes"),
    "calibration of a model": (lambda: plots.calibration(POISSON), TypeError, "gj.calibration"),
    "normal counts": (
        lambda: plots.rootogram(gj.glm(gj.normal()), PARAMS, DATA),
        ValueError,
        "the normal family has none",
    ),
    "quasi counts": (
        lambda: plots.rootogram(gj.glm(gj.quasi_poisson()), PARAMS, DATA),
        ValueError,
        "quasi_poisson family",
    ),
    "parts of counts": (lambda: plots.rootogram(POISSON, PARAMS, DATA._replace(y=DATA.y + 0.5)), ValueError, "got .*5"),
    "no largest": (lambda: plots.rootogram(POISSON, PARAMS, DATA, largest=0), ValueError, "largest must be 1 or more"),
    "paths": (lambda: plots.path(path_of((2,))), ValueError, "path has lanes"),
    "names of a path": (lambda: plots.path(path_of(), names=["age"]), ValueError, "names must be 3"),
    "a path of a fit": (lambda: plots.path(fit_of()), TypeError, "gj.fit_path"),
    "no history": (lambda: plots.learning_curves(fit_of()), ValueError, "fit has no history"),
    "a grid": (lambda: plots.learning_curves(lanes_of(history_of(), (2,))), ValueError, "fit has lanes"),
    "all failed": (
        lambda: plots.learning_curves(history_of()._replace(status=jnp.full(3, int(gj.Status.NONFINITE)))),
        ValueError,
        "no lane that ended well",
    ),
    "regions of counts": (lambda: plots.decision_regions(POISSON, PARAMS, DATA), ValueError, "this model is poisson"),
    "regions of three": (
        lambda: plots.decision_regions(LOGISTIC[0], PARAMS, CLASSES._replace(x=jnp.ones((N, 3)))),
        ValueError,
        "data.x has 3",
    ),
    "regions with an offset": (
        lambda: plots.decision_regions(*LOGISTIC, CLASSES._replace(offset=jnp.ones(N))),
        ValueError,
        "no offset",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_drawn(case):
    call, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        call()
    assert not plt.get_fignums()
