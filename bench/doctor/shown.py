"""The findings as a terminal shows them: checks down, hosts across, and below what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.doctor.diagnosis import Diagnosis
from bench.doctor.finding import WORST_FIRST, Finding, Status, worst
from bench.doctor.words import listed, plural

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "bold red"),
    "not checked": ("not checked", "dim"),
}
SCHEMA_VERSION = 1
_LEAST_COLUMN = 22
"""Narrower than that a cell of a host has its status alone, and what was found stands below."""


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for a program; `host` is null for what is no single host's."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": diagnosis.status,
        "hosts": diagnosis.hosts,
        "counts": {status: _counts(diagnosis)[status] for status in WORST_FIRST},
        "findings": [vars(finding) for finding in diagnosis.findings],
    }


def shown(diagnosis: Diagnosis, width: int) -> RenderableType:
    """All of it, for a console of that many columns."""
    one = len(diagnosis.hosts) == 1
    parts: list[RenderableType] = [_single(diagnosis.findings)] if one else _several(diagnosis, width)
    return Group(*parts, Text(), _summary(diagnosis))


def _single(findings: Sequence[Finding]) -> Table:
    """One host: what to do stands under what was found."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", ratio=1)
    for checks, finding in _merged(findings):
        word, style = _MARKS[finding.status]
        found = Text(finding.found, style="dim" if finding.status == "not checked" else "")
        if len(checks) > 1:
            found.append(f"; so neither {', '.join(checks[1:])}")
        if finding.remedy:
            found.append(f"\n→ {finding.remedy}", style=style)
        table.add_row(Text(checks[0]), Text(word, style=style), found)
    return table


def _merged(findings: Sequence[Finding]) -> list[tuple[list[str], Finding]]:
    """The findings, but those that could not be checked for one and the same reason in one row."""
    rows: list[tuple[list[str], Finding]] = []
    for finding in findings:
        same = next(
            (
                row
                for row in rows
                if finding.status == "not checked" == row[1].status
                and row[1].found.startswith(finding.found)
                and row[1].host == finding.host
            ),
            None,
        )
        if same is None:
            rows.append(([finding.check], finding))
        else:
            same[0].append(finding.check)
    return rows


def _several(diagnosis: Diagnosis, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    overall = [finding for finding in diagnosis.findings if finding.host is None]
    if overall:
        parts += [_single(overall), Text()]
    of_hosts = [finding for finding in diagnosis.findings if finding.host is not None]
    nowhere = _nowhere_checked(of_hosts)
    checks = list(dict.fromkeys(finding.check for finding in of_hosts if finding.check not in nowhere))
    name_width = max((len(check) for check in checks), default=5) + 2
    each = (width - name_width) // len(diagnosis.hosts)
    roomy = each >= _LEAST_COLUMN
    # The longest status is "not checked", and a column is not narrower than its host's name.
    if roomy or each >= max(len(word) for word in (*diagnosis.hosts, "not checked")) + 2:
        parts.append(_by_host(diagnosis.hosts, checks, of_hosts, roomy))
    else:
        parts.append(_by_status(len(diagnosis.hosts), checks, of_hosts))
    for reason in dict.fromkeys(nowhere.values()):
        without = ", ".join(check for check, why in nowhere.items() if why == reason)
        parts.append(Text(f"not checked anywhere: {without}: {reason}", style="dim"))
    todo = [one for one in of_hosts if one.check not in nowhere and (one.remedy or (not roomy and one.status != "ok"))]
    if todo:
        parts += [Text(), _remedies(todo, len(diagnosis.hosts))]
    return parts


def _nowhere_checked(findings: Sequence[Finding]) -> dict[str, str]:
    """Checks that could be made on no host, all for one reason: check -> reason."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    return {
        check: of_it[0].found
        for check, of_it in by_check.items()
        if {(one.status, one.found) for one in of_it} == {("not checked", of_it[0].found)}
    }


def _by_host(hosts: Sequence[str], checks: Sequence[str], findings: Sequence[Finding], roomy: bool) -> Table:
    """`roomy`: what was found fits in the cells; otherwise they have the status alone."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("check", no_wrap=True)
    for host in hosts:
        table.add_column(host, ratio=1, overflow="fold")
    for check in checks:
        said = ["; ".join(one.found for one in findings if (one.check, one.host) == (check, host)) for host in hosts]
        cells = []
        for host, words in zip(hosts, said, strict=True):
            here = [finding for finding in findings if (finding.check, finding.host) == (check, host)]
            if not here:
                cells.append(Text("–", style="dim"))
                continue
            word, style = _MARKS[worst(here)]
            cell = Text(word, style=style)
            if roomy and words == said[0] and host != hosts[0]:
                # The same words in every column hide the one that differs.
                cell.append("  same", style="not bold dim")
            elif roomy:
                cell.append(f"  {words}", style="not bold default")
            cells.append(cell)
        table.add_row(Text(check), *cells)
    return table


def _by_status(num_hosts: int, checks: Sequence[str], findings: Sequence[Finding]) -> Table:
    """More hosts than columns: of each check how many are well, and the names of the others."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column(f"of {plural(num_hosts, 'host')}", ratio=1)
    for check in checks:
        by_host: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.check == check and finding.host is not None:
                by_host.setdefault(finding.host, []).append(finding)
        cell = Text()
        for status in reversed(WORST_FIRST):
            hosts = [host for host, here in by_host.items() if worst(here) == status]
            if hosts:
                word, style = _MARKS[status]
                cell.append("  " if cell else "")
                cell.append(f"{word} {len(hosts)}", style=style)
                cell.append("" if status == "ok" or len(hosts) == len(by_host) else f": {listed(hosts, 8)}")
        table.add_row(Text(check), cell)
    return table


def _remedies(findings: Sequence[Finding], num_hosts: int) -> Table:
    """What to do, the worst first; a remedy that several hosts need stands once."""
    groups: dict[tuple[str, Status, str, str], list[str]] = {}
    for finding in findings:
        key = (finding.check, finding.status, finding.found, finding.remedy)
        groups.setdefault(key, []).append(finding.host or "")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for (check, status, found, remedy), hosts in sorted(groups.items(), key=lambda item: WORST_FIRST.index(item[0][1])):
        word, style = _MARKS[status]
        where = "all hosts" if len(hosts) == num_hosts > 1 else listed(hosts)
        text = Text(f"{where}, {check}: {found}")
        if remedy:
            text.append(f"\n→ {remedy}", style=style)
        table.add_row(Text(word, style=style), text)
    return table


def _summary(diagnosis: Diagnosis) -> Text:
    counts = _counts(diagnosis)
    words = [f"{counts['ok']} ok", plural(counts["warning"], "warning"), plural(counts["problem"], "problem")]
    words.append(f"{counts['not checked']} not checked")
    text = Text(f"{plural(len(diagnosis.hosts), 'host')}: " + ", ".join(words), style="bold")
    if counts["problem"]:
        text.append("; problems make launches fail or figures wrong", style="not bold")
    return text


def _counts(diagnosis: Diagnosis) -> Counter[str]:
    return Counter(finding.status for finding in diagnosis.findings)
