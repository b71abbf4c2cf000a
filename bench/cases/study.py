"""A case study, worked out: its tables, its charts and its page, and how they are written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.drawing import saved
from bench.writing import json_rows, write_bytes, write_text
from reports.page import Case, Picture, Section, render_case


@dataclass(frozen=True)
class Drawn:
    """One chart of a study: its file's name, what it shows, and the question under which it stands."""

    name: str
    alt: str
    section: str
    figure: Figure


@dataclass(frozen=True)
class Study:
    """All of a study: `tables` are SI and for programs, those inside `case` are text."""

    name: str
    case: Case
    tables: dict[str, pd.DataFrame]
    charts: list[Drawn]

    def as_json(self) -> dict[str, Any]:
        """Answers, assumptions and tables for a program; None is unknown."""
        tables = {name: json_rows(table) for name, table in self.tables.items()}
        return {"case": self.name, "answers": self.case.answers, "assumed": self.case.assumed, **tables}


def write(study: Study, output: Path) -> Path:
    """Write OUTPUT: index.html, case.json, a CSV a table, PNG and SVG a chart. Raises RecordError where that can't be."""
    for name, table in study.tables.items():
        write_text(output / f"{name}.csv", table.to_csv(index=False))
    sections: dict[str, Section] = {section.anchor: section for section in study.case.sections}
    for chart in study.charts:
        png, svg = saved(chart.figure)
        write_text(output / f"{chart.name}.svg", svg)
        write_bytes(output / f"{chart.name}.png", png)
        sections[chart.section].pictures.append(Picture(chart.name, chart.alt, svg))
    write_text(output / "case.json", json.dumps(study.as_json(), indent=1))
    page = output / "index.html"
    write_text(page, render_case(study.case))
    return page
