"""One suite of eight launches in which everything goes wrong, one thing after the other: no whole record is lost, none is read
in part, the same command makes exactly what is missing, and nothing is left behind.

It runs on a host of its own (tests/netlab.py), whose processes and /dev/shm are its alone, so that all that is left is seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from bench.launch.launcher import MARK
from bench.results.record import Record
from bench.results.store import RECORD_NAME, read_records
from tests.command_line import command, command_environment
from tests.netlab import Lab, within

pytestmark = pytest.mark.hosts

HOST = "node-1"
TIMEOUT_S = 40
SUITE = f"""
aa_pair: false
defaults:
  model: paced-nano
  model_options: {{num_layers: 1, forward_s: 0.05, backward_s: 0.1}}
  seq_len: 256
  world_size: 2
  max_warmup_steps: 3
  timeout_s: {TIMEOUT_S}
grids:
  - {{strategy: [ddp, zero1], steps: [4, 5], launches: 2}}
"""
STEP_S = 0.15


@dataclass
class Trouble:
    """A suite on its way through faults. `results` is the folder as the host sees it, `seen` the same from outside."""

    lab: Lab
    suite: Path
    results: Path
    clock: Path
    whole: dict[Path, bytes] = field(default_factory=dict)

    @property
    def seen(self) -> Path:
        return self.lab.seen_by(HOST, self.results)

    @contextlib.contextmanager
    def running(self, **variables: str) -> Iterator[subprocess.Popen[str]]:
        arguments = command(
            "run", self.suite, "--output", self.results, "--device", "cpu", "--no-report", "--no-reference"
        )
        process = self.lab.start(HOST, arguments, environment={**command_environment(), **variables})
        try:
            yield process
        finally:
            if process.poll() is None:
                within(process).kill()
                process.communicate(timeout=20)

    def records(self) -> list[Record]:
        """Every record, each of which has to be whole; in the order in which they were made."""
        return sorted(read_records(self.seen), key=lambda record: record.sequence or 0)

    def ranks(self) -> dict[int, psutil.Process]:
        """The rank programs of the launch that is at it, once both are there."""
        found = {}
        for process in self.lab.processes(HOST):
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if MARK in environment and "RANK" in environment and "bench.worker.train" in process.cmdline():
                    found[int(environment["RANK"])] = process
        # A rank that has not said that it is there can't be told from one that never started.
        said = [path for path in self.seen.glob("*/*/rank_*.pid") if not path.with_name(RECORD_NAME).exists()]
        return found if len(found) == 2 and len(said) == 2 else {}

    def struck(self, number: int, strike: Callable[[dict[int, psutil.Process]], None]) -> None:
        """Strike the launch before which there were `number` records, once both of its ranks are there."""

        def due() -> dict[int, psutil.Process]:
            return self.ranks() if len(list(self.seen.glob(f"*/*/{RECORD_NAME}"))) == number else {}

        strike(wait_for(due))

    def nothing_is_lost(self) -> None:
        """What was whole before is there to the byte, and what is there can be read."""
        for path, content in self.whole.items():
            assert path.read_bytes() == content, path
        self.records()
        launches = [path.parent for path in self.seen.glob(f"*/*/{RECORD_NAME}")]
        self.whole = {path: path.read_bytes() for folder in launches for path in folder.glob("*.json")}

    def nothing_is_left(self) -> None:
        assert self.lab.processes(HOST) == []
        assert self.lab.run(HOST, ["ls", "/dev/shm"]).stdout == ""
        assert not list(self.seen.rglob(".*.json.*"))


def wait_for(condition: Callable[[], dict[int, psutil.Process]] | Callable[[], list[Path]], timeout_s: float = 60.0):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def trouble(two_hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    folder = tmp_path_factory.mktemp("trouble")
    suite, clock, small = folder / "suite.yaml", folder / "clock.so", folder / "small"
    suite.write_text(SUITE)
    source = Path(__file__).with_name("swinging_clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(clock), str(source)], check=True)
    small.mkdir()
    two_hosts.hide(HOST, small, size_bytes=2 * 2**20)
    yield Trouble(two_hosts, suite, small / "results", clock)
    two_hosts.mend()


def launcher_of(process: subprocess.Popen[str]) -> psutil.Process:
    """What the sweep started, and so the parent of all others of the launch."""
    [launcher] = (child for child in within(process).children() if MARK in child.environ())
    return launcher


def test_a_rank_and_a_launcher_are_killed_a_rank_is_stopped_and_then_the_sweep_is_killed(trouble: Trouble) -> None:
    with trouble.running() as process:
        wait_for(lambda: list(trouble.seen.glob(f"*/*/{RECORD_NAME}")))
        trouble.struck(1, lambda ranks: ranks[1].kill())
        trouble.struck(2, lambda ranks: launcher_of(process).kill())
        trouble.struck(3, lambda ranks: ranks[0].send_signal(signal.SIGSTOP))
        wait_for(lambda: list(trouble.seen.glob(f"*/*/{RECORD_NAME}"))[3:], TIMEOUT_S + 20)
        trouble.struck(4, lambda ranks: within(process).kill())
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    outcomes = [(record.sequence, record.outcome) for record in trouble.records()]
    assert outcomes == [(0, "ok"), (1, "crashed"), (2, "crashed"), (3, "timeout")]
    _, rank, launcher, stopped = trouble.records()
    assert rank.reason is not None and "rank 1 ended" in rank.reason and "signal 9" in rank.reason
    assert launcher.reason == "the launcher was killed by signal 9"
    assert stopped.reason == f"still running after {TIMEOUT_S} s, ended"
    assert stopped.wall_s is not None and TIMEOUT_S <= stopped.wall_s < TIMEOUT_S + 10
    trouble.nothing_is_lost()
    # Nobody was left to end the ranks of the fifth: the next run does.
    assert trouble.ranks()


def test_the_disk_is_full_in_the_middle_of_a_launch(trouble: Trouble) -> None:
    filler = trouble.seen.parent / "filler"

    def fill(ranks: dict[int, psutil.Process]) -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    with trouble.running() as process:
        trouble.struck(4, fill)
        _, errors = process.communicate(timeout=60)
    assert os.statvfs(filler).f_bavail == 0
    filler.unlink()
    assert process.returncode == 2
    assert "no space left to write" in errors and "run the same command again" in errors and "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1, errors
    trouble.nothing_is_lost()
    trouble.nothing_is_left()
    assert len(trouble.records()) == 4


def test_the_sweep_is_killed_as_soon_as_a_record_is_whole(trouble: Trouble) -> None:
    with trouble.running() as process:
        wait_for(lambda: list(trouble.seen.glob(f"*/*/{RECORD_NAME}"))[4:])
        within(process).kill()
        output, _ = process.communicate(timeout=20)
    assert "8 launches, 4 done before" in output
    trouble.nothing_is_lost()
    assert [record.outcome for record in trouble.records()][4:] == ["ok"]


SWUNG = """
import time
seen = []
for _ in range(24):
    seen.append((time.time(), time.perf_counter()))
    time.sleep(0.1)
steps = [(b - a, d - c) for (a, c), (b, d) in zip(seen, seen[1:])]
print(round(max(abs(day - count) for day, count in steps)), max(count for _, count in steps) < 1)
"""


def test_the_clock_swings_for_a_program_under_it(trouble: Trouble) -> None:
    environment = {**command_environment(), "LD_PRELOAD": str(trouble.clock)}
    done = subprocess.run([sys.executable, "-c", SWUNG], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3600", "True"]


def test_exactly_what_is_missing_is_made_whatever_the_clock_of_the_day_does(trouble: Trouble) -> None:
    """An hour ahead and back every other second, for the sweep, the launcher and the ranks."""
    with trouble.running(LD_PRELOAD=str(trouble.clock)) as process:
        begun_s = time.monotonic()
        output, errors = process.communicate(timeout=120)
        took_s = time.monotonic() - begun_s
    assert process.returncode == 1, errors
    assert "8 launches, 5 done before" in output
    assert [line.split(":")[0] for line in errors.strip().splitlines()].count("crashed") == 2
    trouble.nothing_is_lost()
    trouble.nothing_is_left()
    records = trouble.records()
    outcomes = ["ok", "crashed", "crashed", "timeout", "ok", "ok", "ok", "ok"]
    assert [(record.sequence, record.outcome) for record in records] == list(enumerate(outcomes))
    for record in records[5:]:
        assert record.wall_s is not None and 2 < record.wall_s < took_s
        for rank in record.ranks:
            assert all(STEP_S <= step_s < 3 * STEP_S for step_s in rank.step_times_s)
            assert rank.phases.start_s is not None
            phases = rank.phases.model_dump().values()
            assert all(seconds >= 0 for seconds in phases) and sum(phases) < record.wall_s + 1
