"""The balance of made-up ranks is that of the arithmetic, and its chart and table show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.analysis.balance import BALANCE_COLUMNS, balance_table
from bench.examine import examine
from bench.plan.cell import Cell
from bench.plan.workload import Partition
from bench.publish import publish
from bench.results.fitted_cost import FittedCost
from bench.results.record import Record
from reports import tables
from reports.balance import balance
from tests import synthetic
from tests.attributed import attributed

PADDED = {"batching": "padded", "length_spread": 0.8}
# Three steps of two ranks, in seconds: means 1.5, 1.5, 2; largest 2, 2, 3.
COSTS = [[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]]


def launch(partition: Partition, *, metered: bool, slow_rank_frac: float = 0.0, **changes: Any) -> Record:
    cell = Cell(
        model="paced-nano",
        strategy="ddp",
        world_size=2,
        micro_batch_size=8,
        steps=3,
        partition=partition,
        slow_rank_frac=slow_rank_frac,
        **{**PADDED, **changes},
    )
    tokens = [[int(cost / cell.paced_token_s) for cost in costs] for costs in COSTS] if cell.paced_token_s else []
    made = attributed(cell, [1.2, 1.6], 1.7, 3.1) if metered else synthetic.launch(cell, step_times_s=[[6.1] * 3] * 2)
    assert made.work is not None
    ranks = []
    for rank, costs, fed in zip(made.ranks, COSTS, tokens, strict=True):
        arms = rank.attribution
        if arms is not None:
            arms = arms.model_copy(update={"block_costs": [1.0 + rank.rank] * 3})
        ranks.append(
            rank.model_copy(
                update={
                    "costs": [9.0] * 6 + costs,
                    "tokens": [100] * 6 + fed,
                    "padding": [0] * 6 + [50] * 3,
                    "input_times_s": [0.061] * 3,
                    "attribution": arms,
                }
            )
        )
    return made.model_copy(update={"ranks": ranks})


def test_reckoned_and_measured_balance_are_the_arithmetic(tmp_path: Path) -> None:
    records = [launch("contiguous", metered=False), launch("lpt", metered=True)]
    findings = examine(synthetic.write(tmp_path / "results", records))
    table = balance_table(records, findings.scaling)
    assert list(table.columns) == BALANCE_COLUMNS
    by_partition = table.set_index("partition")
    contiguous, lpt = by_partition.loc["contiguous"], by_partition.loc["lpt"]
    # The window's, warm-up left out: 5 / 7. Nobody metered it.
    assert contiguous["predicted_load_balance"] == pytest.approx(5 / 7)
    assert pd.isna(contiguous["load_balance"])
    # The blocks' own batches: ranks of 1 and 2; measured, 1.2 and 1.6.
    assert lpt["predicted_load_balance"] == pytest.approx(1.5 / 2)
    assert lpt["load_balance"] == pytest.approx(1.4 / 1.6)
    assert contiguous["input_frac"] == pytest.approx(0.01) and 0 < contiguous["padding_frac"] < 1
    assert contiguous["predicted_step_time_s"] == 2 and contiguous["best_step_time_s"] == pytest.approx(1.5)


def test_a_slow_rank_is_reckoned_with() -> None:
    record = launch("contiguous", metered=False, slow_rank_frac=0.5)
    [row] = balance_table([record], pd.DataFrame(columns=["cell_id"])).to_dict("records")
    # Rank 1 takes 3, 1.5, 1.5: means 2, 1.75, 2.25, largest 3, 2, 3.
    assert row["predicted_load_balance"] == pytest.approx(6 / 8)
    # All of each step's 3, 3, 4 at rates of 1 and 2/3 together: 3 / (5/3) twice, 4 / (5/3).
    assert row["best_step_time_s"] == pytest.approx(1.8)


def test_by_measured_costs_it_is_reckoned_by_what_was_dealt_by() -> None:
    plain = launch("lpt", metered=False, partition_cost="measured")
    fitted = FittedCost(
        per_pass_s=0.001,
        per_token_s=2e-5,
        per_pair_s=3e-8,
        rank_slowness=[1.0, 1.0],
        error_s=1e-4,
        num_passes=24,
        from_step=5,
    )
    # A step of warm-up was dealt by them too.
    own = [[7.0, 1.0, 1.0, 2.0], [7.0, 1.0, 3.0, 2.0]]
    ranks = [rank.model_copy(update={"fitted_costs": costs}) for rank, costs in zip(plain.ranks, own, strict=True)]
    record = plain.model_copy(update={"fitted_cost": fitted, "ranks": ranks})
    assert Record.model_validate_json(record.model_dump_json()) == record
    [row] = balance_table([record], pd.DataFrame(columns=["cell_id"])).to_dict("records")
    # Means 1, 2, 2; largest 1, 3, 2. What the model sleeps is what it was.
    assert row["predicted_load_balance"] == pytest.approx(5 / 6) and row["predicted_step_time_s"] == 2
    assert (row["fitted_per_token_s"], row["fitted_per_pair_s"], row["fitted_error_s"]) == (2e-5, 3e-8, 1e-4)
    shown = tables.balance(pd.DataFrame([row]))
    assert list(shown["cost by"]) == ["measured"] and list(shown["a token, fitted"]) == ["20.0 µs"]


def test_cells_of_equal_sequences_have_no_row() -> None:
    equal = synthetic.launch(Cell(model="gpt-nano", strategy="ddp", world_size=2))
    assert balance_table([equal], pd.DataFrame(columns=["cell_id"])).empty


def test_the_report_has_a_table_and_a_chart_of_it(tmp_path: Path) -> None:
    records = [launch("lpt", metered=True), launch("lpt", metered=False), launch("contiguous", metered=True)]
    records = [record.model_copy(update={"work": _counted(record)}) for record in records]
    findings = examine(synthetic.write(tmp_path / "results", records))
    assert len(findings.balance) == 2
    shown = tables.balance(findings.balance)
    assert list(shown["load balance"]) == ["87.5 %", "87.5 %"] or list(shown["load balance"]) == ["88 %", "88 %"]
    figure = balance(findings.balance)
    assert figure is not None
    [axis] = figure.axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([1.4 / 1.6] * 2)
    assert [float(line.get_xdata()[0]) for line in axis.lines] == pytest.approx([0.75] * 2)
    index = publish(findings)
    assert 'id="balance"' in index.read_text() and (index.parent / "tables" / "balance.csv").exists()
    assert list((index.parent / "charts").glob("balance-*.svg"))


def _counted(record: Record) -> Any:
    assert record.work is not None
    total = [sum(step) for step in zip(*(rank.tokens for rank in record.ranks), strict=True)]
    return record.work.model_copy(update={"batch_tokens": total})
