"""Imports what a rank needs, then forks ranks as it is asked to on its standard input: the far side of tests/forked.py.

No thread may be running when it forks, so it imports and computes nothing.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import pickle
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

POLL_S = 0.005
GRACE_S = 5.0
"""How long the other ranks may go on after one has failed, before they are ended."""
TELL_S = 0.2
"""How long a rank gets to write down where it is, before it is ended."""
CLONE_NEWNET = 0x40000000
_PRELOADED = (
    # torch._dynamo is imported by the first optimizer, a second in each rank; pytest by the test files of functions.
    *("torch", "torch._dynamo", "deepspeed", "pytest"),
    *("bench.worker.rank", "bench.worker.train", "bench.worker.strategies.ddp", "bench.worker.strategies.zero"),
)


@dataclass(frozen=True)
class Job:
    """`call` is the pickled function and its arguments; results and logs go into `folder`. `namespaces`: a path for each rank."""

    world_size: int
    call: bytes
    folder: Path
    timeout_s: float
    environment: dict[str, str]
    namespaces: tuple[str, ...] | None
    import_path: list[str]


@dataclass(frozen=True)
class Ended:
    """Exit status of each rank as subprocess has it, None for one that was ended here; and the first that failed."""

    statuses: list[int | None]
    first_failed: int | None


def result_path(folder: Path, rank: int) -> Path:
    """Where a rank leaves (True, what the function returned) or (False, its traceback), pickled."""
    return folder / f"result_{rank}.pickle"


def output_path(folder: Path, rank: int) -> Path:
    return folder / "logs" / f"rank_{rank}.log"


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Do one job after the other, until there is nobody left to ask."""
    _import_all()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread is running: forking would leave its locks behind"
    while True:
        try:
            job = pickle.load(requests)
        except EOFError:
            return
        ranks: dict[int, int] = {}
        for rank in range(job.world_size):
            child = os.fork()
            if child == 0:
                _be_rank(job, rank)
            ranks[child] = rank
        pickle.dump(_wait(job, ranks), replies)
        replies.flush()


def _import_all() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)


def _wait(job: Job, ranks: dict[int, int]) -> Ended:
    """Wait until all have ended, or end them: when time is up, some time after one failed, or when nobody waits any more."""
    statuses: list[int | None] = [None] * job.world_size
    first_failed: int | None = None
    deadline = time.monotonic() + job.timeout_s
    while ranks:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            rank = ranks.pop(child)
            statuses[rank] = os.waitstatus_to_exitcode(status)
            if statuses[rank] != 0 and first_failed is None:
                first_failed = rank
                deadline = min(deadline, time.monotonic() + GRACE_S)
            continue
        if time.monotonic() > deadline or select.select([0], [], [], 0)[0]:
            break
        time.sleep(POLL_S)
    for child in ranks:
        os.kill(child, signal.SIGUSR1)
    time.sleep(TELL_S if ranks else 0)
    for child in ranks:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if ranks and first_failed is None:
        first_failed = min(ranks.values())
    return Ended(statuses, first_failed)


def _be_rank(job: Job, rank: int) -> None:
    """Run the job's function as this rank. Never returns."""
    status = 1
    try:
        if job.namespaces is not None:
            _enter(job.namespaces[rank])
        _redirect_output(output_path(job.folder, rank))
        os.environ.update(job.environment, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job.world_size))
        sys.path[:] = job.import_path
        faulthandler.register(signal.SIGUSR1)
        try:
            function, arguments = pickle.loads(job.call)
            result: tuple[bool, Any] = (True, function(*arguments))
        except BaseException:
            traceback.print_exc()
            result = (False, traceback.format_exc())
        result_path(job.folder, rank).write_bytes(pickle.dumps(result))
        status = 0 if result[0] else 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Taking torch apart would cost a second, and the exit hooks are the server's.
        os._exit(status)


def _enter(namespace: str) -> None:
    """Move this process into a network namespace (setns(2); os.setns is there from Python 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(namespace, "rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def _redirect_output(path: Path) -> None:
    """Standard input from nowhere, output to a file of its own, below Python too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for descriptor, target, flags in ((0, os.devnull, os.O_RDONLY), (1, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        opened = os.open(target, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)


def main() -> None:
    # What imports print must not get between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)
