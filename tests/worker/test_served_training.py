"""Workers of a parameter server that are trained to a loss: what is evaluated, how many steps count, and what it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.analysis.gates import faults
from bench.analysis.scaling import scaling_table
from bench.analysis.training import time_to_loss
from bench.analysis.validity import judge
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from bench.results.training import Evaluation
from tests import forked
from tests.worker.lost_rank import EVALUATED_S, LAST_STEPS, LATE_S, evaluations_are_slow, worker_1_is_killed

pytestmark = pytest.mark.slow

TINY = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}


def cell(strategy: str, options: dict[str, Any] | None = None, world_size: int = 3, **fields: Any) -> Cell:
    """Two workers, each with four sequences of a global batch of eight."""
    tiny: dict[str, Any] = {"model": "gpt-nano", "model_options": TINY, "seq_len": 16, "learning_rate": 0.01}
    goal = {"max_steps": 40, "evaluate_every": 7, "evaluation_sequences": 12}
    given = {**tiny, **goal, "strategy": strategy, "world_size": world_size, "micro_batch_size": 4, **fields}
    return Cell(**given, strategy_options=options or {})


def evaluations(record: Record) -> list[Evaluation]:
    assert record.training is not None
    return record.training.evaluations


def believed(record: Record) -> None:
    [launch] = judge(to_frame([record]), {record.launch_id: faults(record)}).to_dict("records")
    assert launch["outcome"] == "ok", launch["reason"]


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({"num_servers": 2}, {"schedule": "cosine", "schedule_steps": 40, "max_grad_norm": 0.5}),
        ({"aggregate": "weights"}, {"optimizer": "sgd", "learning_rate": 0.3}),
    ],
)
def test_in_step_validation_losses_are_those_of_ddp(
    tmp_path: Path, options: dict[str, Any], training: dict[str, Any]
) -> None:
    """At every evaluation, to 1e-4; at the same steps and tokens."""
    asked = cell("param_server", options, 2 + int(options.get("num_servers", 1)), **training)
    found = forked.train(asked, folder=tmp_path)
    plain = forked.train(cell("ddp", world_size=2, **training), folder=tmp_path)
    assert [one.step for one in evaluations(found)] == [0, 7, 14, 21, 28, 35, 40]
    for one, other in zip(evaluations(found), evaluations(plain), strict=True):
        assert (one.step, one.tokens) == (other.step, other.tokens)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.02)
        assert one.train_loss is None or one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
    assert evaluations(found)[0].loss - evaluations(found)[-1].loss > 0.1
    assert found.synchronisation is not None and found.synchronisation.num_updates == 40
    assert found.mean_losses() == pytest.approx(plain.mean_losses(), rel=1e-4)
    believed(found)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "async"},
        {"mode": "async", "aggregate": "weights"},
        {"mode": "stale", "staleness": 1, "num_servers": 2},
    ],
)
def test_at_their_own_pace_workers_come_to_the_target(tmp_path: Path, options: dict[str, Any]) -> None:
    """And stop there together; the table has what it took in seconds and tokens."""
    asked = cell("param_server", options, 2 + int(options.get("num_servers", 1)), max_steps=200, target_loss=3.0)
    found = forked.train(asked, folder=tmp_path)
    assert found.training is not None and found.training.stopped == "target"
    *before, last = evaluations(found)
    assert last.loss <= 3.0 < min(one.loss for one in before) and last.step % 7 == 0
    # The steps of both workers, shared out as they came, and nothing twice.
    assert sum(len(rank.step_times_s) for rank in found.workers) == sum(len(rank.losses) for rank in found.workers)
    assert sum(len(rank.losses) for rank in found.workers) == 2 * last.step
    kept = found.synchronisation
    assert kept is not None and kept.num_updates == sum(kept.staleness.values()) == 2 * last.step
    assert sum(kept.lead.values()) == 2 * last.step
    assert last.tokens == kept.num_tokens == last.step * 8 * 16
    assert max(sum(rank.step_times_s) for rank in found.workers) <= last.wall_s * (1 + 1e-9)
    believed(found)

    [row] = time_to_loss([found], scaling_table(judge(to_frame([found])))).to_dict("records")
    assert (row["seconds_to_target"], row["tokens_to_target"]) == (last.wall_s, last.tokens)
    assert (row["launches_reached"], row["num_workers"], row["world_size"]) == (1, 2, asked.world_size)
    assert len(kept.samples) == len(before) and row["replica_distance"] == kept.samples[-1].largest


@pytest.mark.alone
def test_what_is_evaluated_has_every_message_and_no_second_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "_rank_program", evaluations_are_slow)
    asked = cell("param_server", {"mode": "async"}, max_steps=3 + LAST_STEPS, evaluate_every=8)
    found = forked.train(asked, folder=tmp_path)
    first, last = evaluations(found)
    assert (first.wall_s, last.step) == (0.0, 8)
    # The late message is in the seconds of both workers; the two evaluations are beside it.
    assert found.training is not None and found.training.evaluation_s > 2 * EVALUATED_S
    assert all(LATE_S < sum(rank.step_times_s) < 2 * EVALUATED_S for rank in found.workers)
    assert LATE_S < last.wall_s < 2 * EVALUATED_S
    [said] = (tmp_path / asked.id).glob("*/logs/rank_2.log")
    windows = [line for line in said.read_text().splitlines() if line.startswith("version")]
    # A window without a step before each evaluation: that of the last comes after all sixteen updates.
    assert windows == [
        *("version 0 at a window of 0", "version 0 at a window of 3"),
        *("version 6 at a window of 5", "version 16 at a window of 0"),
    ]
    # Replicas as they were before the workers fetched that: the first lacks the late message.
    assert found.synchronisation is not None and found.synchronisation.samples[-1].largest > 0
    assert found.work is not None and found.work.replicas is not None and found.work.replicas.largest == 0
    believed(found)


def test_a_worker_that_dies_on_the_way_is_dropped_and_the_others_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its tenth step. What they come to is in the record, and in no ranking."""
    monkeypatch.setattr(forked, "_rank_program", worker_1_is_killed)
    asked = cell("param_server", {"mode": "async"}, 4, max_steps=28, micro_batch_size=2)
    found = forked.train(asked, folder=tmp_path, timeout_s=60)
    assert found.training is not None and found.training.stopped == "max_steps"
    assert [one.step for one in evaluations(found)] == [0, 7, 14, 21, 28]
    assert found.synchronisation is not None
    [lost] = found.synchronisation.lost
    assert (lost.rank, lost.num_updates) == (1, 9)
    [launch] = judge(to_frame([found]), {found.launch_id: faults(found)}).to_dict("records")
    assert launch["outcome"] == "invalid" and "rank 1 after 9 updates" in launch["reason"]
