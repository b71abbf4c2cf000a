"""Projected rows and their validation as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

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
