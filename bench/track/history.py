"""The history of a suite: files of pytest-benchmark that hold its step times, and which of them is the next baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import bench
from bench.analysis.measured import Measured
from bench.errors import OtherSchemaError, ScalebenchError, TrackError
from bench.track.cells import MEASURED, Run

SCHEMA_VERSION = 1
ENTRY = "scalebench"
"""What a file says of itself stands under this name, beside the fields of pytest-benchmark."""

_NUMBERED = re.compile(r"(?P<number>\d{4,})_(?P<suite>.+)\.json")


@dataclass(frozen=True)
class Stored:
    """A file of the history. `accepted`: whether the gate let it pass; None where nobody asked the gate. `steps_s`: by cell the
    seconds of its steps, None of a file without --benchmark-save-data."""

    path: Path
    suite: str
    accepted: bool | None
    measured: list[Measured]
    steps_s: dict[str, list[float] | None]


def entry(run: Run, accepted: bool | None) -> dict[str, Any]:
    """What a file says of itself."""
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": run.suite,
        "accepted": accepted,
        "version": bench.__version__,
    }


def read_stored(path: Path) -> Stored:
    """Read a file of the history. Raises TrackError, naming it, for what is not one, and OtherSchemaError for a whole one that
    another version wrote."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrackError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not text.strip():
        raise TrackError(f"{path} is empty", hint=_AGAIN)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TrackError(f"{path} is not a whole JSON file ({error})", hint=_AGAIN) from error
    about = content.get(ENTRY) if isinstance(content, dict) else None
    if not isinstance(about, dict):
        raise TrackError(f"{path} was not written by scalebench track (it has no entry {ENTRY!r})", hint=_AGAIN)
    if about.get("schema_version") != SCHEMA_VERSION:
        raise OtherSchemaError(
            f"{path} has schema version {about.get('schema_version')!r}, expected {SCHEMA_VERSION}",
            hint="give another --baseline, or start a new history with --accept",
        )
    try:
        # Other benchmarks may have been stored with ours.
        ours = [found for found in content["benchmarks"] if MEASURED in found["extra_info"]]
        measured = [Measured.model_validate(found["extra_info"][MEASURED]) for found in ours]
        data = [found["stats"].get("data") for found in ours]
        suite, accepted = about["suite"], about["accepted"]
    except (KeyError, TypeError, AttributeError, ValidationError, ScalebenchError) as error:
        raise TrackError(f"{path} is not as scalebench track writes it ({_first_line(error)})", hint=_AGAIN) from error
    if not measured:
        raise TrackError(f"{path} holds no cell", hint=_AGAIN)
    steps_s = {one.cell.id: steps for one, steps in zip(measured, data, strict=True)}
    return Stored(path, suite, accepted, measured, steps_s)


_AGAIN = "remove it, or give another --baseline"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"


def newest_accepted(storage: Path, suite: str) -> Stored | None:
    """The last file of a suite that the gate accepted; None where there is none. Raises TrackError for one that can't be read:
    it may be the one."""
    for _, path in sorted(_files(storage, suite), reverse=True):
        stored = read_stored(path)
        if stored.suite == suite and stored.accepted:
            return stored
    return None


def next_number(storage: Path) -> int:
    """One more than any file of the storage has, whatever its suite or machine, as pytest-benchmark counts."""
    return max((number for number, _ in _files(storage, None)), default=0) + 1


def _files(storage: Path, suite: str | None) -> Iterator[tuple[int, Path]]:
    # pytest-benchmark has a folder for each system and Python under the storage.
    for path in storage.rglob("*.json"):
        named = _NUMBERED.fullmatch(path.name)
        if named is not None and suite in (None, named["suite"]):
            yield int(named["number"]), path
