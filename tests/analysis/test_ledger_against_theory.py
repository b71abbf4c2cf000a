"""The ledger against theory: every message size, step and rank counts, and what can't be known is said to be unknown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.traffic import COLUMNS, disagreement, traffic_table
from bench.results.metered import LedgerLine
from bench.results.record import Record
from bench.results.store import RECORD_NAME, read_record, write_record
from tests import synthetic
from tests.analysis.metered import SIZES, ledgers_of, metered, with_ledgers


@pytest.mark.parametrize("strategy", ["ddp", "zero0", "zero1", "zero2", "zero3"])
def test_a_ledger_as_theory_says_agrees(strategy: str) -> None:
    record = metered(strategy)
    assert disagreement(record) is None
    table = traffic_table([record])
    assert table.columns.tolist() == COLUMNS
    assert table["agrees"].tolist() == [True] * len(table)
    assert table["observed_count"].tolist() == table["theory_count"].tolist()
    assert table["observed_bytes"].tolist() == table["theory_bytes"].tolist()
    assert table["observed_factor"].tolist() == pytest.approx(table["theory_factor"].tolist())


def test_one_call_too_many_on_one_rank_is_found() -> None:
    record = metered()
    ledgers = ledgers_of(record)
    extra = next(line for line in ledgers[1] if line.operation == "all_reduce" and line.payload_bytes > 4)
    ledgers[1].append(extra.model_copy(update={"count": 1, "steps": [2]}))
    reason = disagreement(with_ledgers(record, ledgers))
    assert reason is not None
    assert "1 of 6 steps of ranks" in reason and "in step 2 rank 1 called all_reduce" in reason
    assert f"of {extra.payload_bytes} bytes among 2 ranks {extra.count + 1} times, expected {extra.count}" in reason


def test_a_message_of_another_size_is_found_though_the_bytes_are_equal() -> None:
    record = metered("zero0")
    [line] = ledgers_of(record)[0]
    halves = line.model_copy(update={"payload_bytes": line.payload_bytes // 2, "count": 2})
    split = with_ledgers(record, [[halves], [halves]])
    assert "all_reduce" in (disagreement(split) or "")
    table = traffic_table([split])
    assert table["observed_bytes"].tolist() == table["theory_bytes"].tolist()
    assert table["agrees"].tolist() == [False]


def test_a_step_without_its_calls_is_found() -> None:
    record = metered()
    ledgers = [[line.model_copy(update={"steps": [0, 2]}) for line in ledger] for ledger in ledgers_of(record)]
    spoilt = with_ledgers(record, ledgers)
    assert "2 of 6 steps of ranks: in step 1 rank 0 called" in (disagreement(spoilt) or "")
    table = traffic_table([spoilt])
    assert table["observed_count"].tolist() == pytest.approx([2 / 3 * count for count in table["theory_count"]])
    assert not any(table["agrees"])


def test_a_collective_that_theory_does_not_know_is_found() -> None:
    record = metered("ddp")
    unknown = LedgerLine(operation="all_to_all", group_size=2, payload_bytes=8, count=1, steps=[0])
    spoilt = with_ledgers(record, [[*ledger, unknown] for ledger in ledgers_of(record)])
    assert "all_to_all of 8 bytes among 2 ranks 1 times, expected 0" in (disagreement(spoilt) or "")
    table = traffic_table([spoilt]).set_index("operation")
    assert table.loc["all_to_all", "theory_count"] == 0 and not table.loc["all_to_all", "agrees"]
    assert table.loc["all_reduce", "agrees"]
    assert table["observed_factor"].isna().all(), "no ring carries it"


def test_a_step_that_the_window_does_not_have_is_found() -> None:
    record = metered("ddp")
    ledgers = [[line.model_copy(update={"steps": [0, 1, 2, 3]}) for line in ledger] for ledger in ledgers_of(record)]
    reason = disagreement(with_ledgers(record, ledgers))
    assert reason == "the ledger has calls of step 3, expected a window of 3 steps"


def older(record: Record) -> Record:
    return record.model_copy(update={"outline": None})


def barely_warm(record: Record) -> Record:
    assert record.work is not None
    return record.model_copy(update={"work": record.work.model_copy(update={"num_warmup_steps": 1})})


def skipping(record: Record) -> Record:
    assert record.work is not None
    return record.model_copy(update={"work": record.work.model_copy(update={"num_skipped_steps": 1})})


def of_another_deepspeed(record: Record) -> Record:
    place = synthetic.environment(record.cell, versions={"deepspeed": "0.18.2"})
    return record.model_copy(update={"environment": place})


def quantizing(record: Record) -> Record:
    assert record.deepspeed_config is not None
    zero = {**record.deepspeed_config["zero_optimization"], "zero_quantized_gradients": True}
    return record.model_copy(update={"deepspeed_config": {**record.deepspeed_config, "zero_optimization": zero}})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (older, "no outline"),
        (barely_warm, "1 warm-up steps"),
        (skipping, "skipped steps"),
        (of_another_deepspeed, "DeepSpeed 0.18.2"),
        (quantizing, "zero_quantized_gradients"),
    ],
)
def test_without_a_theory_nothing_is_claimed(change: object, word: str) -> None:
    assert callable(change)
    record = change(metered())
    assert disagreement(with_ledgers(record, [[], []])) is None
    table = traffic_table([record])
    assert len(table) == 2 and table["unknown_because"].str.contains(word).all()
    assert table["agrees"].tolist() == [None, None]
    assert table["theory_bytes"].isna().all() and table["theory_factor"].isna().all()
    assert (table["observed_bytes"] > 0).all() and (table["observed_factor"] > 2).all()


def test_launches_of_one_cell_are_one_row_and_must_all_agree() -> None:
    good, bad = metered("zero0"), metered("zero0")
    [line] = ledgers_of(bad)[0]
    bad = with_ledgers(bad, [[line.model_copy(update={"count": 3})]] * 2)
    table = traffic_table([good, bad])
    assert table["observed_count"].tolist() == [2] and table["theory_count"].tolist() == [1]
    assert table["launches"].tolist() == [2] and table["agrees"].tolist() == [False]


def test_other_launches_are_not_in_the_table() -> None:
    record = metered()
    timing = record.model_copy(update={"kind": "timing"})
    failed = synthetic.failure(record.cell, "crashed", "x").model_copy(update={"kind": "attribution"})
    assert traffic_table([timing, failed]).empty
    assert disagreement(timing) is None and disagreement(failed) is None
    assert traffic_table([]).columns.tolist() == COLUMNS


def test_cells_of_unequal_settings_say_what_sets_them_apart() -> None:
    table = traffic_table([metered("ddp"), metered("ddp", precision="bf16"), metered("zero1", grad_accum_steps=4)])
    found = table.set_index("cell_id")["setting"].to_dict()
    assert sorted(set(found.values())) == ["precision bf16", "precision fp32"]


def test_the_outline_survives_the_record(tmp_path: Path) -> None:
    record = metered("zero3")
    write_record(tmp_path / RECORD_NAME, record)
    read = read_record(tmp_path / RECORD_NAME)
    assert read.outline == record.outline and disagreement(read) is None


def test_the_table_can_be_written_and_read() -> None:
    table = traffic_table([metered("zero1")])
    assert table["observed_bytes"].sum() == 4 * 2 * sum(SIZES) + 4
    assert isinstance(table.to_csv(index=False), str)
    assert pd.api.types.is_float_dtype(table["theory_bytes"])
