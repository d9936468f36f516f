"""How programs are compiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from .inputs import is_traced
from .traces import kept

# What takes XLA a while on a CPU, and makes programs of many small loops no faster.
_OPTIONS: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_disable_hlo_passes": "tree_reduction_rewriter",
    "xla_backend_optimization_level": 2,
}


def quick_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit`, with what lets a program of many small loops compile sooner on a CPU; elsewhere the same."""
    quickly = functools.partial(jax.jit, compiler_options=_OPTIONS)
    quick = quickly(function, **options)
    plain = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if not is_traced(*args) and jax.default_backend() == "cpu":
            try:
                return ((None if options else kept(function, args, quickly)) or quick)(*args)
            except (ValueError, jax.errors.JaxRuntimeError):
                pass  # JAX refuses options inside of another program, XLA those it does not know; or `plain` raises too
        return plain(*args)

    return call


def staged(function: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    """A function of several programs, between which the host looks; inside of a transformation they are one, `whole`,
    so that an eager `vmap` finds it compiled at its next call.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return whole(*args) if is_traced(*args) else function(*args)

    return call
