"""Every test runs in float64 and strictly: no rank or dtype promotion, and warnings are errors (pyproject.toml)."""

import os
import subprocess
import sys
import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # for what is laid over devices
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Nearly all of the tests' time is XLA's, and here no program runs long enough to earn what it is spent on. These are
# `programs.quick_jit`'s options and some more of their kind, for the programs inside of transformations too. What tests
# start as processes of their own is compiled as everywhere.
QUICK = (
    "--xla_backend_optimization_level=1 --xla_disable_hlo_passes=tree_reduction_rewriter,cpu-parallel-task-assigner "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def _compile_quickly():
    before = os.environ.get("XLA_FLAGS")
    flags = f"{before or ''} {QUICK}".strip()
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    # XLA ends the process at a flag that it does not know, so another one tries them.
    if subprocess.run(start, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode:
        return
    os.environ["XLA_FLAGS"] = flags
    jax.devices()  # here they are read, once for all
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before


_compile_quickly()

# What one file has compiled the next need not: each worker keeps it for itself, as long as it runs.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _forget():
    """What a file has compiled is let go after it: a process may map some ten thousand pieces of memory only, and a
    compiler that runs out of them crashes.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(2026)
