"""From a results folder to its report: reads the records, judges them, and writes tables, charts and one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import bench
from bench.analysis.environment import environment
from bench.analysis.phases import phases
from bench.analysis.scaling import scaling_table
from bench.analysis.traffic import traffic_table
from bench.analysis.validity import judge
from bench.analysis.verdict import not_ok, ranking
from bench.drawing import drawn, wanted
from bench.errors import RecordError
from bench.results.frame import to_frame
from bench.results.store import read_records, write_atomically
from reports import page, tables, verdict

if TYPE_CHECKING:
    from rich.table import Table

# Section, heading, what it shows, its table.
_SECTIONS: list[tuple[str, str, str, Callable[[pd.DataFrame], pd.DataFrame] | None]] = [
    (
        "speed",
        "Speed",
        "Tokens per second over all ranks, and seconds per optimizer step. Points of one world size stand side by side "
        "only so that none hides another.",
        tables.speed,
    ),
    (
        "scaling",
        "Scaling",
        "Speed-up and efficiency against the same strategy at its smallest world size that ran (the table of speed names "
        "each baseline); the dashed line is ideal. Weak and strong scaling are apart. Nothing is drawn for a series with "
        "one world size, nor where ranks are oversubscribed.",
        None,
    ),
    (
        "accumulation",
        "Accumulation",
        "What more micro-batches per optimizer step do to speed, for cells that were measured at more than one "
        "accumulation: the optimizer, and with ddp, zero0 and zero1 the exchange of gradients, run once a step, however "
        "many micro-batches it has.",
        tables.accumulation,
    ),
    ("memory", "Memory", "Peak memory of the fullest rank, by strategy.", tables.memory),
    (
        "mfu",
        "Utilisation",
        "Model FLOPs utilisation, where the peak of the device is known; drawn at the largest accumulation, all of them are "
        "in the table of speed.",
        None,
    ),
]
_NO_SCALING = "Not known: no strategy has comparable figures at more than one world size."


@dataclass(frozen=True)
class Findings:
    """What a results folder comes to: `launches` after the gates (a row a launch), `scaling` (a row a cell), `traffic` (a row a
    metered cell and operation), `places` (the environments), and the names of the suites."""

    folder: Path
    launches: pd.DataFrame
    scaling: pd.DataFrame
    traffic: pd.DataFrame
    places: pd.DataFrame
    suites: list[str]


def examine(folder: Path) -> Findings:
    """Read a results folder and judge its launches. Raises RecordError where a record can't be trusted.

    The records themselves are let go: a thousand of them hold millions of figures, which no chart needs.
    """
    records = read_records(folder)
    launches = judge(to_frame(records))
    suites = sorted({record.suite for record in records if record.suite is not None})
    return Findings(folder, launches, scaling_table(launches), traffic_table(records), environment(records), suites)


def publish(findings: Findings) -> Path:
    """Write folder/report: index.html, tables/*.csv, charts/*.png and *.svg.

    Returns the path of index.html. Raises RecordError where the report can't be written.
    """
    folder, launches, scaling, places = findings.folder, findings.launches, findings.scaling, findings.places
    started = sorted(launches["started_at"])
    timing = launches[launches["kind"] == "timing"]
    ranked, failed, seconds = ranking(scaling), not_ok(launches), phases(timing)
    report = folder / "report"
    written = {
        "scaling": scaling,
        "ranking": ranked,
        "launches": launches.drop(columns="losses"),
        "phases": seconds,
        "traffic": findings.traffic,
        "not_ok": failed,
        "environment": places,
    }
    _clear(report)
    for name, table in written.items():
        _write(report / "tables" / f"{name}.csv", table.to_csv(index=False))
    pictures: dict[str, list[page.Picture]] = {}
    for chart, png, svg in drawn(wanted(scaling, seconds, findings.traffic)):
        _write(report / "charts" / f"{chart.name}.svg", svg)
        _write_bytes(report / "charts" / f"{chart.name}.png", png)
        pictures.setdefault(chart.section, []).append(page.Picture(chart.name, chart.alt, svg))
    name = ", ".join(findings.suites) or folder.name
    index = report / "index.html"
    content = page.Report(
        title=f"Scaling of {name}",
        subtitle=f"{len(launches)} launches of {len(scaling)} cells, measured from {started[0]} to {started[-1]}",
        lead=verdict.lead(scaling),
        paragraphs=verdict.paragraphs(scaling, ranked),
        sections=[*_sections(scaling, ranked, seconds, pictures), *_traffic(findings.traffic, pictures)],
        incidents=page.incidents(failed),
        environment=tables.environment(places),
        footer=f"scalebench {bench.__version__}. Every figure here is derived from the records in {folder.name}/.",
    )
    _write(index, page.render(content))
    return index


def headline(findings: Findings) -> Table:
    """The table that `run` and `report` print: a row a cell with its step time, speed, efficiency and outcome."""
    from rich.table import Table
    from rich.text import Text

    shown = tables.headline(findings.scaling)
    table = Table(box=None, header_style="bold", pad_edge=False)
    figures = {"ranks", "accum", "step time", "tokens/s", "efficiency", "peak memory"}
    for title in shown.columns:
        table.add_column(title, justify="right" if title in figures else "left", no_wrap=title in figures)
    for row in shown.itertuples(index=False, name=None):
        # Text, because a name in square brackets would be read as markup.
        table.add_row(*(Text(str(value)) for value in row), style="" if row[-1] in ("ok", "paced") else "yellow")
    return table


def _sections(
    scaling: pd.DataFrame, ranked: pd.DataFrame, seconds: pd.DataFrame, pictures: dict[str, list[page.Picture]]
) -> list[page.Section]:
    found = []
    if len(ranked):
        text = "The fastest measured strategy of each group of comparable cells, and those that can't be told from it."
        found.append(page.Section("fastest", "Fastest", text, table=tables.fastest(ranked), folded=len(ranked) > 24))
    for anchor, heading, text, table in _SECTIONS:
        drawn = pictures.get(anchor, [])
        rows = table(scaling) if table is not None else None
        if drawn or anchor == "scaling" or (rows is not None and len(rows)):
            shown = _NO_SCALING if anchor == "scaling" and not drawn else text
            found.append(page.Section(anchor, heading, shown, drawn, rows, folded=rows is not None and len(rows) > 24))
    if len(seconds):
        text = (
            "What a launch costs beside its measured window: from the launcher's start to the first line, imports, building "
            "the model and its engine, warm-up, checks afterwards, and the rest."
        )
        found.append(
            page.Section("outside", "Outside the window", text, pictures.get("outside", []), tables.phases(seconds))
        )
    return found


def _traffic(traffic: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if traffic.empty:
        return []
    text = (
        "What one rank communicates in an optimizer step, counted by the meter, beside what theory says. In the charts bytes as "
        "a ring would send them; P is the size of the parameters, and the factor is the volume as a multiple of "
        "P (n - 1) / n on n ranks. In the table the bytes of the full arrays."
    )
    shown = pictures.get("traffic", [])
    return [page.Section("traffic", "Traffic", text, shown, tables.traffic(traffic), folded=len(traffic) > 24)]


def _clear(report: Path) -> None:
    """Remove an earlier report's tables and charts, which may be of cells that are no longer there."""
    for pattern in ("tables/*.csv", "charts/*.png", "charts/*.svg"):
        for path in report.glob(pattern):
            path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    # A log may hold what is no text; it must not keep a report from being written.
    write_atomically(path, text.encode("utf-8", "replace").decode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error
