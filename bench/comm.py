"""A sweep of collectives, judged: its tables, its chart and its page, and how they are written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.comm import comm_table, fit_table
from bench.drawing import saved
from bench.results.comm import CommRecord
from bench.writing import json_rows, write_bytes, write_text
from reports import collectives, units
from reports.page import Case, Picture, Section, render_case


@dataclass(frozen=True)
class Found:
    """A sweep with its points (`bench.analysis.comm.comm_table`) and its fits (`fit_table`)."""

    record: CommRecord
    points: pd.DataFrame
    fits: pd.DataFrame

    def as_json(self) -> dict[str, Any]:
        """For a program: SI units, None is unknown."""
        record = self.record
        return {
            "launch_id": record.launch_id,
            "outcome": record.outcome,
            "reason": record.reason,
            "world_size": record.plan.world_size,
            "num_nodes": None if record.environment is None else record.environment.num_nodes,
            "backend": None if record.environment is None else record.environment.backend,
            "limit": record.limit,
            "rows": json_rows(self.points),
            "fits": json_rows(self.fits),
        }


def found(record: CommRecord) -> Found:
    """Work out the tables of a sweep."""
    points = comm_table(record)
    return Found(record, points, fit_table(points, record.plan.world_size))


def headline(record: CommRecord) -> str:
    """Where it was measured and how far it went, in a line."""
    place = record.environment
    where = "" if place is None else f", {place.num_nodes} host{'s' * (place.num_nodes > 1)}, {place.backend}"
    largest = max((point.size_bytes for point in record.points), default=None)
    ended = f"; largest size {units.memory(largest)} ({record.limit})" if record.limit else ""
    return f"{units.ranks(record.plan.world_size)}{where}, float32{ended}{crowded(record)}"


def crowded(record: CommRecord) -> str:
    """Says that ranks shared cores, where they did: then figures are of waiting for a core too."""
    place = record.environment
    if place is None or place.backend != "gloo":
        return ""
    per_host = -(-record.plan.world_size // place.num_nodes)
    return f"; oversubscribed: {per_host} ranks a host on {place.num_cores} cores" * (per_host > place.num_cores)


def write(sweep: Found, output: Path) -> Path:
    """Write OUTPUT: tables/comm.csv and comm_fits.csv, charts/comm.png and .svg, comm.json, index.html, which it returns."""
    write_text(output / "tables" / "comm.csv", sweep.points.to_csv(index=False))
    write_text(output / "tables" / "comm_fits.csv", sweep.fits.to_csv(index=False))
    write_text(output / "comm.json", json.dumps(sweep.as_json(), indent=1))
    pictures = []
    notes = "Bands: 95 % of the median over repetitions. Sizes and bandwidths as nccl-tests defines them."
    figure = collectives.bandwidth(sweep.points, f"Collectives among {headline(sweep.record).partition(';')[0]}", notes)
    if figure is not None:
        png, svg = saved(figure)
        write_text(output / "charts" / "comm.svg", svg)
        write_bytes(output / "charts" / "comm.png", png)
        pictures.append(Picture("comm", "Bus bandwidth and time against size, a line an operation", svg))
    page = output / "index.html"
    write_text(page, render_case(_page(sweep, pictures)))
    return page


def _page(sweep: Found, pictures: list[Picture]) -> Case:
    return Case(
        title="Collectives by size",
        subtitle=headline(sweep.record),
        answers=_answers(sweep),
        sections=[
            Section("sizes", "How fast at which size?", _SIZES, pictures=pictures),
            Section("fits", "Latency and bandwidth", _FITS, table=collectives.fits_text(sweep.fits)),
            Section("points", "Every point", _POINTS, table=collectives.points_text(sweep.points)),
        ],
        assumed=_ASSUMED,
        footer=f"Made by scalebench comm, launch {sweep.record.launch_id}, {sweep.record.started_at}.",
    )


def _answers(sweep: Found) -> list[str]:
    if sweep.record.outcome != "ok":
        return [f"{sweep.record.outcome}: {sweep.record.reason}"]
    results = sum(point.num_checked for point in sweep.record.points)
    answers = [
        f"{units.count(results)} results were compared with what they must be, element by element: all are right."
    ]
    for row in sweep.fits[sweep.fits["latency_s"].notna()].to_dict("records"):
        answers.append(
            f"{row['operation']}, {collectives.place(row['in_place'])}: {units.seconds(row['latency_s'])} and "
            f"{units.rate(row['busbw_bytes_per_s'])}B/s of bus bandwidth; half of the sizes lie within "
            f"{units.fraction(row['fit_error_frac'])} of that line."
        )
    return answers


_SIZES = (
    "Bus bandwidth is what the busiest link carries in one direction, so that it compares between operations and world sizes. "
    "Small messages are bound by latency: there it rises with the size."
)
_FITS = (
    "seconds = latency + size / bandwidth, with 95 % intervals; the smallest sizes decide on latency, the largest on "
    "bandwidth. Off by: the median relative residual of all sizes. Where a backend changes its way at some size no single line "
    "fits, and it is large."
)
_POINTS = "The median over repetitions of the slowest rank's time."
_ASSUMED = [
    "One launch: its repetitions share a placement and a moment, so the intervals say how steady it was, not how far off "
    "another launch would be.",
    "Ranks begin each repetition out of a barrier, which lets them go some microseconds apart; the smallest sizes hold that too.",
    "all_reduce and broadcast are in place, because torch.distributed has no other; an all_to_all in place is promised by no "
    "backend.",
]
