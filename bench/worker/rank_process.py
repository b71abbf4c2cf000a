"""The process of a rank: where its output goes, how it can be watched, and what it leaves behind when it fails."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from bench.errors import ScalebenchError, UnreachableError
from bench.results.launch_file import FailedOutcome, Failure, failure_path, log_path, process_path
from bench.results.store import write_atomically


def announce(folder: Path, rank: int) -> None:
    """Send this process's output to its own file, and write where it runs, so that it can be watched. Exits 2 where it can't."""
    try:
        _redirect_output(log_path(folder, rank))
        write_atomically(process_path(folder, rank), f"{socket.gethostname()} {os.getpid()}")
    except (OSError, ScalebenchError) as error:
        print(f"error: rank {rank} on {socket.gethostname()} can't keep its files: {error}", file=sys.stderr)
        sys.exit(2)


def _redirect_output(path: Path) -> None:
    """Send this process's output to a file, below Python too: C++ aborts print there as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def leave(status: int) -> NoReturn:
    """End this process at once: all is written. Taking torch apart would cost each rank 0.7 s of CPU, and with peers gone it
    can hang or abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def leave_failed(folder: Path | None, rank: int, error: BaseException) -> NoReturn:
    """End this process with status 1, its failure printed and, where there is a folder, in a file for who started it."""
    traceback.print_exc()
    if isinstance(error, Exception) and folder is not None:
        leave_failure(folder, rank, error)
    leave(1)


def leave_failure(folder: Path, rank: int, error: Exception) -> None:
    """Write what a rank ended of, and its outcome, where who started it looks."""
    unmet = isinstance(error, UnreachableError)
    failure = Failure(
        rank=rank,
        hostname=socket.gethostname(),
        outcome=_outcome(error),
        message=str(error) if unmet else f"{type(error).__name__}: {error}"[:2000],
    )
    try:
        write_atomically(failure_path(folder, rank), failure.model_dump_json())
    except ScalebenchError as unwritten:
        print(f"rank {rank} could not leave its failure in a file: {unwritten}", file=sys.stderr)


def _outcome(error: Exception) -> FailedOutcome:
    from bench.worker.finite import NotFinite
    from bench.worker.meter.memory import ran_out_of_memory

    if ran_out_of_memory(error):
        return "oom"
    if isinstance(error, NotFinite):
        return "invalid"
    return "unreachable" if isinstance(error, UnreachableError) else "crashed"
