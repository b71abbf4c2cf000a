"""What theory says beside what was measured, as tables for people."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import units
from reports.columns import Column, interval, table, with_intervals, without_empty, without_unknown_intervals
from reports.tables import CELL


def memory(memory: pd.DataFrame) -> pd.DataFrame:
    """Peak memory of the fullest rank, predicted and measured; `memory`: rows of `bench.analysis.memory.memory_table`."""
    columns: list[Column] = [
        *CELL,
        ("micro_batch_size", "micro-batch", units.count),
        ("base_memory_bytes", "before the model", units.memory),
        ("parameter_bytes", "parameters", units.memory),
        ("gradient_bytes", "gradients", units.memory),
        ("optimizer_bytes", "optimizer", units.memory),
        ("bucket_bytes", "buckets", units.memory),
        ("activation_bytes", "activations", units.memory),
        ("predicted_bytes", "predicted", units.memory),
        ("measured_bytes", "measured", units.memory),
        ("error_frac", "error", units.fraction),
        ("outcome", "outcome", units.text),
        ("unknown_because", "why there is no theory", units.text),
    ]
    return without_empty(table(memory, columns), "setting", "why there is no theory")


def steps(projected: pd.DataFrame) -> pd.DataFrame:
    """Projected beside measured steps; `projected`: rows of `bench.analysis.projected.projected_table`."""
    columns: list[Column] = [
        *CELL,
        ("step_time_s", "predicted", units.seconds),
        interval("step_time_s", "predicted", 0.9),
        ("measured_step_time_s", "measured", units.seconds),
        ("error_frac", "error", units.fraction),
        ("inside", "measured is inside", _yes_or_no),
        ("efficiency", "efficiency, predicted", units.fraction),
        ("own_s", "own work", units.seconds),
        ("exposed_comm_s", "exposed", units.seconds),
        ("in_fit", "fitted to it", _yes_or_no),
    ]
    return without_unknown_intervals(without_empty(table(with_intervals(projected), columns), "setting"))


def sentences(projected: pd.DataFrame) -> list[str]:
    """What the projections stand on, and how far they were off where they were predictions, by model."""
    found = []
    for (model, machine, fitted_to), rows in projected.groupby(["model", "machine", "fitted_to"], sort=False):
        held_out = rows[~rows["in_fit"]]
        known = held_out[held_out["inside"].notna()]
        inside = int(known["inside"].astype(bool).sum())
        off = held_out["error_frac"].abs()
        ranks = f"{fitted_to} rank{'' if fitted_to == '1' else 's'}"
        found.append(
            f"{model}: fitted to launches of {ranks}, the rest as {machine} is described. Of {len(held_out)} cells of other "
            f"sizes {inside} are inside their interval (meant: nine of ten); step times are off by "
            f"{units.fraction(off.median())} in the median, {units.fraction(off.max())} at most."
        )
    return found


def alarms(alarms: pd.DataFrame) -> pd.DataFrame:
    """What was faster than its machine can be; `alarms`: rows of `bench.analysis.alarms.alarms`."""
    ends = alarms[["measured", "limit", "unit"]].itertuples(index=False, name=None)
    texts = [
        [units.seconds(value) if unit == "s" else f"{units.rate(value)}B/s" for value in (measured, limit)]
        for measured, limit, unit in ends
    ]
    shown = alarms.assign(found=[text[0] for text in texts], least=[text[1] for text in texts])
    columns: list[Column] = [
        ("kind", "alarm", units.text),
        ("model", "model", units.text),
        ("strategy", "strategy", units.text),
        ("world_size", "ranks", units.count),
        ("grad_accum_steps", "accum", units.count),
        ("found", "measured", units.text),
        ("least", "limit", units.text),
        ("because", "because of", units.text),
        ("source", "by", units.text),
        ("launch_id", "launch", units.text),
    ]
    return table(shown, columns)


def _yes_or_no(value: object) -> str:
    return units.UNKNOWN if units.is_unknown(value) else "yes" if value else "no"


def scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The theory's own error on published rows; `scores`: rows of `bench.theory.validation.Score`."""
    columns: list[Column] = [
        ("name", "published rows", units.text),
        ("rows", "rows", units.count),
        ("theory_median", "median error", _three_digits),
        ("theory_p90", "90 %", _three_digits),
        ("theory_bias", "predicted less published", _three_digits),
        ("naive_median", "naive: median", _three_digits),
        ("naive_p90", "naive: 90 %", _three_digits),
    ]
    return table(scores, columns)


def _three_digits(value: Any) -> str:
    return units.UNKNOWN if units.is_unknown(value) else f"{value:.3f}"
