"""Each gate is tripped by a launch that breaks one rule and by nothing else."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.analysis.verdict import not_ok, ranking
from bench.plan.cell import Cell
from bench.results.frame import FRAME_COLUMNS, to_frame
from bench.results.record import OptimizerSettings, Record
from bench.results.reference import Reference
from tests import synthetic


def cell(strategy: str = "ddp", world_size: int = 2, **changes: Any) -> Cell:
    fields: dict[str, Any] = {"model": "gpt-nano", "seq_len": 64, "steps": 5}
    return Cell(**{**fields, **changes, "strategy": strategy, "world_size": world_size})


def judged(*records: Record) -> pd.DataFrame:
    return judge(to_frame(list(records)))


def only_reason(record: Record) -> str:
    frame = judged(record)
    assert frame["outcome"].tolist() == ["invalid"]
    return str(frame["reason"].iloc[0])


def test_sound_launches_stay_ok() -> None:
    frame = judged(*(synthetic.launch(cell(strategy)) for strategy in ("ddp", "zero0", "zero1", "zero2", "zero3")))
    assert frame["outcome"].tolist() == ["ok"] * 5
    assert frame["reason"].isna().all()


def test_a_lost_rank() -> None:
    assert only_reason(synthetic.launch(cell(world_size=4), num_ranks=3)) == "records of 3 ranks, expected world_size 4"


def test_no_rank_at_all() -> None:
    assert "records of 0 ranks" in only_reason(synthetic.launch(cell(), num_ranks=0, work=None))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite(loss: float) -> None:
    losses = [8.0, 7.9, loss, 7.7]
    assert only_reason(synthetic.launch(cell(), losses=losses)) == f"loss of step 2 is {loss:g}"


def test_skipped_steps() -> None:
    reason = only_reason(synthetic.launch(cell(precision="fp16"), num_skipped_steps=2))
    assert reason == "2 optimizer steps were skipped inside the window"


@pytest.mark.parametrize(
    ("precision", "distance", "ok"), [("fp32", 1e-8, True), ("fp32", 1e-4, False), ("bf16", 1e-4, True)]
)
def test_replicas_that_differ(precision: str, distance: float, ok: bool) -> None:
    frame = judged(synthetic.launch(cell(precision=precision), replica_distance=distance))
    assert frame["outcome"].tolist() == ["ok" if ok else "invalid"]
    if not ok:
        assert "replicas differ by 0.0001" in frame["reason"].iloc[0]


def test_a_distance_that_is_not_finite() -> None:
    assert "replicas differ" in only_reason(synthetic.launch(cell(), replica_distance=math.inf))
    assert "replicas differ" in only_reason(synthetic.launch(cell(), replica_distance=math.nan))


def test_sharded_parameters_have_no_distance() -> None:
    assert judged(synthetic.launch(cell("zero3"), replica_distance=None))["outcome"].tolist() == ["ok"]


def test_too_few_steps_by_count() -> None:
    assert "4 steps in the window (num_steps), expected 5" in only_reason(synthetic.launch(cell(), num_steps=4))


def test_too_few_steps_on_one_rank() -> None:
    record = synthetic.launch(cell(), step_times_s=[[0.1] * 5, [0.1] * 3])
    assert only_reason(record) == "3 steps in the window (num_timed_steps), expected 5"


def test_losses_that_leave_ddp_at_the_smallest_world_size() -> None:
    plain = synthetic.launch(cell("ddp", 1, micro_batch_size=2))
    losses = list(plain.ranks[0].losses)
    near = synthetic.launch(cell("zero1"), losses=[loss * (1 + 9e-5) for loss in losses])
    far = synthetic.launch(cell("zero2"), losses=[*losses[:3], losses[3] * (1 + 2e-4), *losses[4:]])
    frame = judged(far, near, plain)
    assert frame["outcome"].tolist() == ["invalid", "ok", "ok"]
    assert "step 3" in frame["reason"].iloc[0]
    assert "ddp at world_size 1" in frame["reason"].iloc[0]


def test_half_precision_may_differ_more() -> None:
    losses = synthetic.losses_of(cell(), 11)
    near = [loss * 1.01 for loss in losses]
    half = judged(
        *(synthetic.launch(cell(s, precision="bf16"), losses=v) for s, v in (("ddp", losses), ("zero1", near)))
    )
    full = judged(*(synthetic.launch(cell(s), losses=v) for s, v in (("ddp", losses), ("zero1", near))))
    assert half["outcome"].tolist() == ["ok", "ok"]
    assert full["outcome"].tolist() == ["ok", "invalid"]


def test_without_ddp_the_median_is_the_reference() -> None:
    losses = synthetic.losses_of(cell(), 11)
    records = [synthetic.launch(cell(s), losses=losses) for s in ("zero0", "zero1")]
    frame = judged(*records, synthetic.launch(cell("zero2"), losses=[loss + 1 for loss in losses]))
    assert frame["outcome"].tolist() == ["ok", "ok", "invalid"]
    assert "the median of 3 launches" in frame["reason"].iloc[2]


def test_an_unsound_ddp_is_no_reference() -> None:
    losses = synthetic.losses_of(cell(), 11)
    broken = synthetic.launch(cell("ddp"), losses=[*losses[:5], math.nan, *losses[6:]])
    frame = judged(broken, *(synthetic.launch(cell(s), losses=losses) for s in ("zero0", "zero1")))
    assert frame["outcome"].tolist() == ["invalid", "ok", "ok"]


def test_only_the_common_prefix_is_compared() -> None:
    losses = synthetic.losses_of(cell(), 20)
    frame = judged(synthetic.launch(cell("ddp"), losses=losses), synthetic.launch(cell("zero1"), losses=losses[:9]))
    assert frame["outcome"].tolist() == ["ok", "ok"]


@pytest.mark.parametrize("change", [{"micro_batch_size": 2}, {"seed": 1}, {"learning_rate": 1e-3}, {"seq_len": 32}])
def test_unequal_work_is_not_compared(change: dict[str, Any]) -> None:
    losses = synthetic.losses_of(cell(), 11)
    other = synthetic.launch(cell("zero1", **change), losses=[loss + 1 for loss in losses])
    assert judged(synthetic.launch(cell("ddp"), losses=losses), other)["outcome"].tolist() == ["ok", "ok"]


ADAMW = OptimizerSettings(name="AdamW", learning_rate=3e-4, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-8)


def plain(asked: Cell, losses: list[float], **changes: Any) -> list[Reference]:
    return [Reference(**{"cell": asked, "outcome": "ok", "losses": losses, "optimizer": ADAMW, **changes})]


def held_to(references: list[Reference], *records: Record, **columns: Any) -> pd.DataFrame:
    """The launches held to plain training; `columns` are set for all of them first."""
    frame = to_frame(list(records))
    for name, value in columns.items():
        frame[name] = pd.Series([value] * len(frame), dtype=object)
    return judge(frame, references=references)


def test_a_lone_cell_is_held_to_plain_training_of_its_global_batch() -> None:
    losses = synthetic.losses_of(cell(), 5)
    # Another split of the same global batch.
    references = plain(cell(world_size=1, micro_batch_size=2), losses)
    near = synthetic.launch(cell("zero2"), losses=[loss * (1 + 9e-5) for loss in losses] + [1.0] * 6)
    assert held_to(references, near)["outcome"].tolist() == ["ok"]
    far = synthetic.launch(cell("zero2"), losses=[*losses[:4], losses[4] * (1 + 2e-4), *losses])
    frame = held_to(references, far)
    assert frame["outcome"].tolist() == ["invalid"]
    assert frame["reason"].iloc[0] == (
        "losses leave those of equal work: step 4 is 8.25965, plain training has 8.258 (tolerance 0.0001, relative)"
    )


def test_plain_training_outvotes_the_launches_even_ddp() -> None:
    losses = synthetic.losses_of(cell(), 11)
    wrong = [loss + 1 for loss in losses]
    records = [synthetic.launch(cell(s), losses=v) for s, v in (("ddp", wrong), ("zero1", wrong), ("zero2", losses))]
    frame = held_to(plain(cell(), losses[:5]), *records)
    assert frame["outcome"].tolist() == ["invalid", "invalid", "ok"]
    assert frame["reason"].iloc[0].count("losses leave") == 1


def test_beyond_plain_trainings_few_steps_launches_are_held_to_each_other() -> None:
    losses = synthetic.losses_of(cell(), 11)
    late = synthetic.launch(cell("zero1"), losses=[*losses[:9], losses[9] + 1, losses[10]])
    frame = held_to(plain(cell(), losses[:5]), synthetic.launch(cell(), losses=losses), late)
    assert frame["outcome"].tolist() == ["ok", "invalid"]
    assert "step 9" in frame["reason"].iloc[1] and "ddp at world_size 2" in frame["reason"].iloc[1]


def test_plain_training_that_failed_or_is_of_other_work_says_nothing() -> None:
    far = synthetic.launch(cell(), losses=[1.0] * 11)
    losses = synthetic.losses_of(cell(), 5)
    for references in (
        plain(cell(), [], outcome="oom", optimizer=None),
        plain(cell(seed=1), losses),
        plain(cell(model_options={"num_layers": 2}), losses),
    ):
        assert held_to(references, far)["outcome"].tolist() == ["ok"]


def test_another_tuned_optimizer_shares_the_first_loss_alone() -> None:
    losses = synthetic.losses_of(cell(), 5)
    tuned = cell("zero1", profile="tuned")
    later = synthetic.launch(tuned, losses=[losses[0], *(loss + 1 for loss in losses[1:])])
    first = synthetic.launch(tuned, losses=[loss + 1 for loss in losses])
    lamb = str(ADAMW.model_copy(update={"name": "Lamb"}))
    for optimizer, outcomes in ((lamb, ["ok", "invalid"]), (str(ADAMW), ["invalid"] * 2), (None, ["invalid"] * 2)):
        found = [held_to(plain(cell(), losses), one, optimizer=optimizer)["outcome"].iloc[0] for one in (later, first)]
        assert found == outcomes, optimizer
    # The profile `matched` settles the optimizer: another one is no excuse.
    matched = synthetic.launch(cell("zero1"), losses=list(later.ranks[0].losses))
    assert held_to(plain(cell(), losses), matched, optimizer=lamb)["outcome"].tolist() == ["invalid"]


def test_losses_are_compared_until_one_scaler_skipped_what_another_did_not() -> None:
    half = cell(precision="fp16")
    losses = synthetic.losses_of(half, 6)
    apart = [*losses[:3], *(loss * 1.1 for loss in losses[3:])]
    references = plain(half, losses, skipped=[0, 2])
    for skipped, outcome in (([0, 2], "invalid"), ([0, 1, 2, 3], "ok"), ([0], "ok"), ([0, 2, 3], "invalid")):
        frame = held_to(references, synthetic.launch(half, losses=apart), skipped_warmup_steps=skipped)
        assert frame["outcome"].tolist() == [outcome], skipped


def test_reasons_found_in_the_record_are_joined() -> None:
    records = [synthetic.launch(cell(), num_skipped_steps=1), synthetic.launch(cell("zero1"))]
    frame = judge(to_frame(records), {record.launch_id: ["ledger", "threads"] for record in records})
    assert frame["outcome"].tolist() == ["invalid"] * 2
    assert frame["reason"].tolist() == [
        "1 optimizer steps were skipped inside the window; ledger; threads",
        "ledger; threads",
    ]


def test_a_launch_may_fail_several_gates() -> None:
    reason = only_reason(synthetic.launch(cell(), num_skipped_steps=1, replica_distance=0.5))
    assert "skipped" in reason and "replicas" in reason


def test_invalid_launches_are_in_no_ranking_and_are_listed() -> None:
    fast = synthetic.launch(cell("zero1"), step_time_s=0.01, num_skipped_steps=5)
    records = [fast, synthetic.launch(cell("ddp"), step_time_s=0.1)]
    frame = judged(*records)
    table = scaling_table(frame)
    invalid = table[table["strategy"] == "zero1"].iloc[0]
    assert invalid["outcome"] == "invalid" and pd.isna(invalid["tokens_per_s"])
    assert ranking(table, synthetic.measured_of(records))["fastest"].tolist() == ["ddp"]
    listed = not_ok(frame)
    assert listed["launch_id"].tolist() == [fast.launch_id]
    assert "skipped" in listed["reason"].iloc[0]


def test_failures_keep_their_own_reason() -> None:
    frame = judged(synthetic.failure(cell(), "oom", "CUDA out of memory"))
    assert frame[["outcome", "reason"]].to_numpy().tolist() == [["oom", "CUDA out of memory"]]


def test_the_input_is_left_alone_and_nothing_is_nothing() -> None:
    frame = to_frame([synthetic.launch(cell(), num_skipped_steps=1)])
    before = frame.copy(deep=True)
    judge(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert judge(to_frame([])).columns.tolist() == FRAME_COLUMNS
