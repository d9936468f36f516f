"""Fits and tables from sources: memory's numbers, whatever the chunks; files; and sources that are none."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import glmjax as gj
from glmjax import chunking, streamed, streaming

N, D, ROWS = 2500, 4, 256  # ten chunks, of which the first is the sample, and the last is not full
RNG = np.random.default_rng(8)
X = RNG.standard_normal((N, D)) * [1, 10, 0.1, 1] + [0, 5, 0, 1]
ETA = X @ [0.3, -0.05, 1, 0.1] + 0.2
OFFSET, WEIGHT = 0.2 * RNG.standard_normal(N), RNG.integers(0, 4, N).astype(float)
UNIFORM = RNG.random(N)
PRECISION = 0.5 + UNIFORM
CASES = {
    "poisson": (gj.glm(gj.poisson()), RNG.poisson(np.exp(ETA + OFFSET)), {"offset": OFFSET, "weight": WEIGHT}, gj.hc3),
    "bernoulli": (gj.glm(gj.bernoulli(), bias=False), (1 / (1 + np.exp(-ETA)) > UNIFORM).astype(float), {}, gj.fisher),
    "gamma": (gj.glm(gj.gamma("log")), RNG.gamma(2, np.exp(ETA) / 2), {"precision": PRECISION}, gj.hc1),
    "classes": (gj.glm(gj.categorical(3, reference=1)), RNG.integers(0, 3, N), {}, gj.fisher),
}
POISSON, COUNTS, _, _ = CASES["poisson"]


def close(found, wanted, rtol=1e-10, atol=1e-12):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def same_fit(found, wanted):
    assert gj.Status(int(found.status)) == gj.Status(int(wanted.status))
    close((found.params, found.loss, found.model, found.l2), (wanted.params, wanted.loss, wanted.model, wanted.l2))
    close((found.aliased, found.infinite), (wanted.aliased, wanted.infinite))
    assert found.params.w.shape == wanted.params.w.shape


@pytest.mark.parametrize("case", CASES)
def test_fits_and_tables_are_those_of_memory(case):
    model, y, parts, covariance = CASES[case]
    y = np.asarray(y, float)
    data = gj.make_data(X, y, family=model.family, **parts)
    wanted = gj.fit_newton(model, data)
    source = streaming.array_source(X, y, rows=700, **parts)
    found = streaming.fit_newton(model, source, rows=ROWS)
    same_fit(found, wanted)
    assert float(found.optimality) < 1e-7  # before the last step
    table = streaming.inference(source, found, covariance=covariance, rows=ROWS)
    expected = gj.inference(data, wanted, covariance=covariance)
    for name in expected._fields:
        if name not in ("names", "model", "steps"):
            np.testing.assert_allclose(getattr(table, name), getattr(expected, name), 1e-10, 1e-13, err_msg=name)
    assert table.names == expected.names
    # the optimum by its definition, in NumPy
    if case == "poisson":
        residual = WEIGHT * (np.exp(X @ found.params.w + float(found.params.b) + OFFSET) - y)
        assert np.abs(np.c_[np.ones(N), X].T @ residual).max() < 1e-9 * N


def test_penalties_starts_steps_and_passes():
    source = streaming.array_source(X, COUNTS, rows=999)
    data = gj.make_data(X, COUNTS)
    fit = streaming.fit_newton(POISSON, source, l2=0.1, rows=ROWS)
    same_fit(fit, gj.fit_newton(POISSON, data, l2=0.1))
    again = streaming.fit_newton(POISSON, source, l2=0.1, params=fit.params, rows=ROWS)
    close(again.params, fit.params)
    assert int(again.passes) < int(fit.passes) <= 6
    short = streaming.fit_newton(POISSON, source, params=gj.Dense(jnp.zeros(D), jnp.zeros(())), max_steps=1, rows=ROWS)
    assert gj.Status(int(short.status)) == gj.Status.MAX_STEPS


def sorted_rows():
    order = np.argsort(X[:, 0])
    return gj.glm(gj.poisson()), X[order], COUNTS[order]


def dependent():
    return gj.glm(gj.poisson()), np.c_[X[:, :3], X[:, 0] - 2 * X[:, 1]], COUNTS


def ill():
    return gj.glm(gj.poisson()), np.c_[X[:, :3], X[:, 0] + 3e-6 * X[:, 3]], COUNTS


def separated():
    return gj.glm(gj.bernoulli()), X, (X[:, 0] > 0.5).astype(float)


def separated_by_a_level():
    level = (np.arange(N) % 50 == 0).astype(float)
    return gj.glm(gj.poisson()), np.c_[X[:, :3], level], np.where(level == 1, 0, COUNTS)


def constant_column():
    return gj.glm(gj.poisson(), bias=False), np.c_[X[:, :3], np.full(N, 7.0)], COUNTS


def no_events_at_first():
    return gj.glm(gj.poisson()), X, np.where(np.arange(N) < 2 * ROWS, 0.0, COUNTS)


@pytest.mark.parametrize(
    "make", [sorted_rows, dependent, ill, separated, separated_by_a_level, constant_column, no_events_at_first]
)
def test_hard_cases_end_as_in_memory(make):
    model, x, y = make()
    wanted = gj.fit_newton(model, gj.make_data(x, y))
    found = streaming.fit_newton(model, streaming.array_source(x, y), rows=ROWS)
    assert gj.Status(int(found.status)) == gj.Status(int(wanted.status))
    close((found.aliased, found.infinite), (wanted.aliased, wanted.infinite))
    # Digits lost to the condition; coefficients on their way to infinity are wherever the run has ended.
    rtol = {"ill": 1e-7}.get(make.__name__, 1e-9)
    close(found.loss, wanted.loss, 1e-9)
    if wanted.status != gj.Status.SEPARATED:
        close(found.params, wanted.params, rtol)
    if make is ill:
        data = gj.make_data(x, y)
        table = streaming.inference([data], wanted, rows=ROWS)
        close(table.std_error, gj.inference(data, wanted).std_error, 1e-8)


def test_it_compiles_once(monkeypatch):
    traced = []

    def counted(*args):
        traced.append(args[2].x.shape)
        return streamed_pass(*args)

    streamed_pass = streamed.information_pass
    monkeypatch.setattr(streamed, "information_pass", counted)
    x = X[:, :2]
    for n, l2 in ((N, 0.0), (N - 77, 0.3)):
        source = streaming.array_source(x[:n] + l2, COUNTS[:n], rows=300)
        fit = streaming.fit_newton(gj.glm(gj.poisson()), source, l2=l2, rows=ROWS)
        assert fit.status == gj.Status.CONVERGED
    assert traced == [(ROWS, 2)]


def test_files_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", COUNTS)
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")
    parts = list(streaming.array_source(x, y, rows=1000))
    assert [len(part.x) for part in parts] == [1000, 1000, 500]
    assert all(np.shares_memory(part.x, x) for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), X)
    source = streaming.array_source(x, y, rows=1000)
    assert streaming.count_rows(source) == streaming.count_rows(source, rows=64) == N
    same_fit(streaming.fit_newton(POISSON, source, rows=ROWS), gj.fit_newton(POISSON, gj.make_data(X, COUNTS)))


def written(path, columns, group=400):
    parquet.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_parquet(tmp_path):
    names = [f"x{j}" for j in range(D)]
    columns = {name: X[:, j] for j, name in enumerate(names)}
    columns |= {"y": COUNTS, "years": np.exp(OFFSET), "copies": WEIGHT.astype(int), "text": ["no number"] * N}
    files = [
        written(tmp_path / f"{i}.parquet", {name: part[i * 1300 : (i + 1) * 1300] for name, part in columns.items()})
        for i in range(2)
    ]
    source = streaming.parquet_source(files, names, "y", weight="copies", exposure="years", rows=333)
    data = gj.make_data(X, COUNTS, offset=OFFSET, weight=WEIGHT)
    same_fit(streaming.fit_newton(POISSON, source, rows=ROWS), gj.fit_newton(POISSON, data))
    one = next(iter(streaming.parquet_source(files[0], ["x1"], ["y", "copies"], precision="years")))
    assert one.x.shape == (400, 1)
    np.testing.assert_array_equal(one.y, np.c_[COUNTS, WEIGHT][:400])
    np.testing.assert_allclose(one.precision, np.exp(OFFSET)[:400])
    for change, error, message in [
        ({"y": "z"}, ValueError, "0.parquet has no column 'z'; it has x0, x1, x2, x3, y"),
        ({"y": "text"}, TypeError, "column 'text' of .*0.parquet holds string, not numbers"),
        ({"x": "x0"}, TypeError, re.escape("got 'x0'; write ['x0']")),
        ({"paths": []}, ValueError, "paths is empty"),
        ({"paths": 3}, TypeError, "paths must be a file, a folder, files or a dataset, got int"),
        ({"y": []}, ValueError, "y is empty; name the targets' column"),
        ({"levels": ["x0"]}, TypeError, r"levels must be such as .*, got list"),
        ({"part": 2}, TypeError, r"part must be \(i, m\), the i-th of m runs of row groups, got 2"),
        ({"offset": "x0", "exposure": "years"}, ValueError, "not both"),
    ]:
        with pytest.raises(error, match=message):
            streaming.parquet_source(**({"paths": files, "x": names, "y": "y"} | change))


def test_a_damaged_file_is_named_with_its_row_group(tmp_path):
    path = written(tmp_path / "rows.parquet", {"x": X[:, 0], "y": COUNTS})
    place = parquet.read_metadata(path).row_group(4).column(0)
    whole = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    whole[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(whole)
    with pytest.raises(OSError, match=r"rows.parquet, row group 4 of 7, could not be read: "):
        streaming.fit_newton(POISSON, streaming.parquet_source(path, ["x"], "y"), rows=ROWS)


def missing(row):
    x = X.copy()
    x[row, 2] = np.nan
    return x


class Shrinking:
    """A source that has fewer rows the second time."""

    def __init__(self):
        self.left = 3

    def __iter__(self):
        self.left -= 1
        return iter([gj.Data(X[:500], COUNTS[:500])] * self.left)


A, B = gj.Data(X[:500], COUNTS[:500]), gj.Data(X[500:900], COUNTS[500:900])
BAD = {
    "no rows": ([], ValueError, "the source is empty: it yields no rows"),
    "only empty chunks": ([gj.Data(X[:0], COUNTS[:0])], ValueError, "the source is empty"),
    "a generator": ((part for part in [A, B]), TypeError, "source is a generator, which can be read once only"),
    "fewer rows": (Shrinking(), ValueError, "1000 rows the first time and 500 in pass 2; .*read once only"),
    "data": (A, TypeError, "chunk by chunk; for one in memory use"),
    "a number": (3, TypeError, "must be iterable and yield Data, got int"),
    "no Data": ([A, (X, COUNTS)], TypeError, "chunk 1 of the source is a tuple, not a Data"),
    "columns": ([A, B._replace(x=B.x[:, :3])], ValueError, r"x of chunk 1 of the source is \(400, 3\), of chunk 0"),
    "dtype": ([A, B._replace(x=B.x.astype(np.float32))], TypeError, "x of chunk 1 of the source is float32, of chunk 0 float64"),
    "weights": ([A, B._replace(weight=np.ones(400))], ValueError, "chunk 1 of the source has weight and chunk 0 has not"),
    "no offset": ([A._replace(offset=np.ones(500)), B], ValueError, "chunk 0 of the source has offset and chunk 1 has not"),
    "lengths": ([A, B._replace(y=B.y[:5])], ValueError, r"chunk 1 of the source has 400 rows of x, but y of shape \(5,\)"),
    "one axis": ([A._replace(x=X[0])], ValueError, r"chunk 0 of the source has x of shape \(4,\)"),
    "a target": ([A, B._replace(y=B.y - 5 * (np.arange(400) == 7))], ValueError, r"chunk 1 of the source: y\[7\] = -\d.* poisson"),
    "x missing": (streaming.array_source(missing(1234), COUNTS, rows=500), ValueError, "chunk 2 of the source: x contains NaN at row 234, column 2"),
    "an offset": ([A._replace(offset=np.full(500, np.inf))], ValueError, "chunk 0 of the source: offset contains inf"),
    "no weight": ([A._replace(weight=np.zeros(500))] * 2, ValueError, "weight is 0 in every row"),
    "negative": ([A._replace(weight=-np.ones(500))], ValueError, r"chunk 0 of the source: weight\[0\] = -1"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_sources_are_refused_in_words(what):
    source, error, message = BAD[what]
    with pytest.raises(error, match=message):
        streaming.fit_newton(POISSON, source, rows=ROWS)


def test_what_a_source_cannot_do_is_refused_in_words():
    fit = gj.fit_newton(POISSON, gj.make_data(X, COUNTS))
    for change, message in [
        ({"covariance": gj.observed}, "covariance=observed is not made of sums over chunks"),
        ({"covariance": gj.clustered(np.arange(N) % 9)}, "is not made of sums over chunks"),
        ({"dispersion": gj.likelihood_dispersion}, "dispersion=likelihood_dispersion takes rows in memory"),
    ]:
        with pytest.raises(ValueError, match=message):
            streaming.inference([A], fit, **change)
    with pytest.raises(ValueError, match="does not estimate alpha"):
        streaming.fit_newton(gj.glm(gj.negative_binomial()), [A])
    with pytest.raises(ValueError, match=r"lengths \{'x': 2500, 'y': 3\}"):
        streaming.array_source(X, COUNTS[:3])


def test_inert_rows_may_hold_anything():
    x, y = missing(1234), np.where(np.arange(N) == 77, np.nan, COUNTS)
    weight = np.where((np.arange(N) == 1234) | (np.arange(N) == 77), 0.0, WEIGHT)
    fit = streaming.fit_newton(POISSON, streaming.array_source(x, y, weight=weight, rows=500), rows=ROWS)
    same_fit(fit, gj.fit_newton(POISSON, gj.make_data(x, y, weight=weight)))


def test_chunks_are_of_one_shape_and_lose_no_row():
    parts = [gj.Data(X[a:b], COUNTS[a:b]) for a, b in ((0, 3), (3, 3), (3, 700), (700, 1024), (1024, N))]
    chunks = list(chunking.chunks_of(chunking.parts_of(parts), 512, chunking.Pages()))
    assert [count for _, count in chunks] == [512] * 4 + [N - 2048]
    assert {chunk.x.shape for chunk, _ in chunks} == {(512, D)}
    np.testing.assert_array_equal(np.concatenate([chunk.x for chunk, _ in chunks])[:N], X)
    assert sum(chunk.weight.sum() for chunk, _ in chunks) == N


def test_progress_is_a_line_a_pass(capsys):
    source = streaming.Source(partial(iter, [A, B]))
    fit = streaming.fit_newton(POISSON, source, rows=ROWS, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == int(fit.passes)
    assert re.fullmatch(r"pass 1: 900 rows, [\d.e+]+ rows a second", lines[0])
