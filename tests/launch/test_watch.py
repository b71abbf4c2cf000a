"""Which rank is named for the end of a launch: only one that is known to have ended first."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.launch.outcome import End, settle
from bench.launch.process import RankWatch
from bench.plan.cell import Cell
from bench.results.launch_file import Failure, Launch, failure_path, log_path, process_path


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes in the place of ranks."""
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def says_it_is_there(folder: Path, rank: int, process: subprocess.Popen[bytes]) -> None:
    process_path(folder, rank).write_text(f"{socket.gethostname()} {process.pid}")


def test_a_rank_that_ended_first_is_named_with_its_signal(tmp_path: Path, ranks: list[subprocess.Popen[bytes]]) -> None:
    watch = RankWatch(tmp_path, 2)
    for rank, process in enumerate(ranks):
        says_it_is_there(tmp_path, rank, process)
    watch.look()
    assert watch.first_gone == {}
    ranks[1].send_signal(signal.SIGKILL)
    while not watch.first_gone:
        watch.look()
    assert watch.first_gone == {1: 9}
    watch.close()


def test_nobody_is_named_while_a_rank_has_not_said_that_it_is_there(
    tmp_path: Path, ranks: list[subprocess.Popen[bytes]]
) -> None:
    """It may have been the first: the launcher ends all others then."""
    watch = RankWatch(tmp_path, 2)
    says_it_is_there(tmp_path, 0, ranks[0])
    watch.look()
    ranks[0].kill()
    ranks[0].wait()
    watch.look()
    assert watch.first_gone == {}
    watch.close()


def test_a_launcher_that_was_killed_is_named(tmp_path: Path) -> None:
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=2)
    launch = Launch(launch_id="abc", cell=cell, started_at="2026-01-01T00:00:00+00:00", launcher="deepspeed")
    record = settle(launch, tmp_path, End(-9, 1.0, {}, 0))
    assert (record.outcome, record.reason) == ("crashed", "the launcher was killed by signal 9")


def test_who_waited_in_vain_for_a_silent_rank_is_no_reason(tmp_path: Path) -> None:
    """What gloo says when the time of a launch is up, which its ranks may notice while they are being ended."""
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=3)
    launch = Launch(launch_id="abc", cell=cell, started_at="2026-01-01T00:00:00+00:00", launcher="deepspeed")
    said = ("Timed out waiting 4000ms for recv operation to complete", "Application timeout caused pair closure")
    for rank, words in zip((0, 2), said, strict=True):
        failure = Failure(rank=rank, hostname="here", outcome="crashed", message=f"RuntimeError: [pair.cc:1] {words}")
        failure_path(tmp_path, rank).write_text(failure.model_dump_json())
    log_path(tmp_path, 1).parent.mkdir()
    log_path(tmp_path, 1).write_text("asleep\n")
    record = settle(launch, tmp_path, End(None, launch.timeout_s, {}, 0))
    assert (record.outcome, record.evidence) == ("timeout", ["rank 1: asleep"])
    # Where nobody's time was up, it is what happened.
    assert settle(launch, tmp_path, End(1, 1.0, {}, 0)).reason == f"rank 0: RuntimeError: [pair.cc:1] {said[0]}"
