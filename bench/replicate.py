"""How often is enough: launches are added, one at a time, to the cell whose step time is known worst."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.analysis.statistics import mean
from bench.examine import examine
from bench.launch.interrupt import stop_on_signal
from bench.launch.order import Task
from bench.launch.sweep import Sweep
from bench.plan.suite import AUTO_LEAST, PlannedCell, Suite
from reports.units import significant

AUTO_MOST = 100
"""Launches of a cell after which none is added: an interval that is still too wide then tells of something else than chance."""


@dataclass(frozen=True)
class Addition:
    """A launch to be added, the how-manieth of this run, and why: how wide the interval of its cell's step time is, as a
    fraction of it (infinite where it is unknown), and the seconds of the budget that are left before it."""

    task: Task
    number: int
    interval_frac: float
    left_s: float

    def __str__(self) -> str:
        return f"added {self.number}, interval {_percent(self.interval_frac)}, {self.left_s / 60:.1f} min of the budget left"


@dataclass(frozen=True)
class Standing:
    """What the launches of a cell of `launches: auto` come to: the width of its step time's interval (see `interval_frac`), how
    many launches there are, whether one of the cell's failed or is invalid, the mean seconds of one, and the seconds that those
    took which were added."""

    planned: PlannedCell
    interval_frac: float
    num_launches: int
    broken: bool
    launch_s: float
    added_s: float


@dataclass(frozen=True)
class Reached:
    """Where adding launches ended: each cell's standing, and how many launches this run added."""

    suite: Suite
    cells: tuple[Standing, ...]
    num_added: int

    def __str__(self) -> str:
        """In one line: how many cells are within the target, what stopped the others, and which is the widest."""
        target = self.suite.target_interval_frac
        wide = [cell for cell in self.cells if not cell.interval_frac < target]
        parts = [f"auto: {len(self.cells) - len(wide)} of {len(self.cells)} cells within {100 * target:g} %"]
        if self.num_added:
            parts.append(f"{self.num_added} launch{'es' * (self.num_added > 1)} added")
        if broken := sum(cell.broken for cell in wide):
            parts.append(f"none added to {broken} cell{'s' * (broken > 1)} with a launch that failed or is invalid")
        sound = [cell for cell in wide if not cell.broken]
        if most := sum(cell.num_launches >= AUTO_MOST for cell in sound):
            parts.append(f"{most} cell{'s' * (most > 1)} with {AUTO_MOST} launches, the most")
        if most < len(sound):
            parts.append(f"budget of {self.suite.budget_minutes:g} min spent")
        line = "; ".join(parts)
        if not sound:
            return line
        widest = max(sound, key=lambda cell: cell.interval_frac)
        return f"{line}, widest {_percent(widest.interval_frac)} ({widest.planned.cell.id})"


def replicate(sweep: Sweep, launch: Callable[[Addition], object]) -> Reached | None:
    """Add launches to the cells of `launches: auto` until the interval of each is narrower than the suite's target, or the
    budget is spent; None where no such cell can be launched here. `launch` makes one, so that its record is in the folder.

    Everything is read from the folder each time, so that a run that was stopped goes on where it was. The budget is of the
    launches' own seconds (`wall_s`), whichever run added them; one whose cell's mean doesn't fit in what is left is not made.
    Nothing is added to a cell with a launch that failed or is invalid, nor beyond AUTO_MOST launches.

    An interval that is looked at until it is narrow covers the truth a little less often than it says: 92 to 95 % of 2,000
    synthetic experiments where it says 95 % (tests/test_replicate.py), least where launches differ by about the target.

    Raises RecordError where a record can't be trusted, and Interrupted when the user stops it.
    """
    if not sweep.by_need:
        return None
    suite = sweep.suite
    num_added = 0
    with stop_on_signal():
        while True:
            launches = examine(sweep.folder).launches
            cells = tuple(_standing(planned, launches) for planned in sweep.by_need)
            left_s = 60 * suite.budget_minutes - sum(cell.added_s for cell in cells)
            due = [
                cell
                for cell in cells
                if not cell.interval_frac < suite.target_interval_frac
                and not cell.broken
                and cell.num_launches < AUTO_MOST
                and cell.launch_s <= left_s
            ]
            if not due:
                return Reached(suite, cells, num_added)
            worst = max(due, key=lambda cell: cell.interval_frac)
            # Beyond the planned ones, whatever numbers those have in the folder.
            sequence = int(max(len(sweep.tasks) - 1, launches["sequence"].max())) + 1
            num_added += 1
            task = Task(worst.planned.cell, worst.planned.settings, sequence)
            launch(Addition(task, num_added, worst.interval_frac, left_s))


def interval_frac(step_times_s: Sequence[float]) -> float:
    """Width of the 95 % interval of a cell's step time over the step time, from one figure a launch; infinite for fewer than
    two, which have none."""
    found = mean(step_times_s) if len(step_times_s) else None
    interval = found.interval() if found is not None else None
    return math.inf if found is None or interval is None else (interval[1] - interval[0]) / found.value


def _standing(planned: PlannedCell, launches: pd.DataFrame) -> Standing:
    """`launches`: rows of `to_frame`, judged, of the whole folder."""
    of_cell = launches[launches["cell_id"] == planned.cell.id]
    own = of_cell[(of_cell["kind"] == "timing") & ~of_cell["twin"].astype(bool)].sort_values(["sequence", "started_at"])
    times_s = own.loc[own["outcome"] == "ok", "step_time_s"]
    return Standing(
        planned,
        interval_frac(times_s.to_list()),
        len(own),
        broken=not of_cell["outcome"].isin(["ok", "skipped"]).all(),
        launch_s=float(own["wall_s"].mean()),
        added_s=float(own["wall_s"].iloc[AUTO_LEAST:].sum()),
    )


def _percent(fraction: float) -> str:
    return "unknown" if math.isinf(fraction) else f"{significant(100 * fraction, 2)} %"
