"""The experiments that fit many models at once run on drawn data, and say how their lanes ended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(name, folder, *arguments):
    """What an experiment prints and saves where there is no folder of real data; compiled as fast as can be."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", name, "--results", str(folder), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "GLMJAX_DATA": ""} | quick,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"picture and figures are in {folder}"
    assert (folder / f"{name.replace('-', '_')}.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout, json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def test_genes(tmp_path):
    said, record = run("genes", tmp_path, "--repeats", 1, "--top", 2, "--oracle", 2)
    for word in ("no pbmc", "first call", "later calls", "BOUNDARY: alpha is estimated as 0", "statsmodels on 2"):
        assert word in said
    assert not record["real"]
    assert record["ended"]["Poisson"] == {"CONVERGED": 60}
    assert record["ended"]["negative binomial"]["BOUNDARY"] >= 10  # of 20 that were drawn as Poisson
    assert record["oracle"]["log-likelihood"] < 1e-9
    assert record["genes"][0]["ratio to Poisson"] > 100


def test_neurons(tmp_path):
    said, record = run("neurons", tmp_path, "--repeats", 1)
    for word in ("no spikes", "first call", "later calls", "SEPARATED: there is no", "each of them is named"):
        assert word in said
    assert record["ended"]["ridge"] == {"CONVERGED": record["trials"]}
    assert record["ended"]["unpenalized"]["SEPARATED"] >= 1
    assert 0 < record["effects"][1]["pooled"] < 0.5  # drawn to recover
    for effect in record["effects"]:
        assert all(
            (ratio == 0) or not endless for ratio, endless in zip(effect["trials"], effect["infinite"], strict=True)
        )


def test_insurance(tmp_path):
    said, record = run("insurance", tmp_path, "--repeats", 1, "--top", 2)
    for word in ("no fremtpl2", "first call", "later calls", "SEPARATED: there is no", "partial pooling"):
        assert word in said
    assert len(record["segments"]) == 20
    assert record["ended"]["partial pooling"] == {"CONVERGED": 20}
    assert record["largest difference to policies"] < 1e-10
    assert record["their gain partly pooled"] > record["their gain alone"]  # drawn without differences


def test_tune_penalties(tmp_path):
    said, record = run("tune-penalties", tmp_path, "--sets", 2, "--steps", 60)
    for word in ("first call", "later calls", "central differences", "best single"):
        assert word in said
    assert record["all ended"] == {"CONVERGED": 2 * 25 + 2 * 61}
    assert record["largest difference to central differences"] < 1e-6
    valid = record["a penalty a column"]["validation"]
    assert sum(valid[-1]) < sum(record["single penalty"]["validation"]) < sum(valid[0])
    assert record["gain on test rows"]["mean"] > 0


def test_inference(tmp_path):
    cases = ("normal", "normal, uneven: Fisher")
    said, record = run("inference", tmp_path, "--datasets", 300, "--cases", *cases)
    for word in ("first call", "later calls", "instead of t's quantile", "logistic fits of 1,000 x 10 on one design"):
        assert word in said
    exact, wrong = record["cases"]
    assert exact["converged"] == wrong["converged"] == 300
    assert min(exact["coverage"]) > 0.91 > max(wrong["coverage"][1:2])
    assert max(exact["coverage by 1.96"]) < 0.95  # t's quantile is what makes the difference at 20 rows
