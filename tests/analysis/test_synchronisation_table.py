"""Delayed and asynchronous launches with known arithmetic: their step time, their table, and what no ranking may say of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.analysis.efficiency import efficiency_table
from bench.analysis.gates import faults
from bench.analysis.scaling import scaling_table
from bench.analysis.synchronisation import (
    LOSS_COURSE_COLUMNS,
    SYNCHRONISATION_COLUMNS,
    loss_courses,
    synchronisation_table,
)
from bench.analysis.traffic import traffic_table
from bench.analysis.validity import judge
from bench.analysis.verdict import ranking
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from bench.results.synchronisation import Lost, ReplicaSample, Synchronisation
from reports import synchronisation as words
from reports import tables, verdict
from reports.style import styles
from tests import synthetic

PARAMS, STEP_S = 4_000_000, 0.1


def cell(strategy: str, world_size: int, options: dict[str, Any] | None = None, **fields: Any) -> Cell:
    given = {"model": "gpt-nano", "steps": 8, "max_warmup_steps": 8, "seq_len": 64, **fields}
    return Cell(**given, strategy=strategy, world_size=world_size, strategy_options=options or {})


def falling(loss: float, num_losses: int = 14) -> list[float]:
    """From 8 down by as much in each step, to `loss` at the end."""
    return [8 - (8 - loss) * (step + 1) / num_losses for step in range(num_losses)]


def drifted(asked: Cell, loss: float, distance: float, **changes: Any) -> Record:
    kept = Synchronisation(
        num_updates=asked.steps,
        num_tokens=asked.steps * asked.tokens_per_step,
        samples=[
            ReplicaSample(step=8, largest=1.0, mean=1.0),
            ReplicaSample(step=14, largest=distance, mean=distance / 2),
        ],
    )
    return synthetic.launch(asked, losses=falling(loss), num_params=PARAMS, **{"synchronisation": kept, **changes})


def served(asked: Cell, times: list[list[float]], losses: list[list[float]], kept: Synchronisation) -> Record:
    """A launch whose workers took unequal numbers of steps."""
    found = synthetic.launch(asked, num_params=PARAMS, synchronisation=kept, step_times_s=[*times, [0.0]])
    ranks = [
        rank.model_copy(
            update={"losses": losses[rank.rank], "num_warmup_steps": len(losses[rank.rank]) - len(times[rank.rank])}
        )
        for rank in found.ranks[:-1]
    ]
    server = found.ranks[-1].model_copy(update={"role": "server", "step_times_s": [], "losses": []})
    return found.model_copy(update={"ranks": [*ranks, server]})


ASYNC = Synchronisation(num_updates=16, num_tokens=1024, staleness={0: 4, 1: 8, 3: 4}, lead={0: 10, 5: 6})


def asynchronous(kept: Synchronisation = ASYNC, **fields: Any) -> Record:
    """Two workers: eleven steps of the window in 1.1 s, five in 1.25 s; sixteen in all, as of two in eight steps each."""
    asked = cell("param_server", 3, {"mode": "async"}, **fields)
    return served(asked, [[0.1] * 11, [0.25] * 5], [falling(4.0, 19), falling(5.0, 9)], kept)


def tables_of(*records: Record) -> tuple[pd.DataFrame, pd.DataFrame]:
    launches = judge(to_frame(list(records)), {record.launch_id: faults(record) for record in records})
    scaling = scaling_table(launches)
    believed = [record for record, outcome in zip(records, launches["outcome"], strict=True) if outcome == "ok"]
    tree, _ = efficiency_table(believed, scaling)
    return synchronisation_table(believed, scaling, tree, traffic_table(list(records))), scaling


def everything() -> list[Record]:
    return [
        synthetic.launch(cell("ddp", 1), losses=falling(5.5), num_params=PARAMS, step_time_s=STEP_S),
        synthetic.launch(cell("ddp", 2), losses=falling(4.5), num_params=PARAMS, step_time_s=2 * STEP_S),
        drifted(cell("local_sgd", 2, {"every_steps": 4}), 5.0, 0.2, step_times_s=[[STEP_S] * 8] * 2),
        asynchronous(),
    ]


def test_a_period_is_one_entry_of_the_step_times() -> None:
    """Seven quick steps and one with the exchange: the mean counts, not the median of the quick ones, nor each step's slowest."""
    asked = cell("local_sgd", 2, {"every_steps": 4})
    found = synthetic.launch(asked, step_times_s=[[0.1, 0.3, 0.1, 0.3] * 2, [0.3, 0.1, 0.1, 0.5] * 2])
    assert found.slowest_step_times_s() == pytest.approx([0.25, 0.25])
    [row] = to_frame([found]).to_dict("records")
    assert row["step_time_s"] == pytest.approx(0.25) and row["num_timed_steps"] == 8


def test_at_their_own_pace_workers_together_make_a_step() -> None:
    found = asynchronous()
    assert found.num_timed_steps() == 8
    assert found.slowest_step_times_s() == pytest.approx([1.25 / 8])
    assert [rank.rank for rank in found.workers] == [0, 1]
    losses = found.mean_losses()
    # Warm-up and window have fourteen steps; the ends are those of both.
    assert len(losses) == 14
    assert losses[0] == pytest.approx((falling(4.0, 19)[0] + falling(5.0, 9)[0]) / 2)
    assert losses[-1] == pytest.approx((falling(4.0, 19)[17] + falling(5.0, 9)[8]) / 2)
    assert faults(found) == []


@pytest.mark.parametrize(
    ("kept", "fields", "says"),
    [
        (
            ASYNC.model_copy(update={"num_updates": 15}),
            {},
            "updated the parameters 15 times in the window, expected 16",
        ),
        (
            ASYNC.model_copy(update={"lost": [Lost(rank=1, num_updates=7, reason="gone")]}),
            {},
            "lost rank 1 after 7 updates",
        ),
    ],
)
def test_gates_look_at_what_servers_did(kept: Synchronisation, fields: dict[str, Any], says: str) -> None:
    found = asynchronous(kept, **fields)
    [row] = judge(to_frame([found]), {found.launch_id: faults(found)}).to_dict("records")
    assert row["outcome"] == "invalid" and says in row["reason"]


def test_a_bound_that_was_exceeded_is_seen() -> None:
    asked = cell("param_server", 3, {"mode": "stale", "staleness": 4})
    found = served(asked, [[0.1] * 11, [0.25] * 5], [falling(4.0, 19), falling(5.0, 9)], ASYNC)
    assert faults(found) == ["a worker began a step 5 ahead of the slowest, expected at most 4"]


def test_the_table_has_bytes_drift_staleness_and_the_loss_at_the_same_tokens() -> None:
    table, _ = tables_of(*everything())
    assert table.columns.tolist() == SYNCHRONISATION_COLUMNS
    rows = {(row["strategy"], row["num_workers"]): row for row in table.to_dict("records")}
    ring = 4 * PARAMS
    assert rows["ddp", 2]["bytes_per_step_per_rank"] == ring and rows["ddp", 1]["bytes_per_step_per_rank"] == 0
    assert rows["local_sgd", 2]["bytes_per_step_per_rank"] == ring / 4
    # Two workers send P and fetch P, which the server sends: over three ranks, and 64 bytes of headers each.
    assert rows["param_server", 2]["bytes_per_step_per_rank"] == pytest.approx(2 * (2 * ring + 64) / 3)
    assert rows["local_sgd", 2]["replica_distance_largest"] == 0.2
    assert rows["local_sgd", 2]["replica_distance_mean"] == 0.1
    assert rows["param_server", 2]["staleness_mean"] == pytest.approx(20 / 16)
    assert rows["param_server", 2]["staleness_max"] == 3 and rows["param_server", 2]["num_updates"] == 16
    assert not rows["param_server", 2]["equal_work"] and rows["ddp", 2]["equal_work"]
    # One worker sees 64 tokens a step, two 128: fourteen steps of the one are seven of the others.
    assert {row["common_tokens"] for row in rows.values()} == {14 * 64}
    assert rows["ddp", 1]["common_s"] == pytest.approx(14 * STEP_S)
    assert rows["ddp", 2]["common_s"] == pytest.approx(7 * 2 * STEP_S)
    assert rows["ddp", 2]["common_loss"] == pytest.approx(sum(falling(4.5)[2:7]) / 5)
    assert rows["param_server", 2]["common_updates"] == 14


def test_there_is_no_table_where_all_synchronise_at_every_step() -> None:
    table, _ = tables_of(*everything()[:2])
    assert table.empty and table.columns.tolist() == SYNCHRONISATION_COLUMNS


def test_other_work_is_in_no_ranking() -> None:
    """Local SGD has half of ddp's step time here, and is not called the fastest."""
    records = everything()
    _, scaling = tables_of(*records)
    ranked = ranking(scaling, synthetic.measured_of(records)).set_index("world_size")
    assert ranked.loc[2, "fastest"] == "ddp" and ranked.loc[2, "num_ok"] == 1
    assert ranked.loc[2, "other_work"] == "local_sgd (every_steps 4)" and 3 not in ranked.index
    assert any(
        text.startswith("Other work: local_sgd (every_steps 4), param_server") for text in verdict.lead(scaling, None)
    )
    shown = tables.speed(scaling)
    assert shown.loc[shown["strategy"] == "local_sgd (every_steps 4)", "outcome"].item() == "other work"


@pytest.mark.parametrize("several", [False, True])
def test_efficiency_above_one_with_a_server_is_explained(several: bool) -> None:
    more = served(
        cell("param_server", 5, {"mode": "async"}), [[0.1] * 8] * 4, [falling(5.0, 14)] * 4,
        ASYNC.model_copy(update={"num_updates": 32}),
    )  # fmt: skip
    _, scaling = tables_of(asynchronous(), *([more] if several else []))
    assert scaling["outcome"].eq("ok").all()
    told = [text for text in verdict.lead(scaling, None) if text.startswith("Servers count as ranks")]
    assert len(told) == several


def test_words_say_whether_time_is_halved_and_the_model_as_good() -> None:
    table, _ = tables_of(*everything())
    told = words.sentences(table)
    assert told[0].startswith("One worker (ddp, gpt-nano) takes 1.40 s for 896 tokens, in 14 updates")
    [ddp] = [text for text in told if text.startswith("ddp, 2 workers")]
    assert (
        "time is not halved, 1.40 s, 1.00 times as fast with 2 times the ranks (50" in ddp and "replicas equal" in ddp
    )
    [local] = [text for text in told if text.startswith("local_sgd")]
    assert "time is not halved, 700 ms, 2.00 times" in local and "up to 20" in local
    assert any("2 workers and 1 server" in text for text in told)


def test_the_course_of_the_loss_has_every_step_and_its_time() -> None:
    records = everything()
    table, scaling = tables_of(*records)
    courses = loss_courses(records, scaling)
    assert courses.columns.tolist() == LOSS_COURSE_COLUMNS and set(courses["cell_id"]) == set(table["cell_id"])
    ddp = courses[(courses["contender"] == "ddp") & (courses["num_workers"] == 2)]
    assert ddp["step"].tolist() == list(range(1, 15)) and ddp["tokens"].tolist() == [128 * step for step in ddp["step"]]
    assert ddp["time_s"].tolist() == pytest.approx([2 * STEP_S * step for step in ddp["step"]])
    losses = falling(4.5)
    assert ddp["loss"].iloc[[0, 6]].tolist() == pytest.approx([losses[0], sum(losses[2:7]) / 5])
    # The course passes through what the table says of it.
    for row in table.to_dict("records"):
        course = courses[courses["cell_id"] == row["cell_id"]].set_index("tokens")
        assert course.loc[row["common_tokens"], "loss"] == pytest.approx(row["common_loss"])
        assert course.loc[row["common_tokens"], "time_s"] == pytest.approx(row["common_s"])
    assert loss_courses(records[:2], scaling).empty


def test_charts_and_table_for_people() -> None:
    records = [
        *everything(),
        drifted(cell("local_sgd", 2, {"every_steps": 8}), 5.2, 0.3, step_times_s=[[STEP_S / 2] * 8] * 2),
    ]
    table, scaling = tables_of(*records)
    looks = styles(table["contender"])
    assert words.bytes_by_period(table, looks) is not None and words.time_and_loss(table, looks) is not None
    assert words.loss_by_time(loss_courses(records, scaling), looks) is not None
    assert words.loss_by_time(loss_courses(records[:1], scaling), looks) is None
    shown = words.shown(table)
    assert len(shown) == len(table) and set(shown["work"]) == {"equal", "other"}
    best = table[table["num_workers"] == 2]
    kept = best[words.pareto(best)].sort_values("common_s")
    assert kept["common_loss"].is_monotonic_decreasing and len(kept) >= 2
