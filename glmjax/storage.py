"""Fitted models, and runs that are to go on, in files: one archive each; the rows that were fitted are not in it."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .archives import read_archive, write_archive
from .counts import poisson, quasi_poisson
from .distributions import Family
from .families import categorical, normal
from .inferences import Inference, Names
from .inputs import is_traced
from .mixtures import negative_binomial, negative_binomial1
from .models import Model
from .positives import gamma, inverse_gaussian, tweedie
from .predictors import MLP, Dense, Linear
from .proportions import bernoulli, binomial, quasi_binomial
from .results import Fit, History
from .watching import note_checkpoint

_TUPLES: dict[str, type] = {one.__name__: one for one in (Dense, Fit, History, Inference)}
FAMILIES: dict[str, Callable[..., Family]] = {  # as the doors that take text call them
    make.__name__: make
    for make in (
        normal,
        bernoulli,
        binomial,
        categorical,
        poisson,
        negative_binomial,
        negative_binomial1,
        gamma,
        inverse_gaussian,
        tweedie,
        quasi_poisson,
        quasi_binomial,
    )
}
_STATIC = ("name", "link", "n_outputs", "n_classes", "reference", "estimates_alpha")
_NUMBERS = ("dispersion", "alpha", "power")


class Saved(NamedTuple):
    """What a file holds: the `model`, its `fit`, and the `notes` and the `table` that were saved with them, if any."""

    model: Model
    fit: Fit
    notes: dict[str, Any]
    table: Inference | None


def save(
    path: str | os.PathLike,
    model: Model,
    fit: Fit,
    *,
    notes: dict[str, Any] | None = None,
    table: Inference | None = None,
) -> Path:
    """Write a fitted model, of one lane or many, to one file; the training data are not in it.

    A NumPy archive of plain arrays and JSON, checksummed, written to a temporary name, synced and renamed: a file that
    is there already survives any failure. The same fit gives the same bytes.

    Args:
        path: the file; by custom its name ends on `.gj`.
        model: from `glm` or `mlp`; a family and an activation that glmjax knows by name.
        fit: its fit, by any solver.
        notes: what else to keep, as JSON can hold it: names of the columns, units.
        table: from `inference`, errors and tests that need the data and are kept without.

    Returns:
        The path.

    Raises:
        ValueError: a fit of another model, a family or activation of one's own, which no other process would know.
        TypeError: traced arrays; notes that JSON cannot hold.
        OSError: the folder cannot be written.
    """
    if not isinstance(model, Model) or not isinstance(fit, Fit):
        raise TypeError(f"save takes a model and its Fit, got {type(model).__name__} and {type(fit).__name__}")
    if is_traced(*jax.tree.leaves((model, fit))):
        raise TypeError("save runs on the host and takes no traced arrays; return the fit from jit and save it then")
    if static_of(model) != static_of(fit.model):
        raise ValueError(f"fit is of another model, {fit.model}; got model={model}")
    arrays: dict[str, np.ndarray] = {}
    tree = [_encode(part, name, arrays) for part, name in ((model, "model"), (fit, "fit"), (table, "table"))]
    try:
        text = json.dumps({} if notes is None else notes, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"notes must be what JSON can hold, text, numbers, lists and dicts: {error}") from None
    return write_archive(path, {"holds": "fit", "tree": tree, "notes": json.loads(text)}, arrays)


def load(path: str | os.PathLike) -> Saved:
    """Read what `save` has written, here or on another machine, into arrays on JAX's default device.

    Raises:
        ValueError: naming the file: it is cut off or altered, none of glmjax's, or of a later format.
        FileNotFoundError: there is none.

    Warns where the file holds float64 and JAX runs in float32.
    """
    description, arrays = read_archive(path, "fit")
    model, fit, table = (_decode(part, arrays) for part in [*description["tree"], None][:3])  # older ones have no table
    return Saved(model, fit, description["notes"], table)


def save_state(path: str | os.PathLike, state: Any) -> Path:
    """Write the arrays of any pytree, such as an `SGDState` between epochs, to go on from after a crash.

    Kept as files of `save` are: `kill -9` at any moment leaves the last good one. Keys keep their kind.

    Raises:
        TypeError: traced arrays, leaves that are no arrays.
        OSError: the folder cannot be written.
    """
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    if is_traced(*(leaf for _, leaf in leaves)):
        raise TypeError("save_state runs on the host and takes no traced arrays; save between calls")
    arrays: dict[str, np.ndarray] = {}
    parts = [[jax.tree_util.keystr(at), _encode(leaf, str(i), arrays)] for i, (at, leaf) in enumerate(leaves)]
    written = write_archive(path, {"holds": "state", "parts": parts}, arrays)
    note_checkpoint(written)
    return written


def load_state(path: str | os.PathLike, like: Any) -> Any:
    """Read what `save_state` has written into a pytree like the one that was saved, such as `sgd_init(...)` gives.

    On the same device, and with the same program, a run goes on to the same bits as if it had not stopped.

    Raises:
        ValueError: naming the file: as `load`, and where its arrays are not those of `like`, naming one that is not.
        FileNotFoundError: there is none.
    """
    description, arrays = read_archive(path, "state")
    wanted, structure = jax.tree_util.tree_flatten_with_path(like)
    found = {at: _decode(part, arrays) for at, part in description["parts"]}
    names = [jax.tree_util.keystr(at) for at, _ in wanted]
    if set(names) != set(found):
        other = sorted(set(names) ^ set(found))[0]
        raise ValueError(f"{path} holds the state of another run: {other} is in one of the file and `like` only")
    for name, (_, leaf) in zip(names, wanted, strict=True):
        mine, its = (f"{jnp.result_type(part)}{list(jnp.shape(part))}" for part in (leaf, found[name]))
        if mine != its:
            raise ValueError(f"{path} holds the state of another run: {name} is {its} there and {mine} in `like`")
    return jax.tree.unflatten(structure, [found[name] for name in names])


def saved_shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a state, by its place in the pytree; raises as `load_state` does."""
    description, arrays = read_archive(path, "state")
    return {at: arrays[part["array"]].shape for at, part in description["parts"] if "array" in part}


def static_of(model: Model) -> Any:
    """What is static of a model."""
    family = replace(model.family, dispersion=None, alpha=None, power=None)
    return jax.tree.structure(replace(model, family=family))


def _built(family: dict[str, Any]) -> Family:
    """The family of that description, but for its numbers."""
    name, link = family["name"], family["link"]
    if name == "normal":
        return normal(family["n_outputs"], link)
    if name == "categorical":
        return categorical(family["n_classes"], family["reference"], link)
    if name == "tweedie":
        return tweedie(1.5, link)
    if name in ("negative_binomial", "negative_binomial1"):
        return replace(FAMILIES[name](1.0, link), estimates_alpha=family["estimates_alpha"])
    return FAMILIES[name](link)


def _described(model: Model) -> dict[str, Any]:
    """What is static of a model, in JSON; raises where it could not be made again from that."""
    family, predictor = model.family, model.predictor
    static = {name: getattr(family, name) for name in _STATIC}
    try:
        same = static_of(Model(_built(static), predictor)) == static_of(model)
    except (KeyError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"the {family.name} family is one of your own, which load could not make again; save its parameters by "
            "save_state, and load them with load_state"
        )
    if isinstance(predictor, Linear):
        return {"family": static, "bias": predictor.bias}
    if not isinstance(predictor.activation, str):
        raise ValueError(
            f"activation={predictor.activation!r} is a function, which load could not find again; save the parameters "
            "by save_state, and load them with load_state"
        )
    return {"family": static, "hidden": list(predictor.hidden), "activation": predictor.activation}


def _encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A value in JSON, its arrays under their names beside it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Names):
        return {"names": list(value)}
    if isinstance(value, Model):
        numbers = {part: getattr(value.family, part) for part in _NUMBERS}
        return _described(value) | {part: _encode(of, f"{name}.{part}", arrays) for part, of in numbers.items()}
    if type(value) in _TUPLES.values():
        parts = [_encode(part, f"{name}.{field}", arrays) for field, part in value._asdict().items()]
        return {"tuple": type(value).__name__, "parts": parts}
    if isinstance(value, tuple):
        return [_encode(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{name} is a {type(value).__name__}, no array or number")
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        arrays[name] = np.asarray(jax.random.key_data(value))
        return {"key": name, "kind": str(jax.random.key_impl(value))}
    array = np.asarray(value)
    # NumPy's format does not know types that are not its own, such as bfloat16.
    arrays[name] = array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array
    return {"array": name, "dtype": array.dtype.name}


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value of a description."""
    if isinstance(value, list):
        return tuple(_decode(part, arrays) for part in value)
    if not isinstance(value, dict):
        return value
    if "names" in value:
        return Names(value["names"])
    if "family" in value:
        numbers = {part: _decode(value[part], arrays) for part in _NUMBERS}
        family = replace(_built(value["family"]), **numbers)
        if "hidden" in value:
            return Model(family, MLP(tuple(value["hidden"]), value["activation"]))
        return Model(family, Linear(value["bias"]))
    if "tuple" in value:
        return _TUPLES[value["tuple"]](*(_decode(part, arrays) for part in value["parts"]))
    if "key" in value:
        return jax.random.wrap_key_data(jnp.asarray(arrays[value["key"]]), impl=value["kind"])
    return jnp.asarray(arrays[value["array"]].view(jnp.dtype(value["dtype"])))
