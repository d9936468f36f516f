"""Every bad input of the project's table, a row or more a number: the error, the warning or the status it gets, and
what the message must say: the argument, what was found and where, and the remedy.

All 60 numbers are here, for `make_data`, `predict`, `fit_newton`, `fit_lbfgs`, `fit_elastic_net`, `fit_sgd`, `check` and
`check_separation`; their repetition at the scikit-learn door is left for when that is built. Three differ from the
table: 4 raises where the square of an x overflows; 56, a family by its name, is a `TypeError`, as any string; and
`check` sees the fit and not the data, so for 17 and 29 it names the bias and what that came to (`check_separation`
names the class or the counts), and for 35 and 37 the dependent column, not the one it depends on.
"""

import re
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import glmjax as gj
from glmjax import Status

# Rows share shapes: compiling is what takes time.
N, D = 20, 4
X = np.random.default_rng(0).normal(size=(N, D))
LABELS = np.array([0.0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1])
COUNTS = np.array([2.0, 0, 1, 3, 1, 0, 4, 2, 1, 0, 2, 5, 1, 1, 0, 3, 2, 1, 2, 0])
NORMAL, BERNOULLI, POISSON, GAMMA, CLASSES = gj.normal(), gj.bernoulli(), gj.poisson(), gj.gamma(), gj.categorical(5)
V, T, W, R = ValueError, TypeError, UserWarning, RuntimeError
NOTHING = ""  # no message


def put(array, index, value):
    """A copy that holds `value` there; an array of objects for what is no number."""
    array = np.array(array, dtype=object if isinstance(value, str) or value is None else None)
    array[index] = value
    return array


def column(values):
    """X with other values in its last column."""
    return put(X, (slice(None), 3), values)


def data(x=X, y=COUNTS, family=None, **parts):
    return lambda: gj.make_data(x, y, family=family, **parts)


def single(x, y=COUNTS):
    """The same in JAX's default mode, float32."""

    def call():
        with jax.enable_x64(False):
            return gj.make_data(x, y)

    return call


def newton(family, x, y, bias=True, parts=None, **options):
    return lambda: gj.fit_newton(gj.glm(family, bias), gj.make_data(x, y, family=family, **(parts or {})), **options)


def solve(solver, **options):
    key = {"key": jax.random.key(0)} if solver is gj.fit_sgd else {}
    return lambda: solver(gj.glm(POISSON), gj.make_data(X, COUNTS), **key, **options)


def separation(family, x, y):
    return lambda: gj.check_separation(gj.glm(family), gj.make_data(x, y, family=family)).sentence


def predict(x, offset=None, width=3):
    return lambda: gj.predict(gj.glm(NORMAL), gj.Dense(jnp.ones(width), jnp.zeros(())), x, offset)


def frame(**columns):
    return pd.DataFrame({"a": X[:, 0], **columns})


def equal(x=X, y=COUNTS, dtype=np.float64):
    """Holds of a `Data`: these values, in this dtype."""

    def holds(found):
        assert found.x.dtype == found.y.dtype == dtype
        np.testing.assert_array_equal(found.x, np.asarray(x, dtype))
        np.testing.assert_array_equal(found.y, np.asarray(y, dtype))

    return holds


def zeros(*index):
    """Holds of a `Fit`: those weights are aliased and 0, no other is, and predictions are those without them."""

    def holds(fit):
        assert np.flatnonzero(fit.aliased.w).tolist() == list(index)
        assert not fit.aliased.b
        np.testing.assert_array_equal(fit.params.w[np.array(index)], 0)
        without = gj.fit_newton(gj.glm(POISSON), gj.make_data(column(0.0), COUNTS))
        np.testing.assert_allclose(fit.params.w[:3], without.params.w[:3], rtol=1e-10)
        np.testing.assert_allclose(fit.params.b, without.params.b, rtol=1e-10)

    return holds


def infinite(b, *w):
    """Holds of a `Fit`: what goes to infinity."""

    def holds(fit):
        assert np.flatnonzero(fit.infinite.w).tolist() == list(w)
        assert bool(fit.infinite.b) == b

    return holds


def constant(value):
    """Holds of a `Fit`: every eta is `value`."""

    def holds(fit):
        np.testing.assert_allclose(fit.params.b, value, rtol=1e-12)
        np.testing.assert_array_equal(fit.params.w, 0)

    return holds


def in_float32(fit):
    assert {leaf.dtype for leaf in (fit.params.w, fit.params.b, fit.loss)} == {np.dtype(np.float32)}
    truth = np.linalg.lstsq(np.c_[np.ones(N), X], COUNTS)[0]
    np.testing.assert_allclose(np.append(fit.params.b, fit.params.w), truth, atol=0.02)  # bfloat16 has 3 digits of x


def quasi_likelihood(family):
    """Holds where targets of a quasi-likelihood pass, and the family's docstring says so."""

    def holds(found):
        assert "quasi-likelihood" in family.__doc__

    return holds


def group():
    """Counts of which a group has none: w[3] goes to -infinity, and the others are those of the rest."""
    member = np.arange(N) < 6
    return column(member.astype(float)), np.where(member, 0, COUNTS + 1), member


def finite_part(fit):
    _, y, member = group()
    infinite(False, 3)(fit)
    rest = gj.fit_newton(gj.glm(POISSON), gj.make_data(column(0.0), y, weight=~member))
    np.testing.assert_allclose(fit.params.w[:3], rest.params.w[:3], rtol=1e-7)
    np.testing.assert_allclose(fit.params.b, rest.params.b, rtol=1e-7)
    np.testing.assert_allclose(fit.loss, rest.loss * float(np.mean(~member)), rtol=1e-8)


def digits(fit):
    """The two columns, which differ by 1e-9, share the effect of one; about 6 digits of it are right."""
    apart = gj.fit_newton(gj.glm(POISSON), gj.make_data(X, COUNTS))
    np.testing.assert_allclose(fit.params.w[3] * 1e-9, apart.params.w[3], rtol=1e-5)
    np.testing.assert_allclose(fit.loss, apart.loss, rtol=1e-7)


@cache
def absent_class():
    """Lanes: three classes and l2; class 2 absent, with l2; class 2 absent, without."""
    model, labels = gj.glm(gj.categorical(3)), np.arange(N) % 3
    ys, l2 = np.stack([labels, LABELS, LABELS]).astype(float), jnp.array([0.1, 0.1, 0.0])
    base = gj.make_data(X, labels, family=model.family)
    fits = jax.jit(jax.vmap(lambda y, l2: gj.fit_newton(model, base._replace(y=y), l2=l2)))(ys, l2)
    return model, fits


def lane(i):
    return lambda: jax.tree.map(lambda leaf: leaf[i], absent_class()[1])


def two_classes(l2):
    """Holds of a `Fit` without rows of class 2: its probability is 0, those of the others are the logistic model's, the
    softmax of two at twice the penalty.
    """

    def holds(fit):
        found = gj.predict(gj.glm(gj.categorical(3)), fit.params, X)
        logistic = gj.glm(BERNOULLI)
        want = gj.predict(logistic, gj.fit_newton(logistic, gj.make_data(X, LABELS), l2=l2 / 2).params, X)
        np.testing.assert_allclose(found[:, 1], want, rtol=1e-8)
        np.testing.assert_allclose(found[:, 2], 0, atol=1e-9)

    return holds


class Row(NamedTuple):
    """A call, what it gets (an error, a warning, a status, or None where all is well), and what the message says."""

    number: int
    call: Callable[[], Any]
    gets: Any
    message: str = NOTHING
    holds: Callable[[Any], None] | None = None


ROWS = [
    # x and y: values and shapes
    Row(1, data(put(X, (3, 1), np.nan)), V, r"^x contains NaN at row 3, column 1 \(1 in total\); drop or impute$"),
    Row(1, data(jnp.asarray(put(X, (3, 1), np.nan))), V, r"^x contains NaN at row 3, column 1"),
    Row(2, data(put(X, (3, 1), np.inf)), V, r"^x contains inf at row 3, column 1 \(1 in total\); drop or impute$"),
    Row(2, data(put(X, (3, 1), -np.inf)), V, "^x contains -inf at row 3, column 1"),
    Row(3, single(put(X, (3, 1), 1e39).tolist()), V, r"^x = 1e\+39 at row 3, column 1 overflows float32; rescale or enable x64$"),
    Row(3, single(put(X, (3, 1), 1e20).tolist()), V, r"^x = 1e\+20 at row 3, column 1 is too large: its square overflows float32; rescale or"),
    Row(4, data(put(X, (3, 1), 1e308)), V, r"^x = 1e\+308 at row 3, column 1 is too large: its square overflows float64; rescale$"),
    Row(4, data(frame(b=put(X[:, 1], 3, -1e308))), V, r"^x = -1e\+308 at row 3, column 1 \('b'\) is too large"),
    Row(5, data(y=put(COUNTS, 4, np.nan)), V, r"^y contains NaN at index 4 \(1 in total\); drop or impute$"),
    Row(6, data(y=put(COUNTS, 4, np.inf)), V, r"^y contains inf at index 4 \(1 in total\); drop or impute$"),
    Row(7, data(COUNTS), V, r"^x must be 2-d \(n, d\), got shape \(20,\); use x\[:, None\] for one feature$"),
    Row(8, data(X[None]), V, r"got shape \(1, 20, 4\); for a batch of data sets vmap over the first axis$"),
    Row(9, data(3.0), V, r"^x must be 2-d \(n, d\), got shape \(\)"),
    Row(10, data(y=COUNTS[:19]), V, "^x has 20 rows, y has 19; give one target a row$"),
    Row(11, data(y=COUNTS[:, None]), V, r"^y must be \(20,\), got \(20, 1\); use y\[:, 0\]$"),
    Row(11, data(y=COUNTS[:, None], family=POISSON), V, r"^y must be \(20,\), got \(20, 1\)"),
    Row(12, data(y=X[:, :2], family=POISSON), V, r"^y must have shape \(20,\) for the poisson family, got \(20, 2\)"),
    Row(13, data(X[:0], COUNTS[:0]), V, "^x has 0 rows; nothing can be fitted to no data$"),
    Row(13, lambda: gj.fit_newton(gj.glm(NORMAL), gj.Data(X[:0], COUNTS[:0])), V, "^data.x has 0 rows"),
    Row(14, newton(POISSON, X[:, :0], COUNTS), Status.CONVERGED, holds=constant(np.log(COUNTS.mean()))),
    Row(15, newton(POISSON, X[:, :0], COUNTS, bias=False), V, "^nothing to fit: x has no columns and the model no bias; give"),
    Row(15, lambda: gj.fit_sgd(gj.glm(POISSON, bias=False), gj.make_data(X[:, :0], COUNTS), jax.random.key(0)), V, "^nothing to fit"),
    Row(16, newton(POISSON, X[:1], COUNTS[:1]), Status.RANK_DEFICIENT, r"rank 1 of 5, aliased: w\[0\], .* fewer rows than columns.*add l2"),
    Row(16, newton(POISSON, X[:1], COUNTS[:1], l2=0.1), Status.CONVERGED),
    # labels
    Row(17, newton(BERNOULLI, X, 0 * LABELS), Status.SEPARATED, r"infinite: b = -\d\d.*one class only.*check_separation", infinite(True, 0, 1, 2, 3)),
    Row(17, newton(BERNOULLI, X, 0 * LABELS, l2=0.1), Status.SEPARATED, r"\(infinite: b = -\d\d\.\d\).* y has one class.* add rows of the missing kind", infinite(True)),
    Row(17, separation(BERNOULLI, X, 0 * LABELS), None, r"^y has one class \(0\): the bias goes to -infinity; add the other class$"),
    Row(17, separation(BERNOULLI, X, 0 * LABELS + 1), None, r"^y has one class \(1\): the bias goes to \+infinity; add the other class$"),
    Row(19, lane(0), Status.CONVERGED),
    Row(19, lane(1), Status.SEPARATED, r"\(infinite: b\[0\] = \S+, b\[1\] = \S+, b\[2\] = -\d\d\.?\d*\).*lacks a class.*l2 leaves the bias free", two_classes(0.1)),
    Row(19, lane(2), Status.SEPARATED, r"b\[2\] = -\d\d", two_classes(0.0)),
    Row(19, separation(gj.categorical(3), X, LABELS), None, "^y has no rows of class 2: its estimated probability is 0; add rows of it or drop"),
    Row(20, data(y=2 * LABELS - 1, family=BERNOULLI), V, r"^y\[0\] = -1.0 is not a target of the bernoulli family; each must be 0 or 1.*\(y \+ 1\) / 2"),
    Row(21, data(y=LABELS + 1, family=BERNOULLI), V, r"^y\[1\] = 2.0 .*each must be 0 or 1.* labels 1 and 2 by y - 1"),
    Row(22, data(y=put(LABELS, 4, 5), family=CLASSES), V, r"^y\[4\] = 5.0 .* categorical family \(n_classes=5\).* whole number from 0 to n_classes - 1$"),
    Row(22, data(y=put(LABELS, 4, -1), family=CLASSES), V, r"^y\[4\] = -1.0 is not a target of the categorical family \(n_classes=5\)"),
    Row(23, newton(BERNOULLI, X, put(LABELS, 4, 0.5)), Status.CONVERGED, holds=quasi_likelihood(gj.bernoulli)),
    Row(24, data(y=put(LABELS, 4, 1.2), family=BERNOULLI), V, r"^y\[4\] = 1.2 is not .* each must be 0 or 1, or a proportion between them"),
    Row(25, data(y=np.where(LABELS, "yes", "no"), family=BERNOULLI), T, r"^y must be numeric.*encode labels to 0\.\.K-1 with np.unique\(labels, return_inverse=True\)"),
    Row(25, data(y=LABELS.astype(int).astype(str)), T, r"^y must be numeric and real, got dtype <U\d+; encode labels"),
    Row(26, data(y=LABELS > 0, family=BERNOULLI), None, holds=equal(y=LABELS)),
    # counts and sizes
    Row(27, data(y=put(COUNTS, 4, -1), family=POISSON), V, r"^y\[4\] = -1.0 is not a target of the poisson family; each must be a count, 0 or more$"),
    Row(28, newton(POISSON, X, put(COUNTS, 4, 2.5)), Status.CONVERGED, holds=quasi_likelihood(gj.poisson)),
    Row(29, newton(POISSON, X, 0 * COUNTS), Status.SEPARATED, r"infinite: b = -\d\d.*group without events.*check_separation", infinite(True, 0, 1, 2, 3)),
    Row(29, newton(POISSON, X, 0 * COUNTS, l2=0.1), Status.SEPARATED, r"\(infinite: b = -\d\d\.\d\).*counts of 0 only; l2 leaves the bias free", infinite(True)),
    Row(29, separation(POISSON, X, 0 * COUNTS), None, "^all counts are 0: the rate's estimate is 0, the bias goes to -infinity"),
    Row(30, newton(POISSON, *group()[:2]), Status.SEPARATED, r"\(infinite: w\[3\]\).*class or group without events", finite_part),
    Row(30, separation(POISSON, *group()[:2]), None, r"^6 of 20 rows are separated \(row 0, .* no finite estimate of w\[3\].* l2 > 0$"),
    Row(31, data(y=put(COUNTS + 1, 4, 0), family=GAMMA), V, r"^y\[4\] = 0.0 is not a target of the gamma family; each must be a number above 0 .*consider tweedie or a shift"),
    Row(31, data(y=put(COUNTS + 1, 4, -2), family=GAMMA), V, r"^y\[4\] = -2.0 .*number above 0"),
    Row(32, data(X.astype(np.float32), put(COUNTS, 4, 2**24 + 1)), W, "^y has whole numbers above 16777216, which float32 rounds; enable x64$"),
    Row(33, single(X.astype(np.float32), put(COUNTS, 4, 3e9).astype(np.int64)), W, "^y has whole numbers above 16777216", equal(y=put(COUNTS, 4, 3e9), dtype=np.float32)),
    Row(33, single(put(X, (3, 1), 3e9).astype(np.int64)), None, holds=equal(put(X, (3, 1), 3e9).astype(np.int64), dtype=np.float32)),
    Row(34, newton(POISSON, X, COUNTS.astype(np.uint8)), Status.CONVERGED, holds=lambda fit: np.testing.assert_array_equal(fit.params.w, newton(POISSON, X, COUNTS)().params.w)),
    # columns that depend on others
    Row(35, newton(POISSON, column(7.0), COUNTS), Status.RANK_DEFICIENT, r"\(rank 4 of 5, aliased: w\[3\]\).*\(or of the bias\).*drop those columns or add l2", zeros(3)),
    Row(36, newton(POISSON, column(0.0), COUNTS), Status.RANK_DEFICIENT, r"\(rank 4 of 5, aliased: w\[3\]\)", zeros(3)),
    Row(37, newton(POISSON, column(X[:, 1]), COUNTS), Status.RANK_DEFICIENT, r"\(rank 4 of 5, aliased: w\[3\]\): .* combinations of columns before them", zeros(3)),
    Row(38, newton(NORMAL, X[:3], COUNTS[:3]), Status.RANK_DEFICIENT, r"\(rank 3 of 5, aliased: w\[2\], w\[3\]\): .*fewer rows than columns.* add l2"),
    Row(39, lambda: gj.check(newton(POISSON, column(X[:, 1] + 1e-9 * X[:, 3]), COUNTS)()), W, r"^x is ill-conditioned \(rcond \S+\): about \d digits of the coefficients are reliable; drop or combine", digits),
    # x: types and containers
    Row(40, data(X.astype(str)), T, r"^x must be numeric and real, got dtype <U32; one-hot encode"),
    Row(41, data(X.astype(object)), None, holds=equal()),
    Row(41, data(put(X, (3, 1), "3")), T, "^x must be numeric, got str '3' at index 3, 1; one-hot encode"),
    Row(42, data(put(X, (3, 1), None)), V, r"^x contains NaN at row 3, column 1 \(1 in total\); drop or impute$"),
    Row(43, data(X + 0j), T, "^x must be numeric and real, got dtype complex128"),
    Row(44, data(np.zeros((N, D), "M8[s]")), T, r"^x must be numeric and real, got dtype datetime64\[s\]"),
    Row(45, newton(NORMAL, X.astype(np.float16), COUNTS), Status.CONVERGED, holds=in_float32),
    Row(45, newton(NORMAL, X.astype(jnp.bfloat16), COUNTS), Status.CONVERGED, holds=in_float32),
    Row(46, data((4 * X).astype(int)), None, holds=equal((4 * X).astype(int))),
    Row(46, newton(POISSON, X > 0, COUNTS), Status.CONVERGED),
    Row(47, data(np.ma.masked_array(X, X > 1)), V, r"^x has masked values, which are not supported; use \.filled\(value\) or drop the rows$"),
    Row(47, data(y=np.ma.masked_array(COUNTS, COUNTS > 1)), V, "^y has masked values"),
    Row(47, data(np.ma.masked_array(X)), None, holds=equal()),
    Row(48, data(frame(b=pd.array([None, *X[1:, 1]], "Float64"))), V, r"^x contains NaN at row 0, column 1 \('b'\)"),
    Row(49, data(frame(b=pd.Categorical(LABELS))), T, "^column 'b' of x is categorical .*one-hot encode"),
    Row(49, data(frame(b=LABELS.astype(str))), T, "^column 'b' of x must be numeric.*one-hot encode"),
    Row(50, data(pd.DataFrame(X), pd.Series(COUNTS, index=range(N)[::-1])), None, holds=equal()),
    Row(51, data([[1, 2], [3]], [1, 2]), V, "^x is not a rectangular array of numbers"),
    Row(52, data(scipy.sparse.csr_matrix(X)), T, r"^x is a sparse matrix, but only dense arrays are supported; use x\.toarray\(\)$"),
    Row(52, predict(scipy.sparse.csr_array(X)), T, r"^x is a sparse matrix"),
    # weights and offsets
    Row(53, data(weight=put(COUNTS, 2, -1)), V, r"^weight\[2\] = -1.0; it must be 0 or more$"),
    Row(53, data(weight=put(COUNTS, 2, np.nan)), V, "^weight contains NaN at index 2"),
    Row(53, data(weight=put(COUNTS, 2, np.inf)), V, "^weight contains inf at index 2"),
    Row(53, data(weight=0 * COUNTS), V, "^weight is 0 in every row; at least one row must count$"),
    Row(53, data(weight=COUNTS[:19]), V, r"^weight must be \(20,\), one number a row of x, got shape \(19,\)$"),
    Row(53, data(weight=COUNTS[:, None]), V, r"^weight must be \(20,\), one number a row of x, got shape \(20, 1\)$"),
    Row(53, data(precision=COUNTS), V, r"^precision\[1\] = 0.0; it must be above 0$"),
    Row(54, data(offset=put(X[:, 0], 2, np.nan)), V, "^offset contains NaN at index 2"),
    Row(54, data(offset=put(X[:, 0], 2, np.inf)), V, "^offset contains inf at index 2"),
    Row(54, data(offset=X[:19, 0]), V, r"^offset must be \(20,\), one number a row of x, got shape \(19,\)$"),
    Row(54, data(offset=put(X[:, 0], 0, -np.inf)), V, "^offset contains -inf at index 0 .*-inf is the log of an exposure of 0"),
    Row(55, data(offset=put(X[:, 0], 0, np.nan)), V, "^offset contains NaN at index 0 .*NaN of one below 0: drop the row$"),
    # settings
    *(Row(56, solve(solver, l2=-1.0, **more), V, "^l2 must be a finite number, 0 or more, got -1.0$")
      for solver, more in ((gj.fit_newton, {}), (gj.fit_lbfgs, {}), (gj.fit_elastic_net, {"l1": 0.1}), (gj.fit_sgd, {}))),
    *(Row(56, solve(solver, tol=0.0, **more), V, "^tol must be a finite number above 0, got 0.0$")
      for solver, more in ((gj.fit_newton, {}), (gj.fit_lbfgs, {}), (gj.fit_elastic_net, {"l1": 0.1}))),
    *(Row(56, solve(solver, max_steps=0, **more), V, "^max_steps must be 1 or more, got 0$")
      for solver, more in ((gj.fit_newton, {}), (gj.fit_lbfgs, {}), (gj.fit_elastic_net, {"l1": 0.1}))),
    Row(56, solve(gj.fit_elastic_net, l1=-0.1), V, "^l1 must be a finite number, 0 or more, got -0.1$"),
    Row(56, solve(gj.fit_newton, l2=np.array([0, 0, -1.0, 0])), V, r"^l2\[2\] = -1.0; it must be finite, 0 or more$"),
    Row(56, solve(gj.fit_newton, l2="a"), T, "^l2 must be a number, got 'a'$"),
    Row(56, solve(gj.fit_sgd, learning_rate=0.0), V, "^learning_rate must be a finite number above 0, got 0.0$"),
    Row(56, solve(gj.fit_sgd, epochs=-1), V, "^epochs must be 1 or more, got -1$"),
    Row(56, lambda: gj.poisson(link="logit"), V, "^link='logit' is not a link of the poisson family; known: log, identity, sqrt$"),
    Row(56, lambda: gj.glm("poisson"), T, r"^family must be a Family, such as gj.poisson\(\), got 'poisson'; the families are normal, bernoulli, .*tweedie$"),
    Row(57, predict(X), V, "^the parameters are for 3 features, got x with 4"),
    Row(57, predict(put(X[:, :3], (3, 1), np.nan)), V, "^x contains NaN at row 3, column 1"),
    Row(57, predict(X[0, :3]), V, r"^x must be 2-d \(n, d\), got shape \(3,\); use x\[None\] for one row$"),
    Row(57, predict(X[:, :3], COUNTS[:19]), V, r"^offset must be \(20,\), got shape \(19,\)"),
    # layouts: inputs are read and not modified (that is held to in the test below)
    Row(58, data(np.asfortranarray(X)), None, holds=equal()),
    Row(58, data(np.repeat(X, 2, axis=1)[:, ::2], np.repeat(COUNTS, 2)[::2]), None, holds=equal()),
    Row(58, data(X.astype(">f8"), COUNTS.astype(">i4")), None, holds=equal()),
    # values that are not known yet
    Row(59, lambda: jax.jit(lambda x, y: gj.make_data(x, y, family=POISSON))(X, -COUNTS), None, holds=equal(y=-COUNTS)),
    Row(59, lambda: jax.jit(lambda x, y: gj.make_data(x, y, family=POISSON))(X, COUNTS[:19]), V, "^x has 20 rows, y has 19"),
    Row(60, newton(POISSON, X, COUNTS, max_steps=1), Status.MAX_STEPS, r"\(optimality \d\.\de-\d\d\): the optimum was not reached in max_steps.* raise max_steps"),
]  # fmt: skip
LANES = {18}  # rows that are about a `vmap` only


def test_every_row_of_the_table_is_here():
    assert {row.number for row in ROWS} | LANES == set(range(1, 61))


def test_56_the_families_that_are_named_are_all_there_are():
    families = [
        name for name in gj.__all__ if getattr(getattr(gj, name), "__annotations__", {}).get("return") is gj.Family
    ]
    with pytest.raises(T) as error:
        gj.glm("poisson")
    assert set(str(error.value).split("the families are ")[1].split(", ")) == set(families)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.number}-{i}" for i, row in enumerate(ROWS)])
def test_bad_input(row):
    result = None
    if isinstance(row.gets, Status):
        result = row.call()
        assert Status(int(result.status)) == row.gets
        if row.gets.ok:
            gj.check(result)
        elif row.gets.usable:
            with pytest.warns(W, match=row.message):
                gj.check(result)
        else:
            with pytest.raises(R, match=row.message):
                gj.check(result)
    elif row.gets is W:
        with pytest.warns(W, match=row.message):
            result = row.call()
    elif row.gets is None:
        result = row.call()
        assert not row.message or re.search(row.message, result)
    else:
        with pytest.raises(row.gets, match=row.message):
            row.call()
    if row.holds is not None:
        row.holds(result)


def test_58_read_only_and_memory_mapped_inputs_are_not_modified():
    with tempfile.TemporaryFile() as file:
        x = np.memmap(file, dtype=float, shape=X.shape)
        x[:] = X
        y, weight = put(COUNTS, 4, -7), put(np.ones(N), 4, 0)
        for array in (x, y, weight):
            array.flags.writeable = False
        kept = [array.copy() for array in (x, y, weight)]
        found = gj.make_data(x, y, family=POISSON, weight=weight)
        for array, copy in zip((x, y, weight), kept, strict=True):
            np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(found.x[:4], X[:4])
    np.testing.assert_array_equal(found.y[:4], COUNTS[:4])


def test_17_18_59_60_lanes_end_each_their_own_way():
    """One class in a lane, targets out of range in others, too few steps in another: the rest are as without them."""
    model = gj.glm(BERNOULLI)
    base = gj.make_data(X, LABELS, family=BERNOULLI)
    fit = jax.jit(jax.vmap(lambda y, steps: gj.fit_newton(model, base._replace(y=y), max_steps=steps)))
    bad = [
        LABELS,
        0 * LABELS,
        put(LABELS, 4, 1.2),
        LABELS[::-1],
        0 * LABELS + 1,
        put(LABELS, 4, np.nan),
        LABELS,
        1 - LABELS,
    ]
    good = [LABELS, LABELS, LABELS, LABELS[::-1], LABELS, LABELS, LABELS, 1 - LABELS]
    steps = put(np.full(8, 100), 6, 1)
    fits, others = fit(np.stack(bad), steps), fit(np.stack(good), 0 * steps + 100)
    names = [Status(status).name for status in fits.status.tolist()]
    assert names == [
        "CONVERGED", "SEPARATED", "INVALID_TARGET", "CONVERGED", "SEPARATED", "INVALID_TARGET", "MAX_STEPS", "CONVERGED",
    ]  # fmt: skip
    keep = np.array([0, 3, 7])
    for a, b in zip(*(jax.tree.leaves(jax.tree.map(lambda leaf: leaf[keep], f)) for f in (fits, others)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(fits.infinite.b, [False, True, False, False, True, False, False, False])
    assert fits.params.b[1] < -20
    assert fits.params.b[4] > 20
    with pytest.raises(R) as error:
        gj.check(fits)
    for part in ("2 of 8 fits ended INVALID_TARGET (lanes 2, 5)", "1 of 8 fits ended MAX_STEPS (lanes 6)",
                 "2 of 8 fits ended SEPARATED (lanes 1, 4)"):  # fmt: skip
        assert part in str(error.value)


def test_19_a_class_is_absent_in_some_lanes():
    model, fits = absent_class()
    full = jax.tree.map(lambda leaf: leaf[0], fits)
    slope = jax.grad(lambda p: gj.loss(model, p, gj.make_data(X, np.arange(N) % 3), 0.1))(full.params)
    assert max(float(jnp.abs(leaf).max()) for leaf in slope) < 1e-10


def spoiled():
    """Lanes that host checks would have refused, by what is wrong with them, among two that are sound."""
    one = np.ones(N)
    sound = gj.make_data(X, COUNTS, weight=one, offset=0 * one, precision=one)
    lanes = {
        "sound": sound,
        "x NaN": sound._replace(x=put(X, (3, 1), np.nan)),
        "x inf": sound._replace(x=put(X, (3, 1), np.inf)),
        "x too large": sound._replace(x=put(X, (3, 1), 1e308)),
        "offset NaN": sound._replace(offset=put(0 * one, 2, np.nan)),
        "offset -inf": sound._replace(offset=put(0 * one, 2, -np.inf)),
        "weight below 0": sound._replace(weight=put(one, 2, -1)),
        "weight NaN": sound._replace(weight=put(one, 2, np.nan)),
        "weight inf": sound._replace(weight=put(one, 2, np.inf)),
        "weight 0": sound._replace(weight=0 * one),
        "precision 0": sound._replace(precision=put(one, 2, 0)),
        "also sound": sound._replace(y=COUNTS[::-1]),
        "y below 0": sound._replace(y=put(COUNTS, 4, -1)),
        "y NaN": sound._replace(y=put(COUNTS, 4, np.nan)),
        "y inf": sound._replace(y=put(COUNTS, 4, np.inf)),
    }
    return list(lanes), jax.tree.map(lambda *parts: np.stack(parts), *lanes.values())


MODEL, NETWORK = gj.glm(POISSON), gj.mlp(POISSON, (3,), "tanh")
SOLVERS = {
    "newton": lambda data: gj.fit_newton(MODEL, data),
    "lbfgs": lambda data: gj.fit_lbfgs(MODEL, data),
    "lbfgs network": lambda data: gj.fit_lbfgs(NETWORK, data, params=gj.init(NETWORK, jax.random.key(0), D), l2=0.1),
    "elastic net": lambda data: gj.fit_elastic_net(MODEL, data, l1=0.01),
    "sgd": lambda data: gj.fit_sgd(MODEL, data, jax.random.key(0), epochs=2),
}


CASES = [*((solver, True) for solver in SOLVERS), ("sgd", False)]  # all look at the rows by one function


@pytest.mark.parametrize(("solver", "weighted"), CASES)
def test_1_to_6_53_54_59_statuses_of_lanes_that_no_host_check_saw(solver, weighted):
    names, batch = spoiled()
    batch = batch if weighted else batch._replace(weight=None, precision=None)
    fit = jax.jit(jax.vmap(SOLVERS[solver]))
    fits = fit(batch)
    sound = [0, names.index("also sound")]
    for name, status in zip(names, fits.status.tolist(), strict=True):
        if "sound" in name or (not weighted and name.startswith(("weight", "precision"))):
            assert Status(status).ok, name
        else:
            assert Status(status) == (Status.INVALID_TARGET if name.startswith("y") else Status.INVALID_INPUT), name
    lanes = [i if i in sound else 0 for i in range(len(names))]
    others = fit(jax.tree.map(lambda part: part[np.array(lanes)], batch))
    for a, b in zip(jax.tree.leaves(fits.params), jax.tree.leaves(others.params), strict=True):
        for i in sound:
            np.testing.assert_allclose(a[i], b[i], rtol=1e-12, atol=1e-15)


def test_messages_are_all_that_is_said():
    """Good input and a good fit give no warning at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gj.check(newton(POISSON, X, COUNTS)())
