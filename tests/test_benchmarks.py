"""The race of single fits and the run on motor policies: they run, say what they found, and refuse what they cannot do."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import glmjax as gj
from experiments import claim_frequency
from experiments.benchmarks import costs, peers, problems, race, single, tables
from experiments.report import progress

ROOT = Path(__file__).parent.parent


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_race_end_to_end(tmp_path):
    done = run("benchmark", "single", "--sizes", "500x3", "--families", "logistic", "--designs", "correlated",
               "--repeats", 2, "--once", 1e-9, "--results", tmp_path, PATH="/nowhere")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"picture and figures are in {tmp_path}"
    for word in ("R is not installed", "sklearn newton-cholesky", "sklearn lbfgs", "statsmodels", "timed once",
                 "passes over x", "the limit", "memory beyond x", "best peer / glmjax", "all problems"):  # fmt: skip
        assert word in done.stdout
    assert max(map(len, done.stdout[done.stdout.index("program") :].split("\nglmjax:")[0].splitlines())) <= 80
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)["problems"]
    assert len(found) == 1
    assert (found[0]["family"], found[0]["design"], found[0]["n"], found[0]["d"]) == ("logistic", "correlated", 500, 3)
    assert found[0]["status"] == "CONVERGED"
    assert found[0]["passes"] >= 1 < found[0]["memory"]["glmjax"]["first call, bytes"]
    assert found[0]["ratio"] > 0
    own, *others = found[0]["programs"]
    assert own["program"] == "glmjax"
    assert len(own["later calls, s"]) == 2
    for other in others:
        assert other["note"] == "not reached" or other["later calls, s"] == [other["first call, s"]]
        assert other["loss"] >= own["loss"] - 1e-9


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sizes", "200", "must be rows x columns, more rows than columns, as 200000x20; got 200"),
        ("--sizes", "5x5", "more rows than columns"),
        ("--sizes", "5x0", "more rows than columns"),
        ("--families", "gamma", "argument --families: invalid choice: 'gamma'"),
        ("--designs", "sparse", "argument --designs: invalid choice: 'sparse'"),
        ("--tol", "0", "argument --tol: must be above 0, got 0"),
        ("--repeats", "0", "argument --repeats: must be 1 or more, got 0"),
        ("--slow", "-1", "argument --slow: must be above 0, got -1"),
        ("--memory", "some", "argument --memory: invalid choice: 'some'"),
    ],
)
def test_bad_options_are_refused(option, value, message, capsys):
    parser = argparse.ArgumentParser()
    single.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"{option}={value}"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("family", problems.FAMILIES)
@pytest.mark.parametrize("design", problems.DESIGNS)
def test_optimality_is_the_gradient_in_standardized_columns(family, design):
    problem = problems.draw(family, design, problems.Size(9000, 4))  # two chunks
    np.testing.assert_allclose(problem.sd, problem.x.std(axis=0), rtol=1e-12)
    spread = problem.sd.max() / problem.sd.min()
    assert spread > 5e3 if design == "correlated" else spread < 1.1
    model = gj.glm(peers.FAMILIES[family])
    z = gj.make_data((problem.x - problem.center) / problem.sd, problem.y)

    def loss(params):
        return gj.loss(model, params, z)

    rng = np.random.default_rng(1)
    at = gj.Dense(rng.normal(size=4) / 4, np.asarray(0.3))
    value, gradient = jax.value_and_grad(loss)(jax.tree.map(jax.numpy.asarray, at))
    raw = at.w / problem.sd
    mine = problems.optimality(problem, raw, at.b - problem.center @ raw)
    np.testing.assert_allclose(mine, (value, max(abs(gradient.w).max(), abs(gradient.b))), rtol=1e-9)
    assert np.isnan(problems.optimality(problem, raw * np.nan, 0.0)[1])


def peer(name, call, threads=None):
    return peers.Program(name, "", threads, call)


def test_who_does_not_reach_the_optimum_is_left_out():
    problem = problems.draw("poisson", "independent", problems.Size(300, 2))
    options = argparse.Namespace(tol=1e-6, max_iter=100, repeats=2, once=60.0)

    def lost(problem, tol, max_iter):
        return peers.Fitted(np.zeros(2), 0.0, seconds=0.0)

    def broken(problem, tol, max_iter):
        raise ValueError("no\nsense")

    def timed(problem, tol, max_iter):
        return peers.fit_glmjax(problem, tol, max_iter)._replace(seconds=7.0)

    contestants = [
        peer("glmjax", peers.fit_glmjax),
        peer("lost", lost),
        peer("lost", lost, 1),
        peer("broken", broken),
        peer("timed", timed),
    ]
    with progress() as shown:
        entries = race.race(problem, contestants, options, shown)
    assert [entry.note for entry in entries] == ["", "not reached", "not reached", "failed: ValueError: no sense", ""]
    assert [len(entry.later) for entry in entries] == [2, 0, 0, 0, 2]
    assert race.best_of(entries[1:]).program.name == "timed"
    assert entries[-1].median == entries[-1].first == 7
    assert race.best_of(entries[1:4]) is None
    tables.show(entries, "title")
    limit = {"read pass, s": 1e-3, "symmetric product, s": 1e-3}
    parts = {"make_data, s": 0.01, "fit, s": 0.02}
    assert tables.tell(entries, limit, parts, {})["best peer"] == "timed"
    assert "ratio" not in tables.tell(entries[:4], limit, parts, {})
    assert "ratio" not in tables.tell([entries[1], entries[4]], limit, parts, {})
    tables.summarize([("one", entries), ("two", entries[1:])])
    tables.draw_races([("one", entries[1:]), ("two", entries[:2])], 2, 2)


@pytest.mark.parametrize("family", problems.FAMILIES)
def test_everybody_agrees(family):
    problem = problems.draw(family, "independent", problems.Size(400, 3))
    fast, slow, _ = peers.programs()
    for program in fast + slow:
        fitted = program.fit(problem, 1e-8, 200)
        assert problems.optimality(problem, np.asarray(fitted.w), float(fitted.b))[1] < 1e-6, program.name


def test_r_is_given_columns_and_times_itself(tmp_path, monkeypatch):
    fake = tmp_path / "Rscript"
    fake.write_text(
        f"#!{sys.executable}\nimport numpy as np\n"
        "n, d, family, tol, most = map(float, open('sizes').read().split())\n"
        "x = np.fromfile('x').reshape(int(d), int(n))\n"
        "print('{\"seconds\": 0.5, \"coefficients\": [' + ', '.join(map(str, [family, *x[:, 1]])) + ']}')\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [program.name for program in peers.programs()[1]][-1] == "R glm"
    problem = problems.draw("logistic", "correlated", problems.Size(20, 3))
    fitted = peers.fit_r(problem, 1e-6, 100)
    assert (fitted.b, fitted.seconds) == (1, 0.5)
    np.testing.assert_array_equal(fitted.w, problem.x[1])
    fake.write_text("#!/bin/sh\necho no such thing >&2; exit 3")
    with pytest.raises(RuntimeError, match="no such thing"):
        peers.fit_r(problem, 1e-6, 100)


def test_the_floor_is_measured():
    problem = problems.draw("poisson", "independent", problems.Size(10_000, 3))
    assert all(value > 0 for value in costs.floor(problem, 1).values())


def test_claim_frequency_on_drawn_policies(tmp_path):
    done = run("claim-frequency", "--repeats", 1, "--results", tmp_path, GLMJAX_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for word in ("no fremtpl2", "on drawn data", "freMTPL2freq", "null deviance", "rate ratio", "BonusMalus", "decile",
                 "CONVERGED", "first call", "as the score equations have it"):  # fmt: skip
        assert word in done.stdout
    assert (tmp_path / "claim_frequency.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert not found["real"]
    assert sum(one["claims"] for one in found["deciles"]) == found["claims"]
    assert len(found["deciles"]) == 10
    assert all(abs(one["predicted"] - one["claims"]) < 1e-6 for one in found["levels"])
    assert found["deviance"] < found["null deviance"]


def test_policies_are_read_from_the_file(tmp_path, monkeypatch):
    columns = claim_frequency.imagine(500)
    (tmp_path / "fremtpl2").mkdir()
    path = tmp_path / claim_frequency.FILE
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    monkeypatch.setenv("GLMJAX_DATA", str(tmp_path))
    policies, real = claim_frequency.load()
    assert real
    np.testing.assert_array_equal(policies.claims, columns["ClaimNb"])
    found = claim_frequency.design(policies)
    levels = sum(len(factor.levels) for factor in policies.factors.values())
    assert found.x.shape == (500, levels - len(policies.factors) + 1)
    age = policies.factors["DrivAge"]
    assert age.levels[:2] == ["18-20", "21-24"]
    np.testing.assert_array_equal(age.row == 0, columns["DrivAge"] < 21)
    np.testing.assert_array_equal(found.x[:, found.column["DrivAge"][0]], columns["DrivAge"] < 21)
    del columns["Region"]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(SystemExit, match="cannot be read as freMTPL2freq, with columns ClaimNb"):
        claim_frequency.load()
    path.write_text("text")
    with pytest.raises(SystemExit, match="cannot be read"):
        claim_frequency.load()


def test_labels_stand_in_order():
    factor = claim_frequency.labeled(np.array(["B10", "B2", "B2", "B1"]))
    assert factor.levels == ["B1", "B2", "B10"]
    assert factor.row.tolist() == [2, 1, 1, 0]
