"""From what a results folder comes to, to its report: writes tables, charts, timelines and one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import bench
from bench.analysis.comparison import aa_spread_frac
from bench.analysis.phases import phases
from bench.analysis.timeline import chrome_trace
from bench.analysis.verdict import not_ok, ranking
from bench.drawing import drawn, wanted
from bench.examine import Findings
from bench.printing import printable
from bench.results.launch_file import record_path
from bench.results.store import read_record
from bench.sections import sections
from bench.writing import write_bytes, write_text
from reports import page, tables, verdict

if TYPE_CHECKING:
    from rich.table import Table


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
        "synchronisation": findings.synchronisation,
        # Whose task it is, table synchronisation says once a cell; here it would be nine tenths of the file.
        "synchronisation_losses": findings.courses.drop(columns="task"),
        "memory": findings.memory,
        "projected": findings.projected,
        "alarms": findings.alarms,
        "time_to_loss": findings.time_to_loss,
        "loss_curves": findings.curves,
        "not_ok": failed,
        "certainty": findings.certainty,
        "environment": places,
    }
    _clear(report)
    for name, table in written.items():
        write_text(report / "tables" / f"{name}.csv", table.to_csv(index=False))
    pictures: dict[str, list[page.Picture]] = {}
    spread = aa_spread_frac(findings.measured)
    charts = wanted(
        scaling,
        findings.efficiency,
        findings.ranks,
        findings.traffic,
        seconds,
        findings.balance,
        spread,
        findings.projected,
        findings.curves,
        findings.synchronisation,
        findings.courses,
    )
    for chart, png, svg in drawn(charts):
        write_text(report / "charts" / f"{chart.name}.svg", svg)
        write_bytes(report / "charts" / f"{chart.name}.png", png)
        pictures.setdefault(chart.section, []).append(page.Picture(chart.name, chart.alt, svg))
    # Read again, one at a time: a step of many micro-batches has thousands of spans a rank.
    for cell_id, launch_id in findings.traced:
        trace = chrome_trace(read_record(record_path(folder / cell_id / launch_id)))
        if trace is not None:
            write_text(report / "timelines" / f"{cell_id}_{launch_id}.json", json.dumps(trace, separators=(",", ":")))
    name = ", ".join(findings.suites) or folder.name
    index = report / "index.html"
    content = page.Report(
        title=f"Scaling of {name}",
        subtitle=f"{len(launches)} launches of {len(scaling)} cells, measured from {started[0]} to {started[-1]}",
        lead=verdict.lead(scaling, spread),
        paragraphs=verdict.paragraphs(scaling, ranked),
        sections=sections(findings, ranked, spread, seconds, pictures),
        incidents=page.incidents(failed),
        environment=tables.environment(places),
        footer=f"scalebench {bench.__version__}. Every figure here is derived from the records in {folder.name}/.",
    )
    write_text(index, page.render(content))
    return index


def headline(findings: Findings) -> Table:
    """The table that `run` and `report` print: a row a cell with its step time, speed, efficiency and outcome."""
    figures = {"ranks", "accum", "step time", "95 %", "tokens/s", "efficiency", "peak memory"}
    return printable(tables.headline(findings.scaling), figures, "outcome", {"ok": "", "paced": ""})


def _clear(report: Path) -> None:
    """Remove an earlier report's tables, charts and timelines, which may be of cells that are no longer there."""
    for pattern in ("tables/*.csv", "charts/*.png", "charts/*.svg", "timelines/*.json"):
        for path in report.glob(pattern):
            path.unlink(missing_ok=True)
