"""A parameter server whose workers go at their own pace: how old gradients are, what throughput is kept, what faults come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.analysis.gates import faults
from bench.analysis.validity import judge
from bench.launch.outcome import _lost_a_peer as lost_a_peer
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.launch_file import read_failures
from bench.results.record import Record
from tests import forked
from tests.worker import lost_rank

pytestmark = [pytest.mark.slow, pytest.mark.alone]

TINY = {"num_layers": 1, "hidden_size": 16, "vocab_size": 64, "max_seq_len": 16, "reference_tokens": 16}


def paced(step_s: float, strategy: str, world_size: int, options: dict[str, Any] | None = None, **fields: Any) -> Cell:
    """A tiny model that sleeps for `step_s` in a step, a third of it in the forward pass."""
    sizes = {**TINY, "forward_s": step_s / 3, "backward_s": 2 * step_s / 3}
    return Cell(
        model="paced-nano", model_options=sizes, strategy=strategy, world_size=world_size,
        strategy_options=options or {}, **{"max_warmup_steps": 3, **fields},
    )  # fmt: skip


def judged(record: Record) -> dict[str, Any]:
    [launch] = judge(to_frame([record]), {record.launch_id: faults(record)}).to_dict("records")
    return {str(name): value for name, value in launch.items()}


@pytest.mark.parametrize("staleness", [0, 2])
def test_nobody_is_further_ahead_than_the_bound(tmp_path: Path, staleness: int) -> None:
    """Over 510 updates, with a worker that takes three times as long."""
    options = {"mode": "stale", "staleness": staleness}
    found = forked.train(paced(0.003, "param_server", 4, options, steps=170, slow_rank_frac=2.0), folder=tmp_path)
    kept = found.synchronisation
    assert kept is not None and kept.num_updates == 510
    assert sum(kept.lead.values()) == sum(kept.staleness.values()) == 510
    # The fast ones run into the bound, and stop there.
    assert max(kept.lead) == staleness
    # Between fetch and update each of two others may have gone from `staleness` steps behind to as many ahead, and one more.
    assert max(kept.staleness) <= 2 * (2 * staleness + 1)
    assert judged(found)["outcome"] == "ok"


def test_without_a_bound_a_slow_worker_takes_fewer_steps(tmp_path: Path) -> None:
    """One of four twice as slow: 3.5 workers' worth of speed, of which 85 % is left, where ddp waits for the slow one."""
    step_s = 0.12
    served = paced(step_s, "param_server", 5, {"mode": "async"}, steps=24, slow_rank_frac=1.0)
    found = forked.train(served, folder=tmp_path)
    waiting = forked.train(paced(step_s, "ddp", 4, steps=6, slow_rank_frac=1.0), folder=tmp_path)
    launch, ddp = judged(found), judged(waiting)
    assert launch["outcome"] == ddp["outcome"] == "ok"
    # Seconds of as many tokens as four workers train on in a step.
    possible_s = 4 * step_s / 3.5
    assert possible_s <= launch["step_time_s"] <= possible_s / 0.85
    assert 2 * step_s <= ddp["step_time_s"] <= 2 * step_s * 1.15
    steps = [len(rank.step_times_s) for rank in found.workers]
    assert sum(steps) == 4 * 24 and min(steps[:3]) > 1.6 * steps[3]
    assert found.synchronisation is not None and found.synchronisation.num_tokens == 4 * 24 * 16
    assert len(found.mean_losses()) == found.cell.steps + 3


def test_the_window_holds_the_last_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has nothing left to do waits, inside the measured seconds, for what another still has under way."""
    monkeypatch.setattr(forked, "_rank_program", lost_rank.the_last_message_is_late)
    steps = lost_rank.WINDOW_STEPS
    found = forked.train(paced(0.003, "param_server", 3, {"mode": "async"}, steps=steps), folder=tmp_path)
    first, late = found.workers
    assert len(late.step_times_s) == 3 and len(first.step_times_s) == 2 * steps - 3
    for rank in found.workers:
        assert sum(rank.step_times_s) > lost_rank.LATE_S
    # What it waited for is in its last step, and in no other.
    assert max(first.step_times_s[:-1]) < 0.5 < first.step_times_s[-1]


@pytest.mark.parametrize("fault", [lost_rank.worker_1_is_killed, lost_rank.worker_1_raises])
def test_the_others_finish_without_a_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """The record says who, after how many updates; its figures are in no ranking."""
    monkeypatch.setattr(forked, "_rank_program", fault)
    found = forked.train(paced(0.01, "param_server", 4, {"mode": "async"}, steps=20), folder=tmp_path, timeout_s=60)
    kept = found.synchronisation
    assert found.outcome == "ok" and kept is not None
    [lost] = kept.lost
    assert lost.rank == 1 and lost.num_updates == 9 and lost_a_peer(lost.reason)
    assert [rank.rank for rank in found.ranks] == [0, 2, 3]
    assert found.rank_sha256[1] == "" and all(found.rank_sha256[rank] for rank in (0, 2, 3))
    assert kept.num_updates in (59, 60) and found.work is not None and found.work.replicas is not None
    launch = judged(found)
    assert launch["outcome"] == "invalid" and "rank 1 after 9 updates" in launch["reason"]


def test_a_server_that_dies_ends_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_rank_program", lost_rank.the_server_is_killed)
    cell = paced(0.01, "param_server", 3, {"mode": "async"}, steps=20)
    with pytest.raises(forked.RankFailed, match="rank 2 ended with status -9"):
        forked.train(cell, folder=tmp_path, timeout_s=60)
    [folder] = (tmp_path / cell.id).iterdir()
    assert not (folder / "record.json").exists()


def test_in_step_with_each_other_a_worker_that_dies_ends_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_rank_program", lost_rank.worker_1_is_killed)
    cell = paced(0.01, "param_server", 4, steps=20)
    with pytest.raises(forked.RankFailed, match="rank 1 ended with status -9"):
        forked.train(cell, folder=tmp_path, timeout_s=60)
    [folder] = (tmp_path / cell.id).iterdir()
    failures = read_failures(folder)
    assert failures and all(lost_a_peer(failure.message) for failure in failures), failures
