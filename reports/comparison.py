"""What changed between two runs, as a table of text and in plain sentences.

`cells`: rows of `bench.analysis.comparison.compare`, one a cell. `environment`: columns property, base, new.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from reports import certainty as how_sure
from reports import units
from reports.columns import Column, table, with_intervals, without_empty, without_unknown_intervals

# Of what tells two cells apart, what is shown only where it does.
VARYING = {"scaling": "scaling", "micro_batch_size": "micro-batch", "precision": "precision", "profile": "profile"}


def rows(cells: pd.DataFrame, confidence: float = 0.99) -> pd.DataFrame:
    """A row a cell: both step times, their ratio with its interval of that confidence, the verdict, and why."""
    columns: list[Column] = [
        ("model", "model", units.text),
        ("strategy", "strategy", units.text),
        *((name, VARYING[name], units.text) for name in varying(cells)),
        ("world_size", "ranks", units.count),
        ("grad_accum_steps", "accum", units.count),
        *([("cell_id", "cell", _digest)] if alike(cells) else []),
        ("base_step_time_s", "base", units.seconds),
        ("new_step_time_s", "new", units.seconds),
        ("ratio", "new / base", units.ratio),
        ("ratio_between", f"{100 * confidence:g} %", units.text),
        ("verdict", "verdict", units.text),
        ("why", "why", units.text),
    ]
    shown = with_intervals(cells).assign(why=[_why(row) for row in cells.to_dict("records")])
    return without_unknown_intervals(without_empty(table(shown, columns), "why"))


def varying(cells: pd.DataFrame) -> list[str]:
    """Which of VARYING tell cells apart that are one in model, strategy, ranks and accumulation."""
    same = cells.groupby(["model", "strategy", "world_size", "grad_accum_steps"])
    return [name for name in VARYING if bool((same[name].nunique() > 1).any())]


def alike(cells: pd.DataFrame) -> bool:
    """Whether some of the cells are one in all that is shown of them, so that only their digest tells them apart."""
    return bool(cells.duplicated(["model", "strategy", "world_size", "grad_accum_steps", *varying(cells)]).any())


def _digest(cell_id: str) -> str:
    return cell_id.rpartition("_")[2]


def _why(row: dict[Hashable, Any]) -> str:
    words = [] if units.is_unknown(row["why"]) else [str(row["why"])]
    if not units.is_unknown(row["counters"]) and row["counters"] != "equal":
        words.append(f"counters: {row['counters']}")
    if not units.is_unknown(row["differs"]):
        words.append(f"settings: {row['differs']}")
    return "; ".join(words)


def sentences(
    cells: pd.DataFrame,
    *,
    confidence: float,
    least_effect_frac: float,
    aa_spread_frac: float | None,
    geometric_mean_ratio: float | None,
    moved_alike: bool,
    base_certainty: pd.DataFrame,
    new_certainty: pd.DataFrame,
) -> list[str]:
    """What the rows come to, by which rule, and what speaks against believing it.

    `geometric_mean_ratio`: of all compared cells, None where there is none; `moved_alike`: whether all of them changed about
    as much; the certainties: rows of both runs' tables of that name.
    """
    compared = cells[cells["ratio"].notna()]
    rule = f"its {100 * confidence:g} % interval leaves out 1 and it is beyond {units.fraction(least_effect_frac)}"
    pair = (
        "; no A/A pair gave a figure to hold it to as well"
        if aa_spread_frac is None
        else f" and beyond the spread of the A/A pairs, {units.fraction(aa_spread_frac)}"
    )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in cells["verdict"].value_counts().items())
    told = [f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}: {counts}."]
    if geometric_mean_ratio is not None:
        told.append(f"Geometric mean of new / base over {_cells(len(compared))}: {geometric_mean_ratio:.3f}x.")
    if moved_alike:
        told.append(
            f"All {len(compared)} changed alike, from {units.ratio(compared['ratio'].min())} to "
            f"{units.ratio(compared['ratio'].max())}: a machine that changed looks like that, a commit seldom does. Measure the "
            "base again beside the new run."
        )
    told.append(f"A step is called slower or faster where {rule}{pair}.")
    told += [_counters(compared), f"Drift in the base: {how_sure.drift(base_certainty)}"]
    return [*told, f"Drift in the new run: {how_sure.drift(new_certainty)}"]


def _counters(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "Losses and collectives: not compared, for no cell has a figure in both runs."
    equal = int(compared["counters"].eq("equal").sum())
    unknown = int(compared["counters"].isna().sum())
    other = len(compared) - equal - unknown
    words = [f"equal in {_cells(equal)}"]
    words += [f"other in {_cells(other)}"] if other else []
    words += [f"not known in {_cells(unknown)}"] if unknown else []
    return f"Losses and collectives: {', '.join(words)}."


def differences(cells: pd.DataFrame, environment: pd.DataFrame) -> list[str]:
    """What of place and settings is not the same, a line each; of settings with the number of cells."""
    lines = [f"environment, {row.property}: {row.base} -> {row.new}" for row in environment.itertuples()]
    settings = cells["differs"].dropna().value_counts(sort=False)
    lines += [f"settings: {words} (in {_cells(count)})" for words, count in settings.items()]
    return lines or ["environment and settings: the same"]


def _cells(number: int) -> str:
    return f"{number} {'cell' if number == 1 else 'cells'}"
