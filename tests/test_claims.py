"""The lecture: every claim holds, on one self-contained page; and a claim that does not hold is not passed over."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import claims
from experiments.__main__ import CLAIMS, OTHERS

ROOT = Path(__file__).parent.parent


def test_the_whole_lecture_quick(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "lecture", "--quick", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"the page is {tmp_path / 'lecture.html'}"
    page = (tmp_path / "lecture.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)|https?:|url\(|@import", page)  # nothing outside
    assert page.count('src="data:image/png;base64,') == len(CLAIMS) == 10
    for name in CLAIMS:
        assert f'id="{name}"' in page
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["holds"] is True
        assert len(record["claims"]) >= 3
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "FAILS" not in page


def finding(*values):
    return claims.Finding([claims.at_most("it is small", value, 1.0) for value in values], Figure(), {"values": values})


@pytest.mark.parametrize(("values", "status"), [((0.5, 1.0), 0), ((0.5, 1.1), 1), ((np.nan,), 1), ((np.inf,), 1)])
def test_a_claim_that_does_not_hold_fails_the_command(values, status, tmp_path, capsys):
    module = types.ModuleType("fake", "A title.\n\nA text.")
    module.investigate = lambda quick: finding(*values)
    options = types.SimpleNamespace(results=tmp_path, quick=True)
    assert claims.run(module, "fake", options) == status
    assert json.loads((tmp_path / "fake.json").read_text())["holds"] is (status == 0)
    assert ("NOT ALL CLAIMS HOLD" in capsys.readouterr().out) is (status == 1)


def test_bounds_hold_or_not_and_nan_never_does():
    assert claims.between("", 1.0, 0.5, 1.0).holds
    assert not claims.between("", np.nan, 0, 1).holds
    assert claims.at_least("", 2.0, 2.0).holds
    assert not claims.at_least("", np.nan, 0).holds


def test_every_experiment_has_a_file_and_every_file_is_listed():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    shared = {"__init__", "__main__", "claims", "processes", "report"}
    assert {name.replace("-", "_") for name in CLAIMS | OTHERS} == files - shared
