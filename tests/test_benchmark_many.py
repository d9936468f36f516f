"""The race of many fits at once: it runs, says what it found, and marks who did not reach the optimum."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import glmjax as gj
from experiments.benchmarks import many, many_paths, many_problems, many_race, many_seeds, many_tables, peers
from experiments.benchmarks.problems import Size
from experiments.report import progress

ROOT = Path(__file__).parent.parent


def test_the_race_end_to_end(tmp_path):
    options = ["--problems", "a", "e", "--scale", "0.01", "--repeats", "1", "--peer-lanes", "2", "--batches", "1000",
               "--memory", "none", "--penalties", "2"]  # fmt: skip
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "benchmark", "many", *options, "--results", str(tmp_path)], cwd=ROOT,
        capture_output=True, text=True, env={**os.environ, "PATH": "/nowhere", "XLA_FLAGS": quick},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"picture and figures are in {tmp_path}"
    for word in ("Gflop/s by NumPy", "(a) 5 Poisson outcomes on one 400 x 10 design", "glmjax vmap: 5 CONVERGED",
                 "passes over the rows", "a pass for the information", "times as long as glmjax vmap: best peer", "our own loop",
                 "naive vmap", "(e) 10 folds x 2 penalties of a logistic 200 x 20", "cv.glmnet is left out",
                 "adelie is left out", "22 CONVERGED"):  # fmt: skip
        assert word in done.stdout
    tables = [line for line in done.stdout.splitlines() if line.startswith((" program", " glmjax", " sklearn"))]
    assert max(map(len, tables)) <= 80
    assert not any("…" in line for line in tables)
    assert (tmp_path / "fits_a_second.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert min(found["flops a second"].values()) > 0
    (raced,) = found["problems"]
    assert (raced["problem"], raced["lanes"], raced["n"], raced["d"]) == ("a", 5, 400, 10)
    assert raced["status"] == {"CONVERGED": 5}
    assert raced["ratios"]["glmjax vmap"]["best peer"] > 0 <= raced["work"]["share of done lanes"] < 1
    assert raced["pass alone"]["fisher_information, s"] > 0
    lanes = {(one["program"], one["threads"]): one["lanes"] for one in raced["programs"]}
    assert lanes["glmjax vmap", "default"] == lanes["naive vmap", "default"] == 5
    assert lanes["glmjax loop", "default"] == lanes["sklearn lbfgs", 1] == lanes["statsmodels", "default"] == 2
    assert all(one["largest gradient"] < 1e-5 and len(one["ms a fit, each run"]) == 1 for one in raced["programs"])
    assert [one["program"] for one in found["paths"][0]["programs"]] == ["glmjax", "glmjax"]
    assert all(one["reached"] and one["ratio"] == 1 for one in found["paths"][0]["programs"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--problems", "g", "argument --problems: invalid choice: 'g'"),
        ("--tol", "0", "argument --tol: must be above 0, got 0"),
        ("--peer-lanes", "0", "argument --peer-lanes: must be 1 or more, got 0"),
        ("--batches", "0", "argument --batches: must be 1 or more, got 0"),
        ("--scale", "-1", "argument --scale: must be above 0, got -1"),
    ],
)
def test_bad_options_are_refused(option, value, message, capsys):
    parser = argparse.ArgumentParser()
    many.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"{option}={value}"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("letter", many_problems.KINDS)
def test_lanes_are_held_against_their_own_optimum(letter):
    kind = many_problems.KINDS[letter].scaled(0.004)
    assert f"{kind.lanes} " in kind.title
    batch = many_problems.draw_batch(kind)
    assert all(len(part) == kind.lanes for part in batch.each.values())
    lane = batch.lane(1)
    assert lane.x.shape == kind.size
    model = gj.glm(peers.FAMILIES[kind.family])
    data = gj.Data(
        **jax.tree.map(jax.numpy.asarray, batch.shared | {name: part[1] for name, part in batch.each.items()})
    )
    at = gj.Dense(jax.numpy.linspace(-0.5, 0.5, kind.size.d), jax.numpy.asarray(0.3))
    gradient = jax.grad(lambda params: gj.loss(model, params, data))(at)
    standardized = np.append((gradient.w - lane.center * gradient.b) / lane.sd, gradient.b)
    mine = many_problems.gradients(batch.first(2), np.tile(at.w, (2, 1)), np.full(2, at.b))
    np.testing.assert_allclose(mine[1], np.max(np.abs(standardized)), rtol=1e-9)


def test_who_does_not_reach_the_optimum_is_left_out():
    batch = many_problems.draw_batch(many_problems.Kind("poisson", 3, Size(60, 2), "outcomes"))
    options = argparse.Namespace(tol=1e-6, repeats=2, once=60.0)

    fits = [peers.fit_sklearn("newton-cholesky")(batch.lane(i), 1e-9, 100) for i in range(3)]
    w, b = np.stack([fit.w for fit in fits]), np.stack([fit.b for fit in fits])

    def optimum(batch, tol, max_iter):
        return peers.Fitted(w, b, seconds=6.0)

    def lost(batch, tol, max_iter):
        return peers.Fitted(w * [[1], [1], [0]], b, seconds=6.0)

    def broken(batch, tol, max_iter):
        raise ValueError("no\nsense")

    contestants = [peers.Program(name, "", None, call) for name, call in
                   (("glmjax", optimum), ("lost", lost), ("broken", broken), ("slow", optimum))]  # fmt: skip
    with progress() as shown:
        entries = many_race.race(batch, contestants, options, shown)
    notes = ["", "not reached: 1 of 3 lanes", "failed: ValueError: no sense", ""]
    assert [entry.note for entry in entries] == notes
    assert [len(entry.later) for entry in entries] == [2, 0, 0, 2]
    assert entries[0].median == 2  # seconds a fit
    assert many_race.best_peer(entries).program.name == "slow"
    assert many_race.best_peer(entries[:3]) is None
    options.once = 5.0
    assert many_race.enter(contestants[3], batch, options).later == [2]
    many_tables.show(entries, "title")
    assert many_tables.tell(batch, entries, {}, 1.0)["ratios"] == {"glmjax": {"best peer": 1.0}}


def test_the_distance_from_the_optimum_of_a_path():
    rows = many_paths.draw_rows(Size(100, 25), 3)
    assert rows.penalties[0] / rows.penalties[-1] == pytest.approx(1e4)
    zeros = many_paths.Validated(np.zeros((3, 25)), np.full(3, np.log(rows.y.mean() / (1 - rows.y.mean()))),
                                 rows.penalties[[0, 0, 1]], np.ones(3))  # fmt: skip
    largest = rows.penalties[0] * many_paths.RATIO
    assert many_paths.residual(rows, zeros) == pytest.approx(largest - rows.penalties[1] * many_paths.RATIO)
    first = zeros._replace(w=zeros.w[:1], b=zeros.b[:1], penalties=rows.penalties[:1])
    assert many_paths.residual(rows, first) < 1e-12
    w = np.linspace(-1, 1, 25)  # its middle is 0
    moved = first._replace(w=w[None])

    def smooth(w):
        eta = rows.x @ w + first.b[0]
        l1, l2 = rows.penalties[0] * many_paths.RATIO, rows.penalties[0] * (1 - many_paths.RATIO)
        return (jax.numpy.logaddexp(0, eta) - rows.y * eta).mean() + l2 / 2 * w @ w + l1 * abs(w).sum()

    gradient = np.where(w == 0, 0, jax.grad(smooth)(jax.numpy.asarray(w)))
    off = np.mean(1 / (1 + np.exp(-rows.x @ w - first.b[0])) - rows.y)
    assert many_paths.residual(rows, moved) == pytest.approx(max(abs(gradient).max(), abs(off)))


def test_programs_of_their_own_are_given_files():
    rows = many_paths.draw_rows(Size(20, 3), 2)
    script = (
        "import numpy as np\nx = np.fromfile('x').reshape(3, 20)\n"
        "np.stack([np.append(7.0, x[:, 1])] * 2).tofile('coefficients')\n"
        "np.fromfile('penalty').tofile('penalties')\n(1 + np.fromfile('fold')[:2]).tofile('mean')\n"
        "print(open('sizes').read().split()[-1])"
    )
    found = many_paths.call_script([sys.executable], script, rows, 1e-6, 5)
    np.testing.assert_array_equal(found.w, rows.x[[1, 1]])
    np.testing.assert_array_equal(found.b, [7, 7])
    np.testing.assert_array_equal(found.penalties, rows.penalties)
    np.testing.assert_array_equal(found.mean, 1 + rows.fold[:2])
    assert found.seconds == 5
    with pytest.raises(RuntimeError, match="no such thing"):
        many_paths.call_script([sys.executable], "raise SystemExit('no such thing')", rows, 1e-6, 0)
    failing = many_paths.Contestant(
        "adelie, 1 thread", 1e-6, partial(many_paths.call_script, [sys.executable], "1 / 0", tol=1, last=1)
    )
    own = many_paths.Contestant("glmjax", 1e-6, lambda rows: found)
    with progress() as shown:
        entries = many_paths.race_paths(rows, [own, failing], 1, shown)
    assert entries[0]["ratio"] == 1
    assert not entries[0]["reached"]
    assert "ZeroDivisionError" in entries[1]["failed"]
    many_paths.show_paths(entries, "title")


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_glmnet_agrees_on_what_the_problem_is():
    raced, _ = many_paths.contestants(1e-6, None, 1)
    glmnet = next((one for one in raced if one.name == "cv.glmnet"), None)
    if glmnet is None:
        pytest.skip("R has no glmnet")
    rows = many_paths.draw_rows(Size(300, 5), 4)
    found = glmnet.call(rows)
    assert many_paths.residual(rows, found) < 1e-5
    np.testing.assert_allclose(found.penalties, rows.penalties)
    null = rows.y.mean()
    deviance = -2 * (null * np.log(null) + (1 - null) * np.log(1 - null))
    assert found.mean[0] == pytest.approx(deviance, rel=0.02)  # with no column yet
    assert found.mean[-1] < found.mean[0]


def test_the_seeds_are_counted(monkeypatch):
    def runners(model, data, keys, batch_size, epochs, x, y):
        return [many_seeds.Runner(name, len(keys), lambda seed: 0.5) for name in ("glmjax", "one order", "a peer")]

    monkeypatch.setattr(many_seeds, "runners", runners)
    monkeypatch.setattr(many_seeds, "spread", lambda keys: keys)
    with progress() as shown:
        rows = many_seeds.race_seeds([2, 3], [10], 1, 2, shown)
    assert [(row["program"], row["seeds"]) for row in rows] == [
        (who, n) for n in (2, 3) for who in ("glmjax", "one order")
    ]
    assert all(len(row["ms a seed, each run"]) == 2 and row["training loss"] == 0.5 for row in rows)
    many_seeds.show_seeds(rows)
