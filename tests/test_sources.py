"""Parquet files as rows: categories as columns of 0 and 1, folders and data sets, and whose row groups are whose."""

import re
from itertools import combinations

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

import glmjax as gj
from glmjax import rowgroups, streaming

N = 900
RNG = np.random.default_rng(4)
AGE, ZONE = RNG.standard_normal(N), RNG.integers(1, 4, N)
REGION, SEX = RNG.choice(["south", "north", "east", "a b"], N), RNG.choice(["m", "f"], N)
Y = RNG.poisson(np.exp(0.3 * AGE + 0.5 * (REGION == "east") - 0.4 * (SEX == "m"))).astype(float)
COLUMNS = {"age": AGE, "region": REGION, "zone": ZONE, "sex": SEX, "y": Y}
NAMES = ("age", "region[T.east]", "region[T.north]", "region[T.south]", "sex[T.m]")
DUMMIES = [AGE, *(level == REGION for level in ("east", "north", "south")), SEX == "m"]


def table_of(columns):
    """The text of `sex` as a dictionary, that of `region` as text."""
    table = pa.table(columns)
    at = table.column_names.index("sex")
    return table.set_column(at, "sex", table["sex"].dictionary_encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows")
    for i, (a, b) in enumerate(((0, 350), (350, 800), (800, N))):
        part = {name: column[a:b] for name, column in COLUMNS.items()}
        parquet.write_table(table_of(part), place / f"{i}.parquet", row_group_size=100)
    (place / "notes.txt").write_text("no rows")
    return place


def rows_of(source):
    parts = list(source)
    return tuple(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))


@pytest.mark.parametrize("how", ["folder", "files", "dataset"])
def test_text_and_dictionaries_are_columns_of_levels(folder, how):
    files = [folder / f"{i}.parquet" for i in range(3)]
    paths = {"folder": folder, "files": files, "dataset": dataset.dataset([str(file) for file in files])}[how]
    source = streaming.parquet_source(paths, ["age", "region", "sex"], "y", rows=64)
    assert source.columns == NAMES
    x, y = rows_of(source)
    np.testing.assert_array_equal(x, np.stack(DUMMIES, axis=1))
    np.testing.assert_array_equal(y, Y)
    frame = pd.get_dummies(pd.DataFrame(COLUMNS)[["region", "sex"]], drop_first=True)
    np.testing.assert_array_equal(x[:, 1:], frame.to_numpy())
    assert [part.rows for part in source.parts] == [100, 100, 100, 50, 100, 100, 100, 100, 50, 100]
    np.testing.assert_array_equal(np.concatenate([rows_of(part.read())[1] for part in source.parts]), Y)


def test_a_fit_is_that_of_the_frame(folder):
    source = streaming.parquet_source(folder, ["age", "region", "sex"], "y")
    found = streaming.fit_newton(gj.glm(gj.poisson()), source, rows=256)
    fitted = gj.frames.fit("y ~ age + region + sex", pd.DataFrame(COLUMNS), gj.poisson())
    wanted = gj.frames.coefficients(fitted)
    assert tuple(wanted) == ("Intercept", *source.columns)
    np.testing.assert_allclose([found.params.b, *found.params.w], list(wanted.values()), rtol=1e-10)


def test_levels_may_be_given_and_numbers_be_categories(folder):
    order = {"region": ["south", "a b", "east", "north", "west"], "zone": [3, 1, 2]}
    source = streaming.parquet_source(folder, ["region", "zone", "age"], "y", levels=order)
    names = ("region[T.a b]", "region[T.east]", "region[T.north]", "region[T.west]", "zone[T.1]", "zone[T.2]", "age")
    assert source.columns == names
    expected = [*(level == REGION for level in order["region"][1:]), ZONE == 1, ZONE == 2, AGE]
    np.testing.assert_array_equal(rows_of(source)[0], np.stack(expected, axis=1))


def test_what_is_read_of_text_are_codes(folder):
    groups = [group for file in rowgroups.files_of(folder) for group in _groups(file)]
    for _, batch in rowgroups.batches(groups, ["region", "sex"], ["region", "sex"], 64):
        assert all(pa.types.is_dictionary(column.type) for column in batch.columns)


def _groups(file):
    names = rowgroups.Names(("region", "sex"), "y", None, None, None, None)
    return rowgroups.footer_of(file, names, {}).groups


def test_every_row_is_of_one_part(folder):
    files = [folder / f"{i}.parquet" for i in range(3)]
    for m in (1, 2, 3, 10):
        sources = [streaming.parquet_source(files, ["age", "sex"], "y", part=(i, m)) for i in range(m)]
        np.testing.assert_array_equal(np.concatenate([rows_of(source)[1] for source in sources]), Y)
        assert len({source.columns for source in sources}) == 1
    for part, message in [
        ((2, 2), r"part=\(2, 2\); the parts of 2 are 0 to 1"),
        ((0, 11), "but there are 10 row groups in all"),
        ((-1, 2), r"part\[0\] must be 0 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            streaming.parquet_source(files, ["age"], "y", part=part)


def test_parts_are_as_even_as_row_groups_allow():
    """Against all cuts there are: the largest part is at most a row group larger than the best."""
    for sizes in ([100] * 10, [5, 1, 1, 1, 9, 3, 3], [100, 1, 1], [1, 1, 100], [7, 7, 2, 9, 1]):
        groups = [rowgroups.Group(None, i, len(sizes), size) for i, size in enumerate(sizes)]
        for m in (2, 3):
            runs = [rowgroups.run_of(groups, (i, m)) for i in range(m)]
            assert [group for run in runs for group in run] == groups
            found = max(sum(group.rows for group in run) for run in runs)
            cuts = combinations(range(1, len(sizes)), m - 1)
            best = min(max(map(sum, np.split(sizes, cut))) for cut in cuts)
            assert found <= best + (0 if len(set(sizes)) == 1 else max(sizes))
            assert min(map(len, runs)) > 0


def write(path, columns, **options):
    parquet.write_table(pa.table(columns), path, **options)
    return path


def test_bad_categories_are_refused_in_words(tmp_path, folder):
    place = re.escape(f"{tmp_path / 'odd.parquet'}, row group 1 of 3: ")
    text = {"region": ["a"] * 4 + ["b", None] + ["c"] * 3, "y": np.arange(9.0)}
    path = write(tmp_path / "odd.parquet", text, row_group_size=4)
    with pytest.raises(ValueError, match=place + "column 'region' has rows without a level"):
        streaming.parquet_source(path, ["region"], "y")
    with pytest.raises(ValueError, match=place + "column 'region' has rows without a level"):
        rows_of(streaming.parquet_source(path, ["region"], "y", levels={"region": "abc"}))
    text["region"][5] = "d"
    path = write(tmp_path / "odd.parquet", text, row_group_size=4)
    with pytest.raises(
        ValueError, match=place + "column 'region' has level 'd', which is none of its levels 'a', 'b', 'c'"
    ):
        rows_of(streaming.parquet_source(path, ["region"], "y", levels={"region": "abc"}))
    many = write(tmp_path / "many.parquet", {"id": [f"{i:05}" for i in range(1200)], "y": np.zeros(1200)})
    one = write(tmp_path / "one.parquet", {"region": ["a"] * 9, "y": np.zeros(9)})
    numbers = write(tmp_path / "numbers.parquet", {"region": np.zeros(9), "y": np.zeros(9)})
    dates = write(tmp_path / "dates.parquet", {"day": np.arange(3).astype("datetime64[s]"), "y": np.zeros(3)})
    for arguments, error, message in [
        ((many, ["id"], "y"), ValueError, r"column 'id' has more than 1000 levels, such as .*give levels if that is meant"),
        ((one, ["region"], "y"), ValueError, "levels of column 'region' must be 2 or more different ones, got 'a'"),
        (([one, numbers], ["region"], "y"), TypeError, "column 'region' holds text in some files and numbers in others, such as .*numbers"),
        ((dates, ["day"], "y"), TypeError, r"column 'day' of .*dates.parquet holds timestamp\[ms\], not numbers"),
        ((folder, ["age"], "sex"), TypeError, "column 'sex' of .*0.parquet holds dictionary.*only columns of x may be"),
        ((tmp_path / "none.parquet", ["age"], "y"), FileNotFoundError, "none.parquet"),
        ((folder / "notes.txt", ["age"], "y"), OSError, "notes.txt, its footer, could not be read"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            streaming.parquet_source(*arguments)
    (tmp_path / "empty").mkdir()
    hollow = write(tmp_path / "hollow.parquet", {"age": np.zeros(0), "y": np.zeros(0)})
    for paths, change, message in [
        (hollow, {}, "hollow.parquet has no rows"),
        (tmp_path / "empty", {}, "is a folder without"),
        (folder, {"levels": {"size": "ab"}}, "levels has 'size', which is no column of x"),
        (folder, {"levels": {"region": ["a", "a"]}, "x": ["region"]}, "must be 2 or more different ones, got 'a', 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            streaming.parquet_source(paths, **({"x": ["age"], "y": "y"} | change))


def test_random_parts_of_files_are_an_epoch(folder):
    """SGD visits row groups in random order; each row once."""
    source = streaming.parquet_source(folder, ["age", "region", "sex"], "y")
    options = {"learning_rate": 0.03, "epochs": 40, "rows": 64, "buffer": 128, "batch_size": 32}
    fit = streaming.fit_sgd(gj.glm(gj.poisson()), source, jax.random.key(0), **options)
    best = gj.fit_newton(gj.glm(gj.poisson()), gj.make_data(np.stack(DUMMIES, axis=1).astype(float), Y))
    assert float(fit.loss - best.loss) < 5e-3
    assert int(fit.steps) == 40 * -(-N // 32)


def test_single_precision_stays_single(tmp_path):
    columns = {"a": AGE.astype(np.float32), "region": REGION, "y": Y}
    path = write(tmp_path / "single.parquet", columns)
    part = next(iter(streaming.parquet_source(path, ["a", "region"], "y")))
    assert part.x.dtype == part.y.dtype == np.float32
    assert next(iter(streaming.parquet_source(path, ["region"], "y"))).x.dtype == np.float64
