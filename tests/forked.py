"""Real ranks without a launcher's start-up: each a process of its own, forked from one that has imported all they need.

    found = forked.run(2, function, argument, folder=tmp_path)     # function(argument) on each of two ranks
    record = forked.train(cell, folder=tmp_path)                   # the whole rank program, as a launcher starts it

On CPU, with the environment that torchrun gives. The imports take some seconds, once a test session; after that two ranks
train and write their record in one to two. Arguments and results must be picklable, the function at the top of its module.
"""

from __future__ import annotations

import atexit
import datetime
import os
import pickle
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.launch.launcher import free_port, launch_environment
from bench.launch.machine import Machine
from bench.plan.cell import Cell
from bench.results.launch_file import Launch, record_path, write_launch
from bench.results.record import Record
from bench.results.store import read_launch_record
from tests.command_line import ROOT
from tests.fork_server import Ended, Job, output_path, result_path

T = TypeVar("T")

_server: subprocess.Popen[bytes] | None = None


class RankFailed(AssertionError):
    """A rank raised, was killed, or did not end in time: which, and the end of its output with its traceback. `ended`: the exit
    status of each."""

    def __init__(self, told: str, ended: Ended) -> None:
        super().__init__(told)
        self.ended = ended


def run(
    world_size: int,
    function: Callable[..., T],
    *arguments: Any,
    folder: Path,
    timeout_s: float = 120.0,
    environment: Mapping[str, str] | None = None,
    namespaces: Sequence[str | Path] | None = None,
    master_addr: str = "127.0.0.1",
) -> list[T]:
    """What `function(*arguments)` returns on each of `world_size` ranks, by rank. Raises RankFailed.

    A rank finds RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in os.environ; joining a process group is its own
    business. `environment` is put on top. `namespaces`: for each rank the network namespace that it enters before all else
    (/run/netns/NAME; needs root); `master_addr` is then an address of rank 0's that all of them reach. Output goes to
    `folder`/logs.
    """
    _fork(world_size, function, arguments, folder, timeout_s, environment, namespaces, master_addr)
    return [pickle.loads(result_path(folder, rank).read_bytes())[1] for rank in range(world_size)]


def train(
    cell: Cell,
    *,
    folder: Path,
    timeout_s: float = 120.0,
    environment: Mapping[str, str] | None = None,
    namespaces: Sequence[str | Path] | None = None,
    master_addr: str = "127.0.0.1",
    **launched: Any,
) -> Record:
    """The record that the rank program (bench.worker.train) writes of this cell. Raises RankFailed.

    `launched` are fields of the launch file: kind="attribution", seed, injections. The launch's folder is
    `folder`/<cell id>/<launch id>, where read_records(folder) finds it too.
    """
    launch = Launch(
        launch_id=uuid.uuid4().hex[:12],
        cell=cell,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        started_monotonic_s=time.monotonic(),
        launcher="forked",
        hostname=socket.gethostname(),
        affinity=sorted(os.sched_getaffinity(0)),
        timeout_s=timeout_s,
        **launched,
    )
    here = folder.resolve() / cell.id / launch.launch_id
    path = write_launch(here, launch)
    _fork(cell.world_size, _rank_program, (path,), here, timeout_s, environment, namespaces, master_addr)
    return read_launch_record(record_path(here))


def _rank_program(launch_file: Path) -> None:
    from bench.worker import train as program

    # The server imported it long before this launch began.
    program._ENTERED_S = time.monotonic()
    sys.argv = ["bench.worker.train", "--from-launch", str(launch_file)]
    program.main()


def _fork(
    world_size: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None,
    namespaces: Sequence[str | Path] | None,
    master_addr: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(world_size):
        output_path(folder, rank).unlink(missing_ok=True)
        result_path(folder, rank).unlink(missing_ok=True)
    where = {"MASTER_ADDR": master_addr, "MASTER_PORT": str(free_port())}
    job = Job(
        world_size=world_size,
        call=pickle.dumps((function, arguments)),
        folder=folder,
        timeout_s=timeout_s,
        environment={**where, **(environment or {})},
        namespaces=None if namespaces is None else tuple(map(str, namespaces)),
        import_path=list(sys.path),
    )
    ended = _ask(job)
    if ended.first_failed is not None:
        raise RankFailed(_told(ended, folder, timeout_s), ended)


def _ask(job: Job) -> Ended:
    server = _started()
    assert server.stdin is not None and server.stdout is not None
    pickle.dump(job, server.stdin)
    server.stdin.flush()
    try:
        ended = pickle.load(server.stdout)
    except BaseException:
        _stop()  # interrupted, or the server is gone: what it says next would answer nobody
        raise
    assert isinstance(ended, Ended)
    return ended


def _told(ended: Ended, folder: Path, timeout_s: float) -> str:
    rank = ended.first_failed
    assert rank is not None
    status = ended.statuses[rank]
    what = f"did not end within {timeout_s:g} s" if status is None else f"ended with status {status}"
    path = output_path(folder, rank)
    output = path.read_text(errors="replace")[-6000:] if path.exists() else "(no output)"
    return f"rank {rank} {what} (all: {ended.statuses}); {path}:\n{output}"


def _started() -> subprocess.Popen[bytes]:
    global _server  # noqa: PLW0603  # one for all tests of this process
    if _server is None or _server.poll() is not None:
        cpu = Machine("cpu", 1)
        any_cell = Cell(model="gpt-nano", strategy="ddp", world_size=1)
        environment = launch_environment(cpu, any_cell, "forked")
        _server = subprocess.Popen(
            [sys.executable, "-c", "from tests.fork_server import main; main()"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(_stop)
    return _server


def _stop() -> None:
    global _server
    server, _server = _server, None
    if server is None:
        return
    assert server.stdin is not None and server.stdout is not None
    server.stdin.close()
    server.stdout.close()
    server.wait()
