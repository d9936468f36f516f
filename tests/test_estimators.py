"""The scikit-learn estimators: its own checks whole, its numbers and statsmodels', and what goes through its tools."""

import collections
import pickle
import subprocess
import sys

import jax
import jax.monitoring
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn import config_context, linear_model
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import d2_tweedie_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import glmjax as gj
from glmjax.buckets import bucket
from glmjax.estimators import (
    GLMClassifier,
    GLMClassifierCV,
    GLMRegressor,
    GLMRegressorCV,
    MLPClassifier,
    MLPRegressor,
)

# One shape: compiling is what takes time.
N, D = 200, 3
RNG = np.random.default_rng(7)
X = RNG.normal(size=(N, D))
EXPOSURE = RNG.uniform(0.5, 2, N)
COUNTS = RNG.poisson(EXPOSURE * np.exp(X @ [0.5, -0.3, 0] + 0.2)).astype(float)
SIZES = RNG.gamma(2.0, np.exp(X @ [0.3, 0, 0.2]) / 2)
CLASSES = np.array(["ant", "bee", "cat"])[np.argmax(X @ RNG.normal(size=(3, 3)) + RNG.gumbel(size=(N, 3)), axis=1)]
TWO = np.where(CLASSES == "ant", "no", "yes")
WEIGHT = RNG.integers(0, 4, N).astype(float)
ALPHAS = [1.0, 0.1, 0.01]


@pytest.mark.filterwarnings("ignore")  # scikit-learn warns itself, and some of its data have no estimate
@pytest.mark.parametrize(
    "estimator",
    [
        GLMRegressor(),
        GLMClassifier(),
        GLMRegressorCV(alphas=ALPHAS),
        GLMClassifierCV(alphas=ALPHAS),
        MLPRegressor(),
        MLPClassifier(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_every_check_of_scikit_learn_passes(estimator):
    """One test an estimator, so that a worker compiles its programs once."""
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= {"check_array_api_input"}  # by variable
    assert len(results) > 50


# numbers --------------------------------------------------------------------------------------------------------------


def logistic(alpha, weight, **options):
    return linear_model.LogisticRegression(C=1 / (alpha * np.sum(weight)), tol=1e-10, max_iter=10_000, **options)


TIGHT = {"tol": 1e-10, "max_iter": 10_000}
PEERS = {
    "poisson": (GLMRegressor(alpha=0.3), linear_model.PoissonRegressor(alpha=0.3, solver="newton-cholesky", **TIGHT), COUNTS),
    "tweedie": (
        GLMRegressor("tweedie", power=1.3, alpha=0.1),
        linear_model.TweedieRegressor(power=1.3, link="log", alpha=0.1, solver="newton-cholesky", **TIGHT),
        COUNTS,
    ),
    "ridge": (GLMRegressor("normal", alpha=0.1), linear_model.Ridge(0.1 * WEIGHT.sum(), solver="cholesky"), SIZES),
    "elastic net": (
        GLMRegressor("normal", alpha=0.2, l1_ratio=0.5),
        linear_model.ElasticNet(alpha=0.2, l1_ratio=0.5, tol=1e-12, max_iter=10_000),
        SIZES,
    ),
    "logistic": (GLMClassifier(alpha=0.02), logistic(0.02, WEIGHT, solver="newton-cholesky"), TWO),
    "softmax": (GLMClassifier(alpha=0.02), logistic(0.02, WEIGHT, solver="newton-cg"), CLASSES),
    "lasso of classes": (
        GLMClassifier(alpha=0.02, l1_ratio=1.0),
        logistic(0.02, WEIGHT, solver="saga", l1_ratio=1.0),
        CLASSES,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("mine", "peer", "y"), PEERS.values(), ids=PEERS)
def test_the_same_objective_as_scikit_learn(mine, peer, y):
    mine.fit(X, y, WEIGHT)
    peer.fit(X, y, WEIGHT)
    np.testing.assert_allclose(mine.coef_, peer.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mine.intercept_, peer.intercept_, rtol=1e-6, atol=1e-6)
    assert np.shape(mine.coef_) == np.shape(peer.coef_)
    assert np.shape(mine.intercept_) == np.shape(peer.intercept_)
    np.testing.assert_array_equal(mine.predict(X[:5]), peer.predict(X[:5])) if y.dtype.kind == "U" else None
    for method in {"predict_proba", "decision_function", "predict_log_proba"} & set(dir(peer)):
        np.testing.assert_allclose(getattr(mine, method)(X), getattr(peer, method)(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.score(X, y, WEIGHT), peer.score(X, y, WEIGHT), rtol=1e-6)


def test_the_same_numbers_as_statsmodels_with_exposure():
    peer = sm.GLM(COUNTS, sm.add_constant(X), sm.families.Poisson(), exposure=EXPOSURE).fit(tol=1e-14, maxiter=100)
    mine = GLMRegressor().fit(X, COUNTS, exposure=EXPOSURE)
    np.testing.assert_allclose(np.r_[mine.intercept_, mine.coef_], peer.params, rtol=1e-8)
    np.testing.assert_allclose(mine.predict(X, exposure=EXPOSURE), peer.mu, rtol=1e-8)
    d2 = 1 - peer.deviance / peer.null_deviance
    np.testing.assert_allclose(mine.score(X, COUNTS, exposure=EXPOSURE), d2, rtol=1e-8)
    np.testing.assert_allclose(mine.score(X, COUNTS, offset=np.log(EXPOSURE)), d2, rtol=1e-8)
    with pytest.warns(UserWarning, match="fitted with an offset or an exposure; predictions without"):
        mine.predict(X)
    probit = GLMClassifier("probit").fit(X, TWO)
    peer = sm.Probit(TWO == "yes", sm.add_constant(X)).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(np.r_[probit.intercept_, probit.coef_[0]], peer.params, rtol=1e-8)


def test_classes_have_weights_and_the_decision_is_the_prediction():
    found = GLMClassifier("cloglog", alpha=0.02, class_weight="balanced").fit(X, TWO)
    times = np.where(TWO == "yes", N / 2 / np.sum(TWO == "yes"), N / 2 / np.sum(TWO == "no"))
    np.testing.assert_allclose(found.coef_, GLMClassifier("cloglog", alpha=0.02).fit(X, TWO, times).coef_, rtol=1e-10)
    np.testing.assert_array_equal(found.decision_function(X) > 0, found.predict(X) == "yes")
    np.testing.assert_array_equal(found.decision_function(X) > 0, found.predict_proba(X)[:, 1] > 0.5)


def test_the_alpha_chosen_is_that_of_a_loop():
    folds = np.arange(N) % 3
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(3)]
    found = GLMRegressorCV(alphas=ALPHAS[::-1], cv=splits, tol=1e-10).fit(X, COUNTS, EXPOSURE)
    want = np.empty((3, 3))
    for i, alpha in enumerate(ALPHAS):
        for k, (train, test) in enumerate(splits):
            mean = GLMRegressor(alpha=alpha).fit(X[train], COUNTS[train], EXPOSURE[train]).predict(X[test])
            y, w = COUNTS[test], EXPOSURE[test]
            terms = np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / mean), 0) - y + mean
            want[i, k] = 2 * (w @ terms) / w.sum()
    np.testing.assert_allclose(found.deviance_path_, want, rtol=1e-7)
    held = [EXPOSURE[test].sum() for _, test in splits]
    assert found.alpha_ == ALPHAS[int(np.argmin(want @ held))]
    np.testing.assert_array_equal(found.alphas_, ALPHAS)
    whole = GLMRegressor(alpha=found.alpha_).fit(X, COUNTS, EXPOSURE)
    np.testing.assert_allclose(found.coef_, whole.coef_, rtol=1e-7)
    assert found.coef_.shape == (D,)
    simpler = clone(found).set_params(one_se=True).fit(X, COUNTS, EXPOSURE)
    assert simpler.alpha_ >= found.alpha_
    groups = list(GroupKFold(3).split(X, COUNTS, groups=folds))
    np.testing.assert_allclose(clone(found).set_params(cv=groups).fit(X, COUNTS, EXPOSURE).alpha_, found.alpha_)


# networks -------------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_seeds_and_says_how_they_differ():
    options = {"hidden_layer_sizes": (5,), "max_iter": 20, "learning_rate_init": 0.01, "random_state": 0}
    found = MLPRegressor("poisson", n_seeds=3, **options).fit(X, COUNTS, exposure=EXPOSURE)
    each = np.stack(
        [
            gj.predict(
                found.fit_.model, jax.tree.map(lambda leaf, i=i: leaf[i], found.fit_.params), X, np.log(EXPOSURE)
            )
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(found.predict(X, exposure=EXPOSURE), each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.predict_spread(X, exposure=EXPOSURE), each.std(axis=0), rtol=1e-9)
    assert found.predict_spread(X, exposure=EXPOSURE).min() > 0
    y = COUNTS
    deviance, null = (
        2 * np.sum(np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / mean), 0) - y + mean)
        for mean in (each.mean(axis=0), EXPOSURE * y.sum() / EXPOSURE.sum())
    )
    np.testing.assert_allclose(found.score(X, y, exposure=EXPOSURE), 1 - deviance / null, rtol=1e-9)
    assert found.n_iter_ == 20
    again = clone(found).fit(X, COUNTS, exposure=EXPOSURE)
    np.testing.assert_array_equal(
        again.predict(X[:3], exposure=EXPOSURE[:3]), found.predict(X[:3], exposure=EXPOSURE[:3])
    )
    gamma = MLPRegressor("gamma", **options).fit(X, SIZES)
    assert (gamma.predict(X) > 0).all()
    np.testing.assert_allclose(gamma.score(X, SIZES), d2_tweedie_score(SIZES, gamma.predict(X), power=2), rtol=1e-9)


def test_a_network_learns_what_no_line_can_and_stops_early():
    y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    options = {
        "activation": "logistic",
        "learning_rate_init": 0.05,
        "batch_size": 40,
        "max_iter": 1000,
        "random_state": 1,
    }
    found = MLPClassifier(early_stopping=True, n_seeds=2, **options).fit(X, y)
    assert found.score(X, y) > 0.9
    assert GLMClassifier().fit(X, y).score(X, y) < 0.7
    assert found.n_iter_ < 1000
    assert {gj.Status(status).name for status in found.fit_.status} == {"STOPPED_EARLY"}
    np.testing.assert_allclose(found.predict_proba(X).sum(axis=1), 1)
    assert found.predict_spread(X).shape == (N,)


# scikit-learn's tools -------------------------------------------------------------------------------------------------

PROGRAMS = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: PROGRAMS.update([event]))
COMPILED = "/jax/core/compile/backend_compile_duration"


def test_a_grid_search_compiles_a_handful_of_programs():
    x, y = np.tile(X, (4, 1))[:703], np.tile(COUNTS, 4)[:703]  # folds of 140 and 141 rows
    grid = GridSearchCV(GLMRegressor(), {"alpha": [10.0, 1.0, 0.1, 0.01, 0.001]}, cv=5)
    jax.clear_caches()
    PROGRAMS.clear()
    grid.fit(x, y)
    print(f"{PROGRAMS[COMPILED]} programs of 26 fits and 25 scores")
    assert PROGRAMS[COMPILED] <= 5
    PROGRAMS.clear()
    GridSearchCV(GLMRegressor(), {"alpha": [0.5, 0.05]}, cv=5).fit(x[:690], y[:690])
    assert PROGRAMS[COMPILED] == 0
    assert grid.best_score_ == pytest.approx(np.mean(cross_val_score(grid.best_estimator_, x, y, cv=5)))


@pytest.mark.parametrize("n", [1, 127, 128, 129, 160, 161, 1000, 12_345, 10**7])
def test_buckets_hold_their_rows_and_at_most_a_quarter_more(n):
    assert n <= bucket(n) <= max(128, 1.25 * n)
    assert bucket(bucket(n)) == bucket(n)


def test_filled_rows_change_nothing():
    family = gj.poisson()
    want = gj.fit(gj.glm(family), gj.make_data(X, COUNTS, family=family))
    found = GLMRegressor().fit(X, COUNTS)
    np.testing.assert_allclose(found.coef_, want.params.w, rtol=1e-12)
    np.testing.assert_allclose(found.fit_.loss, want.loss, rtol=1e-12)


def test_pipelines_frames_and_set_output():
    frame = pd.DataFrame({"kind": CLASSES, "a": X[:, 0], "b": X[:, 1]})
    encode = make_column_transformer(
        (OneHotEncoder(drop="first", sparse_output=False), ["kind"]), (StandardScaler(), ["a", "b"])
    )
    model = make_pipeline(encode, GLMRegressor(alpha=0.1)).set_output(transform="pandas").fit(frame, COUNTS)
    names = ["onehotencoder__kind_bee", "onehotencoder__kind_cat", "standardscaler__a", "standardscaler__b"]
    assert model[-1].feature_names_in_.tolist() == names
    assert model[-1].n_features_in_ == 4
    assert model.predict(frame).shape == (N,)
    with pytest.raises(ValueError, match="feature names should match"):
        GLMRegressor().fit(frame[["a", "b"]], COUNTS).predict(frame[["b", "a"]])


def test_exposure_and_weights_are_routed():
    with config_context(enable_metadata_routing=True):
        model = GLMRegressor().set_fit_request(sample_weight=True, exposure=True)
        model = model.set_score_request(sample_weight=True, exposure=True)
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        grid = GridSearchCV(make_pipeline(scaler, model), {"glmregressor__alpha": [0.1, 0.01]}, cv=KFold(2))
        grid.fit(X, COUNTS, sample_weight=WEIGHT, exposure=EXPOSURE)
    half = slice(N // 2, None), slice(0, N // 2)
    scores = []
    for train, test in (half, half[::-1]):
        scaler = StandardScaler().fit(X[train], sample_weight=WEIGHT[train])
        fit = GLMRegressor(alpha=0.1).fit(
            scaler.transform(X[train]), COUNTS[train], WEIGHT[train], exposure=EXPOSURE[train]
        )
        scores.append(fit.score(scaler.transform(X[test]), COUNTS[test], WEIGHT[test], exposure=EXPOSURE[test]))
    np.testing.assert_allclose(grid.cv_results_["mean_test_score"][0], np.mean(scores), rtol=1e-9)


def test_what_is_kept_has_no_data_and_can_be_saved(tmp_path):
    small, large = GLMRegressor().fit(X[:20], COUNTS[:20]), GLMRegressor().fit(X, COUNTS)
    assert abs(len(pickle.dumps(small)) - len(pickle.dumps(large))) < 200
    assert len(pickle.dumps(large)) < 5000
    again = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(again.predict(X), small.predict(X))
    path = gj.save(tmp_path / "model.gj", small.fit_.model, small.fit_)
    saved = gj.load(path)
    np.testing.assert_allclose(gj.predict(saved.fit.model, saved.fit.params, X), small.predict(X), rtol=1e-14)


def test_float64_whatever_jax_is_in_and_nothing_leaks():
    want = GLMRegressor().fit(X, COUNTS)
    with jax.enable_x64(False):
        found = GLMRegressor().fit(X, COUNTS)
        assert not jax.config.jax_enable_x64
        np.testing.assert_allclose(found.coef_, want.coef_, rtol=1e-13)
        assert found.coef_.dtype == found.predict(X).dtype == np.float64
        np.testing.assert_array_equal(found.predict(X), want.predict(X))
        assert found.score(X, COUNTS) == pytest.approx(want.score(X, COUNTS), rel=1e-12)


def test_without_scikit_learn_one_sentence_says_so():
    code = "import sys; sys.modules['sklearn'] = None; import glmjax; import glmjax.estimators"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.stderr.strip().splitlines()[-1]
        == "ImportError: glmjax.estimators needs scikit-learn; pip install 'glmjax[sklearn]'"
    )


# bad input ------------------------------------------------------------------------------------------------------------


def put(array, index, value):
    array = np.array(array, dtype=object if isinstance(value, str) or value is None else None)
    array[index] = value
    return array


def fitted(estimator=None, x=X, y=COUNTS, **parts):
    return lambda: (GLMRegressor() if estimator is None else estimator).fit(x, y, **parts)


def predicted(x, **parts):
    return lambda: GLMRegressor().fit(X, COUNTS).predict(x, **parts)


V, T, C = ValueError, TypeError, ConvergenceWarning
BAD = [
    (1, fitted(x=put(X, (3, 1), np.nan)), V, r"^X contains NaN at row 3, column 1 \(1 in total\); drop or impute$"),
    (1, fitted(x=pd.DataFrame(put(X, (3, 1), np.nan), columns=["a", "b", "c"])), V, r"^X contains NaN at row 3, column 1 \('b'\)"),
    (2, fitted(x=put(X, (3, 1), np.inf)), V, "^X contains inf at row 3, column 1"),
    (4, fitted(x=put(X, (3, 1), 1e308)), V, "^X = 1e.308 at row 3, column 1 is too large: its square overflows float64"),
    (5, fitted(y=put(COUNTS, 4, np.nan)), V, "Input y contains NaN"),
    (7, fitted(x=COUNTS), V, "Expected 2D array, got 1D array"),
    (8, fitted(x=X[None]), V, "dim 3"),
    (10, fitted(y=COUNTS[:-1]), V, "inconsistent numbers of samples"),
    (12, fitted(y=X), V, r"y should be a 1d array, got an array of shape \(200, 3\)"),
    (13, fitted(x=X[:0], y=COUNTS[:0]), V, r"0 sample\(s\)"),
    (17, fitted(GLMClassifier(), y=np.full(N, "a")), V, "^y has one class, .*'a'.*; a classifier wants rows of two classes"),
    (19, fitted(GLMClassifier(), y=TWO, sample_weight=(TWO == "yes") * 1.0), C, r"SEPARATED \(infinite: b = "),
    (24, fitted(GLMRegressor("bernoulli"), y=np.full(N, 1.2)), V, r"^y\[0\] = 1.2 is not a target of the bernoulli family"),
    (25, fitted(y=CLASSES), T, "^y must be numeric and real, got dtype <U3"),
    (27, fitted(y=put(COUNTS, 4, -1)), V, r"^y\[4\] = -1.0 is not a target of the poisson family"),
    (29, fitted(y=0 * COUNTS), C, r"SEPARATED \(infinite: b = -"),
    (31, fitted(GLMRegressor("gamma"), y=COUNTS), V, "not a target of the gamma family; each must be a number above 0"),
    (36, fitted(x=X * [1, 1, 0]), UserWarning, r"RANK_DEFICIENT \(rank 3 of 4, aliased: w\[2\]\)"),
    (40, fitted(x=np.array([["1", "2"]] * N)), V, "not compatible with arrays of bytes/strings"),
    (43, fitted(x=X + 1j), V, "Complex data not supported"),
    (44, fitted(x=np.full((N, 2), np.datetime64("2020-01-01"))), T, "^X must be numeric and real, got dtype datetime64"),
    (47, fitted(x=np.ma.array(X, mask=X > 2)), V, "^X has masked values"),
    (53, fitted(sample_weight=put(WEIGHT, 2, -1)), V, r"^weight\[2\] = -1.0; it must be 0 or more"),
    (53, fitted(sample_weight=0 * WEIGHT), V, "^sample_weight is zero in every row; at least one row must count"),
    (53, fitted(sample_weight=WEIGHT[:-1]), V, r"^sample_weight must be \(200,\), one number a row of X, got shape \(199,\)"),
    (53, fitted(sample_weight=put(WEIGHT, 2, np.nan)), V, "^sample_weight contains NaN at index 2"),
    (54, fitted(offset=put(WEIGHT, 2, -np.inf)), V, "^offset contains -inf at index 2"),
    (55, fitted(exposure=put(EXPOSURE, 2, 0)), V, r"^exposure\[2\] = 0.0; it must be above 0: drop the row"),
    (55, fitted(GLMRegressor("normal"), exposure=EXPOSURE), V, "^exposure is for the log link, and this one is 'identity'"),
    (56, fitted(GLMRegressor(alpha=-1.0)), V, "^alpha must be a finite number, 0 or more, got -1.0"),
    (56, fitted(GLMRegressor(l1_ratio=1.5)), V, "^l1_ratio must be 0 to 1, got 1.5"),
    (56, fitted(GLMRegressor(tol=0.0)), V, "^tol must be"),
    (56, fitted(GLMRegressor(max_iter=0)), V, "^max_steps must be 1 or more"),
    (56, fitted(GLMRegressor("poison")), V, "^family='poison' is unknown; known: normal, bernoulli, .*tweedie, .*, or pass a Family"),
    (56, fitted(GLMRegressor("binomial")), V, "proportions are bernoulli's, with the trials as sample_weight"),
    (56, fitted(GLMRegressor(gj.binomial())), V, "^the binomial family here has more than one number a row"),
    (56, fitted(GLMRegressor(3)), T, "^family must be a name or a Family"),
    (56, fitted(GLMRegressor(link="logit")), V, "^link='logit' is not a link of the poisson family"),
    (56, fitted(GLMRegressor(gj.gamma(), link="log")), V, "^link='log' goes with a family's name"),
    (56, fitted(GLMClassifier("probit"), y=CLASSES), V, "^link='probit' is for two classes, and y has 3"),
    (56, fitted(GLMClassifier(), y=CLASSES, offset=EXPOSURE), V, "^an offset is for two classes"),
    (56, fitted(GLMRegressorCV(cv=ShuffleSplit(3))), V, "^cv=ShuffleSplit.* must put each row into one fold"),
    (56, fitted(MLPRegressor(solver="lbfgs")), V, "^solver='lbfgs' is unknown; known: adam, sgd"),
    (56, fitted(MLPRegressor(learning_rate_init=0.0)), V, "^learning_rate_init must be a finite number above 0"),
    (57, predicted(X[:, :2]), V, "X has 2 features, but GLMRegressor is expecting 3 features"),
    (57, predicted(put(X, (3, 1), np.nan)), V, "^X contains NaN at row 3, column 1"),
    (57, predicted(X, offset=EXPOSURE[:-1]), V, r"^offset must be \(200,\)"),
    (57, lambda: MLPClassifier().predict(X), NotFittedError, "not fitted yet"),
    (60, fitted(GLMRegressor(max_iter=1)), C, "MAX_STEPS .*raise max_steps"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "call", "gets", "message"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_input(number, call, gets, message):
    with pytest.warns(gets, match=message) if issubclass(gets, Warning) else pytest.raises(gets, match=message):
        call()
