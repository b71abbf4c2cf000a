"""What the flags of `scalebench run` change in a suite."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from bench.errors import SuiteError, nearest
from bench.plan.cell import PlacementName
from bench.plan.suite import AUTO, AUTO_LEAST, MAX_LAUNCHES, PlannedCell, Suite, not_an_amount


def with_flags(
    suite: Suite,
    launches: str | None,
    target_interval_frac: float | None,
    budget_minutes: float | None,
    placement: str | None = None,
) -> Suite:
    """The suite as the flags want it; None changes nothing. `launches` (a number or auto) is for each cell that has timing
    launches, `placement` for every cell, whatever the suite says.

    Raises SuiteError, naming the flag, for a wrong value, and for a target or a budget that no cell would be held to.
    """
    if launches is not None:
        suite = _with_launches(suite, launches)
    if placement is not None:
        suite = _with_placement(suite, placement)
    for flag, key, value in (
        ("--target-interval", "target_interval_frac", target_interval_frac),
        ("--budget-minutes", "budget_minutes", budget_minutes),
    ):
        if value is None:
            continue
        if (why := not_an_amount(value)) is not None:
            raise SuiteError(f"{flag}: {why}")
        if not any(planned.settings.auto for planned in suite.cells):
            raise SuiteError(
                f"{flag}: found {value:g}, but no cell of {suite.name} has `launches: auto`", hint="add --launches auto"
            )
        suite = replace(suite, **{key: value})  # type: ignore[arg-type]
    return suite


def _with_launches(suite: Suite, text: str) -> Suite:
    if text != AUTO and text not in map(str, range(1, MAX_LAUNCHES + 1)):
        raise SuiteError(f"--launches: found {text!r}, expected a whole number from 1 to {MAX_LAUNCHES}, or {AUTO}")
    wanted = {"launches": AUTO_LEAST if text == AUTO else int(text), "auto": text == AUTO}
    cells = (
        replace(planned, settings=planned.settings.model_copy(update=wanted)) if planned.settings.launches else planned
        for planned in suite.cells
    )
    return replace(suite, cells=tuple(cells))


def _with_placement(suite: Suite, text: str) -> Suite:
    allowed = get_args(PlacementName)
    if text not in allowed:
        raise SuiteError(f"--placement: found {text!r}", hint=nearest(text, allowed))
    cells: dict[str, PlannedCell] = {}
    for planned in suite.cells:
        cell = planned.cell.model_copy(update={"placement": text})
        # A suite that compares both has each cell once now.
        cells.setdefault(cell.id, replace(planned, cell=cell))
    return replace(suite, cells=tuple(cells.values()))
