"""`quick_jit` compiles wherever `jax.jit` does."""

import jax
import jax.numpy as jnp
import pytest

from glmjax import programs

X = jnp.arange(3.0)


def double(x):
    return 2 * x


def test_inside_of_other_programs():
    """JAX refuses compiler options there, also where no argument is traced."""
    call = programs.quick_jit(double)
    for f in (call, jax.jit(call), jax.vmap(call), jax.jit(lambda _: call(X))):
        assert jnp.all(f(X) == 2 * X)
    assert jnp.all(jax.grad(lambda x: jnp.sum(call(x)))(X) == 2)


def test_an_option_that_is_not_known_is_left_out(monkeypatch):
    monkeypatch.setattr(programs, "_OPTIONS", {"xla_no_such_option": True})
    assert jnp.all(programs.quick_jit(double)(X) == 2 * X)


def test_errors_are_the_functions_own():
    def wrong(x):
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        programs.quick_jit(wrong)(X)
