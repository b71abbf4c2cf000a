"""Projected rows as a table and a chart for people, in the terminal and in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.theory.project import Row
from reports import units


def table(rows: Sequence[Row]) -> Table:
    """One line a strategy and world size, times and memory with their units."""
    found = Table(
        "strategy", "ranks", "nodes", "step time", "nine of ten", "efficiency", "nine of ten", "exposed comm."
    )
    for name in ("memory", "fits", "tokens/s"):
        found.add_column(name)
    for row in rows:
        found.add_row(
            row.strategy,
            units.count(row.world_size),
            units.count(row.nodes),
            units.seconds(row.step_time_s),
            f"{units.seconds(row.step_time_lo_s)} to {units.seconds(row.step_time_hi_s)}",
            units.fraction(row.efficiency),
            f"{units.fraction(row.efficiency_lo)} to {units.fraction(row.efficiency_hi)}",
            units.seconds(row.exposed_comm_s),
            units.memory(row.memory_bytes),
            {True: "yes", False: "no", None: units.UNKNOWN}[row.fits],
            units.rate(row.tokens_per_s),
        )
    return found


_WIDTH = 60
_PARTS = (
    ("own work", "█", "cyan", ("forward_s", "backward_s", "update_s", "copy_s", "variation_s")),
    ("lateness", "▓", "yellow", ("lateness_s",)),
    ("exposed communication", "░", "red", ("exposed_comm_s",)),
)


def bars(rows: Sequence[Row]) -> Table:
    """A bar a row, as long as its step, in its parts; the longest is as wide as the chart."""
    found = Table.grid(padding=(0, 1))
    longest = max(row.step_time_s for row in rows)
    for row in rows:
        bar, end = Text(), 0.0
        for _, mark, color, names in _PARTS:
            end += sum(getattr(row, name) for name in names)
            # Places of ends are rounded, not lengths, so that the whole is as long as the step.
            bar.append(mark * (round(_WIDTH * end / longest) - len(bar)), style=color)
        found.add_row(row.strategy, units.ranks(row.world_size), bar, units.seconds(row.step_time_s))
    meaning = Text()
    for name, mark, color, _ in _PARTS:
        meaning.append(f"{mark} ", style=color).append(f"{name}  ")
    found.add_row("", "", meaning, "")
    return found


def write(output: Path, rows: Sequence[Row], title: str) -> Path:
    """Write the rows and their chart as projection.csv, .png and .svg; the path of the picture. Raises RecordError."""
    import pandas as pd

    from bench.drawing import saved
    from bench.writing import write_bytes, write_text
    from reports.foresight import projected

    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    png, svg = saved(projected(frame, title))
    write_text(output / "projection.csv", frame.to_csv(index=False))
    write_text(output / "projection.svg", svg)
    write_bytes(output / "projection.png", png)
    return output / "projection.png"
