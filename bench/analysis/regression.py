"""Whether a run is slower than its baseline or no longer the same: what a gate fails on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from bench.analysis.comparison import Rule, differing
from bench.analysis.measured import Measured

Kind = Literal["slower", "missing", "not comparable", "counters", "not resolved"]


@dataclass(frozen=True)
class Finding:
    """What speaks against one cell of a run."""

    cell_id: str
    kind: Kind
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.cell_id}: {self.why}"


def failures(base: Sequence[Measured], new: Sequence[Measured], table: pd.DataFrame) -> list[Finding]:
    """Every reason for which `new` must not pass as `base` did; none where it may. `table`: rows of `compare(base, new, ...)`.

    A cell fails that is slower, can't be compared, trains other losses or calls other collectives, is no longer counted, or is
    in the base alone. A cell whose id changed is missing, whatever the table pairs it with: who renames a cell starts it anew.
    """
    return [*_missing(base, new, table), *_changed(base, new, table)]


def doubts(table: pd.DataFrame, rule: Rule) -> list[Finding]:
    """Cells that look slower by more than the least effect of the rule, which the launches are too few or too noisy to say."""
    found = table[(table["verdict"] == "not resolved") & (table["ratio"] > 1 + rule.least_effect_frac)]
    return [Finding(row["cell_id"], "not resolved", f"{_ratio(row)}; {row['why']}") for row in _rows(found)]


def other_place(base: Sequence[Measured], new: Sequence[Measured]) -> str | None:
    """What of the fingerprint differs between two runs, with both values; None where the cells that both have agree.

    One property of one cell is enough: step times of another machine, or under another torch, are no history of each other.
    """
    before = {one.cell.id: one for one in base if one.launch_step_times_s}
    differences: dict[str, tuple[str, str]] = {}
    for one in new:
        if one.launch_step_times_s and one.cell.id in before:
            differences.update(differing(before[one.cell.id].fingerprint, one.fingerprint))
    return ", ".join(f"{name} {was} -> {now}" for name, (was, now) in differences.items()) or None


def _missing(base: Sequence[Measured], new: Sequence[Measured], table: pd.DataFrame) -> Iterator[Finding]:
    told = table[table["verdict"] == "missing"].set_index("cell_id")["why"].to_dict()
    there = {one.cell.id for one in new if one.launch_step_times_s}
    for one in base:
        if one.launch_step_times_s and one.cell.id not in there:
            heirs = [other.cell.id for other in new if other.work == one.work and other.cell.id != one.cell.id]
            renamed = f"the new run has no such cell, its work is that of {heirs[0]}" if heirs else None
            yield Finding(one.cell.id, "missing", told.get(one.cell.id) or renamed or "the new run has no such cell")


def _changed(base: Sequence[Measured], new: Sequence[Measured], table: pd.DataFrame) -> Iterator[Finding]:
    counted = {one.cell.id for one in base if one.calls is not None}
    uncounted = {one.cell.id for one in new if one.calls is None}
    for row in _rows(table):
        if row["verdict"] == "slower":
            yield Finding(row["cell_id"], "slower", _ratio(row))
        elif row["verdict"] == "not comparable":
            yield Finding(row["cell_id"], "not comparable", row["why"])
        if isinstance(row["counters"], str) and row["counters"] != "equal":
            yield Finding(row["cell_id"], "counters", row["counters"])
        if row["verdict"] != "missing" and row["cell_id"] in counted & uncounted:
            yield Finding(
                row["cell_id"], "counters", "no attribution launch counted its collectives, which the base knows"
            )


def _ratio(row: dict[str, Any]) -> str:
    interval = "" if pd.isna(row["ratio_lo"]) else f" ({row['ratio_lo']:.3f} to {row['ratio_hi']:.3f})"
    return (
        f"a step takes {row['ratio']:.3f} times{interval} as long: {row['new_step_time_s']:.4g} s, was "
        f"{row['base_step_time_s']:.4g} s"
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
