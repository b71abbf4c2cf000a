"""Where records are kept: atomic files under results/<suite>/<cell id>/<launch id>/, and the way back to a table."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bench.errors import LaunchError, RecordError
from bench.results.record import SCHEMA_VERSION, Record, Replicas

if TYPE_CHECKING:
    import pandas as pd

RECORD_NAME = "record.json"
MANIFEST_NAME = "suite.json"
LOCK_NAME = ".lock"
_HEAD = re.compile(rf'\{{"schema_version": {SCHEMA_VERSION}, "sha256": "(?P<sha256>[0-9a-f]{{64}})", "record": ')


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


def record_text(record: Record) -> str:
    """The content of a record's file: its canonical JSON, last, after the SHA-256 of that very text."""
    canonical = _canonical(record.model_dump(mode="json"))
    digest = hashlib.sha256(canonical.encode("utf-8")).hexdigest()
    return f'{{"schema_version": {SCHEMA_VERSION}, "sha256": "{digest}", "record": {canonical}}}'


def write_record(path: Path, record: Record) -> None:
    """Write one record with the SHA-256 of its canonical JSON, so that a later edit or a torn file is found out."""
    write_atomically(path, record_text(record))


def _untouched(text: str) -> Record | None:
    """The record of a file that is as it was written, to the byte; None for any other, which needs a closer look.

    The closer look costs four times as much, because it writes every figure anew to compare the SHA-256.
    """
    head = _HEAD.match(text)
    if head is None or hashlib.sha256(text[head.end() : -1].encode("utf-8")).hexdigest() != head["sha256"]:
        return None
    try:
        return Record.model_validate_json(text[head.end() : -1])
    except ValidationError:
        return None


def read_record(path: Path) -> Record:
    """Read one record. Raises RecordError, naming the file, for anything but a whole, unedited record of this version."""
    again = "move it away and run the suite again to measure it anew"
    try:
        text = path.read_text(encoding="utf-8")
        if (record := _untouched(text)) is not None:
            return record
        envelope = json.loads(text)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole JSON file ({error})", hint=again) from error
    version = envelope.get("schema_version") if isinstance(envelope, dict) else None
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path} has schema version {version!r}, expected {SCHEMA_VERSION}",
            hint="read it with the scalebench that wrote it, or measure into another folder",
        )
    content = envelope.get("record")
    digest = hashlib.sha256(_canonical(content).encode("utf-8")).hexdigest() if isinstance(content, dict) else None
    if digest is None or digest != envelope.get("sha256"):
        raise RecordError(f"{path} was changed after it was written (its SHA-256 does not match)", hint=again)
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{path}: {where}: {first['msg']}", hint=again) from error


def record_paths(folder: Path) -> list[Path]:
    """Paths of all records under a results folder, in a stable order."""
    return sorted(folder.glob(f"*/*/{RECORD_NAME}"))


def read_records(folder: Path) -> list[Record]:
    """All records of a results folder. Raises RecordError where there is none, or one that cannot be trusted."""
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder", hint="give the folder that `scalebench run` wrote")
    check_manifest(folder)
    records = [read_record(path) for path in record_paths(folder)]
    if not records:
        raise RecordError(f"{folder} holds no record", hint="measure first: scalebench run quick")
    return records


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `scalebench run` noted about the suite measured in this folder; `None` where no suite was."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}: {error}", hint="give another --output folder") from error
    if not isinstance(manifest, dict):
        raise RecordError(f"{path} is not a suite manifest", hint="give another --output folder")
    return manifest


def check_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, after its schema version was checked. Raises RecordError for another version."""
    manifest = read_manifest(folder)
    if manifest is not None and manifest.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{folder} holds results of schema version {manifest.get('schema_version')!r}, expected {SCHEMA_VERSION}",
            hint="use the scalebench that wrote them, or another --output folder",
        )
    return manifest


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a results folder for one writer. Raises LaunchError, naming the other process, if it is held already.

    The lock is the kernel's (flock): it goes with the process, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LaunchError(f"cannot write to {folder}: {error.strerror}", hint="give another --output folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "another process"
            raise LaunchError(
                f"{folder} is in use by process {holder}",
                hint="wait until it ends, or give another --output folder",
            ) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:
            raise LaunchError(f"cannot write to {folder}: {error.strerror}", hint="free some space") from error
        yield
    finally:
        os.close(descriptor)


def to_frame(records: list[Record]) -> pd.DataFrame:
    """One row a launch: the cell's fields, the outcome, and the reductions over ranks that every table starts from.

    Columns beside the cell's own: suite, sequence, launch_id, kind, cell_id, global_batch_size, tokens_per_step, paced,
    outcome, reason, evidence (one string), started_at, wall_s, step_time_s (median over the window's steps of the slowest rank's
    seconds), step_time_min_s, step_time_max_s, num_steps, num_warmup_steps, warmup_settled, num_skipped_steps,
    num_params, flops_per_token, peak_memory_bytes and base_memory_bytes (largest over ranks), replica_distance,
    first_loss, final_loss (mean over ranks), losses (list, mean over ranks), window_s, outside_s (seconds of the
    launch outside the window), start_s, import_s, build_s, warmup_s, checks_s, threads_per_rank, num_cores,
    device_type, device_name, num_nodes, oversubscribed, num_ranks (ranks whose record is there), num_timed_steps (steps
    that every one of them timed). What was not measured is missing (None or NaN).
    """
    import numpy as np
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in records:
        cell, work, environment = record.cell, record.work, record.environment
        row: dict[str, Any] = cell.model_dump(exclude={"model_options"})
        row["model_options"] = json.dumps(cell.model_options, sort_keys=True) if cell.model_options else ""
        row.update(
            suite=record.suite,
            sequence=record.sequence,
            launch_id=record.launch_id,
            kind=record.kind,
            cell_id=cell.id,
            global_batch_size=cell.global_batch_size,
            tokens_per_step=cell.tokens_per_step,
            paced=cell.paced,
            outcome=record.outcome,
            reason=record.reason,
            evidence="\n".join(record.evidence),
            started_at=record.started_at,
            wall_s=record.wall_s,
        )
        if environment is not None:
            row.update(
                num_cores=environment.num_cores,
                device_type=environment.device_type,
                device_name=environment.device_names[0] if environment.device_names else None,
                num_nodes=environment.num_nodes,
            )
        row["num_ranks"] = len({rank.rank for rank in record.ranks})
        # Ranks of unequal length belong to no valid launch: num_timed_steps, the shortest, lets the gates say so.
        timed = min((len(rank.step_times_s) for rank in record.ranks), default=0)
        trained = min((len(rank.losses) for rank in record.ranks), default=0)
        row["num_timed_steps"] = timed
        if timed and trained and work is not None:
            step_times_s = np.array([rank.step_times_s[:timed] for rank in record.ranks]).max(axis=0)
            losses = np.array([rank.losses[:trained] for rank in record.ranks]).mean(axis=0)
            threads = max(rank.threads for rank in record.ranks)
            row.update(
                step_time_s=float(np.median(step_times_s)),
                step_time_min_s=float(step_times_s.min()),
                step_time_max_s=float(step_times_s.max()),
                peak_memory_bytes=max(rank.peak_memory_bytes for rank in record.ranks),
                base_memory_bytes=max(rank.base_memory_bytes for rank in record.ranks),
                first_loss=float(losses[0]),
                final_loss=float(losses[-1]),
                losses=losses.tolist(),
                threads_per_rank=threads,
                num_steps=work.num_steps,
                num_warmup_steps=work.num_warmup_steps,
                warmup_settled=work.warmup_settled,
                num_skipped_steps=work.num_skipped_steps,
                num_params=work.num_params,
                flops_per_token=work.flops_per_token,
                # Missing means that nothing is replicated; a distance that is not a number must not look the same.
                replica_distance=_largest_distance(work.replicas),
            )
            phases = record.ranks[0].phases
            row.update(phases.model_dump())
            if record.wall_s is not None:
                row["outside_s"] = record.wall_s - phases.window_s
            if environment is not None and environment.device_type == "cpu":
                ranks_here = -(-cell.world_size // environment.num_nodes)
                row["oversubscribed"] = not cell.paced and ranks_here * threads > environment.num_cores
            else:
                row["oversubscribed"] = False
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=FRAME_COLUMNS)


def _largest_distance(replicas: Replicas | None) -> float | None:
    if replicas is None:
        return None
    return math.inf if math.isnan(replicas.largest) else replicas.largest


FRAME_COLUMNS = [
    *(
        "suite",
        "sequence",
        "launch_id",
        "kind",
        "cell_id",
        "model",
        "model_options",
        "strategy",
        "scaling",
        "world_size",
    ),
    *(
        "grad_accum_steps",
        "micro_batch_size",
        "global_batch_size",
        "seq_len",
        "tokens_per_step",
        "precision",
        "profile",
    ),
    *("corpus", "activation_checkpointing", "learning_rate", "weight_decay", "deepspeed_config", "seed", "steps"),
    *("max_warmup_steps", "threads_per_rank", "paced", "oversubscribed", "outcome", "reason", "evidence", "started_at"),
    *("wall_s", "window_s", "outside_s", "start_s", "import_s", "build_s", "warmup_s", "checks_s", "step_time_s"),
    *("step_time_min_s", "step_time_max_s", "num_steps", "num_warmup_steps", "warmup_settled", "num_skipped_steps"),
    *("num_params", "flops_per_token", "peak_memory_bytes", "base_memory_bytes", "replica_distance", "first_loss"),
    *("final_loss", "losses", "device_type", "device_name", "num_cores", "num_nodes", "num_ranks", "num_timed_steps"),
]
