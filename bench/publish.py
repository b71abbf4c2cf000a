"""From a results folder to its report: reads the records, judges them, and writes tables, charts and one page."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import bench
from bench.analysis.environment import environment
from bench.analysis.phases import phases
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.analysis.verdict import not_ok, ranking
from bench.errors import RecordError
from bench.results.store import read_records, to_frame, write_atomically
from reports import bars, charts, page, tables, verdict
from reports.style import styles

if TYPE_CHECKING:
    from rich.table import Table

# Below this many charts, starting other processes takes longer than drawing.
_CHARTS_WORTH_A_PROCESS = 12

_QUESTIONS: list[tuple[str, str, str, Callable[..., Any] | None, Callable[[pd.DataFrame], pd.DataFrame] | None]] = [
    (
        "speed",
        "Speed",
        "Tokens per second over all ranks, and seconds per optimizer step. Points of one world size stand side by side "
        "only so that none hides another.",
        charts.throughput,
        tables.speed,
    ),
    (
        "scaling",
        "Scaling",
        "Speed-up and efficiency against the same strategy at its smallest world size that ran (the table names each "
        "baseline); the dashed line is ideal. Weak and strong scaling are apart. Nothing is drawn for a series with one "
        "world size, nor where ranks are oversubscribed.",
        charts.scaling,
        None,
    ),
    (
        "accumulation",
        "Accumulation",
        "What more micro-batches per optimizer step do to speed: gradients are exchanged less often, or as often in ZeRO-2 "
        "and 3. For cells that were measured at more than one accumulation.",
        charts.accumulation,
        tables.accumulation,
    ),
    (
        "memory",
        "Memory",
        "Peak memory of the fullest rank, by strategy.",
        bars.memory,
        tables.memory,
    ),
    (
        "mfu",
        "Utilisation",
        "Model FLOPs utilisation, where the peak of the device is known.",
        charts.utilisation,
        None,
    ),
]


@dataclass(frozen=True)
class _Chart:
    """One chart to draw: picklable, so that another process can."""

    section: str
    name: str
    alt: str
    draw: Callable[..., Any]
    arguments: tuple[Any, ...]


def publish(folder: Path) -> Path:
    """Write the report of a results folder to folder/report: index.html, tables/*.csv, charts/*.png and *.svg.

    Returns the path of index.html. Raises RecordError where a record can't be trusted or the report can't be written.
    """
    records = read_records(folder)
    launches = judge(to_frame(records))
    places = environment(records)
    suites = sorted({record.suite for record in records if record.suite is not None})
    started = sorted(record.started_at for record in records)
    # A thousand records hold millions of figures, which the charts' processes need not carry.
    del records
    scaling = scaling_table(launches)
    timing = launches[launches["kind"] == "timing"]
    ranked, failed, seconds = ranking(scaling), not_ok(launches), phases(timing)
    report = folder / "report"
    written = {
        "scaling": scaling,
        "ranking": ranked,
        "launches": launches.drop(columns="losses"),
        "phases": seconds,
        "not_ok": failed,
        "environment": places,
    }
    _clear(report)
    for name, table in written.items():
        _write(report / "tables" / f"{name}.csv", table.to_csv(index=False))
    pictures: dict[str, list[page.Picture]] = {}
    for chart, png, svg in _drawn(list(_charts(scaling, seconds))):
        _write(report / "charts" / f"{chart.name}.svg", svg)
        _write_bytes(report / "charts" / f"{chart.name}.png", png)
        pictures.setdefault(chart.section, []).append(page.Picture(chart.name, chart.alt, svg))
    name = ", ".join(suites) or folder.name
    index = report / "index.html"
    content = page.Report(
        title=f"Scaling of {name}",
        subtitle=f"{len(launches)} launches of {launches['cell_id'].nunique()} cells, measured from {started[0]} to {started[-1]}",
        lead=verdict.lead(scaling),
        paragraphs=verdict.paragraphs(scaling, ranked),
        sections=_sections(scaling, ranked, seconds, pictures),
        incidents=page.incidents(failed),
        environment=tables.environment(places),
        footer=f"scalebench {bench.__version__}. Every figure here is derived from the records in {folder.name}/.",
    )
    _write(index, page.render(content))
    return index


def headline(folder: Path) -> Table:
    """The table that `run` and `report` print: a row a cell with its step time, speed, efficiency and outcome."""
    from rich.table import Table
    from rich.text import Text

    shown = tables.headline(scaling_table(judge(to_frame(read_records(folder)))))
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
    for anchor, heading, text, _, table in _QUESTIONS:
        drawn = pictures.get(anchor, [])
        rows = table(scaling) if table is not None else None
        if drawn or anchor == "scaling" or (rows is not None and len(rows)):
            if anchor == "scaling" and not drawn:
                text = "Not known: no strategy has comparable figures at more than one world size."
            found.append(page.Section(anchor, heading, text, drawn, rows, folded=rows is not None and len(rows) > 24))
    if len(seconds):
        text = (
            "What a launch costs beside its measured window: from the launcher's start to the first line, imports, building "
            "the model and its engine, warm-up, checks afterwards, and the rest."
        )
        found.append(
            page.Section("outside", "Outside the window", text, pictures.get("outside", []), tables.phases(seconds))
        )
    return found


def _charts(scaling: pd.DataFrame, seconds: pd.DataFrame) -> Iterator[_Chart]:
    """All charts of the report: each question for each model, scaling and setting."""
    looks = styles(scaling["contender"])
    for anchor, heading, _, draw, _ in _QUESTIONS:
        for number, ((model, kind, setting), cells) in enumerate(scaling.groupby(["model", "scaling", "setting"], sort=False)):
            if draw is not None:
                # A number in front of a setting keeps two names apart whose signs are dropped.
                words = [anchor, str(model), str(kind), *([str(number), str(setting)] if setting else [])]
                yield _Chart(anchor, _slug(words), f"{heading}: {charts.title(cells)}", draw, (cells, looks))
    for model, launches in seconds.groupby("model", sort=False):
        yield _Chart("outside", _slug(["outside", str(model)]), f"Seconds of a launch: {model}", bars.outside, (launches,))


def _slug(words: list[str]) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "-", "-".join(words)).strip("-.")[:120]


def _draw(chart: _Chart) -> tuple[bytes, str] | None:
    figure = chart.draw(*chart.arguments)
    if figure is None:
        return None
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=120, pil_kwargs={"compress_level": 1})
    figure.savefig(svg, format="svg")
    return png.getvalue(), svg.getvalue()


def _drawn(wanted: list[_Chart]) -> Iterator[tuple[_Chart, bytes, str]]:
    """The charts that have something to show, drawn, in order; by several processes where there are many."""
    workers = min(4, os.cpu_count() or 1)
    if len(wanted) < _CHARTS_WORTH_A_PROCESS or workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        results = map(_draw, wanted)
        yield from ((chart, *result) for chart, result in zip(wanted, results, strict=True) if result is not None)
        return
    # Forked, so that no worker imports pandas and matplotlib again.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        results = pool.map(_draw, wanted)
        yield from ((chart, *result) for chart, result in zip(wanted, results, strict=True) if result is not None)


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
