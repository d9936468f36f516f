"""The page for those who come from R, statsmodels or scikit-learn: each block prints what is shown below it."""

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

PAGE = (Path(__file__).parent.parent / "experiments" / "README.md").read_text()
BLOCKS = re.findall(r"```(python|r)\n(.*?)```(?:\n+```text\n(.*?)```)?", PAGE, flags=re.S)


def printed_by(language, code, names):
    """What a block prints; None of R where it, or a package that the block wants, is not installed."""
    if language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "experiments/README.md", "exec"), names)
        return printed.getvalue()
    packages = re.findall(r"(\w+)::", code)
    asked = "".join(f"if (!requireNamespace('{name}', quietly=TRUE)) quit(status=3)\n" for name in packages)
    ended = subprocess.run(["Rscript", "-e", asked + code], capture_output=True, text=True)
    assert ended.returncode in (0, 3), ended.stderr
    return ended.stdout if ended.returncode == 0 else None


def test_every_block_prints_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [language for language, _, _ in BLOCKS].count("r") >= 4
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a reader's fresh session
        for language, code, shown in BLOCKS:
            if language == "r" and shutil.which("Rscript") is None:
                continue
            printed = printed_by(language, code, names)
            assert printed is None or printed == shown


def test_figures_are_the_same_there_and_here():
    """The coefficients of R and statsmodels are shown again as ours."""
    numbers = [re.findall(r"-?\d+\.\d{5}", shown) for _, _, shown in BLOCKS if shown]
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(numbers[0]) == 8


pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")
