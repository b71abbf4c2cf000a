"""Where records are kept: atomic files under results/<suite>/<cell id>/<launch id>/."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.errors import LaunchError, RecordError
from bench.results.record import SCHEMA_VERSION, RankRecord, Record

RECORD_NAME = "record.json"
MANIFEST_NAME = "suite.json"
LOCK_NAME = ".lock"
_Content = TypeVar("_Content", bound=BaseModel)
_HEAD = re.compile(rf'\{{"schema_version": {SCHEMA_VERSION}, "sha256": "(?P<sha256>[0-9a-f]{{64}})", "\w+": ')


def _canonical(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: temporary name, fsync, rename. Raises RecordError when the disk refuses."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecordError(
                f"no space left to write {path}",
                hint="free some and run the same command again: whole records are kept",
            ) from error
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error


def sealed_text(name: str, content: BaseModel, version: int = SCHEMA_VERSION) -> tuple[str, str]:
    """The content of a file that nobody can edit unseen, and its SHA-256: canonical JSON, last, after the digest of that
    very text. `version`: of that kind of file."""
    canonical = _canonical(content.model_dump(mode="json"))
    digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
    return f'{{"schema_version": {version}, "sha256": "{digest}", "{name}": {canonical}}}', digest


def record_text(record: Record) -> str:
    """The content of a record's file."""
    return sealed_text("record", record)[0]


def write_record(path: Path, record: Record) -> None:
    """Write one record with the SHA-256 of its canonical JSON, so that a later edit or a torn file is found out."""
    write_atomically(path, record_text(record))


def rank_path(folder: Path, rank: int) -> Path:
    """Where a rank keeps its own part of a launch, before rank 0 gathers all parts in the record."""
    return folder / f"rank_{rank}.json"


def write_rank(folder: Path, rank: RankRecord) -> str:
    """Keep one rank's part beside the record to come. Returns its SHA-256, by which the record knows it."""
    text, digest = sealed_text("rank", rank)
    write_atomically(rank_path(folder, rank.rank), text)
    return digest


def _untouched(text: str) -> tuple[str, str] | None:
    """The JSON inside a sealed file that is as it was written, to the byte, and its SHA-256; None for any other."""
    head = _HEAD.match(text)
    if (
        head is None
        or text[-1] != "}"
        or hashlib.sha256(text[head.end() : -1].encode("utf-8")).hexdigest() != head["sha256"]
    ):
        return None
    return text[head.end() : -1], head["sha256"]


def read_sealed(path: Path, name: str, kind: type[_Content], again: str, version: int = SCHEMA_VERSION) -> _Content:
    """The content of a sealed file. Raises RecordError, naming the file, unless it is whole, unedited and of this version.

    `again` says how to come by another, `version` is what this kind of file has now.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # What is as it was written to the byte needs no closer look, which costs four times as much: it writes every
        # figure anew to compare the SHA-256.
        if (untouched := _untouched(text)) is not None:
            with contextlib.suppress(ValidationError):
                return kind.model_validate_json(untouched[0])
        envelope = json.loads(text)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole JSON file ({error})", hint=again) from error
    found = envelope.get("schema_version") if isinstance(envelope, dict) else None
    if found != version:
        raise RecordError(
            f"{path} has schema version {found!r}, expected {version}",
            hint="read it with the scalebench that wrote it, or measure into another folder",
        )
    content = envelope.get(name)
    digest = hashlib.sha256(_canonical(content).encode("utf-8")).hexdigest() if isinstance(content, dict) else None
    if digest is None or digest != envelope.get("sha256"):
        raise RecordError(f"{path} was changed after it was written (its SHA-256 does not match)", hint=again)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: {where}: {first['msg']}", hint=again) from error


def read_record(path: Path) -> Record:
    """Read one record. Raises RecordError, naming the file, for anything but a whole, unedited record of this version."""
    return read_sealed(path, "record", Record, "move it away and run the suite again to measure it anew")


def misplaced(path: Path, record: Record) -> str | None:
    """Why a record can't be that of the folder in which it lies, which has the names of its cell and its launch."""
    folder = path.parent
    if (folder.parent.name, folder.name) == (record.cell.id, record.launch_id):
        return None
    return (
        f"a record of another run: of launch {record.launch_id} of {record.cell.id}, found as that of launch {folder.name} "
        f"of {folder.parent.name}"
    )


def _parts_wrong(folder: Path, record: Record) -> str | None:
    """Which ranks' own files are not there any more, or not the ones that the record was made of."""
    found = []
    for rank, digest in enumerate(record.rank_sha256):
        if not digest:
            continue  # the rank was lost, as the record says
        path = rank_path(folder, rank)
        try:
            untouched = _untouched(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            found.append(f"the file of rank {rank} is missing ({path.name})")
            continue
        except (OSError, ValueError) as error:
            found.append(f"the file of rank {rank} can't be read ({error})")
            continue
        if untouched is None:
            found.append(f"the file of rank {rank} was changed after it was written ({path.name})")
        elif untouched[1] != digest:
            launch_id = json.loads(untouched[0]).get("launch_id")
            found.append(f"{path.name} is not what rank {rank} measured in this launch (it is of launch {launch_id})")
    return "; ".join(found) or None


def read_launch_record(path: Path) -> Record:
    """The record of a launch's folder. It is `invalid`, with the reason, if it or a rank's file is of another run, or a
    rank's file is missing or was edited; otherwise as `read_record`."""
    record = read_record(path)
    reason = misplaced(path, record) or (_parts_wrong(path.parent, record) if record.outcome == "ok" else None)
    return record if reason is None else record.model_copy(update={"outcome": "invalid", "reason": reason})


def record_paths(folder: Path) -> list[Path]:
    """Paths of all records under a results folder, in a stable order."""
    return sorted(folder.glob(f"*/*/{RECORD_NAME}"))


def read_records(folder: Path) -> list[Record]:
    """All records of a results folder, as `read_launch_record` gives them. Raises RecordError where there is none, or one
    that cannot be trusted."""
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder", hint="give the folder that `scalebench run` wrote")
    check_manifest(folder)
    records = [read_launch_record(path) for path in record_paths(folder)]
    if not records:
        raise RecordError(f"{folder} holds no record", hint="measure first: scalebench run quick")
    return records


def check_manifest(folder: Path) -> dict[str, Any] | None:
    """What `scalebench run` noted about the suite measured in this folder; None where no suite was.

    Raises RecordError for what is not a manifest, and for one of another schema version.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}: {error}", hint="give another --output folder") from error
    if not isinstance(manifest, dict):
        raise RecordError(f"{path} is not a suite manifest", hint="give another --output folder")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{folder} holds results of schema version {manifest.get('schema_version')!r}, expected {SCHEMA_VERSION}",
            hint="use the scalebench that wrote them, or another --output folder",
        )
    return manifest


@contextlib.contextmanager
def locked(folder: Path, option: str = "--output") -> Iterator[None]:
    """Hold a folder for one writer. Raises LaunchError, naming the other process, if it is held already; `option` is the one by
    which a user names another.

    The lock is the kernel's (flock): it goes with the process, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LaunchError(
            f"cannot write to {folder}: {error.strerror}", hint=f"give another {option} folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "another process"
            raise LaunchError(
                f"{folder} is in use by process {holder}",
                hint=f"wait until it ends, or give another {option} folder",
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:
            raise LaunchError(f"cannot write to {folder}: {error.strerror}", hint="free some space") from error
        yield
    finally:
        os.close(descriptor)
