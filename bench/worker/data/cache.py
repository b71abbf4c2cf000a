"""What is costly to make of a corpus and the same each time: made once, by one of all processes, then read by all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.errors import LaunchError

VARIABLE = "SCALEBENCH_CACHE"


def cache_folder() -> Path:
    """Where it is kept: $SCALEBENCH_CACHE, else scalebench in the user's own cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scalebench"


def key_of(*parts: object) -> str:
    """What an entry is kept under: the digest of all that decides its content."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8")).hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of the entry `name`, filled by `make` if it is not there yet.

    It is filled under a temporary name and renamed when it is whole, so that a process that is killed leaves no half entry.
    Of processes that want the same at once, one makes it and the others wait. Raises LaunchError if nothing can be kept.
    """
    entry = cache_folder() / name
    if entry.is_dir():
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with (entry.parent / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not entry.is_dir():
                _fill(entry, make)
    except OSError as error:
        raise LaunchError(
            f"cannot keep {entry}: {error.strerror or error}", hint=f"set {VARIABLE} to a folder that can be written"
        ) from error
    return entry


def _fill(entry: Path, make: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    try:
        make(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o755)
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        # Hosts that share a folder may not share locks: another one was first, with the same content.
        if not entry.is_dir():
            raise
