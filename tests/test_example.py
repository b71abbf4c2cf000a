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


@pytest.mark.parametrize("name", ["quick", "instrument"])
def test_it_holds_no_path_or_host_of_the_machine_that_made_it(name: str) -> None:
    for record in read_records(EXAMPLE.parent / name):
        assert not any(word.startswith("/") for word in record.command if word != "/dev/null"), record.command
        assert {rank.hostname for rank in record.ranks} == {"localhost"}


def test_the_instruments_example_is_sound_and_its_factors_agree_with_what_was_measured() -> None:
    findings = examine(EXAMPLE.parent / "instrument")
    assert set(findings.launches["outcome"]) == {"ok"}
    assert set(findings.launches["cell_id"]) == {planned.cell.id for planned in load_suite("instrument").cells}
    assert findings.traffic["agrees"].all()
    several = findings.efficiency[findings.efficiency["world_size"] > 1]
    assert len(several) == 12 and several["reconciliation_error"].max() < 0.03
    product = several[["load_balance", "serialization", "transfer", "compute_scaling"]].prod(axis=1)
    pd.testing.assert_series_equal(product, several["global_efficiency"], check_names=False)
