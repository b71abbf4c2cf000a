"""From what a results folder comes to, to its report: writes tables, charts, timelines and one page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import bench
from bench.analysis.phases import phases
from bench.analysis.timeline import chrome_trace
from bench.analysis.verdict import not_ok, ranking
from bench.drawing import drawn, wanted
from bench.errors import RecordError
from bench.examine import Findings
from bench.results.launch_file import record_path
from bench.results.store import read_record, write_atomically
from reports import losses, page, tables, verdict

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
_EFFICIENCY = (
    "From attribution launches, which run a cell through a meter. Each factor takes its share of what the factors before it "
    "left, so that together they multiply to the global efficiency; the timing launches measure the same directly, and where "
    "the two disagree the row is not reconciled. The seconds are means of a metered step; the mark is the step time of the "
    "timing launches, which is a median. Communication efficiency (serialization x transfer) rises when imbalance grows: "
    "never read it alone. One step of every rank of these launches is in timelines/*.json beside this page, for Perfetto "
    "(ui.perfetto.dev) or chrome://tracing."
)
_NO_EFFICIENCY = (
    "Not known: no attribution launch has figures; attribution_launches: 1 in the suite makes the next run start them."
)
_RANKS = (
    "What each rank does in a step without payload: its own work, and waiting for the others; drawn at each strategy's "
    "largest world size. A straggler is slower than the others beyond noise."
)


def publish(findings: Findings) -> Path:
    """Write folder/report: index.html, tables/*.csv, charts/*.png and *.svg, timelines/*.json.

    Returns the path of index.html. Raises RecordError where the report can't be written.
    """
    folder, launches, scaling, places = findings.folder, findings.launches, findings.scaling, findings.places
    started = sorted(launches["started_at"])
    timing = launches[launches["kind"] == "timing"]
    ranked, failed, seconds = ranking(scaling, findings.measured), not_ok(launches), phases(timing)
    report = folder / "report"
    written = {
        "scaling": scaling,
        "ranking": ranked,
        "efficiency": findings.efficiency,
        "ranks": findings.ranks,
        "balance": findings.balance,
        "launches": launches.drop(columns=["losses", "skipped_warmup_steps", "batch_tokens"]),
        "phases": seconds,
        "traffic": findings.traffic,
        "not_ok": failed,
        "environment": places,
    }
    _clear(report)
    for name, table in written.items():
        _write(report / "tables" / f"{name}.csv", table.to_csv(index=False))
    pictures: dict[str, list[page.Picture]] = {}
    charts = wanted(scaling, findings.efficiency, findings.ranks, findings.traffic, seconds, findings.balance)
    for chart, png, svg in drawn(charts):
        _write(report / "charts" / f"{chart.name}.svg", svg)
        _write_bytes(report / "charts" / f"{chart.name}.png", png)
        pictures.setdefault(chart.section, []).append(page.Picture(chart.name, chart.alt, svg))
    # Read again, one at a time: a step of many micro-batches has thousands of spans a rank.
    for cell_id, launch_id in findings.traced:
        trace = chrome_trace(read_record(record_path(folder / cell_id / launch_id)))
        if trace is not None:
            _write(report / "timelines" / f"{cell_id}_{launch_id}.json", json.dumps(trace, separators=(",", ":")))
    name = ", ".join(findings.suites) or folder.name
    index = report / "index.html"
    content = page.Report(
        title=f"Scaling of {name}",
        subtitle=f"{len(launches)} launches of {len(scaling)} cells, measured from {started[0]} to {started[-1]}",
        lead=verdict.lead(scaling),
        paragraphs=verdict.paragraphs(scaling, ranked),
        sections=_sections(findings, ranked, seconds, pictures),
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
    findings: Findings, ranked: pd.DataFrame, seconds: pd.DataFrame, pictures: dict[str, list[page.Picture]]
) -> list[page.Section]:
    found = []
    if len(ranked):
        text = "The fastest measured strategy of each group of comparable cells, and those that can't be told from it."
        found.append(page.Section("fastest", "Fastest", text, table=tables.fastest(ranked), folded=len(ranked) > 24))
    for anchor, heading, text, table in _SECTIONS:
        drawn = pictures.get(anchor, [])
        rows = table(findings.scaling) if table is not None else None
        if drawn or anchor == "scaling" or (rows is not None and len(rows)):
            shown = _NO_SCALING if anchor == "scaling" and not drawn else text
            found.append(page.Section(anchor, heading, shown, drawn, rows, folded=rows is not None and len(rows) > 24))
        if anchor == "scaling":
            found += _attribution(findings.efficiency, findings.ranks, pictures)
            found += _balance(findings.balance, pictures)
            found += _traffic(findings.traffic, pictures)
    if len(seconds):
        text = (
            "What a launch costs beside its measured window: from the launcher's start to the first line, imports, building "
            "the model and its engine, warm-up, checks afterwards, and the rest."
        )
        found.append(
            page.Section("outside", "Outside the window", text, pictures.get("outside", []), tables.phases(seconds))
        )
    return found


def _attribution(
    efficiency: pd.DataFrame, ranks: pd.DataFrame, pictures: dict[str, list[page.Picture]]
) -> list[page.Section]:
    """Where the time goes, and the ranks; one sentence how to know it where no attribution launch gave figures."""
    heading = "Where the time goes"
    if efficiency.empty:
        return [page.Section("efficiency", heading, _NO_EFFICIENCY)]
    table, told = tables.efficiency(efficiency), losses.paragraphs(efficiency)
    return [
        page.Section("efficiency", heading, _EFFICIENCY, pictures.get("efficiency", []), table, paragraphs=told),
        page.Section("ranks", "Ranks", _RANKS, pictures.get("ranks", []), tables.ranks(ranks)),
    ]


def _balance(balance: pd.DataFrame, pictures: dict[str, list[page.Picture]]) -> list[page.Section]:
    if balance.empty:
        return []
    text = (
        "Sequences of unequal length, dealt to the ranks: load balance as reckoned from what they cost, beside the one that the "
        "meter found on the same batches; and the step time, beside what a paced model's slowest rank and the best possible "
        "deal would sleep. Padding is no token: its share is of all positions that went through the model. Waiting for input is "
        "what the rank that did so longest waited for its batches, of the window."
    )
    shown = pictures.get("balance", [])
    return [page.Section("balance", "Balance", text, shown, tables.balance(balance), folded=len(balance) > 24)]


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
    """Remove an earlier report's tables, charts and timelines, which may be of cells that are no longer there."""
    for pattern in ("tables/*.csv", "charts/*.png", "charts/*.svg", "timelines/*.json"):
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
