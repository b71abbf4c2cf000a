"""What theory foresaw of the cells that were measured, from their smallest world sizes or from a machine's description."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from bench.errors import ProjectionError
from bench.theory.calibration import calibrate, machine_of
from bench.theory.foreseen import foresee
from bench.theory.measured_work import MeasuredWork

_CELL = ["model", "contender", "strategy", "scaling", "setting", "keeps", "world_size", "grad_accum_steps", "cell_id"]
_FIGURES = [
    *(
        "step_time_s",
        "step_time_s_lo",
        "step_time_s_hi",
        "tokens_per_s",
        "tokens_per_s_lo",
        "tokens_per_s_hi",
        "speedup",
    ),
    *("speedup_lo", "speedup_hi", "efficiency", "efficiency_lo", "efficiency_hi", "own_s", "exposed_comm_s"),
    *("measured_step_time_s", "error_frac"),
]
COLUMNS = [*_CELL, *_FIGURES, "inside", "in_fit", "fitted_to", "machine"]

# A folder's own calibration: as little as tells one rank's step from what communication adds.
_NUM_SIZES = 2


def projected_table(works: list[MeasuredWork], scaling: pd.DataFrame, machine: str | None = None) -> pd.DataFrame:
    """Projected beside measured: one row a measured cell of `works`, columns COLUMNS; empty where nothing was held out.

    Without `machine` the constants are those that fit the launches of the two smallest world sizes, and the network's are
    `cpu-gloo`'s where they don't tell; GPUs need its name. With it, one rank's step is fitted to the smallest world size and
    all else is the machine's description. `in_fit`: launches of that cell were fitted to, so that it is no prediction.
    error_frac = step_time_s / measured_step_time_s - 1; `inside`: the measured step is in the interval, which is meant to hold
    nine of ten. `scaling`: rows of `scaling_table`. Raises ProjectionError where `machine` fits none of the workloads, and
    MachineError where it is none.
    """
    figures = scaling[scaling["step_time_s"].notna()].to_dict("records")
    measured = {str(row["cell_id"]): {str(name): value for name, value in row.items()} for row in figures}
    rows: list[dict[str, Any]] = []
    refused: list[ProjectionError] = []
    for work in works:
        try:
            rows += _rows(work, measured, machine)
        except ProjectionError as error:
            refused.append(error)
    if machine is not None and refused and not rows:
        raise refused[0]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({**dict.fromkeys(_FIGURES, float), "inside": object})
    order = {cell_id: place for place, cell_id in enumerate(scaling["cell_id"])}
    return table.sort_values("cell_id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)


def _rows(work: MeasuredWork, measured: dict[str, dict[str, Any]], machine: str | None) -> list[dict[str, Any]]:
    described = machine_of(work, machine)
    sizes = work.world_sizes
    fitted_to = sizes[: 1 if machine is not None else _NUM_SIZES]
    if len(sizes) == len(fitted_to):
        return []
    found = calibrate(work, described, fitted_to)
    cells = {(seen.series, seen.world_size): seen.cell_id for seen in work.observations if seen.series in found.own_1_s}
    rows = []
    for (series, world_size), cell_id in cells.items():
        # More ranks than the description has devices for: as many of its nodes were not what was measured.
        if cell_id not in measured or world_size > described.node.num_devices:
            continue
        row = foresee(found, series, world_size)
        known = measured[cell_id]
        low, high, measured_s = row.step_time_lo_s, row.step_time_hi_s, float(known["step_time_s"])
        tokens = row.tokens_per_s * row.step_time_s
        rows.append(
            {
                **{name: known[name] for name in _CELL},
                **{name: value for name, value in asdict(row).items() if name in COLUMNS},
                "step_time_s_lo": low,
                "step_time_s_hi": high,
                "tokens_per_s_lo": None if high is None else tokens / high,
                "tokens_per_s_hi": None if low is None else tokens / low,
                **{f"speedup{end}": _times(getattr(row, f"efficiency{end}"), world_size) for end in ("", "_lo", "_hi")},
                "measured_step_time_s": measured_s,
                "error_frac": row.step_time_s / measured_s - 1,
                "inside": None if low is None or high is None else low <= measured_s <= high,
                "fitted_to": ", ".join(map(str, fitted_to)),
                "machine": described.name,
            }
        )
    return rows


def _times(value: float | None, factor: int) -> float | None:
    return None if value is None else value * factor
