"""What is tracked of a results folder: each cell's steps, and the figures that its report has for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.measured import Measured
from bench.errors import TrackError
from bench.examine import Findings
from bench.results.launch_file import record_path
from bench.results.store import read_record

MEASURED = "measured"
"""Under this name of a benchmark's extra_info is all that the next run is compared with."""


FIGURES = ("step_time_s", "tokens_per_s", "efficiency", "exposed_comm_s")
"""What a benchmark's extra_info says of its cell, each with the ends of its 95 % interval as NAME_lo and NAME_hi."""


@dataclass(frozen=True)
class TrackedCell:
    """A cell with an ok timing launch. `steps_s`: seconds of every step of the window, the slowest rank's, of all such launches
    in the order in which they ran. `figures`: the report's, by the names of FIGURES; what is unknown is None, and so is the
    interval of one launch."""

    measured: Measured
    steps_s: list[float]
    figures: dict[str, float | None]

    @property
    def launches(self) -> int:
        return len(self.measured.launch_step_times_s)

    def extra_info(self) -> dict[str, Any]:
        """The figures and the whole `Measured` as JSON: a baseline after the results folder is gone."""
        return {**self.figures, "launches": self.launches, MEASURED: self.measured.model_dump(mode="json")}


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
    known: dict[str, dict[str, Any]] = {}
    for table in (findings.efficiency, findings.scaling):
        for row in table.to_dict("records"):
            known.setdefault(row["cell_id"], {}).update({str(name): value for name, value in row.items()})
    steps_s = _steps_s(findings.folder, findings.launches)
    names = [f"{figure}{end}" for figure in FIGURES for end in ("", "_lo", "_hi")]
    cells = {
        one.cell.id: TrackedCell(
            measured=one,
            steps_s=steps_s[one.cell.id],
            figures={name: _known(known[one.cell.id].get(name)) for name in names},
        )
        for one in findings.measured
        if one.launch_step_times_s
    }
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
