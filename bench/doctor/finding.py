"""One finding of the doctor: what was found on which host, whether that is good, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem", "not checked"]

WORST_FIRST: tuple[Status, ...] = ("problem", "warning", "not checked", "ok")


@dataclass(frozen=True)
class Finding:
    """`host`: None for what is no single host's. `remedy`: what to do, empty where there is nothing to do. A problem makes
    measuring fail, or its figures wrong; a warning is something to know before believing them."""

    check: str
    host: str | None
    status: Status
    found: str
    remedy: str = ""


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status among them; ok where there are none."""
    return min((finding.status for finding in findings), key=WORST_FIRST.index, default="ok")


@dataclass(frozen=True)
class On:
    """Makes the findings of one check on one host."""

    check: str
    host: str | None

    def ok(self, found: str) -> Finding:
        return Finding(self.check, self.host, "ok", found)

    def warning(self, found: str, remedy: str) -> Finding:
        return Finding(self.check, self.host, "warning", found, remedy)

    def problem(self, found: str, remedy: str) -> Finding:
        return Finding(self.check, self.host, "problem", found, remedy)

    def unchecked(self, reason: str, remedy: str = "") -> Finding:
        return Finding(self.check, self.host, "not checked", reason, remedy)
