"""Formulas and data frames, against statsmodels' formulas and R."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

import glmjax as gj
from glmjax import frames

WARPBREAKS = [
    *(26, 30, 54, 25, 70, 52, 51, 26, 67, 18, 21, 29, 17, 12, 18, 35, 30, 36, 36, 21, 24, 18, 10, 43, 28, 15, 26),
    *(27, 14, 29, 19, 29, 31, 41, 20, 44, 42, 26, 19, 16, 39, 28, 21, 39, 29, 20, 21, 24, 17, 13, 15, 15, 16, 28),
]


@pytest.fixture(scope="module")
def looms():
    """R's `warpbreaks`, and two numbers that are none of it."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "breaks": WARPBREAKS,
            "wool": np.repeat(["A", "B"], 27),
            "tension": np.tile(np.repeat(["1 low", "2 mid", "3 high"], 9), 2),
            "hours": rng.uniform(1, 3, 54),
            "age": rng.normal(size=54).round(2),
        }
    )


@pytest.fixture(scope="module")
def woven(looms):
    return frames.fit("breaks ~ wool * tension", looms, gj.poisson())


# Statsmodels' formulas on statsmodels' data: family here, family there, formula, its target in statsmodels.
BUNDLED = {
    "fair": (gj.poisson(), sm.families.Poisson(), "affairs ~ C(occupation) + age * children", None),
    "spector": (gj.bernoulli(), sm.families.Binomial(), "GRADE ~ GPA + TUCE + C(PSI)", None),
    "star98": (gj.binomial(), sm.families.Binomial(), "cbind(NABOVE, NBELOW) ~ np.log(PTRATIO) + LOWINC - 1", "NABOVE + NBELOW"),
    "scotland": (gj.gamma("log"), sm.families.Gamma(sm.families.links.Log()), "YES ~ AGE + I(GDP / 1000) + C(MOR > 100)", None),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLED)
def test_tables_are_those_of_statsmodels_formulas_term_by_term(name):
    family, theirs, formula, target = BUNDLED[name]
    frame = getattr(sm.datasets, name).load_pandas().data
    table = frames.fit(formula, frame, family).table
    their_formula = formula if target is None else target + formula[formula.index("~") - 1 :]
    expected = smf.glm(their_formula, frame, family=theirs).fit(tol=1e-12, scale="X2" if name == "scotland" else None)
    names = list(table.names)  # patsy has categories first, R and formulaic the order of the formula
    assert sorted(names) == sorted(expected.params.index)
    np.testing.assert_allclose(table.estimate, expected.params[names], rtol=2e-8, atol=1e-11)
    np.testing.assert_allclose(table.std_error, expected.bse[names], rtol=1e-7)
    np.testing.assert_allclose(table.deviance, expected.deviance, rtol=1e-9)
    np.testing.assert_allclose(table.df_resid, expected.df_resid)
    if name != "star98":  # whose null model here has no intercept, as R's
        np.testing.assert_allclose(table.null_deviance, expected.null_deviance, rtol=1e-9)
    if name != "scotland":  # whose p-values are by t here
        np.testing.assert_allclose(table.p_value, expected.pvalues[names], rtol=1e-5, atol=1e-14)


def test_a_printed_table_is_rs(woven):
    # coef(summary(glm(breaks ~ wool*tension, family=poisson, data=warpbreaks, control=list(epsilon=1e-15))))
    estimate = [
        3.79673684997035,
        -0.456627160288032,
        -0.618683019622404,
        -0.595798725788816,
        0.638176814303405,
        0.188363173693353,
    ]
    std_error = [
        0.0499376169437279,
        0.0801921034767891,
        0.0844002086232245,
        0.0837773982874019,
        0.122153210971552,
        0.12989541986203,
    ]
    np.testing.assert_allclose(woven.table.estimate, estimate, rtol=1e-12)
    np.testing.assert_allclose(woven.table.std_error, std_error, rtol=1e-11)  # R's are of the step before
    assert woven.table.names == (
        "Intercept", "wool[T.B]", "tension[T.2 mid]", "tension[T.3 high]", "wool[T.B]:tension[T.2 mid]", "wool[T.B]:tension[T.3 high]",
    )  # fmt: skip
    assert "wool[T.B]:tension[T.2 mid]" in gj.summary(woven.table)
    assert [(t.name, t.columns) for t in woven.design.terms] == [
        ("wool", (0,)),
        ("tension", (1, 2)),
        ("wool:tension", (3, 4)),
    ]


@pytest.mark.parametrize(
    ("family", "statistic", "p_value"),
    [
        # drop1(glm(breaks ~ wool + tension, poisson), test="Chisq"); anova(that, glm(breaks ~ wool * tension), ...)
        (gj.poisson(), [16.03875253411, 70.94157050804, 28.08675747661], [6.2059e-05, 3.9376e-16, 7.9623e-07]),
        # d / k / summary(glm(breaks ~ wool * tension, Gamma("log")))$dispersion of the same pairs of models, pf(..., k, 48)
        (gj.gamma("log"), [3.4233635160520923, 9.250816934735794916, 3.7652066139827731],
         [0.0704403120059197, 0.000399773611620142, 0.0302724778729206]),
    ],
    ids=["poisson", "gamma"],
)  # fmt: skip
def test_type_2_tests_are_likelihood_ratios_of_nested_models(looms, family, statistic, p_value):
    design, data = frames.read("breaks ~ wool * tension", looms, family)
    tests = frames.type2(design, data, gj.fit(gj.glm(family), data))
    assert tests.names == ("wool", "tension", "wool:tension")
    np.testing.assert_allclose(tests.statistic, statistic, rtol=2e-8)
    np.testing.assert_allclose(tests.df, [1, 2, 2])
    np.testing.assert_allclose(tests.p_value, p_value, rtol=2e-5)


def test_type_3_tests_are_statsmodels_wald_tests_of_terms(looms, woven):
    tests = frames.type3(woven)
    expected = (
        smf.glm("breaks ~ wool * tension", looms, family=sm.families.Poisson())
        .fit(tol=1e-12)
        .wald_test_terms(scalar=True)
        .table
    )
    np.testing.assert_allclose(tests.statistic, expected["statistic"][1:], rtol=1e-7)
    np.testing.assert_allclose(tests.p_value, expected["pvalue"][1:], rtol=1e-5)
    assert "wool:tension" in frames.terms_text(tests)


def test_a_singular_covariance_has_no_test(woven):
    """Two clusters have a covariance of rank one: of two coefficients there is no test, where 1e17 was one."""
    v = jnp.arange(1.0, 1 + len(woven.table.names))
    tests = frames.type3(woven._replace(table=woven.table._replace(covariance=jnp.outer(v, v))))
    assert np.isnan(np.asarray(tests.statistic)).tolist() == [False, True, True]
    np.testing.assert_allclose(tests.statistic[0], (woven.table.estimate[1] / 2) ** 2, rtol=1e-12)


def test_no_terms_have_no_tests(looms):
    design, data = frames.read("breaks ~ 1", looms, gj.poisson())
    tests = frames.type2(design, data, gj.fit(gj.glm(gj.poisson()), data))
    assert (len(tests.names), tests.statistic.shape) == (0, (0,))


def test_an_aliased_column_is_left_out_of_its_terms_test(looms):
    twice = looms.assign(again=(looms.wool == "B") * 1.0)
    tests = frames.type3(frames.fit("breaks ~ wool + again + tension + hours", twice, gj.poisson()))
    assert sorted(np.asarray(tests.df)[:2]) == [0, 1]
    assert np.isfinite(tests.statistic[2])


FORMULA = "breaks ~ poly(age, 2) + center(hours) + C(tension, contr.sum) + offset(log(hours))"


def test_functions_that_keep_a_state_apply_it_to_another_frame_and_in_a_file(looms, tmp_path):
    fitted = frames.fit(FORMULA, looms, gj.poisson())
    whole = frames.predict(fitted, looms)
    design, data = frames.read(FORMULA, looms, gj.poisson())
    np.testing.assert_array_equal(whole, gj.predict(fitted.fit.model, fitted.fit.params, data.x, data.offset))
    loaded = frames.load(frames.save(tmp_path / "model.gj", fitted))
    assert loaded.design == fitted.design == design
    assert gj.summary(loaded.table) == gj.summary(fitted.table)
    part = looms.drop(columns="breaks").iloc[[40, 3, 7]]  # of one tension only: levels are those of the fit
    np.testing.assert_allclose(frames.predict(loaded, part), whole[[40, 3, 7]], rtol=1e-14)


def test_what_was_fitted_holds_no_rows(looms, woven):
    leaves = jax.tree.leaves((woven.fit, woven.table))
    assert max(leaf.size for leaf in leaves) <= 36 < len(looms)
    assert len(json.dumps(woven.design)) < 1000


@pytest.mark.parametrize("kind", ["polars", "arrow", "dict", "categories"])
def test_any_frame_gives_the_same(looms, woven, kind):
    columns = ["breaks", "wool", "tension"]
    frame = {
        "polars": lambda: pl.DataFrame({name: looms[name].tolist() for name in columns}),
        "arrow": lambda: pa.table({name: looms[name].tolist() for name in columns}),
        "dict": lambda: {name: looms[name].to_numpy() for name in columns},
        "categories": lambda: looms.astype({"wool": pd.CategoricalDtype(["A", "B", "unused"])}).set_index("hours"),
    }[kind]()
    fitted = frames.fit("breaks ~ wool * tension", frame, gj.poisson())
    assert fitted.table.names == woven.table.names
    np.testing.assert_array_equal(fitted.table.estimate, woven.table.estimate)
    np.testing.assert_array_equal(frames.predict(woven, frame), frames.predict(woven, looms))


def test_references_and_all_other_columns_are_chosen_by_the_formula(looms, woven):
    other = frames.read("breaks ~ C(wool, contr.treatment('B')) * tension", looms, gj.poisson())[0]
    assert other.columns[0] == "C(wool, contr.treatment('B'))[T.A]"
    few = looms[["breaks", "wool", "tension"]].rename(columns={"tension": "its tension"})
    design, data = frames.read("breaks ~ .", few, gj.poisson())
    assert design.columns == ("wool[T.B]", "its tension[T.2 mid]", "its tension[T.3 high]")
    np.testing.assert_array_equal(data.x[:, 0], (few.wool == "B") * 1.0)
    without = frames.read("breaks ~ wool - 1", looms, gj.poisson())[0]
    assert (without.bias, without.columns) == (False, ("wool[A]", "wool[B]"))
    alone = frames.read("breaks ~ 1", looms, gj.poisson())
    assert alone[1].x.shape == (54, 0)


def test_targets_of_text_are_classes(looms):
    yes = looms.assign(broken=np.where(looms.breaks > 25, "yes", "no"), more=looms.breaks > 25)
    as_text, as_bool = (frames.read(f"{target} ~ hours", yes, gj.bernoulli()) for target in ("broken", "more"))
    np.testing.assert_array_equal(as_text[1].y, as_bool[1].y)
    assert as_text[0].classes == ("no", "yes")
    three = frames.fit("tension ~ hours", looms, gj.categorical(3, reference=0))
    assert three.table.names == ("2 mid: Intercept", "2 mid: hours", "3 high: Intercept", "3 high: hours")
    assert three.design.classes == ("1 low", "2 mid", "3 high")
    mean = frames.predict(three, looms)
    np.testing.assert_allclose(mean.sum(axis=1), 1)
    assert frames.fit("tension ~ hours", looms, gj.categorical(3), l2=0.1).table is None  # K logits have no errors


def test_weights_exposure_and_clusters_are_columns(looms):
    counted = looms.assign(copies=np.arange(54) % 3 + 1.0, firm=np.arange(54) // 6)
    fitted = frames.fit("breaks ~ wool", counted, gj.poisson(), weight="copies", exposure="hours", cluster="firm")
    x = (counted.wool == "B").to_numpy(float)[:, None]
    data = gj.make_data(x, counted.breaks, weight=counted.copies, offset=np.log(counted.hours))
    expected = gj.inference(data, gj.fit(gj.glm(gj.poisson()), data), covariance=gj.clustered(counted.firm.to_numpy()))
    np.testing.assert_array_equal(fitted.table.std_error, expected.std_error)
    np.testing.assert_array_equal(fitted.table.estimate, expected.estimate)


def test_rows_that_miss_a_value(looms, woven):
    holes = looms.copy()
    holes.loc[4, "wool"] = None
    holes.loc[[4, 9], "hours"] = np.nan
    with pytest.raises(
        ValueError, match=r"column 'wool' has no value in row 4, one of 2 rows of 54 .* missing=\"drop\""
    ):
        frames.read("breaks ~ wool + hours", holes, gj.poisson())
    whole = frames.read("breaks ~ wool + hours", looms.drop(index=[4, 9]), gj.poisson())
    kept = frames.read("breaks ~ wool + hours", holes, gj.poisson(), missing="drop", weight=np.ones(54))
    assert (kept[0].dropped, whole[0].dropped) == (2, 0)
    np.testing.assert_array_equal(kept[1].x, whole[1].x)
    assert kept[1].weight.shape == (52,)
    mean = frames.predict(woven, holes, missing="drop")
    assert np.flatnonzero(np.isnan(mean)).tolist() == [4]
    with pytest.raises(ValueError, match="row 4"):
        frames.predict(woven, holes)
    frames.read("breaks ~ tension", holes, gj.poisson())  # a column that is not used may miss some


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.assign(tension=f.tension.where(f.index != 5, "C")), r"column 'tension' has 'C' in row 5, a level that was not seen.*'1 low', '2 mid', '3 high'"),
        (lambda f: f.drop(columns="tension"), "there is no column 'tension'"),
        (lambda f: f.assign(age="old"), "column 'age' holds text, such as 'old'; it was numbers in the fit"),
        (lambda f: f.assign(age=np.inf), "poly.* is (nan|inf) in row 0"),
        (lambda f: f.iloc[:0], "0 rows"),
    ],
    ids=["level", "column", "kind", "infinite", "empty"],
)  # fmt: skip
def test_what_a_frame_to_predict_must_have(looms, change, sentence):
    fitted = frames.fit(FORMULA, looms, gj.poisson())
    with pytest.raises((ValueError, TypeError), match=sentence):
        frames.predict(fitted, change(looms))


def test_an_offset_that_is_not_there_warns(looms):
    fitted = frames.fit("breaks ~ wool", looms, gj.poisson(), exposure="hours")
    with pytest.warns(UserWarning, match="fitted with an offset, and the frame has no column 'hours'"):
        mean = frames.predict(fitted, looms[["wool"]])
    np.testing.assert_allclose(mean * looms.hours, frames.predict(fitted, looms), rtol=1e-14)


VALUES = {  # what a column holds in row 3, and the sentence
    "normal": {"y": ("two", r"column 'y' holds 'two' in row 3"), "a": (1j, "complex|type complex"), "b": (None, r"column 'b' has no value in row 3")},
    "poisson": {"y": (-1.0, r"y\[3\] = -1.0 is not a target of the poisson family"), "a": (np.inf, "a is inf in row 3")},
    "bernoulli": {"y": (2.0, r"y\[3\] = 2.0 is not a target of the bernoulli family"), "a": (1e200, "overflow")},
    "gamma": {"y": (0.0, r"y\[3\] = 0.0 is not a target"), "w": (-1.0, r"weight\[3\] = -1"), "e": (0.0, "is -inf in row 3")},
}  # fmt: skip


@pytest.mark.parametrize(("family", "column"), [(family, column) for family in VALUES for column in VALUES[family]])
def test_bad_values_are_named_with_their_row(family, column):
    value, sentence = VALUES[family][column]
    frame = pd.DataFrame({name: np.ones(6) for name in "yabwe"}).assign(a=np.arange(6.0))
    frame[column] = [value if row == 3 else number for row, number in enumerate(frame[column])]
    with pytest.raises((ValueError, TypeError), match=sentence):
        frames.read("y ~ a + b", frame, getattr(gj, family)(), weight="w", exposure="e")


BAD = {
    "breaks ~ wol": "there is no column 'wol' in the frame; is it 'wool'",
    "nothing ~ wool": "there is no column 'nothing'",
    "breaks ~ wool +": "cannot be read",
    "breaks ~ wool | age": "must have one target and one right side|cannot be read",
    "~ wool": "must have a target",
    "breaks ~ log(age)": r"log\(age\) is (nan|-inf) in row \d+",
    "breaks ~ when": "column 'when' holds datetime",
    "breaks ~ mixed": r"column 'mixed' holds 'three' in row 3, of type str",
    "breaks ~ typed": r"column 'typed' is text, for row 7 has 'x' .* C\(typed\)",
    "wool ~ age": "the target 'wool' holds text, such as 'A', and poisson targets are numbers",
    "breaks ~ offset(hours):wool": "an offset is a term of its own",
    "breaks ~ np.load('model')": "no elementwise function",
    "breaks ~ log(age.__class__)": "no elementwise function",
    "breaks ~ {(lambda: age)()}": "is a program",
    "breaks ~ open('x')": "there is no column 'open'",
    "breaks ~ exp10(age)": "there is no column 'exp10'",
    "-breaks ~ wool": "must have one target",
    "breaks ~ wool + breaks": "the target breaks is on the right side",
    "breaks ~ offset(wool)": "it holds text, and an offset is a number",
    "breaks ~ I(age^2)": r"a power is \*\*",
    "breaks ~ sqrt(hours)": r"sqrt is not known here; write np.sqrt\(a\)",
    "breaks ~ factor(wool)": r"factor is not known here; write C\(a\)",
    "breaks ~ log(`class`)": "'class' is a word of Python's: rename that column",
    "breaks ~ `1`": "no formula can hold a column of the name '1'",
    "breaks ~ euro": "column 'euro' is text, such as '1,5'; write numbers with a point",
    "C(wool) ~ age": r"compare it, as I\(a == 'yes'\)",
    "breaks ~ C(wool, contr.treatment('\"'))": "text there may hold none of",
    "breaks ~ C(wool, contr.mro()[0])": "no contrast",
    "breaks ~ I(np)": "the formula cannot be used on this frame",
}


@pytest.mark.parametrize("formula", BAD)
def test_bad_formulas_and_columns_are_named(looms, formula):
    mixed = looms.age.astype(object).where(looms.index != 3, "three")
    typed = looms.age.astype(str).where(looms.index != 7, "x")
    frame = looms.assign(when=pd.Timestamp("2026-01-01"), mixed=mixed, typed=typed, euro=["1,5", "2,25"] * 27)
    frame = frame.assign(**{"class": 1.0, "1": 2.0})
    with pytest.raises((ValueError, TypeError), match=BAD[formula]):
        frames.read(formula, frame, gj.poisson())


def test_names_of_columns_run_no_code(tmp_path):
    """The frame may come from a stranger too: text in a formula and a column's name together once made code."""
    touch = f"__import__('pathlib').Path('{tmp_path / 'here'}').touch()"
    hidden = f"', {touch}, '"
    across = f"a` + cbind(a, '`{hidden}`') + `a"
    frame = pd.DataFrame({"y": np.ones(4), "a": np.arange(4.0), hidden: np.ones(4), across: np.ones(4)})
    for formula in (f"y ~ cbind(a, '`{hidden}`')", f"y ~ I({touch})", "y ~ ."):
        with pytest.raises(ValueError, match="formula"):
            frames.read(formula, frame, gj.normal())
    _, data = frames.read(f"y ~ a + cbind(a, `{hidden}`)", frame, gj.normal())
    assert data.x.shape == (4, 3)
    assert not (tmp_path / "here").exists()


def test_columns_are_found_by_any_name():
    frame = pd.DataFrame(
        {"y": [1.0, 2, 4], "a b": [1.0, 2, 3], "a_b": [5.0, 1, 2], "x~y": [0.0, 1, 1], "a.b": [7.0, 8, 1]}
    )
    for formula, columns in {
        "y ~ I(`a b` + a_b)": [[6.0, 3, 5]],  # the name that Python has for the one is that of the other
        "`x~y` ~ .": [[1.0, 2, 4], [1, 2, 3], [5, 1, 2], [7, 8, 1]],
        "y ~ `a.b` + log(`a.b`)": [[7.0, 8, 1], np.log([7, 8, 1])],
    }.items():
        np.testing.assert_array_equal(frames.read(formula, frame, gj.normal())[1].x, np.transpose(columns))
    numbered = pd.DataFrame([[1.0, 2, 3], [4, 5, 7]], columns=[0, 2, 3])
    np.testing.assert_array_equal(frames.read("`0` ~ .", numbered, gj.normal())[1].x, [[2, 3], [5, 7]])
    with pytest.raises(ValueError, match="'1'; rename it"):  # which was taken for the intercept
        frames.read("`0` ~ .", numbered.set_axis([0, 1, 2], axis=1), gj.normal())
    with pytest.raises(ValueError, match=r"'a' 2 times"):
        frames.read("y ~ a", pd.DataFrame([[1.0, 2, 3]], columns=["y", "a", "a"]), gj.normal())


def test_integers_do_not_overflow_and_keep_their_names():
    small = pd.DataFrame({"y": [1.0, 2, 3], "k": np.array([3, 200, 7], np.uint8), "n": [3_000_000, 1, 2]})
    x = frames.read("y ~ I(-k) + I(n**3) + n:n + k:n", small, gj.normal())[1].x
    np.testing.assert_array_equal(x, np.transpose([[-3.0, -200, -7], [2.7e19, 1, 8], small.n, [9e6, 200, 14]]))
    holes = {"y": [1.0, 2, 3, 4], "k": [1, None, 3, 1]}
    for frame in (pd.DataFrame(holes).astype({"k": "Int64"}), pl.DataFrame(holes), pa.table(holes)):
        design, _ = frames.read("y ~ C(k)", frame, gj.normal(), missing="drop")
        assert design.columns == ("C(k)[T.3]",)
        assert frames.read("k ~ y", frame, gj.categorical(2), missing="drop")[0].classes == (1, 3)


@pytest.mark.parametrize(
    "kind",
    [
        "string",
        pd.ArrowDtype(pa.string()),
        pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string())),
        pd.CategoricalDtype(["A", "unused", "B"]),
    ],
)
def test_every_kind_of_text_is_a_category(looms, kind):
    _, data = frames.read("breaks ~ wool", looms.astype({"wool": kind}), gj.poisson())
    np.testing.assert_array_equal(data.x[:, 0], looms.wool == "B")


def test_lists_in_a_dict_are_read_as_they_are():
    lists = {"y": [1.0, 2.0, 3.0], "g": ["a", None, "b"], "n": ["a", np.nan, "b"], "m": ["a", 1, "b"]}
    for name in "gn":
        design, _ = frames.read(f"y ~ {name}", lists, gj.normal(), missing="drop")
        assert (design.dropped, design.columns) == (1, (f"{name}[T.b]",))
    with pytest.raises(TypeError, match="column 'm' holds 1 in row 1"):
        frames.read("y ~ m", lists, gj.normal())
    with pytest.raises(ValueError, match=r"column 'a' of the dict must be \(n,\), got shape \(\)"):
        frames.read("y ~ a", {"y": [1.0, 2.0], "a": 3.0}, gj.normal())


def test_categories_come_back_from_a_file_that_knows_none(looms, tmp_path):
    frame = looms.assign(block=pd.Categorical(np.tile([1, 2, 3], 18), [3, 1, 2]), width=pd.cut(looms.hours, [1, 2, 3]))
    fitted = frames.fit("breaks ~ block + width", frame, gj.poisson())
    loaded = frames.load(frames.save(tmp_path / "model.gj", fitted))
    assert fitted.table.names[1:] == ("block[T.1]", "block[T.2]", "width[T.(2, 3]]")
    plain = frame.assign(block=np.tile([1, 2, 3], 18), width=frame.width.astype(str))
    np.testing.assert_array_equal(frames.predict(loaded, plain), frames.predict(fitted, frame))
    with pytest.raises(ValueError, match="column 'block' has 4 in row 0"):
        frames.predict(loaded, plain.assign(block=4))


def test_a_factor_of_one_level_is_told_of(looms):
    with pytest.warns(UserWarning, match="wool has one level in these rows"):
        design, _ = frames.read("breaks ~ wool + age", looms[:27], gj.poisson())
    assert design.columns == ("age",)


def test_type_2_tests_go_by_factors_and_refuse_a_penalty(looms):
    # a:b is the name of a column here, and contains neither a nor b.
    frame = looms.rename(columns={"age": "a", "hours": "a:b"})
    design, data = frames.read("breaks ~ a + `a:b`", frame, gj.poisson())
    fit = gj.fit(gj.glm(gj.poisson()), data)
    both = frames.type2(design, data, fit)
    plain = frames.read("breaks ~ age + hours", looms, gj.poisson())
    np.testing.assert_allclose(both.statistic, frames.type2(*plain, fit).statistic, rtol=1e-12)
    with pytest.raises(ValueError, match="the fit has a penalty"):
        frames.type2(design, data, fit._replace(l2=jnp.asarray(0.1)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": "nothing"}, "weight='nothing' is no column"),
        ({"exposure": "nothing"}, "there is no column 'nothing'"),
        ({"exposure": 2.0}, "exposure must be the name of a column"),
        ({"missing": "keep"}, "missing='keep'"),
        ({"cluster": "wool", "covariance": gj.hc3}, "not both"),
        ({"weight": np.ones(3)}, "weight must be"),
        ({"weight": 2.0}, "weight must be"),
    ],
)
def test_bad_arguments_are_named(looms, arguments, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        frames.fit("breaks ~ wool", looms, gj.poisson(), **arguments)


def test_what_is_no_frame(looms):
    with pytest.raises(TypeError, match="data frame, or a dict of columns, got list"):
        frames.read("y ~ a", [1, 2], gj.poisson())
    with pytest.raises(ValueError, match="different lengths"):
        frames.read("y ~ a", {"y": np.ones(3), "a": np.ones(4)}, gj.poisson())
    with pytest.raises(ValueError, match="unique column names"):
        frames.read("y ~ a", pd.DataFrame(np.ones((3, 3)), columns=["y", "a", "a"]), gj.poisson())
    with pytest.raises(TypeError, match="formula must be text"):
        frames.read(None, looms, gj.poisson())


def test_a_file_of_arrays_has_no_formula(tmp_path, looms):
    data = gj.make_data(np.ones((54, 1)), looms.breaks)
    model = gj.glm(gj.poisson(), bias=False)
    for notes in (None, ["a list"]):
        path = gj.save(tmp_path / "arrays.gj", model, gj.fit(model, data), notes=notes)
        with pytest.raises(ValueError, match=r"arrays\.gj holds a model of arrays, without a formula"):
            frames.load(path)


def test_penalized_fits_have_coefficients_by_name(looms):
    fitted = frames.fit("breaks ~ wool + age", looms, gj.poisson(), l1=10.0)
    assert fitted.table is None
    assert frames.coefficients(fitted) == pytest.approx(
        {"Intercept": np.log(looms.breaks.mean()), "wool[T.B]": 0, "age": 0}, abs=1e-9
    )
    with pytest.raises(ValueError, match="no table of errors"):
        frames.type3(fitted)
    assert jnp.all(fitted.fit.params.w == 0)


def test_the_door_computes_in_float64_whatever_jax_runs_in(looms, woven, tmp_path):
    with jax.enable_x64(False):
        fitted = frames.fit("breaks ~ wool * tension", looms, gj.poisson())
        np.testing.assert_array_equal(np.asarray(fitted.table.estimate), np.asarray(woven.table.estimate))
        assert gj.summary(fitted.table) == gj.summary(woven.table)
        assert frames.type3(fitted).p_value.dtype == np.float64
        bare = frames.coefficients(fitted._replace(table=None))
        np.testing.assert_array_equal(list(bare.values()), np.asarray(woven.table.estimate))
        mean = frames.predict(frames.load(frames.save(tmp_path / "model.gj", fitted)), looms)
        with pytest.warns(UserWarning, match="a formula's columns are float64 but JAX runs in float32"):
            data = frames.read("breaks ~ wool", looms, gj.poisson())[1]
        assert data.x.dtype == np.float32
        assert frames.fit("breaks ~ wool", looms, gj.poisson(), dtype=np.float32).fit.loss.dtype == np.float32
        assert jax.numpy.ones(1).dtype == np.float32
    np.testing.assert_array_equal(mean, frames.predict(woven, looms))
    with pytest.raises(ValueError, match="float64 or float32, got int64"):
        frames.fit("breaks ~ wool", looms, gj.poisson(), dtype=int)
