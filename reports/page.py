"""One self-contained page: text, tables and charts in, HTML out. Its files are template.html, case.html and page.css."""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from reports import units
from reports.verdict import Paragraph

# A log may be long; the whole of it is in tables/not_ok.csv.
_EVIDENCE_CHARACTERS = 6000
_NUMBER = re.compile(r"[-\d]|nan|" + units.UNKNOWN)


@dataclass(frozen=True)
class Picture:
    """One chart, drawn: what it shows in words, for those who can't see it, and its SVG."""

    name: str
    alt: str
    svg: str

    @property
    def uri(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode("utf-8")).decode("ascii")


@dataclass
class Section:
    """One question of the page. `folded` puts the table behind a click."""

    anchor: str
    heading: str
    text: str
    pictures: list[Picture] = field(default_factory=list)
    table: pd.DataFrame | None = None
    folded: bool = True
    paragraphs: list[Paragraph] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Incident:
    """Launches that gave no figure for one and the same reason."""

    heading: str
    reason: str
    cells: str
    evidence: str


@dataclass
class Report:
    """All that the page says."""

    title: str
    subtitle: str
    lead: list[str]
    paragraphs: list[Paragraph]
    sections: list[Section]
    incidents: list[Incident]
    environment: pd.DataFrame
    footer: str


@dataclass
class Case:
    """What the page of a case study says: the answers first, then a section a question, then what is assumed."""

    title: str
    subtitle: str
    answers: list[str]
    sections: list[Section]
    assumed: list[str]
    footer: str


def incidents(not_ok: pd.DataFrame) -> list[Incident]:
    """The launches without a figure, those of one model, outcome and reason together; the first one's evidence."""
    groups: dict[tuple[str, str, str], list[dict[Hashable, Any]]] = {}
    for row in not_ok.to_dict("records"):
        reason = "no reason known" if units.is_unknown(row["reason"]) else row["reason"]
        groups.setdefault((row["model"], row["outcome"], reason), []).append(row)
    found = []
    for (model, outcome, reason), rows in groups.items():
        cells = [
            f"{row['strategy']}, {row['scaling']}, ranks {row['world_size']}, accumulation {row['grad_accum_steps']}"
            for row in rows
        ]
        evidence = next((str(row["evidence"]) for row in rows if not units.is_unknown(row["evidence"])), "")
        if len(evidence) > _EVIDENCE_CHARACTERS:
            evidence = "… (the whole is in tables/not_ok.csv)\n" + evidence[-_EVIDENCE_CHARACTERS:]
        found.append(Incident(f"{model}: {outcome}", reason, "; ".join(dict.fromkeys(cells)), evidence))
    return found


def render(report: Report) -> str:
    """The whole page as HTML that opens without a network. Every text in it is escaped."""
    return _template("template.html").render(report=report, rows=_rows, numeric=_numeric, css=_css())


def render_case(case: Case) -> str:
    """The page of a case study, by the same rules."""
    return _template("case.html").render(case=case, rows=_rows, numeric=_numeric, css=_css())


def _css() -> Markup:
    # Ours, and no text of a user's: quotes in it must stay quotes.
    return Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8"))


@cache
def _template(name: str) -> Template:
    source = (Path(__file__).parent / name).read_text(encoding="utf-8")
    # autoescape for every template: jinja2 would decide by a file name, and there is none here.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)


def _rows(table: pd.DataFrame) -> list[list[str]]:
    return [[str(value) for value in row] for row in table.itertuples(index=False, name=None)]


def _numeric(table: pd.DataFrame) -> list[bool]:
    """For each column, whether it holds figures, which are set to the right."""
    return [all(_NUMBER.match(str(value)) for value in table[name]) for name in table.columns]
