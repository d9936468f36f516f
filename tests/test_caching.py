"""The cache of compiled programs: found again by another process, harmless when damaged, bounded."""

import os
import re
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import jax
import pytest

import glmjax as gj

ROOT = Path(__file__).parent.parent
CODE = """
    import sys, warnings
    warnings.simplefilter("error" if "strict" in sys.argv else "always")
    import jax, numpy as np, glmjax as gj
    jax.config.update("jax_enable_x64", True)
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.split("/")[-1]))
    gj.cache_compilation(*sys.argv[1:2])
    data = gj.make_data(np.arange(12.0).reshape(6, 2) ** 0.5, np.arange(6.0))
    fit = gj.fit(gj.glm(gj.normal()), data)
    gj.check(fit)
    print(hits.count("cache_hits"), hits.count("cache_misses"), np.asarray(fit.params.w).tobytes().hex())
"""


def start(*args, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", textwrap.dedent(CODE), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process):
    """Programs found, programs compiled, the coefficients, and what went to stderr."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    found, compiled, w = out.split()
    return int(found), int(compiled), w, err


@pytest.fixture
def configured():
    """JAX's configuration, given back."""
    names = ["jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    reset_cache()


def test_two_processes_at_once_a_third_after_them_and_one_with_broken_files(tmp_path, configured):
    folder = tmp_path / "made" / "here"
    first, second = (end(process) for process in [start(folder), start(folder)])
    assert first[0] + second[0] + first[1] + second[1] >= 2
    assert first[2] == second[2]
    assert folder.stat().st_mode & 0o777 == 0o700
    found, compiled, w, _ = end(start(folder, "strict"))
    assert (compiled, w) == (0, first[2])
    assert found > 0

    programs = sorted(folder.glob("*-cache"))
    assert len(programs) == found
    for i, path in enumerate(programs):  # cut off, empty, altered
        content = path.read_bytes()
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes([content[:middle], b"", altered][i % 3])
    found, compiled, w, err = end(start(folder))
    assert (found, w) == (0, first[2])
    assert err.count("Error reading persistent compilation cache entry") == len(programs)

    earlier = time.time() - 3600  # once nobody can be writing them any more
    for path in programs:
        os.utime(path, (earlier, earlier))
    (folder / ".checked").unlink()
    gj.cache_compilation(folder)
    assert not list(folder.glob("*-cache"))


def test_the_folder_of_the_user(tmp_path, monkeypatch, configured):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = gj.cache_compilation()
    assert folder.parent == tmp_path / "glmjax"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert gj.cache_compilation() == tmp_path / ".cache" / "glmjax" / folder.name


def test_a_process_may_change_the_folder(tmp_path, configured):
    for name in "ab":
        folder = gj.cache_compilation(tmp_path / name)
        jax.clear_caches()
        jax.jit(lambda x: x + 3)(1.0)
        assert list(folder.glob("*-cache"))


def test_what_was_longest_not_used_goes_first(tmp_path, configured):
    now = time.time()
    for i in range(5):
        path = tmp_path / f"jit_{i}-cache"
        path.write_bytes(zlib.compress(bytes(i) * 1000).ljust(100, b"-"))
        os.utime(path, (now - 100 * i, now - 1000))
    (tmp_path / "mine.txt").write_text("x" * 1000)
    (tmp_path / ".checked").touch()  # they have been looked at, which is a use too
    gj.cache_compilation(tmp_path, most=250)
    assert {path.name for path in tmp_path.iterdir()} == {"jit_0-cache", "jit_1-cache", "mine.txt", ".checked"}


def test_programs_being_written_or_of_another_kind_stay(tmp_path, configured):
    kept = {"jit_new-cache": zlib.compress(b"abc")[:5], "jit_other-cache": b"\x28\xb5\x2f\xfdabc", "jit_x-atime": b""}
    for name, content in (kept | {"jit_broken-cache": zlib.compress(b"abc")[:5]}).items():
        (tmp_path / name).write_bytes(content)
        if name != "jit_new-cache":
            os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    gj.cache_compilation(tmp_path)
    assert {path.name for path in tmp_path.glob("jit*")} == set(kept)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="most must be 1 or more, got 0"):
        gj.cache_compilation(tmp_path, most=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        gj.cache_compilation(tmp_path / "file" / "folder")


def test_the_library_itself_configures_nothing():
    """Only `cache_compilation` writes to `jax.config`."""
    for path in (ROOT / "glmjax").glob("*.py"):
        calls = re.search(r"^ *jax\.config\.update\(", path.read_text(), flags=re.M)
        assert bool(calls) == (path.name == "caching.py"), path
