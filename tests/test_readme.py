"""The README: its example runs as written and prints what it shows; its commands are the ones CI runs."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", README, flags=re.S)
    assert len(blocks) >= 5
    names: dict = {}
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):  # as a reader's fresh session
        for code, shown in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), names)
            assert printed.getvalue() == shown
    commands = re.findall(
        r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)",
        "".join(re.findall(r"```console\n(.*?)```", README, flags=re.S)),
        flags=re.M,
    )
    assert len(commands) >= 2
    scripts = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    for command, shown in commands:
        env = {**os.environ, "PATH": scripts, "XDG_CACHE_HOME": str(tmp_path)}
        ended = subprocess.run(command, shell=True, capture_output=True, text=True, env=env)
        assert ended.stdout == shown, ended.stderr


def test_ci_calls_exactly_the_test_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README)
    assert len(commands) == 2
    assert "experiments digits" in commands[0]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[1] in lines


def test_no_figure_is_left_open():
    assert not re.findall(r"@[A-Z]|TODO|TBD", README)


def test_every_room_stands_in_the_architecture():
    rooms = {path.stem for path in (ROOT / "glmjax").glob("*.py")} - {"__init__"}
    part = README.split("## Architecture")[1]
    assert rooms <= set(re.findall(r"`(\w+)`", part))
