"""Links: the function that ties a family's mean to the linear predictor, `link(mean) = eta`.

A family names its link. Each is a pair of functions of one number, `forward` and its `inverse`, mean = inverse(eta).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def identity(eta: Array) -> Array:
    """The identity: the linear predictor is the mean."""
    return eta


class Link(NamedTuple):
    """`forward(mean) = eta` and its inverse."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


LINKS = {
    "identity": Link(identity, identity),
    "log": Link(jnp.log, jnp.exp),
    "logit": Link(jax.scipy.special.logit, jax.nn.sigmoid),
    "softmax": Link(jnp.log, jax.nn.softmax),
}


def check_link(link: str, known: tuple[str, ...], family: str) -> str:
    """Return `link` if the family has it; else raise a `ValueError` that lists the ones it has."""
    if link not in known:
        raise ValueError(f"link={link!r} is not a link of the {family} family; known: {', '.join(known)}")
    return link
