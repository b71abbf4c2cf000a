"""scalebench track: stores step times with pytest-benchmark, and gates on regressions."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.verbs.shared import Json, terminal

if TYPE_CHECKING:
    from bench.track.cells import Run
    from bench.track.gate import Judgement


def track(
    folder: Annotated[Path, typer.Argument(help="A results folder that `scalebench run` wrote.")],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="A file that `track` stored, or a results folder. [default: the newest accepted of the suite in --storage]"
        ),
    ] = None,
    storage: Annotated[Path, typer.Option(help="The folder of the history, pytest-benchmark's.")] = Path(".benchmarks"),
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of the interval that must leave out no change.")
    ] = 0.99,
    min_effect: Annotated[float, typer.Option(min=0.0, help="The least slow-down that counts, as a fraction.")] = 0.03,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Take this run as the next baseline, whatever changed: cells, machine, speed."),
    ] = False,
    github_json: Annotated[Path | None, typer.Option(help="Write step times for github-action-benchmark.")] = None,
    bencher_json: Annotated[Path | None, typer.Option(help="Write them in Bencher Metric Format.")] = None,
    as_json: Json = False,
) -> None:
    """Store the step times of FOLDER with pytest-benchmark, and hold them to the last accepted run of the suite.

    Exits 0 if nothing is slower, missing or otherwise than it was, 1 if something is (the list is printed), 2 for bad input.
    """
    from bench.analysis.comparison import Rule
    from bench.examine import examine
    from bench.printing import comparison_table
    from bench.results.store import locked, write_atomically
    from bench.track import exports
    from bench.track.cells import tracked
    from bench.track.gate import judge
    from bench.track.recording import record

    findings = examine(folder)
    run = tracked(findings)
    with locked(storage, "--storage"):
        # Before the run is stored, or it would be held to itself.
        found = judge(run, findings.measured, baseline, storage, Rule(confidence, min_effect), accept)
        path = record(run, folder, storage, found.accepted)
    for finding in found.failures:
        print(finding, file=sys.stderr)
    if as_json:
        print(json.dumps(_as_json(folder, run, found, path)))
    else:
        if found.table is not None:
            terminal().print(comparison_table(found.table, confidence))
        for finding in found.doubts:
            print(finding)
        print(f"{_told(run, found, accept)}; stored: {path}{'' if found.accepted else ', not as a baseline'}")
    if github_json is not None:
        write_atomically(github_json, json.dumps(exports.github_action_benchmark(run), indent=1))
    if bencher_json is not None:
        write_atomically(bencher_json, json.dumps(exports.bencher(run), indent=1))
    if found.failures and not accept:
        raise typer.Exit(1)


def _told(run: Run, found: Judgement, accept: bool) -> str:
    """What the run came to, in a sentence."""
    number = f"{len(run.cells)} cells" if len(run.cells) > 1 else "1 cell"
    if found.table is None:
        return f"{number}: {found.why}"
    unresolved = int((found.table["verdict"] == "not resolved").sum())
    failed = len({finding.cell_id for finding in found.failures})
    parts = [
        f"{failed} failed{', accepted all the same' if accept else ''}" if failed else "nothing failed",
        f"{unresolved} not resolved" if unresolved else "",
        found.why,
    ]
    return f"{number} against {found.baseline}: {', '.join(filter(None, parts))}"


def _as_json(folder: Path, run: Run, found: Judgement, path: Path) -> dict[str, Any]:
    from bench.writing import json_rows

    return {
        "folder": str(folder),
        "suite": run.suite,
        "baseline": None if found.baseline is None else str(found.baseline),
        "stored": str(path),
        "accepted": found.accepted,
        "why": found.why,
        "failures": [dataclasses.asdict(finding) for finding in found.failures],
        "doubts": [dataclasses.asdict(finding) for finding in found.doubts],
        "cells": [] if found.table is None else json_rows(found.table),
    }
