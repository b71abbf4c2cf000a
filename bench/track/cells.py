"""What is tracked of a results folder: each cell's steps, and the figures that its report has for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.measured import Measured
from bench.analysis.statistics import around
from bench.errors import TrackError
from bench.examine import Findings
from bench.results.launch_file import record_path
from bench.results.store import read_record

MEASURED = "measured"
"""Under this name of a benchmark's extra_info is all that the next run is compared with."""


@dataclass(frozen=True)
class TrackedCell:
    """A cell with an ok timing launch. `steps_s`: seconds of every step of the window, the slowest rank's, of all such launches
    in the order in which they ran. The other figures are the report's; the interval of 95 % is None for one launch, and what
    is unknown is None."""

    measured: Measured
    steps_s: list[float]
    step_time_s: float
    step_time_s_lo: float | None
    step_time_s_hi: float | None
    tokens_per_s: float
    efficiency: float | None
    exposed_comm_s: float | None

    @property
    def launches(self) -> int:
        return len(self.measured.launch_step_times_s)

    def extra_info(self) -> dict[str, Any]:
        """The figures and the whole `Measured` as JSON: a baseline after the results folder is gone."""
        names = ("step_time_s", "step_time_s_lo", "step_time_s_hi", "tokens_per_s", "efficiency", "exposed_comm_s")
        figures = {name: getattr(self, name) for name in (*names, "launches")}
        return {**figures, MEASURED: self.measured.model_dump(mode="json")}


@dataclass(frozen=True)
class Run:
    """The cells of a results folder by their ids, and its suite, which is what a history is of."""

    suite: str
    cells: dict[str, TrackedCell]

    @property
    def measured_on(self) -> dict[str, Any]:
        """The fingerprint of the machine that the steps were measured on; values that cells have beside each other stand side by
        side. `num_devices` is the most GPUs that a cell ran on, None on a CPU."""
        values: dict[str, set[str]] = {}
        for cell in self.cells.values():
            for name, value in cell.measured.fingerprint.items():
                values.setdefault(name, set()).add(value)
        ranks = [
            cell.measured.cell.world_size
            for cell in self.cells.values()
            if cell.measured.fingerprint.get("device type") == "cuda"
        ]
        return {
            **{name: ", ".join(sorted(found)) for name, found in values.items()},
            "num_devices": max(ranks, default=None),
        }


def tracked(findings: Findings) -> Run:
    """The run that a results folder holds. Raises TrackError where no cell of it has a figure."""
    figures: dict[str, dict[str, Any]] = {
        row["cell_id"]: {str(name): value for name, value in row.items()} for row in findings.scaling.to_dict("records")
    }
    exposed_s = dict(findings.efficiency[["cell_id", "exposed_comm_s"]].itertuples(index=False, name=None))
    steps_s = _steps_s(findings.folder, findings.launches)
    cells = {}
    for one in findings.measured:
        if one.launch_step_times_s:
            row = figures[one.cell.id]
            step_time_s = row["step_time_s"]
            low, high = around(step_time_s, one.launch_step_times_s).interval() or (None, None)
            cells[one.cell.id] = TrackedCell(
                measured=one,
                steps_s=steps_s[one.cell.id],
                step_time_s=step_time_s,
                step_time_s_lo=low,
                step_time_s_hi=high,
                tokens_per_s=row["tokens_per_s"],
                efficiency=_known(row["efficiency"]),
                exposed_comm_s=_known(exposed_s.get(one.cell.id)),
            )
    if not cells:
        raise TrackError(
            f"{findings.folder} has no cell with an ok timing launch, so there is nothing to track",
            hint=f"see why: scalebench report {findings.folder}",
        )
    return Run("+".join(findings.suites) or findings.folder.resolve().name, cells)


def _steps_s(folder: Path, launches: pd.DataFrame) -> dict[str, list[float]]:
    """By cell the steps of its launches, which are read again, one at a time: `examine` keeps no record."""
    own = launches[(launches["kind"] == "timing") & (launches["outcome"] == "ok") & ~launches["twin"].astype(bool)]
    own = own.assign(place=own["sequence"].fillna(0)).sort_values(["started_at", "place"], kind="stable")
    found: dict[str, list[float]] = {}
    for cell_id, launch_id in own[["cell_id", "launch_id"]].itertuples(index=False, name=None):
        record = read_record(record_path(folder / cell_id / launch_id))
        found.setdefault(cell_id, []).extend(record.slowest_step_times_s())
    return found


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
