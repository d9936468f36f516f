"""Links: the function that ties a family's mean to the linear predictor, `link(mean) = eta`.

A family names its link; what the rest of the library needs is the inverse, `mean = inverse_link(eta)`.
"""

import jax
import jax.numpy as jnp
from jax import Array


def identity(eta: Array) -> Array:
    """The inverse of the identity link: the linear predictor is the mean."""
    return eta


INVERSE_LINKS = {"identity": identity, "log": jnp.exp, "logit": jax.nn.sigmoid, "softmax": jax.nn.softmax}


def check_link(link: str, known: tuple[str, ...], family: str) -> str:
    """Return `link` if the family has it; else raise a `ValueError` that lists the ones it has."""
    if link not in known:
        raise ValueError(f"link={link!r} is not a link of the {family} family; known: {', '.join(known)}")
    return link
