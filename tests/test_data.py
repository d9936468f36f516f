"""The one door: every kind of input that people hold, and every bad one with its message."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from problems import problem

import glmjax as gj

X = np.arange(12.0).reshape(6, 2) / 7
Y = np.array([0.0, 1, 0, 1, 1, 0])


def with_value(array, index, value):
    array = np.array(array, dtype=object if isinstance(value, str) or value is None else None)
    array[index] = value
    return array


# good input -----------------------------------------------------------------------------------------------------------

FRAMES = {
    "numpy": (X, Y),
    "lists": (X.tolist(), Y.tolist()),
    "jax": (jnp.array(X), jnp.array(Y)),
    "pandas": (pd.DataFrame(X, columns=["a", "b"]), pd.Series(Y, index=range(6, 0, -1))),
    "pandas nullable": (pd.DataFrame(X).astype("Float64"), pd.Series(Y).astype("Int64")),
    "pandas twice the label": (pd.DataFrame(X, columns=["a", "a"]), pd.Series(Y)),
    "polars": (pl.DataFrame(X), pl.Series(Y)),
    "arrow": (pa.table({"a": X[:, 0], "b": X[:, 1]}), pa.chunked_array([Y])),
    "fortran order": (np.asfortranarray(X), Y),
    "not contiguous": (np.repeat(X, 2, axis=1)[:, ::2], np.repeat(Y, 2)[::2]),
    "big-endian": (X.astype(">f8"), Y.astype(">f8")),
    "object numbers": (X.astype(object), Y.astype(object)),
    "unmasked masked array": (np.ma.masked_array(X), np.ma.masked_array(Y)),
    "bool target": (X, Y.astype(bool)),
    "object booleans": (X, Y.astype(bool).astype(object)),
    "uint8 target": (X, Y.astype(np.uint8)),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_input_gives_the_same_data(kind):
    data = gj.make_data(*FRAMES[kind], family=gj.bernoulli())
    assert data.x.dtype == data.y.dtype == np.float64
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert (data.weight, data.offset, data.precision) == (None, None, None)


@pytest.mark.parametrize("kind", FRAMES)
def test_predict_takes_them_too(kind):
    model = gj.glm(gj.bernoulli())
    params = gj.Dense(jnp.array([1.0, -2.0]), jnp.array(0.5))
    want = 1 / (1 + np.exp(-(X @ [1, -2] + 0.5)))
    np.testing.assert_allclose(gj.predict(model, params, FRAMES[kind][0]), want, rtol=1e-14)


def test_inputs_are_neither_modified_nor_kept():
    x, y, weight = X.copy(), Y.copy(), np.array([0.0, 1, 1, 1, 1, 1])
    x.flags.writeable = False
    data = gj.make_data(x, y, weight=weight)
    y[:] = 9
    np.testing.assert_array_equal(data.y[1:], Y[1:])
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    ("given", "computed"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.int32, np.float64), (bool, np.float64),
     (jnp.bfloat16, np.float32), (np.longdouble, np.float64)],
)  # fmt: skip
def test_dtype_follows_x(given, computed):
    data = gj.make_data(np.ones((6, 2)).astype(given), Y, weight=np.ones(6, int), offset=Y)
    assert {a.dtype for a in jax.tree.leaves(data)} == {np.dtype(computed)}


def test_float64_without_x64_gets_one_warning_and_nothing_wraps():
    with jax.enable_x64(False):
        with pytest.warns(UserWarning, match="x is float64 but JAX runs in float32") as caught:
            gj.make_data(X, Y)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert gj.make_data(X.astype(np.float32), Y).x.dtype == np.float32
            assert gj.make_data(X.tolist(), Y).y.dtype == np.float32
        with pytest.warns(UserWarning, match="whole numbers above 16777216"):
            data = gj.make_data(X.astype(np.float32), np.array([3_000_000_000, 1, 2, 3, 4, 5]))
        assert data.y[0] == 3e9
        with pytest.raises(ValueError, match=r"x = 1e\+39 at row 3, column 1 overflows float32; rescale or enable x64"):
            gj.make_data(with_value(X, (3, 1), 1e39).tolist(), Y)


def test_rows_of_weight_0_are_inert_whatever_they_hold():
    weight = np.array([1.0, 0, 2, 1, 0, 1])
    x, y, offset = X.copy(), Y.copy(), np.zeros(6)
    x[1], y[1], offset[1] = np.nan, np.inf, np.nan
    x[4], y[4] = 1e300, -7
    model = gj.glm(gj.bernoulli())
    params = gj.Dense(jnp.array([1.0, -2.0]), jnp.array(0.5))
    dirty = gj.make_data(x, y, family=gj.bernoulli(), weight=weight, offset=offset)
    keep = weight > 0
    short = gj.make_data(X[keep], Y[keep], weight=weight[keep])
    for f in (gj.loss, gj.deviance):
        np.testing.assert_allclose(f(model, params, dirty), f(model, params, short), rtol=1e-14)
    # The same without the door's help: a Data built by hand, as a user's vmap over weights would.
    raw = gj.Data(*(jnp.array(a) for a in (x, y, weight, offset)))
    for f in (gj.loss, gj.deviance):
        value, slope = jax.value_and_grad(f, argnums=1)(model, params, raw)
        np.testing.assert_allclose(value, f(model, params, short), rtol=1e-14)
        np.testing.assert_allclose(slope.w, jax.grad(f, argnums=1)(model, params, short).w, rtol=1e-13)
    # ... but a row that counts shows.
    assert np.isnan(gj.loss(model, params, raw._replace(weight=jnp.ones(6))))


@pytest.mark.parametrize("huge", [1e308, 1e200, 1e150, np.inf, np.nan])
def test_a_huge_inert_row_is_inert_in_a_network_too(huge, key):
    model, _, data = problem("bernoulli", "mlp")
    weight = jnp.ones(len(data.x)).at[1].set(0)
    want = gj.fit_sgd(model, data._replace(weight=weight), key, epochs=2)
    got = gj.fit_sgd(model, data._replace(weight=weight, x=data.x.at[1, 0].set(huge)), key, epochs=2)
    assert got.status == gj.Status.COMPLETED
    np.testing.assert_allclose(got.params[0].w, want.params[0].w, rtol=1e-12)


def test_what_is_known_is_silenced_and_checked_next_to_what_is_traced():
    x, weight, precision = with_value(X, (1, 0), np.nan), np.array([1.0, 0, 1, 1, 1, 1]), np.array([1, 0, 1.0, 1, 1, 1])
    data = gj.make_data(X, Y, weight=weight, precision=precision)
    assert np.isfinite(gj.loss(gj.glm(gj.normal()), gj.init(gj.glm(gj.normal()), None, 2), data))
    batch = jax.vmap(lambda y: gj.make_data(x, y, weight=weight).x)(np.stack([Y, Y]))
    assert np.isfinite(batch).all()
    with pytest.raises(ValueError, match="x contains NaN"):
        jax.vmap(lambda y: gj.make_data(x, y))(np.stack([Y, Y]))
    jax.vmap(lambda weight: gj.make_data(x, Y, weight=weight).x)(np.stack([weight, weight]))  # the row may be inert


def test_narrowing_is_checked_for_jax_arrays_too():
    with pytest.raises(ValueError, match=r"y = 1e\+39 at index 0 overflows float32"):
        gj.make_data(X.astype(np.float32), jnp.full(6, 1e39))
    with pytest.warns(UserWarning, match="whole numbers above 16777216"):
        gj.make_data(X.astype(np.float32), np.full(6, 16777217.0))


def test_weight_means_copies():
    model, params, data = problem("poisson")
    weight = np.arange(len(data.y)) % 3
    weighted = gj.make_data(data.x, data.y, weight=weight)
    copies = gj.make_data(np.repeat(data.x, weight, axis=0), np.repeat(data.y, weight))
    for f in (gj.loss, gj.deviance):
        np.testing.assert_allclose(f(model, params, weighted), f(model, params, copies), rtol=1e-13)


def test_under_jit_shapes_are_checked_and_values_pass():
    @jax.jit
    def traced(x, y):
        return gj.make_data(x, y, family=gj.poisson())

    assert np.isnan(traced(jnp.full((6, 2), jnp.nan), -jnp.ones(6)).x).all()
    with pytest.raises(ValueError, match="x has 6 rows, y has 5"):
        traced(X, Y[:5])


# bad input ------------------------------------------------------------------------------------------------------------

V, T = ValueError, TypeError
BERNOULLI, COUNTS, CLASSES = gj.bernoulli(), gj.poisson(), gj.categorical(5)

BAD = {
    "x NaN": (V, r"x contains NaN at row 3, column 1 \(1 in total\); drop or impute", (with_value(X, (3, 1), np.nan), Y)),
    "x inf": (V, "x contains inf at row 0, column 0", (with_value(X, (0, 0), np.inf), Y)),
    "x -inf in jax": (V, "x contains -inf at row 0, column 0", (jnp.array(with_value(X, (0, 0), -np.inf)), Y)),
    "y NaN": (V, "y contains NaN at index 4", (X, with_value(Y, 4, np.nan))),
    "y inf": (V, "y contains inf at index 4", (X, with_value(Y, 4, np.inf))),
    "x 1-d": (V, r"x must be 2-d \(n, d\), got shape \(6,\); use x\[:, None\]", (Y, Y)),
    "x 3-d": (V, r"got shape \(6, 2, 1\); for a batch of data sets vmap", (X[..., None], Y)),
    "x scalar": (V, r"got shape \(\)", (3.0, Y)),
    "lengths": (V, "x has 6 rows, y has 5", (X, Y[:5])),
    "y scalar": (V, "x has 6 rows, y has no rows", (X, 1.0)),
    "y (n, 1)": (V, r"y must be \(6,\), got \(6, 1\); use y\[:, 0\]", (X, Y[:, None])),
    "y 3-d": (V, r"y must be \(n,\) or \(n, k\), got shape", (X, np.zeros((6, 2, 2)))),
    "y (n, 2), one output": (V, r"y must have shape \(6,\) for the bernoulli family, got \(6, 2\)", (X, X, BERNOULLI)),
    "y (n,), three outputs": (V, r"y must have shape \(6, 3\) for the normal family, got \(6,\)", (X, Y, gj.normal(3))),
    "no rows": (V, "x has 0 rows", (X[:0], Y[:0])),
    "labels -1, 1": (V, r"y\[0\] = -1.0 is not a target of the bernoulli family.*\(y \+ 1\) / 2", (X, 2 * Y - 1, BERNOULLI)),
    "labels 1, 2": (V, r"y\[1\] = 2.0 .* labels 1 and 2 by y - 1", (X, Y + 1, BERNOULLI)),
    "proportion 1.2": (V, r"y\[2\] = 1.2", (X, with_value(Y, 2, 1.2), BERNOULLI)),
    "class 5 of 5": (V, r"y\[4\] = 5.0 .*\(n_classes=5\).* 0 to n_classes - 1", (X, with_value(Y, 4, 5.0), CLASSES)),
    "class -1": (V, r"y\[4\] = -1.0", (X, with_value(Y, 4, -1), CLASSES)),
    "class 0.5": (V, r"y\[4\] = 0.5", (X, with_value(Y, 4, 0.5), CLASSES)),
    "count -1": (V, r"y\[4\] = -1.0 .* poisson family; each must be a count, 0 or more", (X, with_value(Y, 4, -1), COUNTS)),
    "x strings": (T, "x must be numeric and real, got dtype <U32; one-hot encode", (X.astype(str), Y)),
    "y digit strings": (T, r"y must be numeric.*encode labels to 0\.\.K-1", (X, Y.astype(int).astype(str))),
    "y strings as objects": (T, "got str 'cat' at index 0; encode labels", (X, np.array(["cat"] * 6, object))),
    "x object with None": (V, r"x contains NaN at row 3, column 1", (with_value(X, (3, 1), None), Y)),
    "x complex": (T, "got dtype complex128", (X + 0j, Y)),
    "x datetime": (T, r"got dtype datetime64", (np.zeros((6, 2), "M8[s]"), Y)),
    "x dict": (T, "x must be numeric, got dict", ({"a": 1}, Y)),
    "x None": (V, r"x must be 2-d \(n, d\), got shape \(\)", (None, Y)),
    "one-hot y": (V, r"turn one-hot rows into labels by y.argmax\(axis=1\)", (X, np.eye(6)[:, :5], CLASSES)),
    "family by name": (T, "family must be a Family, such as gj.poisson.., got 'poisson'", (X, Y, "poisson")),
    "masked": (V, r"x has masked values.*\.filled", (np.ma.masked_array(X, X > 1), Y)),
    "ragged": (V, "x is not a rectangular array", ([[1, 2], [3]], Y[:2])),
    "sparse": (T, r"x is a sparse matrix.*x\.toarray\(\)", (scipy.sparse.csr_array(X), Y)),
    "pandas NA": (V, r"row 2, column 1 \('b'\)",
                  (pd.DataFrame({"a": X[:, 0], "b": pd.array([1, 2, None, 4, 5, 6], "Int64")}), Y)),
    "polars null": (V, r"row 2, column 0 \('a'\)", (pl.DataFrame({"a": [1, 2, None, 4, 5, 6]}), Y)),
    "arrow null": (V, r"row 2, column 0 \('a'\)", (pa.table({"a": [1, 2, None, 4, 5, 6]}), Y)),
    "pandas categorical": (T, "column 'a' of x is categorical", (pd.DataFrame({"a": pd.Categorical(list("abcabc"))}), Y)),
    "polars categorical": (T, "column 'a' of x is categorical",
                           (pl.DataFrame({"a": pl.Series(list("abcabc"), dtype=pl.Categorical)}), Y)),
    "arrow dictionary": (T, "column 'a' of x is categorical", (pa.table({"a": pa.array(list("abcabc")).dictionary_encode()}), Y)),
    "pandas strings": (T, "column 'a' of x must be numeric", (pd.DataFrame({"a": list("abcabc")}), Y)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_x_and_y(case):
    error, message, arguments = BAD[case]
    family = arguments[2] if len(arguments) == 3 else None
    with pytest.raises(error, match=message):
        gj.make_data(*arguments[:2], family=family)


@pytest.mark.parametrize("name", ["weight", "precision", "offset"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (with_value(Y, 2, np.nan), "contains NaN at index 2"),
        (with_value(Y + 1, 2, np.inf), "contains inf at index 2"),
        (Y[:5], r"must be \(6,\), one number a row of x, got shape \(5,\)"),
        (Y[:, None], r"must be \(6,\), one number a row of x, got shape \(6, 1\)"),
    ],
)
def test_bad_columns(name, value, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        gj.make_data(X, Y, **{name: value})


def test_bad_weights_and_offsets():
    for name, value, message in [
        ("weight", with_value(Y, 3, -2.0), r"weight\[3\] = -2.0; it must be 0 or more"),
        ("weight", 0 * Y, "weight is 0 in every row"),
        ("precision", Y, r"precision\[0\] = 0.0; it must be above 0"),
        ("offset", with_value(Y, 0, -np.inf), "offset contains -inf at index 0.*exposure of 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            gj.make_data(X, Y, **{name: value})
    with pytest.raises(TypeError, match="weight must be numeric"):
        gj.make_data(X, Y, weight=["a"] * 6)
