"""Every test runs in float64 and strictly: no rank or dtype promotion, and warnings are errors (pyproject.toml)."""

import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # for what is laid over devices
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

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
