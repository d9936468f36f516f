"""The experiments run from their command, say where results are, and refuse what they cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("family", ["categorical", "poisson"])
def test_digits_end_to_end(family, tmp_path):
    folder = tmp_path / "new" / "folder"
    done = run("digits", "--seeds", 3, "--epochs", 3, "--family", family, "--hidden", "6,4", "--results", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"picture and figures are in {folder}"
    for word in ("train loss", "test accuracy", "mean", "sd", "min", "max", "first call", "3 COMPLETED"):
        assert word in done.stdout
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "results.json").read_text())
    assert len(record["models"]) == 2
    for model in record["models"].values():
        assert model["final"]["train loss"]["mean"] < model["curves"]["train loss"]["mean"][0]
        assert len(model["each seed"]["test accuracy"]) == 3
        assert model["epochs"][-1] == 3


def test_a_diverging_run_says_so(tmp_path):
    done = run(
        "digits", "--seeds", 2, "--epochs", 1, "--family", "poisson", "--learning-rate", 1e9, "--results", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "2 NONFINITE" in done.stdout
    json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)


def test_the_seeds_benchmark_races_its_peers(tmp_path):
    done = run("benchmark", "seeds", "--seeds", 2, "--epochs", 1, "--repeats", 1, "--batch-sizes", 64,
               "--results", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "scikit-learn" in done.stdout
    rows = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert all(row["ms a seed"] > 0 and 1 < row["training loss"] < 3 for row in rows)


def test_help_and_the_list():
    assert "digits" in run().stdout
    assert "--seeds" in run("digits", "--help").stdout


def test_bad_names_and_folders(tmp_path):
    done = run("digit")
    assert done.returncode == 2
    assert "unknown experiment 'digit'; there are:\n  digits" in done.stderr
    assert "softmax-shift" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("digits", "--results", tmp_path / "file" / "x")
    assert done.returncode == 1
    assert "results cannot be written to" in done.stderr
    assert "--results DIR" in done.stderr
    for option, value, message in [
        ("--seeds", 0, "argument --seeds: must be 1 or more, got 0"),
        ("--hidden", "5,x", "argument --hidden: invalid sizes value: '5,x'"),
        ("--learning-rate", -1, "argument --learning-rate: must be above 0, got -1"),
        ("--l2", -1, "argument --l2: must be above 0, got -1"),
        ("--family", "gamma", "argument --family: invalid choice: 'gamma'"),
    ]:
        done = run("digits", f"{option}={value}")
        assert done.returncode == 2
        assert message in done.stderr


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')")
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "digits"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'glmjax[experiments]'" in done.stderr
