"""Every way to synchronise when one of its ranks raises, is killed, hangs or is late in the middle of a step.

test_outcomes.py and test_faults.py put ddp and ZeRO through this under the real launcher.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.launch.outcome import End, num_oom_kills, settle
from bench.plan.cell import Cell
from bench.results.launch_file import log_path, process_path, read_failures, read_launch
from bench.results.record import Record
from tests import forked
from tests.worker import falling_rank
from tests.worker.falling_rank import FALLS, LATE_S, WINDOW_STEPS

pytestmark = pytest.mark.slow

TINY = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "vocab_size": 64, "max_seq_len": 16}
WAYS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "fsdp": ("fsdp", 2, {}),
    "zero2_offload": ("zero2_offload", 2, {}),
    "ddp_fp16": ("ddp_fp16", 2, {}),
    "ddp_powersgd": ("ddp_powersgd", 2, {}),
    "local_sgd": ("local_sgd", 2, {"every_steps": 3}),
    "diloco": ("diloco", 2, {"every_steps": 3}),
    "hierarchical": ("hierarchical", 4, {"every_steps": 3, "ranks_per_node": 2}),
    "server, sync": ("param_server", 3, {}),
    "server, weights": ("param_server", 4, {"aggregate": "weights", "num_servers": 2}),
    "server, async": ("param_server", 3, {"mode": "async"}),
    "server, stale": ("param_server", 3, {"mode": "stale", "staleness": 1}),
}
AT_OWN_PACE = ("server, async", "server, stale")
HANGS_S = 4.0
"""Enough for a tiny training to get into its third step; DeepSpeed's takes longer to begin."""


def launched(way: str, fault: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float = 60.0) -> Record:
    """The record that a sweep would write of the launch: what its ranks left, and how they ended."""
    strategy, world_size, options = WAYS[way]
    cell = Cell(
        model="gpt-nano", model_options=TINY, strategy=strategy, world_size=world_size, strategy_options=options,
        steps=WINDOW_STEPS, max_warmup_steps=6,
    )  # fmt: skip
    monkeypatch.setattr(forked, "_rank_program", fault)
    begun_s, oom_kills = time.monotonic(), num_oom_kills()
    try:
        return forked.train(cell, folder=folder, timeout_s=timeout_s)
    except forked.RankFailed as failed:
        ended = failed.ended
    [here] = (folder / cell.id).iterdir()
    nobody_is_left(here, world_size)
    assert "falls" in log_path(here, FALLS).read_text(), ended
    first, took_s = ended.first_failed, time.monotonic() - begun_s
    assert first is not None
    hung = took_s >= timeout_s
    signals = {rank: -status for rank, status in enumerate(ended.statuses) if status is not None and status < 0}
    if not hung:
        # Who lost a peer notices by itself, long before the launch's time is up.
        assert None not in ended.statuses and took_s < timeout_s / 2, (ended, took_s)
    end = End(None if hung else 1, took_s, signals, oom_kills)
    return settle(read_launch(here / "launch.json"), here, end)


def nobody_is_left(here: Path, world_size: int) -> None:
    """Not even a rank under a guard, as are those that may be missed: whose end comes with their guard's."""
    pids = [int(process_path(here, rank).read_text().split()[1]) for rank in range(world_size)]
    deadline = time.monotonic() + 5
    while living := [pid for pid in pids if is_living(pid)]:
        assert time.monotonic() < deadline, living
        time.sleep(0.02)


def is_living(pid: int) -> bool:
    """A zombie is not: there may be nobody to reap it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_raises(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words are the reason, not those of the ranks that lost it. Workers at their own pace go on without it."""
    record = launched(way, falling_rank.raises, tmp_path, monkeypatch)
    if record.cell.own_pace:
        went_on(record)
        return
    assert (record.outcome, record.reason) == ("crashed", f"rank {FALLS}: RuntimeError: out of ideas")
    assert any("out of ideas" in line for line in record.evidence)


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_is_killed(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = launched(way, falling_rank.is_killed, tmp_path, monkeypatch)
    if record.cell.own_pace:
        went_on(record)
        return
    assert record.outcome == "crashed" and record.reason is not None and record.evidence
    assert record.reason.startswith(f"rank {FALLS} ended without a record, killed by signal 9"), record.reason
    # Every other rank says what it saw, in a file of its own.
    [here] = (tmp_path / record.cell.id).iterdir()
    assert {failure.rank for failure in read_failures(here)} == set(range(record.cell.world_size)) - {FALLS}


def went_on(record: Record) -> None:
    assert record.outcome == "ok" and record.synchronisation is not None
    [lost] = record.synchronisation.lost
    assert (lost.rank, lost.num_updates) == (FALLS, falling_rank.AT_STEP)
    assert FALLS not in {rank.rank for rank in record.ranks}


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_hangs(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeout_s = 2 * HANGS_S if way == "zero2_offload" else HANGS_S
    record = launched(way, falling_rank.hangs, tmp_path, monkeypatch, timeout_s)
    assert (record.outcome, record.reason) == ("timeout", f"still running after {timeout_s:g} s, ended")
    assert any(line.startswith(f"rank {FALLS}: ") for line in record.evidence), record.evidence


@pytest.mark.parametrize("way", [way for way in WAYS if way not in AT_OWN_PACE])
def test_the_window_holds_what_a_late_rank_has_under_way(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its last step, on every rank. Of workers at their own pace test_param_server.py has a test of its own."""
    record = launched(way, falling_rank.is_late_in_the_last_step, tmp_path, monkeypatch)
    assert record.outcome == "ok"
    for rank in record.workers:
        assert len(rank.step_times_s) == WINDOW_STEPS and rank.step_times_s[-1] > 0.9 * LATE_S, rank
