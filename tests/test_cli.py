"""The command line, on files good and bad."""

import gzip
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from test_frames import looms  # noqa: F401

import glmjax as gj
from glmjax import cli, commands, frames


@pytest.fixture(scope="module")
def folder(looms, tmp_path_factory):  # noqa: F811
    """A folder with the same rows in several files."""
    folder = tmp_path_factory.mktemp("files")
    looms.to_csv(folder / "looms.csv", index=False)
    looms.to_csv(folder / "looms.tsv", index=False, sep="\t")
    looms.to_csv(folder / "looms.csv.gz", index=False)
    looms.to_parquet(folder / "looms.parquet")
    return folder


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    code = cli.main([*map(str, arguments), "--no-cache"])  # which is for the whole process
    return code, *capsys.readouterr()


POISSON = ("breaks ~ wool * tension", "--family", "poisson")


def test_fit_predict_and_summary_are_those_of_frames(folder, looms, capsys):  # noqa: F811
    fitted = frames.fit("breaks ~ wool * tension", looms, gj.poisson())
    code, out, err = run(capsys, "fit", folder / "looms.parquet", *POISSON, "--out", folder / "model.gj", "--tests", 3)
    assert (code, err) == (0, "")
    assert out.startswith("breaks ~ wool * tension\n" + gj.summary(fitted.table))
    assert frames.terms_text(frames.type3(fitted)) in out
    assert out.endswith(f"saved as {folder / 'model.gj'}\n")
    code, out, _ = run(capsys, "summary", folder / "model.gj")
    assert (code, out) == (0, "breaks ~ wool * tension\n" + gj.summary(fitted.table) + "\n")
    code, out, _ = run(capsys, "predict", folder / "model.gj", folder / "looms.csv")
    lines = out.splitlines()
    assert (code, lines[0]) == (0, "mean")
    mean = frames.predict(fitted, looms)
    np.testing.assert_array_equal(np.array(lines[1:], float), mean)
    for name, more in {"mean.csv": ["--json"], "mean.parquet": []}.items():
        code, out, _ = run(capsys, "predict", folder / "model.gj", folder / "looms.tsv", "--out", folder / name, *more)
        assert (code, json.loads(out)["mean"] if more else out) == (0, mean.tolist() if more else "")
    np.testing.assert_array_equal(pd.read_parquet(folder / "mean.parquet")["mean"], mean)
    np.testing.assert_array_equal(np.loadtxt(folder / "mean.csv", skiprows=1), mean)


def test_json_has_all_digits(folder, looms, capsys):  # noqa: F811
    fitted = frames.fit("breaks ~ wool * tension", looms, gj.poisson())
    code, out, _ = run(capsys, "fit", folder / "looms.csv.gz", *POISSON, "--json", "--tests", 2)
    found = json.loads(out)
    assert (code, found["status"], found["rows"]) == (0, "CONVERGED", 54)
    assert found["deviance"] == float(fitted.table.deviance)
    assert [row["name"] for row in found["coefficients"]] == list(fitted.table.names)
    assert [row["std_error"] for row in found["coefficients"]] == fitted.table.std_error.tolist()
    assert [term["name"] for term in found["terms"]] == ["wool", "tension", "wool:tension"]
    code, out, _ = run(
        capsys, "fit", folder / "looms.csv", "breaks ~ wool * tension", "--family", "poisson", "--l1", 0.1, "--json"
    )
    assert [set(row) for row in json.loads(out)["coefficients"]] == [{"name", "estimate"}] * 6


def test_options_are_those_of_frames(folder, looms, capsys):  # noqa: F811
    arguments = (
        "--family",
        "gamma",
        "--link",
        "log",
        "--exposure",
        "hours",
        "--covariance",
        "hc3",
        "--level",
        "0.9",
        "--json",
    )
    _, out, _ = run(capsys, "fit", folder / "looms.csv", "breaks ~ wool * tension", *arguments)
    expected = frames.fit(
        "breaks ~ wool * tension", looms, gj.gamma("log"), exposure="hours", covariance=gj.hc3, level=0.9
    ).table
    assert [row["lower"] for row in json.loads(out)["coefficients"]] == expected.lower.tolist()


def test_a_categorical_target_has_its_classes_from_the_file(folder, capsys):
    code, out, _ = run(
        capsys, "fit", folder / "looms.csv", "tension ~ hours", "--family", "categorical", "--reference", "2 mid",
        "--out", folder / "three.gj",
    )  # fmt: skip
    assert code == 0
    assert "1 low: hours" in out
    assert "2 mid: hours" not in out
    code, out, _ = run(capsys, "predict", folder / "three.gj", folder / "looms.csv", "--json")
    assert list(json.loads(out)) == ["1 low", "2 mid", "3 high"]


def test_a_fit_without_an_answer_ends_on_1_and_says_why(folder, looms, capsys):  # noqa: F811
    looms.assign(heavy=(looms.wool == "A") * 1).to_csv(folder / "apart.csv", index=False)
    code, out, err = run(capsys, "fit", folder / "apart.csv", "heavy ~ wool * tension", "--family", "bernoulli")
    assert (code, err) == (1, "")
    assert "SEPARATED" in out


BAD = {
    "nothing.csv": (None, "there is no such file"),
    "empty.csv": (b"", "the file is empty"),
    "head.csv": (b"breaks,wool,tension\n", "0 rows"),
    "other.csv": (b"a,b\n1,2\n", "there is no column 'breaks'"),
    "mixed.csv": (b"breaks,wool,tension\n" + b"1,2,a\n" * 9 + b"3,x,b\n", r"column 'wool' is text, for row 9 has 'x'"),
    "holes.csv": (b"breaks,wool,tension\n1,A,x\n2,,y\n", r"column 'wool' has no value in row 1"),
    "ragged.csv": (b"breaks,wool,tension\n1,A,x\n2,A\n", "cannot be read as CSV"),
    "binary.csv": (bytes(range(256)) * 4, "cannot be read as CSV|there is no column"),
    "text.parquet": (b"breaks,wool,tension\n1,A,x\n", "cannot be read as Parquet, which its name says it is"),
    "semicolons.csv": (b"breaks;wool;tension\n1;A;x\n", "its columns are separated by ';'"),
    "latin.csv": ("breaks,wool,tension\n1,Ä,x\n2,B,y\n".encode("latin-1"), "column 'wool' holds bytes.* must be UTF-8"),
    "twice.csv": (b"breaks,wool,tension,wool\n1,A,x,A\n", "'wool' 2 times"),
    "negative.csv": (b"breaks,wool,tension\n1,A,x\n-2,B,y\n", r"y\[1\] = -2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_in_one_sentence(tmp_path, capsys, name):
    content, sentence = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        code, out, err = run(capsys, "fit", name, *POISSON)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"glmjax: {name}: ")
    assert re.search(sentence, err)


def test_bad_models_and_options_are_named(folder, tmp_path, capsys):
    (tmp_path / "model.gj").write_bytes(gzip.compress(b"not a model"))
    code, _, err = run(capsys, "predict", tmp_path / "model.gj", folder / "looms.csv")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "model.gj has been cut off or altered" in err
    for options, sentence in {
        ("--power", "1.5"): "--power is for the family tweedie",
        ("--reference", "A"): "--reference is for the family categorical",
        ("--link", "logit"): "link='logit' is not a link of the poisson family",
        ("--weight", "wool"): "weight",
        ("--exposure", "nothing"): "there is no column 'nothing'",
        ("--out", tmp_path / "nowhere" / "model.gj"): f"there is no folder {tmp_path / 'nowhere'}",
        ("--out", tmp_path): "that is a folder",
    }.items():
        code, _, err = run(capsys, "fit", folder / "looms.csv", *POISSON, *options)
        assert code == 2
        assert sentence in err
    code, _, err = run(capsys, "fit", folder / "looms.csv", "log(breaks) ~ wool", "--family", "categorical")
    assert (code, "must be a column, and 'log(breaks)' is none" in err) == (2, True)
    assert run(capsys, "fit", "-", *POISSON)[0] == 2
    assert "no plain file" in run(capsys, "fit", os.devnull, *POISSON)[2]
    assert (
        run(capsys, "summary", tmp_path / "none.gj")[2]
        == f"glmjax: {tmp_path / 'none.gj'}: No such file or directory\n"
    )
    code, _, err = run(capsys, "predict", folder / "model.gj", folder / "looms.csv", "--out", tmp_path / "mean.xlsx")
    assert (code, "neither .csv nor .parquet" in err, (tmp_path / "mean.xlsx").exists()) == (2, True, False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "x.csv", "y ~ a", "--family", "normal-ish"])
    assert ended.value.code == 2


@pytest.mark.skipif("GLMJAX_DATA" not in os.environ, reason="needs the folder of data")
def test_motor_policies_by_one_command_are_rs(capsys):
    formula = "ClaimNb ~ C(VehPower) + VehAge + DrivAge + BonusMalus + Area + VehBrand + Region + VehGas + log(Density)"
    file = os.path.join(os.environ["GLMJAX_DATA"], "fremtpl2", "freMTPL2freq.parquet")
    code, out, _ = run(capsys, "fit", file, formula, "--family", "poisson", "--exposure", "Exposure", "--json")
    found = json.loads(out)
    # R 4.2: glm(ClaimNb ~ factor(VehPower) + ... + offset(log(Exposure)), poisson, control = list(epsilon = 1e-12))
    assert (code, found["rows"], found["df_resid"]) == (0, 678013, 677960)
    np.testing.assert_allclose(found["deviance"], 217063.400567, rtol=1e-11)
    np.testing.assert_allclose(found["null_deviance"], 224481.149642, rtol=1e-11)
    np.testing.assert_allclose(found["log_likelihood"], -143193.213497, rtol=1e-11)
    rows = {row["name"]: (row["estimate"], row["std_error"]) for row in found["coefficients"]}
    np.testing.assert_allclose(rows["BonusMalus"], (0.0223618870895, 0.000307169809179), rtol=1e-9)
    np.testing.assert_allclose(rows["Region[T.R94]"], (0.1198406771176, 0.067092654082151), rtol=1e-8)


def test_what_the_help_names_is_what_there_is():
    assert [name.replace("-", "_") for name in cli.FAMILIES] == list(commands.FAMILIES)
    assert list(cli.COVARIANCES) == list(commands.COVARIANCES)


COMMAND = """
    import sys
    from glmjax.cli import main
    assert not {"jax", "numpy"} & set(sys.modules)
    code = main(sys.argv[1:])
    print(code, "pandas" not in sys.modules, "optax" in sys.modules, file=sys.stderr)
"""


def test_a_second_command_of_a_shape_traces_nothing_and_reads_its_file_elsewhere(folder, looms, tmp_path, capsys):  # noqa: F811
    """A file that is changed is fitted anew, by the same programs; a broken trace is made again; a warning comes once."""
    looms.assign(breaks=looms["breaks"] + 1).to_csv(folder / "more.csv", index=False)
    looms.assign(one="a").to_csv(folder / "one.csv", index=False)
    formula, rest = POISSON[0], POISSON[1:]

    def start(file, formula=formula):
        env = {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path),
            "PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__)),
        }
        command = [sys.executable, "-c", textwrap.dedent(COMMAND), "fit", folder / file, formula, *rest]
        ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env)
        _, out, err = run(capsys, "fit", folder / file, formula, *rest)
        assert ended.stdout == out
        *told, (code, read_ahead, optax) = [line.split() for line in ended.stderr.splitlines()]
        assert [" ".join(line) for line in told] == err.splitlines()
        assert (code, optax) == ("0", "False")
        return read_ahead == "True"

    def kept():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "glmjax").glob("*/*-cache")}

    assert start("looms.csv")
    first = kept()
    traces = [name for name in first if name.startswith("traced_")]
    assert sorted(name.split("-")[0] for name in traces) == ["traced__inference", "traced_first_run"]
    assert start("more.csv")
    assert kept() == first
    for path in (tmp_path / "glmjax").glob("*/traced_*"):
        path.write_bytes(path.read_bytes()[:1000])
    assert not start("one.csv", formula + " + one")  # which warns
    assert {name for name in kept() if name.startswith("traced_")} == set(traces)
    assert all(first[name] != seen for name, seen in kept().items() if name in traces)


def test_the_command_keeps_what_it_compiles_and_stops_when_nobody_reads(folder, tmp_path):
    command = [os.path.join(os.path.dirname(sys.executable), "glmjax"), "fit", folder / "looms.csv", *POISSON]
    ended = subprocess.run(
        ["/bin/sh", "-c", '"$@" | head -n 1', "sh", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert ended.stdout == "breaks ~ wool * tension\n"
    assert ended.stderr == ""
    assert list((tmp_path / "glmjax").glob("*/*-cache"))
