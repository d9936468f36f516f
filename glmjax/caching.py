"""What one process has compiled the next need not: JAX's cache of compiled programs on disk, switched on by request."""

import hashlib
import os
import platform
import time
import zlib
from contextlib import suppress
from pathlib import Path

import jax

from .inputs import check_count

_PROGRAMS = "*-cache"  # how JAX names them
_CHECKED = ".checked"  # a file whose time says up to when programs have been looked at
_WRITING = 60  # seconds that a program may take to write


def cache_compilation(folder: str | os.PathLike | None = None, *, most: int = 1 << 30) -> Path:
    """Keep compiled programs in a folder, and take from there what another process has compiled.

        gj.cache_compilation()  # once, at the start; the second process to fit the same shapes compiles nothing

    It is JAX's own persistent cache, with thresholds under which small fits are kept too. This is the one function of
    the library that changes JAX's configuration, for the whole process, and only when you call it: the folder, and
    the shortest compile time (0) and smallest program that are kept. Several processes may use a folder at once. A
    program that was cut off, or altered, is compiled again, with a warning of JAX's; it is removed by a later call.

    Programs are code: whoever can write to the folder can make you run theirs. The one made here is yours alone.

    Args:
        folder: None is `glmjax` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`), in it one for each kind
            of processor.
        most: bytes to keep; beyond, this call removes what was longest not used.

    Returns:
        The folder.

    Raises:
        ValueError: `most` below 1.
        OSError: the folder cannot be made.
    """
    most = check_count(most, "most")
    place = _of_user() if folder is None else Path(folder).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_broken(place)
    _remove_oldest(place, most)
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if before not in (None, str(place)):
        # JAX opens a folder once, and would go on with the other.
        from jax.experimental.compilation_cache.compilation_cache import reset_cache

        reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return place


def _of_user() -> Path:
    # Computers that share a home may differ in the instructions that they have.
    try:
        with open("/proc/cpuinfo") as file:
            kind = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        kind = platform.processor()
    digest = hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "glmjax" / digest


def _remove_broken(folder: Path) -> None:
    """Remove programs that were cut off or altered, of those that are new since the last time.

    JAX writes them in place: a process that is killed then leaves a part, which it never writes again.
    """
    mark, until = folder / _CHECKED, time.time() - _WRITING
    since = mark.stat().st_mtime if mark.exists() else 0.0
    for path in folder.glob(_PROGRAMS):
        with suppress(FileNotFoundError):  # another process removes them too
            if since <= path.stat().st_mtime < until and _broken(path.read_bytes()):
                path.unlink()
    mark.touch()
    os.utime(mark, (until, until))


def _broken(content: bytes) -> bool:
    """Whether a compressed program is not whole; others than zlib's are not known."""
    if content[:1] not in (b"", b"\x78"):
        return False
    try:
        zlib.decompress(content)
    except zlib.error:
        return True
    return False


def _remove_oldest(folder: Path, most: int) -> None:
    """Remove what was longest not used, until no more than so many bytes are left."""
    # JAX can do so itself, if a package is there that it does not require, with a lock for each program that is read.
    found = []
    for path in folder.glob(_PROGRAMS):
        with suppress(FileNotFoundError):
            seen = path.stat()
            found.append((max(seen.st_atime, seen.st_mtime), seen.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
