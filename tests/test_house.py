"""The house rules: imports run upward, no room is named like a function, nothing happens at import."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import glmjax as gj

ROOT = Path(__file__).parent.parent
FLOORS = [
    "files meetings watching archives inputs meshes traces programs lanes numerics tails links distributions families proportions counts mixtures positives predictors data results",
    "models",
    "rows losses information minibatches columns passes rotations factors implicit",
    "linear quasinewton steps irls overdispersion newton jeffreys firth recession lbfgs coordinates descent nets proximal separation auto settings sgd",
    "many arguments batches paths folds influence resampling optima covariance inferences effects penalized hypotheses nested profiles intervals pseudo multiplicity residuals deletion checks approximation sources sharding chunking reading rowgroups parquet shuffling epochs checkpoints streamed wide shrinkage streaming",
    "reports drawing rowplots plots storage training caching bare scoring export buckets learners regressions networks estimators tabular formulas designs frames ahead commands cli face",
]
PLACE = {room: (floor, i) for floor, rooms in enumerate(FLOORS) for i, room in enumerate(rooms.split())}


def test_every_file_is_a_room():
    assert {path.stem for path in (ROOT / "glmjax").glob("*.py")} - {"__init__"} == set(PLACE)


@pytest.mark.parametrize("room", PLACE)
def test_imports_run_upward_and_on_one_floor_leftward(room):
    tree = ast.parse((ROOT / "glmjax" / f"{room}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    for other in imported:
        assert PLACE[other] < PLACE[room], f"{room} imports {other}"


def test_no_room_is_named_like_a_public_function():
    functions = {name for name in gj.__all__ if callable(getattr(gj, name))}
    assert not functions & set(PLACE)


def test_experiments_use_the_public_face_only():
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("glmjax"):
                assert node.module == "glmjax", f"{path.name} imports from {node.module}"


def test_importing_does_no_work():
    """No backend is touched: with one that does not exist, the import must still succeed. Nor is JAX, until used."""
    code = "import glmjax, sys; assert 'jax' not in sys.modules; glmjax.fit; print(*sorted({'sklearn', 'matplotlib', 'pandas', 'torch'} & set(sys.modules)))"
    env = {**os.environ, "JAX_PLATFORMS": "nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_face_is_documented():
    for name in gj.__all__:
        assert getattr(gj, name).__doc__, name
