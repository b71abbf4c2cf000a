"""What goes wrong in a real launch becomes a typed outcome with evidence, and the suite goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.launch.launcher import MARK
from bench.results.record import Record
from bench.results.store import read_records
from tests.command_line import Scalebench, command, command_environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# Sleeping ranks, so that a test has time to strike and no core is busy: 3 s a step.
SLEEPER = """
aa_pair: false
grids:
  - model: paced-nano
    model_options: {{num_layers: 1, forward_s: 1.0, backward_s: 2.0}}
    strategy: {strategy}
    world_size: 2
    steps: {steps}
    timeout_s: {timeout_s}
"""


def ranks_of(folder: Path) -> dict[int, psutil.Process]:
    """The running rank programs of the launches in a results folder, by rank."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "bench.worker.train" in line and str(folder) in " ".join(line) and "launcher" not in " ".join(line):
                environment = process.environ()
                if "RANK" in environment and "LOCAL_RANK" in environment:
                    found[int(environment["RANK"])] = process
    return found


def marked() -> list[psutil.Process]:
    """Every living process of any launch."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and MARK in process.environ():
                found.append(process)
    return found


def wait_for(condition, timeout_s: float = 60.0):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@contextlib.contextmanager
def running(suite: Path, results: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("run", suite, "--output", results, "--device", "cpu", "--no-report"),
        env=command_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def training(results: Path) -> dict[int, psutil.Process]:
    """Both ranks, once they have been building for long enough to be past their imports."""
    ranks = ranks_of(results)
    if len(ranks) < 2 or any(time.time() - process.create_time() < 8 for process in ranks.values()):
        return {}
    return ranks


def write(folder: Path, **values: object) -> Path:
    path = folder / "suite.yaml"
    path.write_text(SLEEPER.format(**{"strategy": "ddp", "steps": 50, "timeout_s": 120, **values}))
    return path


def only_record(results: Path) -> Record:
    records = read_records(results)
    assert len(records) == 1
    return records[0]


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with running(write(tmp_path), results) as process:
        ranks = wait_for(lambda: training(results))
        ranks[1].send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    record = only_record(results)
    assert process.returncode == 1
    assert record.outcome == "crashed"
    assert record.reason is not None and "rank 1 " in record.reason and "signal 9" in record.reason, record.reason
    assert record.evidence
    assert f"crashed: {record.cell.id}" in errors
    assert not marked()


def test_a_stopped_rank_ends_in_a_timeout_with_all_its_processes(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with running(write(tmp_path, timeout_s=30), results) as process:
        ranks = wait_for(lambda: training(results))
        ranks[0].send_signal(signal.SIGSTOP)
        process.communicate(timeout=90)
    record = only_record(results)
    assert process.returncode == 1
    assert record.outcome == "timeout"
    assert record.reason == "still running after 30 s, ended"
    assert record.wall_s is not None and 30 <= record.wall_s < 45
    assert not marked()


def test_ctrl_c_keeps_what_is_whole_and_the_same_command_goes_on(tmp_path: Path, scalebench: Scalebench) -> None:
    suite = write(tmp_path, strategy="[ddp, zero1]", steps=1)
    suite.write_text(suite.read_text().replace("forward_s: 1.0, backward_s: 2.0", "forward_s: 0.1, backward_s: 0.2"))
    results = tmp_path / "results"
    with running(suite, results) as process:
        first = wait_for(lambda: list(results.glob("*/*/record.json")), 120)
        second_run = scalebench("run", suite, "--output", results, "--no-report")
        assert second_run.returncode == 2
        assert f"in use by process {process.pid}" in second_run.stderr
        wait_for(lambda: ranks_of(results))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 of 2 launches are done and kept" in errors and "scalebench run" in errors
    assert not marked()
    assert list(results.glob("*/*/launch.json")) == [first[0].with_name("launch.json")]
    before = first[0].read_bytes()
    again = scalebench("run", suite, "--output", results, "--no-report")
    assert again.returncode == 0, again.stderr
    assert "1 done before" in again.stdout
    assert first[0].read_bytes() == before
    assert sorted(record.cell.strategy for record in read_records(results)) == ["ddp", "zero1"]
    third = scalebench("run", suite, "--output", results, "--no-report", timeout_s=30)
    assert third.returncode == 0 and "2 done before" in third.stdout


def test_out_of_memory_and_an_exception_are_outcomes_and_the_suite_goes_on(
    tmp_path: Path, scalebench: Scalebench
) -> None:
    """One suite under a real limit of 12 GiB of address space: a model of 26 GiB, a model type that does not exist, and
    a model that is fine."""
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        """
aa_pair: false
defaults: {strategy: ddp, world_size: 1, steps: 2, max_warmup_steps: 3, timeout_s: 120}
grids:
  - {model: gpt-nano, model_options: {hidden_size: 12288}, seq_len: 8}
  - {model: "hf:gpt5-of-my-dreams", seq_len: 8}
  - {model: paced-nano, model_options: {forward_s: 0.001, backward_s: 0.001}, seq_len: 8}
"""
    )
    results = tmp_path / "results"
    limit = ("prlimit", f"--as={12 * 2**30}")
    done = scalebench("run", suite, "--output", results, "--device", "cpu", prefix=limit)
    assert done.returncode == 1, done.stdout + done.stderr
    records = {record.cell.model: record for record in read_records(results)}
    assert {model: record.outcome for model, record in records.items()} == {
        "gpt-nano": "oom",
        "hf:gpt5-of-my-dreams": "crashed",
        "paced-nano": "ok",
    }
    assert "allocate memory" in str(records["gpt-nano"].reason)
    assert "rank 0: ValueError" in str(records["hf:gpt5-of-my-dreams"].reason)
    assert any("Traceback" in line or "ValueError" in line for line in records["hf:gpt5-of-my-dreams"].evidence)
    assert "oom: " in done.stderr and "crashed: " in done.stderr
    page = (results / "report" / "index.html").read_text()
    assert "oom" in page and "gpt5-of-my-dreams" in page
    assert not marked()


def test_a_killed_sweep_is_resumed(tmp_path: Path, scalebench: Scalebench) -> None:
    """SIGKILL gives it no chance to clean up: the ranks it leaves are ended, and what it was at is measured again."""
    results = tmp_path / "results"
    suite = write(tmp_path, steps=1)
    suite.write_text(suite.read_text().replace("forward_s: 1.0, backward_s: 2.0", "forward_s: 0.1, backward_s: 0.2"))
    with running(suite, results) as process:
        wait_for(lambda: ranks_of(results))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    again = scalebench("run", suite, "--output", results, "--device", "cpu", "--no-report")
    assert again.returncode == 0, again.stderr
    assert only_record(results).outcome == "ok"
    assert not marked()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    full_disk: Path, tmp_path: Path, scalebench: Scalebench
) -> None:
    suite, results = write(tmp_path, steps=1), full_disk / "results"
    suite.write_text(suite.read_text().replace("forward_s: 1.0, backward_s: 2.0", "forward_s: 0.1, backward_s: 0.2"))
    filler = full_disk / "filler"
    filler.write_bytes(b"x" * 48_000)
    arguments = ("run", suite, "--output", results, "--device", "cpu", "--no-report")
    done = scalebench(*arguments)
    assert done.returncode == 2
    assert "no space left to write" in done.stderr and "Traceback" not in done.stderr
    assert not marked()
    filler.unlink()
    again = scalebench(*arguments)
    assert again.returncode == 0, again.stderr
    assert only_record(results).outcome == "ok"
