"""The comparison of two runs: its error rates in seeded experiments, and each verdict by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.analysis.comparison import (
    COLUMNS,
    VERDICTS,
    Rule,
    aa_spread_frac,
    compare,
    counters,
    environment_differences,
)
from bench.analysis.measured import Measured
from bench.analysis.statistics import Estimate
from bench.plan.cell import Cell
from tests import synthetic

RULE = Rule()
HERE = {"device type": "cpu", "CPU": "Synthetic", "memory, bytes": str(16 * 2**30), "version of torch": "2.13.0"}


def cell(world_size: int = 1, **changes: Any) -> Cell:
    return Cell(**{"model": "gpt-nano", "strategy": "ddp", "seq_len": 64, "world_size": world_size, **changes})


def one(asked: Cell | None = None, times: Sequence[float] = (0.1, 0.101, 0.099), **changes: Any) -> Measured:
    fields: dict[str, Any] = {
        "cell": asked or cell(),
        "outcome": "ok",
        "launch_step_times_s": list(times),
        "losses": [8.0, 7.5, 7.25],
        "losses_repeat": True,
        "environment": HERE,
    }
    return Measured(**{**fields, **changes})


def only(base: Measured, new: Measured, rule: Rule = RULE) -> dict[str, Any]:
    [row] = compare([base], [new], rule).to_dict("records")
    return {str(name): value for name, value in row.items()}


# --- As often as they say -------------------------------------------------------------------------------------------


def run(
    random: np.random.Generator, fracs: Sequence[float], num_launches: int, slower: Sequence[float]
) -> list[Measured]:
    """A suite with an A/A pair: its cells' launches with their own noise, each `slower` times as slow as it was."""
    times = [
        0.1 * factor * np.exp(random.normal(0, frac, num_launches)) for frac, factor in zip(fracs, slower, strict=True)
    ]
    twin = 0.1 * slower[0] * np.exp(random.normal(0, fracs[0], num_launches))
    return [
        one(cell(size + 1), values.tolist(), twin_step_times_s=[] if size else twin.tolist())
        for size, values in enumerate(times)
    ]


def verdicts(
    seed: int, num_runs: int, fracs: Sequence[float], num_launches: int, slower: Sequence[float]
) -> tuple[Counter[str], Counter[str]]:
    """How often each verdict was given to cells that did not change, and to those that did."""
    random = np.random.default_rng(seed)
    unchanged: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for _ in range(num_runs):
        base = run(random, fracs, num_launches, [1.0] * len(fracs))
        table = compare(base, run(random, fracs, num_launches, slower), RULE)
        for factor, verdict in zip(slower, table["verdict"], strict=True):
            (unchanged if factor == 1 else changed)[verdict] += 1
    return unchanged, changed


@pytest.mark.parametrize(("frac", "num_launches"), [(0.01, 3), (0.02, 3), (0.05, 3), (0.05, 5), (0.05, 10)])
def test_unchanged_cells_are_seldom_called_changed(frac: float, num_launches: int) -> None:
    unchanged, _ = verdicts(11, 300, [frac] * 10, num_launches, [1.0] * 10)
    total = sum(unchanged.values())
    assert set(unchanged) <= {"same", "not resolved", "slower", "faster"}
    # At most 1 %; two standard errors of 3,000 cells are 0.36 %.
    assert unchanged["slower"] / total <= 0.01
    assert (unchanged["slower"] + unchanged["faster"]) / total <= 0.0136


def test_unchanged_cells_of_unequal_noise_are_seldom_called_changed() -> None:
    """Noise that differs tenfold is not what pooling assumes: it costs something, but the gate keeps its promise."""
    fracs = [0.005, 0.005, 0.01, 0.01, 0.01, 0.02, 0.02, 0.03, 0.03, 0.05]
    unchanged, _ = verdicts(12, 300, fracs, 3, [1.0] * 10)
    assert unchanged["slower"] / 3000 <= 0.01
    assert (unchanged["slower"] + unchanged["faster"]) / 3000 <= 0.015


def test_ten_percent_slower_under_five_percent_noise_is_found_in_ten_launches() -> None:
    unchanged, changed = verdicts(13, 400, [0.05] * 10, 10, [1.0] * 5 + [1.1] * 5)
    assert changed["slower"] / 2000 >= 0.95
    assert unchanged["slower"] / 2000 <= 0.01


def test_the_noise_of_all_cells_finds_in_three_launches_what_a_cell_alone_does_not() -> None:
    _, together = verdicts(14, 100, [0.02] * 10, 3, [1.0] * 5 + [1.1] * 5)
    random = np.random.default_rng(14)
    alone = 0
    for _ in range(500):
        base, new = (run(random, [0.02], 3, [factor])[0] for factor in (1.0, 1.1))
        alone += (
            only(base.model_copy(update={"twin_step_times_s": []}), new.model_copy(update={"twin_step_times_s": []}))[
                "verdict"
            ]
            == "slower"
        )
    assert together["slower"] / 500 >= 0.95
    assert alone / 500 < 0.7


# --- By hand --------------------------------------------------------------------------------------------------------


def sure(ratio: float, half: float) -> Estimate:
    """A ratio whose 99 % interval reaches that far to its lower end, in logarithms."""
    # The normal distribution's quantile at 99.4 %; the upper end, at 99.75 %, is 12 % further.
    return Estimate(ratio, half / 2.5121, math.inf)


@pytest.mark.parametrize(
    ("ratio", "half", "spread", "verdict"),
    [
        (1.10, 0.02, None, "slower"),
        (1.10, 0.11, None, "not resolved"),  # its interval holds 1
        (1.10, 0.02, 0.12, "not resolved"),  # the A/A pair is further apart
        (1.10, 0.02, 0.08, "slower"),
        (0.90, 0.02, None, "faster"),
        (0.90, 0.02, 0.12, "not resolved"),
        (1.00, 0.02, None, "same"),
        (1.00, 0.04, None, "not resolved"),  # may be 3 % slower
        (1.02, 0.005, None, "same"),  # sure, and less than 3 %
        (1.02, 0.015, None, "not resolved"),  # sure to be slower, not sure to be less than 3 %
        (1.031, 0.005, None, "slower"),
        (0.99, 0.01, None, "same"),
    ],
)
def test_verdicts(ratio: float, half: float, spread: float | None, verdict: str) -> None:
    found, why = RULE.verdict(sure(ratio, half), spread)
    assert found == verdict
    assert (why is None) == (found != "not resolved")


def test_one_launch_resolves_nothing_and_says_what_to_do() -> None:
    row = only(one(times=[0.1]), one(times=[0.2]))
    assert row["verdict"] == "not resolved" and "launch both at least twice" in row["why"]
    assert (row["ratio"], row["base_launches"], row["new_launches"]) == (pytest.approx(2.0), 1, 1)
    assert pd.isna(row["ratio_lo"])


def test_a_row_by_hand() -> None:
    # Both sides 1 % / sqrt(3) of standard error, 0.8165 % together, 4 degrees of freedom;
    # t at 99.4 % is 4.3666, at 99.75 % 5.5976.
    row = only(one(), one(times=[0.12, 0.1212, 0.1188]))
    assert row["verdict"] == "slower" and row["ratio"] == pytest.approx(1.2)
    assert [row["ratio_lo"], row["ratio_hi"]] == pytest.approx(
        [1.2 * math.exp(-4.3666 * 0.008165), 1.2 * math.exp(5.5976 * 0.008165)], rel=1e-4
    )
    assert (row["base_step_time_s"], row["new_step_time_s"]) == (pytest.approx(0.1), pytest.approx(0.12))
    assert row["counters"] == "equal"


def test_columns_and_verdicts_are_the_documented_ones() -> None:
    assert compare([], [], RULE).columns.tolist() == COLUMNS
    assert set(VERDICTS) == {"faster", "slower", "same", "not resolved", "missing", "new", "not comparable"}


def test_cells_of_one_run_alone_are_missing_or_new() -> None:
    table = compare([one(cell(1)), one(cell(2))], [one(cell(2)), one(cell(4))], RULE).set_index("world_size")
    assert table["verdict"].to_dict() == {1: "missing", 2: "same", 4: "new"} | {2: table.loc[2, "verdict"]}
    assert table.loc[1, "why"] == "the new run has no such cell"
    assert table.loc[4, "why"] == "the base has no such cell"


def test_a_cell_that_gives_no_figure_any_more_is_missing_with_the_reason() -> None:
    gone = one(times=[], outcome="oom", reason="CUDA out of memory")
    row = only(one(), gone)
    assert row["verdict"] == "missing" and row["why"] == "the new run has no figure: oom (CUDA out of memory)"
    row = only(gone, one())
    assert row["verdict"] == "new" and "the base has no figure: oom" in row["why"]
    assert compare([gone], [gone], RULE).empty


def test_other_work_is_not_comparable() -> None:
    row = only(one(), one(cell(seq_len=128), times=[0.2, 0.2, 0.2]))
    assert row["verdict"] == "not comparable" and row["why"] == "other work: seq_len 64 -> 128"
    assert pd.isna(row["ratio"])


def test_more_measured_steps_are_the_same_work() -> None:
    row = only(one(), one(cell(steps=40)))
    assert row["verdict"] != "not comparable"
    assert row["differs"] == "steps 20 -> 40"


def test_other_hardware_is_not_comparable_and_other_software_is_named() -> None:
    row = only(one(), one(environment={**HERE, "CPU": "Another"}))
    assert row["verdict"] == "not comparable" and row["why"] == "other hardware: CPU Synthetic -> Another"
    torch = {**HERE, "version of torch": "2.14.0"}
    assert only(one(), one(environment=torch))["verdict"] != "not comparable"
    named = environment_differences([one()], [one(environment=torch)])
    assert named.to_numpy().tolist() == [["version of torch", "2.13.0", "2.14.0"]]


def test_a_few_megabytes_of_memory_are_the_same_machine() -> None:
    less = {**HERE, "memory, bytes": str(16 * 2**30 - 2**22)}
    assert only(one(), one(environment=less))["verdict"] != "not comparable"


def test_another_deepspeed_file_is_named_and_compared() -> None:
    row = only(one(settings={"zero_optimization.stage": "2"}), one(settings={"zero_optimization.stage": "2", "x": "1"}))
    assert row["differs"] == "x unknown -> 1"
    assert row["verdict"] != "not comparable"


def test_cells_that_share_a_place_are_not_mixed_up() -> None:
    """Two cells at one place in each run, all of other work: nobody can say which was which."""
    base = [one(cell(seq_len=length)) for length in (8, 16)]
    new = [one(cell(seq_len=length)) for length in (32, 64)]
    assert Counter(compare(base, new, RULE)["verdict"]) == {"missing": 2, "new": 2}


def test_losses_are_compared_exactly_where_they_repeat() -> None:
    base = one()
    last = 7.25 * (1 + 1e-7)
    assert counters(base, one(losses=[8.0, 7.5, last])) == f"loss of step 2 is {last:.9g}, was 7.25"
    # On a device whose losses differ from launch to launch, order of summation is no change.
    assert counters(base, one(losses=[8.0, 7.5, last], losses_repeat=False)) == "equal"
    assert counters(base, one(losses=[8.0, 7.5, 7.3], losses_repeat=False)) is not None
    # Another number of warm-up steps is none either.
    assert counters(base, one(losses=[8.0, 7.5])) == "equal"
    assert counters(base, one(losses=[])) is None
    assert "nan" in str(counters(base, one(losses=[8.0, math.nan, 7.25])))


def test_losses_of_workers_at_their_own_pace_are_no_counters() -> None:
    for mode, expected in (("async", None), ("stale", None), ("sync", "loss of step 2 is 7, was 7.25")):
        asked = cell(3, strategy="param_server", strategy_options={"mode": mode})
        assert counters(one(asked), one(asked, losses=[8.0, 7.5, 7.0])) == expected


def test_collectives_are_compared_exactly() -> None:
    base = one(calls={"all_reduce": (3.0, 1024.0)})
    assert counters(base, base) == "equal"
    assert counters(base, one(calls={"all_reduce": (3.0, 1028.0)})) == (
        "all_reduce is called 3 times with 1028 bytes a step, was 3 times with 1024 bytes"
    )
    assert "broadcast is called 1 times" in str(
        counters(base, one(calls={**(base.calls or {}), "broadcast": (1.0, 8.0)}))
    )
    # Only one of the runs was metered.
    assert counters(base, one()) == "equal"


def test_the_spread_is_that_of_the_pair_that_is_furthest_apart() -> None:
    near, far = one(twin_step_times_s=[0.101]), one(twin_step_times_s=[0.08])
    assert aa_spread_frac([one()]) is None
    assert aa_spread_frac([one(), near, far]) == pytest.approx(0.25)


# --- From records ---------------------------------------------------------------------------------------------------


def test_what_is_compared_of_records() -> None:
    asked = Cell(model="gpt-nano", strategy="ddp", world_size=2, steps=5)
    records = [
        synthetic.launch(asked, step_time_s=0.3, started_at="2026-01-01T00:00:02Z"),
        synthetic.launch(asked, step_time_s=0.1, started_at="2026-01-01T00:00:01Z"),
        synthetic.launch(asked, step_time_s=0.2, started_at="2026-01-01T00:00:03Z", twin=True),
        synthetic.launch(asked, step_time_s=9.0, kind="attribution"),
        synthetic.failure(asked, "crashed", "rank 1 ended"),
    ]
    [found] = synthetic.measured_of(records)
    assert (found.outcome, found.launch_step_times_s, found.twin_step_times_s) == ("ok", [0.1, 0.3], [0.2])
    assert found.losses_repeat and found.losses == synthetic.losses_of(asked, 11)
    assert found.fingerprint["CPU"] == "Synthetic CPU @ 2.0 GHz" and found.fingerprint["version of torch"] == "2.7.1"
    assert "version of torch" not in found.hardware
    assert Measured.model_validate_json(found.model_dump_json()) == found


def test_losses_of_one_launch_repeat_on_a_cpu_alone() -> None:
    asked = Cell(model="gpt-nano", strategy="ddp", world_size=2, steps=5)
    on_gpu = synthetic.launch(asked, place=synthetic.eight_v100s(asked))
    assert synthetic.measured_of([synthetic.launch(asked)])[0].losses_repeat
    assert not synthetic.measured_of([on_gpu])[0].losses_repeat
    dealt = asked.model_copy(update={"partition": "dynamic"})
    assert not synthetic.measured_of([synthetic.launch(dealt)])[0].losses_repeat
    again = synthetic.launch(asked, place=synthetic.eight_v100s(asked))
    assert synthetic.measured_of([on_gpu, again])[0].losses_repeat
    differing = [loss + 1e-7 for loss in synthetic.losses_of(asked, 11)]
    other = synthetic.launch(asked, place=synthetic.eight_v100s(asked), losses=differing)
    assert not synthetic.measured_of([on_gpu, other])[0].losses_repeat


def test_a_cell_without_a_figure_has_its_reason() -> None:
    [found] = synthetic.measured_of([synthetic.failure(cell(), "oom", "CUDA out of memory")])
    assert (found.outcome, found.reason, found.launch_step_times_s) == ("oom", "CUDA out of memory", [])
