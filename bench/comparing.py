"""From two results folders to what changed between them: reads both, compares them, and writes what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.comparison import Rule, aa_spread_frac, compare, environment_differences
from bench.analysis.measured import HARDWARE, Measured
from bench.drawing import saved
from bench.errors import ComparisonError
from bench.examine import Findings, examine
from bench.writing import json_rows, write_bytes, write_text
from reports import comparison
from reports.forest import forest

# Fewer cells than this may all have changed alike by chance.
_LEAST_ALIKE = 3
_ORDER = ["model", "scaling", "profile", "precision", "strategy", "grad_accum_steps", "world_size", "micro_batch_size"]


@dataclass(frozen=True)
class Comparison:
    """Two runs, and what changed between them. `cells`: rows of `compare`; `environment`: what differs between their places;
    `geometric_mean_ratio`: of all compared cells, None where there is none; `moved_alike`: whether all of them changed by about
    as much, which a machine that changed does."""

    base: Findings
    new: Findings
    rule: Rule
    cells: pd.DataFrame
    environment: pd.DataFrame
    aa_spread_frac: float | None
    geometric_mean_ratio: float | None
    moved_alike: bool

    def sentences(self) -> list[str]:
        """What the cells come to, in words."""
        return comparison.sentences(
            self.cells,
            confidence=self.rule.confidence,
            least_effect_frac=self.rule.least_effect_frac,
            aa_spread_frac=self.aa_spread_frac,
            geometric_mean_ratio=self.geometric_mean_ratio,
            moved_alike=self.moved_alike,
            base_certainty=self.base.certainty,
            new_certainty=self.new.certainty,
        )

    def as_json(self) -> dict[str, Any]:
        """All of it for a program; None is unknown."""
        return {
            "base": str(self.base.folder),
            "new": str(self.new.folder),
            "confidence": self.rule.confidence,
            "min_effect_frac": self.rule.least_effect_frac,
            "aa_spread_frac": self.aa_spread_frac,
            "geometric_mean_ratio": self.geometric_mean_ratio,
            "moved_alike": self.moved_alike,
            "counts": {str(verdict): int(count) for verdict, count in self.cells["verdict"].value_counts().items()},
            "cells": json_rows(self.cells),
            "environment": json_rows(self.environment),
            "base_certainty": json_rows(self.base.certainty),
            "new_certainty": json_rows(self.new.certainty),
        }


def compared(base: Path, new: Path, rule: Rule) -> Comparison:
    """Compare two results folders. Raises RecordError where one can't be read, and ComparisonError where nothing in them can be
    compared."""
    before, after = examine(base), examine(new)
    cells = compare(before.measured, after.measured, rule).sort_values(_ORDER, kind="stable", ignore_index=True)
    _check(cells, before, after)
    ratios = cells["ratio"].dropna().tolist()
    spread = aa_spread_frac([*before.measured, *after.measured])
    return Comparison(
        base=before,
        new=after,
        rule=rule,
        cells=cells,
        environment=environment_differences(before.measured, after.measured),
        aa_spread_frac=spread,
        geometric_mean_ratio=geometric_mean(ratios),
        moved_alike=moved_alike(ratios, max(rule.least_effect_frac, spread or 0.0)),
    )


def geometric_mean(ratios: Sequence[float]) -> float | None:
    """The ratio that, in the place of each, gives the same product; None of none."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def moved_alike(ratios: Sequence[float], least_effect_frac: float) -> bool:
    """Whether at least three cells all changed by about as much, and by more than the least effect: no logarithm is further from
    the mean than half of that."""
    logs = [math.log(ratio) for ratio in ratios]
    if len(logs) < _LEAST_ALIKE:
        return False
    center = sum(logs) / len(logs)
    return abs(center) > math.log1p(least_effect_frac) and all(abs(one - center) <= abs(center) / 2 for one in logs)


def write(found: Comparison, output: Path) -> None:
    """Write OUTPUT: comparison.csv, .json, .png, .svg and differences.csv. Raises RecordError where that can't be."""
    write_text(output / "comparison.csv", found.cells.to_csv(index=False))
    write_text(output / "differences.csv", found.environment.to_csv(index=False))
    write_text(output / "comparison.json", json.dumps(found.as_json(), indent=1))
    figure = forest(
        found.cells,
        base=found.base.folder.name,
        new=found.new.folder.name,
        confidence=found.rule.confidence,
        least_effect_frac=found.rule.least_effect_frac,
        aa_spread_frac=found.aa_spread_frac,
    )
    assert figure is not None, "a comparison without cells is an error before"
    png, svg = saved(figure)
    write_text(output / "comparison.svg", svg)
    write_bytes(output / "comparison.png", png)


def _check(cells: pd.DataFrame, base: Findings, new: Findings) -> None:
    """Whether there is anything to say beside that nothing can be said."""
    names = f"{new.folder} can't be compared with {base.folder}"
    if cells.empty:
        raise ComparisonError(
            f"{names}: no cell of either has a figure", hint="look at both reports: scalebench report"
        )
    works = [{one.work for one in side.measured} for side in (base, new)]
    refused = cells[cells["verdict"] == "not comparable"]
    if not works[0] & works[1] and refused.empty:
        raise ComparisonError(f"{names}: they have no cell in common", hint="run one and the same suite into both")
    if (
        set(cells["verdict"]) <= {"not comparable", "new", "missing"}
        and refused["why"].str.startswith("other hardware").any()
    ):
        machines = [_machine(side.measured) for side in (base, new)]
        raise ComparisonError(
            f"{names}: other hardware. Base: {machines[0]}. New: {machines[1]}", hint="measure both on one machine"
        )


def _machine(cells: Sequence[Measured]) -> str:
    """What a run was measured on, in words."""
    found = {name: sorted({one.hardware[name] for one in cells if name in one.hardware}) for name in HARDWARE}
    return ", ".join(
        f"{name.removesuffix(', bytes')} {' and '.join(values)}" for name, values in found.items() if values
    )
