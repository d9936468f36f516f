"""Every test runs in float64 and strictly: no rank or dtype promotion, and warnings are errors (pyproject.toml)."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # for what is laid over devices
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Nearly all of the tests' time is XLA's, and here no program runs long enough to earn what it is spent on. These are
# options of the kind that `programs.quick_jit` has, for the programs inside of transformations too. Sums are rewritten
# as trees all the same: without, a lane's bits depended on the others'. What tests start as processes of their own is
# compiled as everywhere.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_disable_hlo_passes=cpu-parallel-task-assigner "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


@functools.cache
def quick_flags():
    """XLA's flags with QUICK; without where it does not know them, since it ends the process then: another one tries."""
    before = os.environ.get("XLA_FLAGS", "")
    flags = f"{before} {QUICK}".strip()
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    failed = subprocess.run(start, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode
    return before if failed else flags


def _compile_quickly():
    before, flags = os.environ.get("XLA_FLAGS"), quick_flags()
    os.environ["XLA_FLAGS"] = flags
    jax.devices()  # here they are read, once for all
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before


_compile_quickly()

# What one file has compiled the next need not: each worker keeps it for itself, and shares it between files.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _exchange(own, shared):
    """Give what this worker has compiled to the others, and take what they have given. Programs are linked, which is
    done at once: JAX writes them in place, and another process might read half of one.
    """
    shared.mkdir(exist_ok=True)
    for here, there in ((own, shared), (shared, own)):
        for name in set(os.listdir(here)) - set(os.listdir(there)):
            with contextlib.suppress(OSError):  # the other worker was first, or it is another disk
                os.link(here / name, there / name)


@pytest.fixture(scope="module", autouse=True)
def _forget(tmp_path_factory, worker_id):
    """What a file has compiled is let go after it: a process may map some ten thousand pieces of memory only, and a
    compiler that runs out of them crashes.
    """
    yield
    jax.clear_caches()
    if worker_id != "master":
        _exchange(Path(COMPILED.name), tmp_path_factory.getbasetemp().parent / "compiled")


# A worker takes whole files (--dist loadfile): what their tests have in common is compiled once. Those that take the
# longest are first, so that no worker is left with one at the end.
FIRST = (
    "inference", "estimators", "claims", "newton", "separation", "resampling", "diagnostics", "profiles", "firth", "intervals", "sgd",
    "proximal", "lbfgs", "effects", "paths", "readme", "benchmark_many", "reports", "experiments", "batches",
)  # fmt: skip


# What takes ten seconds or more and is a whole experiment, a race, or a costly case of what is tested in others too:
# `python -m pytest -m slow`.
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)
    found = {item.nodeid.split("[")[0] for item in items}  # which cases there are depends on the folders of real data
    files = {name.split("::")[0] for name in found if not any("::" in argument for argument in config.args)}
    if lost := sorted(name for name in SLOW if name.split("::")[0] in files and name.split("[")[0] not in found):
        raise pytest.UsageError(f"tests/slow.txt names what is no test: {', '.join(lost)}")
    place = {f"test_{name}": i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="session")
def quick():
    """XLA's flags for processes that a test starts, where they are not about how programs are compiled."""
    return quick_flags()


@pytest.fixture
def key():
    return jax.random.key(2026)
