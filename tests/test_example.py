"""The committed example is a result that this version reads, judges and shows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.examine import examine
from bench.plan.suite import load_suite
from bench.results.store import read_records

EXAMPLE = Path(__file__).parents[1] / "reports" / "example" / "quick"


def test_the_example_is_the_whole_quick_suite_and_sound() -> None:
    findings = examine(EXAMPLE)
    assert set(findings.launches["cell_id"]) == {planned.cell.id for planned in load_suite("quick").cells}
    assert set(findings.launches["outcome"]) == {"ok"}


def test_its_tables_are_derived_from_its_records() -> None:
    committed = pd.read_csv(EXAMPLE / "report" / "tables" / "scaling.csv").set_index("cell_id")
    derived = examine(EXAMPLE).scaling.set_index("cell_id")
    for column in ("step_time_s", "tokens_per_s", "speedup", "efficiency", "peak_memory_bytes"):
        pd.testing.assert_series_equal(committed[column], derived[column], check_dtype=False, rtol=1e-12)


@pytest.mark.parametrize("name", ["quick", "instrument", "balance", "ten-nodes", "time-to-loss"])
def test_it_holds_no_path_or_host_of_the_machine_that_made_it(name: str) -> None:
    for record in read_records(EXAMPLE.parent / name):
        assert not any(word.startswith("/") for word in record.command if word != "/dev/null"), record.command
        assert {rank.hostname for rank in record.ranks} == {"localhost"}


def test_uneven_lengths_are_evened_out() -> None:
    findings = examine(EXAMPLE.parent / "balance")
    assert set(findings.launches["outcome"]) == {"ok"}
    assert set(findings.launches["cell_id"]) == {planned.cell.id for planned in load_suite("balance").cells}
    eight = findings.balance[(findings.balance["world_size"] == 8) & (findings.balance["data"].str.contains("0.8"))]
    rows = {(row["partition"], row["slow_rank_frac"]): row for row in eight.to_dict("records")}
    assert rows["contiguous", 0.0]["load_balance"] < 0.85
    assert min(rows[name, 0.0]["load_balance"] for name in ("lpt", "karmarkar_karp")) > 0.97
    dynamic = rows["dynamic", 0.5]
    assert dynamic["predicted_step_time_s"] < 1.1 * dynamic["best_step_time_s"] and dynamic["load_balance"] > 0.97


def test_ten_nodes_and_time_to_loss_are_whole() -> None:
    for name in ("ten-nodes", "time-to-loss"):
        findings = examine(EXAMPLE.parent / name)
        assert set(findings.launches["outcome"]) == {"ok"}
        assert set(findings.launches["cell_id"]) == {planned.cell.id for planned in load_suite(name).cells}
    assert (findings.time_to_loss["launches_reached"] == 1).all() and len(findings.time_to_loss) == 15


def test_the_instruments_example_is_sound_and_its_factors_agree_with_what_was_measured() -> None:
    findings = examine(EXAMPLE.parent / "instrument")
    assert set(findings.launches["outcome"]) == {"ok"}
    assert set(findings.launches["cell_id"]) == {planned.cell.id for planned in load_suite("instrument").cells}
    assert findings.traffic["agrees"].all()
    several = findings.efficiency[findings.efficiency["world_size"] > 1]
    assert len(several) == 12 and several["reconciliation_error"].max() < 0.03
    product = several[["load_balance", "serialization", "transfer", "compute_scaling"]].prod(axis=1)
    pd.testing.assert_series_equal(product, several["global_efficiency"], check_names=False)
