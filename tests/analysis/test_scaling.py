"""The scaling table against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.analysis.environment import environment
from bench.analysis.phases import phases
from bench.analysis.scaling import COLUMNS, scaling_table
from bench.analysis.validity import judge
from bench.analysis.verdict import NOT_OK_COLUMNS, RANKING_COLUMNS, not_ok, ranking
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import synthetic


def cell(world_size: int = 1, strategy: str = "ddp", **changes: Any) -> Cell:
    fields: dict[str, Any] = {"model": "gpt-nano", "seq_len": 100, "steps": 5}
    return Cell(**{**fields, **changes, "strategy": strategy, "world_size": world_size})


def table_of(*records: Record) -> pd.DataFrame:
    return scaling_table(judge(to_frame(list(records)))).set_index("world_size", drop=False).rename_axis(None)


def first_of(*records: Record) -> pd.Series[Any]:
    """The first row of the ranking."""
    return ranking(table_of(*records), synthetic.measured_of(list(records))).iloc[0]


def test_weak_scaling_by_hand() -> None:
    # 4 x 100 tokens in 0.1 s = 4,000 tokens/s; on two ranks 800 in 0.125 s = 6,400: 1.6 times as many, 80 % of ideal.
    table = table_of(
        synthetic.launch(cell(1, micro_batch_size=4), step_time_s=0.1),
        synthetic.launch(cell(2, micro_batch_size=4), step_time_s=0.125),
    )
    assert table["tokens_per_s"].tolist() == pytest.approx([4000, 6400])
    assert table["tokens_per_s_per_rank"].tolist() == pytest.approx([4000, 3200])
    assert table["speedup"].tolist() == pytest.approx([1.0, 1.6])
    assert table["efficiency"].tolist() == pytest.approx([1.0, 0.8])
    assert table["baseline"].tolist() == ["ddp at world_size 1, weak, accumulation 1"] * 2


def test_the_same_ranks_on_few_hosts_and_on_many_are_told_apart() -> None:
    few = [synthetic.launch(cell(size, placement="pack"), step_time_s=0.1) for size in (1, 8)]
    many = [synthetic.launch(cell(size, placement="spread"), step_time_s=0.2) for size in (1, 8)]
    table = table_of(*few, *many)
    expected = {(size, f"placement {name}") for size in (1, 8) for name in ("pack", "spread")}
    assert set(zip(table["world_size"], table["setting"], strict=True)) == expected
    assert table["efficiency"].tolist() == pytest.approx([1.0] * 4)
    assert set(table_of(*few)["setting"]) == {""} and few[0].cell.id == cell(1).id


def test_strong_scaling_keeps_accumulation() -> None:
    # 8 sequences of 100 tokens: 0.8 s on one rank, 0.25 s on four: 3.2 times as fast, 80 % of ideal.
    records = [
        synthetic.launch(cell(n, micro_batch_size=8 // n, scaling="strong"), step_time_s=t)
        for n, t in ((1, 0.8), (4, 0.25))
    ]
    table = table_of(*records)
    assert table["tokens_per_s"].tolist() == pytest.approx([1000, 3200])
    assert table.loc[4, "speedup"] == pytest.approx(3.2)
    assert table.loc[4, "efficiency"] == pytest.approx(0.8)
    assert table["keeps"].tolist() == ["accumulation 1"] * 2


def test_strong_scaling_may_share_out_accumulation_instead() -> None:
    records = [
        synthetic.launch(cell(n, micro_batch_size=2, grad_accum_steps=4 // n, scaling="strong"), step_time_s=0.8 / n)
        for n in (1, 2, 4)
    ]
    table = table_of(*records)
    assert table["speedup"].tolist() == pytest.approx([4, 2, 1])
    assert table["keeps"].unique().tolist() == ["micro-batch 2"]
    assert table["baseline"].unique().tolist() == ["ddp at world_size 1, strong, accumulation 4"]


def test_strong_series_of_equal_accumulation_are_not_mixed() -> None:
    records = [
        synthetic.launch(cell(n, micro_batch_size=8 // n // g, grad_accum_steps=g, scaling="strong"), step_time_s=t)
        for n, g, t in ((1, 1, 0.8), (2, 1, 0.5), (1, 4, 1.6), (2, 4, 0.8))
    ]
    table = table_of(*records)
    by_accumulation = table.loc[2].set_index("grad_accum_steps")["speedup"]
    assert by_accumulation.to_dict() == pytest.approx({1: 1.6, 4: 2.0})


def test_the_number_of_measured_steps_is_no_other_work() -> None:
    table = table_of(synthetic.launch(cell(1, steps=5)), synthetic.launch(cell(2, steps=9)))
    assert table["efficiency"].notna().all()
    assert table["setting"].tolist() == ["", ""]


def test_weak_and_strong_profiles_and_models_have_their_own_baselines() -> None:
    records = [
        synthetic.launch(cell(n, micro_batch_size=2, **change), step_time_s=t)
        for change, n, t in (({}, 1, 0.1), ({}, 2, 0.1), ({"profile": "tuned"}, 1, 0.1), ({"profile": "tuned"}, 2, 0.2))
    ]
    table = table_of(*records)
    assert table.loc[2].set_index("profile")["efficiency"].to_dict() == pytest.approx({"matched": 1.0, "tuned": 0.5})
    assert set(table["setting"]) == {"profile matched", "profile tuned"}


def test_the_baseline_is_the_smallest_that_ran() -> None:
    table = table_of(
        synthetic.failure(cell(1), "oom", "out of memory"),
        synthetic.launch(cell(2), step_time_s=0.1),
        synthetic.launch(cell(8), step_time_s=0.2),
    )
    assert pd.isna(table.loc[1, "speedup"]) and pd.isna(table.loc[1, "baseline"])
    assert table.loc[8, "baseline"] == "ddp at world_size 2, weak, accumulation 1"
    assert table.loc[8, "speedup"] == pytest.approx(2.0)
    assert table.loc[8, "efficiency"] == pytest.approx(0.5)


def test_one_world_size_has_no_baseline() -> None:
    table = table_of(synthetic.launch(cell(2)), synthetic.launch(cell(2, "zero1")))
    assert table[["speedup", "efficiency", "baseline"]].isna().all(axis=None)


def test_oversubscribed_ranks_have_no_efficiency() -> None:
    # One thread a rank: four ranks are too many.
    two_cores = synthetic.environment(cell(), num_cores=2)
    table = table_of(*(synthetic.launch(cell(n), place=two_cores) for n in (1, 2, 4)))
    assert table["oversubscribed"].tolist() == [False, False, True]
    assert table["efficiency"].notna().tolist() == [True, True, False]
    assert table["speedup"].notna().tolist() == [True, True, False]
    assert table["baseline"].notna().all()


def test_an_oversubscribed_baseline_gives_none() -> None:
    one_core = [synthetic.launch(cell(2), place=synthetic.environment(cell(), num_cores=1)), synthetic.launch(cell(4))]
    assert table_of(*one_core)["efficiency"].isna().all()


def test_paced_ranks_are_marked_and_not_oversubscribed() -> None:
    table = table_of(*(synthetic.launch(cell(n, model="paced-nano")) for n in (1, 8)))
    assert table["paced"].tolist() == [True, True]
    assert table["oversubscribed"].tolist() == [False, False]
    assert table.loc[8, "efficiency"] == pytest.approx(1.0)
    assert table["mfu"].isna().all()


def test_several_launches_give_their_mean() -> None:
    # Standard deviation 0.01, of the mean 0.01 / sqrt(3) = 2.887 % of it; t of 2 degrees at 97.5 % is 4.3027 (Fisher's table).
    times = [0.19, 0.21, 0.20]
    table = table_of(
        *(synthetic.launch(cell(), step_time_s=t) for t in times), synthetic.failure(cell(), "crashed", "x")
    )
    row = table.loc[1]
    assert (row["outcome"], row["launches"], row["launches_tried"]) == ("ok", 3, 4)
    assert row["step_time_s"] == pytest.approx(0.2)
    assert row["tokens_per_s"] == pytest.approx(500)
    assert row["launch_spread_frac"] == pytest.approx(0.21 / 0.19 - 1)
    assert pd.isna(row["reason"])
    assert [row["step_time_s_lo"], row["step_time_s_hi"]] == pytest.approx([0.17664, 0.22645], abs=1e-5)
    assert [row["tokens_per_s_lo"], row["tokens_per_s_hi"]] == pytest.approx([100 / 0.22645, 100 / 0.17664], rel=1e-4)


def test_an_efficiency_is_as_sure_as_both_its_sides() -> None:
    # Both sides 2.887 %: together 4.082 %, with 4 degrees of freedom (Welch, equal variances), whose t is 2.7764.
    table = table_of(*(synthetic.launch(cell(n), step_time_s=t) for n in (1, 2) for t in (0.19, 0.21, 0.20)))
    assert table.loc[2, ["efficiency_lo", "efficiency_hi"]].tolist() == pytest.approx([0.89285, 1.12000], abs=1e-4)
    assert table.loc[2, ["speedup_lo", "speedup_hi"]].tolist() == pytest.approx([1.7857, 2.2400], abs=1e-3)
    assert table.loc[1, ["efficiency_lo", "efficiency_hi"]].tolist() == [1.0, 1.0]


def test_one_launch_has_no_interval_and_gives_none() -> None:
    several = [synthetic.launch(cell(2), step_time_s=t) for t in (0.19, 0.21)]
    table = table_of(synthetic.launch(cell(1)), *several)
    assert table.loc[2, ["step_time_s_lo", "step_time_s_hi"]].notna().all()
    assert table.loc[1, ["step_time_s_lo", "tokens_per_s_lo"]].isna().all()
    assert pd.isna(table.loc[2, "efficiency_lo"]) and pd.notna(table.loc[2, "efficiency"])


def test_a_twin_is_not_in_the_figures_of_its_cell() -> None:
    table = table_of(synthetic.launch(cell(), step_time_s=0.1), synthetic.launch(cell(), step_time_s=0.3, twin=True))
    assert (table.loc[1, "step_time_s"], table.loc[1, "launches"]) == (0.1, 1)


def test_a_cell_without_ok_launch_has_its_worst_outcome() -> None:
    table = table_of(synthetic.failure(cell(), "timeout", "too slow"), synthetic.failure(cell(), "oom", "too large"))
    row = table.loc[1]
    assert (row["outcome"], row["reason"], row["launches"], row["launches_tried"]) == ("oom", "too large", 0, 2)
    unknown = ["step_time_s", "tokens_per_s", "peak_memory_bytes", "mfu", "oversubscribed"]
    assert row[unknown].isna().all()


def test_mfu_by_hand() -> None:
    # 1e9 FLOPs/token x 100 tokens / 0.1 s = 1e12 FLOPs/s on one V100, whose fp16 peak is 125e12: 0.8 %.
    one = cell(1, precision="fp16")
    table = table_of(
        synthetic.launch(one, step_time_s=0.1, flops_per_token=1e9, place=synthetic.eight_v100s(one)),
    )
    assert table.loc[1, "mfu"] == pytest.approx(0.008)
    assert pd.isna(table_of(synthetic.launch(cell())).loc[1, "mfu"])


def test_accumulation_gain_by_hand() -> None:
    # One micro-batch in 0.2 s, four in 0.4 s: twice the tokens per second.
    table = table_of(
        synthetic.launch(cell(2, grad_accum_steps=1), step_time_s=0.2),
        synthetic.launch(cell(2, grad_accum_steps=4), step_time_s=0.4),
    )
    assert table.set_index("grad_accum_steps")["accumulation_gain"].to_dict() == pytest.approx({1: 1.0, 4: 2.0})


def test_the_required_columns_come_first() -> None:
    asked = [
        *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "global_batch_size"),
        *("precision", "outcome", "launches", "step_time_s", "tokens_per_s", "speedup", "efficiency", "baseline"),
        *("peak_memory_bytes", "oversubscribed", "paced"),
    ]
    assert COLUMNS[: len(asked)] == asked
    assert scaling_table(judge(to_frame(synthetic.quick()))).columns.tolist() == COLUMNS


def test_ranking_calls_what_is_within_five_percent_not_resolved() -> None:
    times = {"ddp": 0.100, "zero0": 0.104, "zero1": 0.106, "zero2": 0.2}
    row = first_of(*(synthetic.launch(cell(2, s), step_time_s=t) for s, t in times.items()))
    assert (row["fastest"], row["unresolved"], row["slower"]) == ("ddp", "zero0", "zero1, zero2")
    assert row["slowest_ratio"] == pytest.approx(2.0)


def test_ranking_widens_to_the_spread_of_launches() -> None:
    records = [synthetic.launch(cell(2), step_time_s=t) for t in (0.10, 0.12)]
    records.append(synthetic.launch(cell(2, "zero1"), step_time_s=0.125))
    row = first_of(*records)
    assert row["resolution_frac"] == pytest.approx(0.2)
    assert row["unresolved"] == "zero1"


def test_ranking_of_one_launch_each_widens_to_the_spread_of_the_pair() -> None:
    records = [synthetic.launch(cell(2), step_time_s=0.10), synthetic.launch(cell(2), step_time_s=0.112, twin=True)]
    records.append(synthetic.launch(cell(2, "zero1"), step_time_s=0.111))
    row = first_of(*records)
    assert row["resolution_frac"] == pytest.approx(0.12)
    assert (row["unresolved"], row["slower"]) == ("zero1", "")


def test_ranking_resolves_what_the_interval_of_several_launches_does() -> None:
    # Noise of 1 %: of a ratio of means of three 0.8165 %; t of 4 degrees at 99.4 % is 4.3666, at 99.75 % 5.5976.
    def three(strategy: str, center: float) -> list[Record]:
        return [synthetic.launch(cell(2, strategy), step_time_s=center * f) for f in (0.99, 1.0, 1.01)]

    row = first_of(*three("ddp", 0.1), *three("zero1", 0.103), *three("zero2", 0.105))
    assert (row["fastest"], row["unresolved"], row["slower"]) == ("ddp", "zero1", "zero2")
    assert row["lead"] == pytest.approx(1.03)
    assert [row["slowest_ratio_lo"], row["slowest_ratio_hi"]] == pytest.approx([1.05 / 1.0363, 1.05 * 1.0468], rel=1e-3)


def test_ranking_resolves_nothing_inside_the_spread_of_the_pair() -> None:
    def three(strategy: str, center: float, **changes: Any) -> list[Record]:
        return [synthetic.launch(cell(2, strategy), step_time_s=center * f, **changes) for f in (0.999, 1.0, 1.001)]

    row = first_of(*three("ddp", 0.1), *three("zero1", 0.105), *three("ddp", 0.106, twin=True))
    assert (row["unresolved"], row["slower"]) == ("zero1", "")


def test_attribution_launches_are_not_in_the_table() -> None:
    table = table_of(
        synthetic.launch(cell(), step_time_s=0.1), synthetic.launch(cell(), step_time_s=9.0, kind="attribution")
    )
    assert table.loc[1, "step_time_s"] == pytest.approx(0.1)
    assert table.loc[1, "launches_tried"] == 1


def test_phases_add_up_to_the_wall_clock() -> None:
    record = synthetic.launch(cell(), step_time_s=0.1)
    row = phases(to_frame([record, synthetic.failure(cell(2), "oom", "x")])).iloc[0]
    parts = ["start_s", "import_s", "build_s", "warmup_s", "window_s", "checks_s", "rest_s"]
    assert row[parts].sum() == pytest.approx(record.wall_s)
    # 1 + 2 + 0.5 + 0.75 + 0.25 known seconds outside, of 5 in all.
    assert row["rest_s"] == pytest.approx(0.5)
    assert row["outside_s"] == pytest.approx(5.0)


def test_environment_tells_one_place_from_several() -> None:
    two = [synthetic.launch(cell(1)), synthetic.launch(cell(2))]
    assert not environment(two)["differs"].any()
    other = synthetic.launch(cell(1), place=synthetic.environment(cell(), git_commit="fedcba"))
    frame = environment([*two, other])
    assert frame.loc[frame["differs"], "property"].unique().tolist() == ["git commit"]
    assert frame.loc[frame["value"] == "fedcba", "launches"].tolist() == [1]


def test_nothing_gives_empty_tables() -> None:
    nothing = judge(to_frame([]))
    assert scaling_table(nothing).columns.tolist() == COLUMNS
    assert ranking(scaling_table(nothing), []).columns.tolist() == RANKING_COLUMNS
    assert not_ok(nothing).columns.tolist() == NOT_OK_COLUMNS
    assert len(phases(nothing)) == 0
    assert len(environment([])) == 0


def test_the_input_is_left_alone() -> None:
    records = synthetic.quick()
    frame = judge(to_frame(records))
    before = frame.copy(deep=True)
    table = scaling_table(frame)
    pd.testing.assert_frame_equal(frame, before)
    copy = table.copy(deep=True)
    ranking(table, synthetic.measured_of(records))
    pd.testing.assert_frame_equal(table, copy)
