"""Archives of arrays: one file each, whole or refused.

A file is a NumPy archive of plain arrays, without pickle, and of one text in JSON, `description`, that says what they
are. It ends on the SHA-256 of all that is before, as the archive's comment: what has been cut off or altered anywhere
is refused before any of it is believed.
"""

import hashlib
import json
import os
import warnings
import zipfile
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from .files import write_atomic

VERSION = 1  # of the format; a file of a later one is refused
DIGEST = 64  # characters of a SHA-256
READ = {  # by what it holds, how a file is to be read
    "fit": "load(path)",
    "state": "load_state(path, like)",
    "log": "checkpoint=path, by the call of glmjax.streaming that wrote it",
}


def write_archive(path: str | os.PathLike, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """The archive: the description first, then the arrays; its comment is the digest of all that is before it."""
    try:
        ours = metadata.version("glmjax")
    except metadata.PackageNotFoundError:
        ours = "of a source tree"
    text = json.dumps({"version": VERSION, "glmjax": ours, **description}).encode()
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.comment = b"0" * DIGEST
        for name, array in {"description": np.frombuffer(text, np.uint8), **arrays}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    body = whole.getvalue()[:-DIGEST]

    def write(file: BinaryIO) -> None:
        file.write(body)
        file.write(hashlib.sha256(body).hexdigest().encode())

    return write_atomic(path, write)


def read_archive(
    path: str | os.PathLike, holds: str, content: bytes | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a file that is whole, and holds what is wanted; `content`, if it is here."""
    content = Path(path).read_bytes() if content is None else content
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(
            f"{os.fspath(path)} has been cut off or altered, or is no file of glmjax's: its checksum does not fit; "
            "take another copy of it, or save it again"
        )
    with np.load(BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    description = json.loads(arrays.pop("description").tobytes())
    if description["version"] > VERSION:
        raise ValueError(
            f"{os.fspath(path)} was written by glmjax {description['glmjax']} in version {description['version']} of "
            f"its format, and this glmjax reads versions up to {VERSION}; upgrade glmjax"
        )
    if description["holds"] != holds:
        raise ValueError(f"{os.fspath(path)} holds a {description['holds']}; read it with {READ[description['holds']]}")
    narrowed = [name for name, array in arrays.items() if array.dtype == np.float64 != jnp.result_type(float)]
    if narrowed:
        warnings.warn(
            f"{os.fspath(path)} holds float64 but JAX runs in float32, about 7 digits; call "
            'jax.config.update("jax_enable_x64", True) first',
            stacklevel=3,
        )
    return description, arrays
