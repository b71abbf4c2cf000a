"""The gate before a suite's history: which baseline a run is held to, and whether it may become the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.analysis.comparison import Rule, compare
from bench.analysis.measured import Measured
from bench.analysis.regression import Finding, doubts, failures, other_place
from bench.errors import OtherSchemaError, TrackError
from bench.examine import examine
from bench.track.cells import Run
from bench.track.history import newest_accepted, read_stored


@dataclass(frozen=True)
class Judgement:
    """What a run comes to. `baseline`: what it was held to, None for the first of a history, and then `why` says why it is the
    first; else `why` says what is odd about the comparison, if anything is. `table`: rows of `compare`. `accepted`: whether the
    run may be the next baseline, which it also may not where a cell looks slower and the launches can't tell."""

    accepted: bool
    baseline: Path | None = None
    why: str | None = None
    table: pd.DataFrame | None = None
    failures: list[Finding] = field(default_factory=list)
    doubts: list[Finding] = field(default_factory=list)


def judge(
    run: Run, measured: Sequence[Measured], baseline: Path | None, storage: Path, rule: Rule, accept: bool
) -> Judgement:
    """Hold a run to its baseline. `measured`: every cell of the run's folder, those without a figure too. `baseline`: a file of
    the history or a results folder, None for the newest of the suite in `storage` that was accepted. `accept` takes the run
    whatever is found, and starts a new history where machine or schema are others.

    Raises TrackError where the baseline can't be read, OtherSchemaError where another version wrote it, and TrackError where it
    is of another machine.
    """
    try:
        path, base = _baseline(baseline, storage, run.suite)
    except OtherSchemaError as error:
        if not accept:
            raise
        return Judgement(accepted=True, why=f"accepted as the first of a new history: {error.found}")
    if path is None:
        return Judgement(accepted=True, why=f"{storage} has no accepted run of {run.suite}: this is the first")
    elsewhere = other_place(base, measured)
    if elsewhere is not None:
        if not accept:
            raise TrackError(
                f"{path} is of another machine or installation: {elsewhere}",
                hint="measure where it was measured, give another --baseline, or start a new history with --accept",
            )
        return Judgement(accepted=True, why=f"accepted as the first of a new history: {elsewhere}")
    table = compare(base, measured, rule)
    failed, doubted = failures(base, measured, table), doubts(table, rule)
    return Judgement(
        accepted=accept or not (failed or doubted),
        baseline=path,
        why="these are the baseline's own launches: nothing was measured since" if _same(base, measured) else None,
        table=table,
        failures=failed,
        doubts=doubted,
    )


def _same(base: Sequence[Measured], new: Sequence[Measured]) -> bool:
    """Whether two runs are one: no two launches take the same time to the last bit."""
    sides = [{one.cell.id: one.launch_step_times_s for one in side if one.launch_step_times_s} for side in (base, new)]
    return sides[0] == sides[1]


def _baseline(given: Path | None, storage: Path, suite: str) -> tuple[Path | None, list[Measured]]:
    if given is None:
        found = newest_accepted(storage, suite)
        return (None, []) if found is None else (found.path, found.measured)
    if given.is_dir():
        return given, examine(given).measured
    return given, read_stored(given).measured
