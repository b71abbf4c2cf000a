"""scalebench compare: what changed between two runs, by how much, and how sure that is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import ComparisonError
from bench.verbs.shared import Json, terminal

if TYPE_CHECKING:
    from bench.analysis.comparison import Rule
    from bench.comparing import Comparison


def compare(
    base: Annotated[Path, typer.Argument(help="The results folder to compare with.")],
    new: Annotated[Path, typer.Argument(help="The results folder that may have changed.")],
    fail_on: Annotated[
        str | None,
        typer.Option(help="Verdicts that make it exit 1, say slower,missing; also counters. [default: none]"),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals: how many of 100 unchanged cells pass.")] = 0.99,
    min_effect: Annotated[float, typer.Option(help="The least change that counts, as a fraction.")] = 0.03,
    output: Annotated[Path | None, typer.Option(help="Folder to write to. [default: NEW/comparison]")] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs cell by cell: step times with intervals, losses and collectives, environment and settings.

    Exits 0, or 1 if a cell has a verdict of --fail-on (and says which), 2 for bad input or where nothing can be compared.
    """
    from bench.comparing import compared, write
    from bench.printing import comparison_table
    from reports.comparison import differences

    failing = _failing(fail_on)
    rule = _rule(confidence, min_effect)
    found = compared(base, new, rule)
    folder = output or new / "comparison"
    write(found, folder)
    failed = _failed(found, failing)
    if base.resolve() == new.resolve():
        print("both are the same folder: every ratio is 1, whatever was measured", file=sys.stderr)
    if as_json:
        print(json.dumps({"output": str(folder), **found.as_json(), "failed": [cell_id for cell_id, _ in failed]}))
    else:
        console = terminal()
        console.print(comparison_table(found.cells, confidence))
        for line in (*differences(found.cells, found.environment), *found.sentences(), f"comparison: {folder}"):
            console.print(line, markup=False, highlight=False)
    for cell_id, word in failed:
        print(f"{word}: {cell_id}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _failing(fail_on: str | None) -> list[str]:
    """The words of --fail-on. Raises ComparisonError for one that is none."""
    from bench.analysis.comparison import VERDICTS

    allowed = [*VERDICTS, "counters"]
    words = [] if fail_on is None else [word.strip() for word in fail_on.split(",")]
    for word in words:
        if word not in allowed:
            raise ComparisonError(f"--fail-on: found {word!r}", hint=f"allowed, with commas: {', '.join(allowed)}")
    return words


def _rule(confidence: float, min_effect: float) -> Rule:
    from bench.analysis.comparison import Rule

    # Not a < comparison alone: what is not a number would pass it.
    if not 0.5 < confidence < 1:
        raise ComparisonError(f"--confidence: found {confidence:g}", hint="expected above 0.5 and below 1, say 0.99")
    if not 0 <= min_effect < float("inf"):
        raise ComparisonError(f"--min-effect: found {min_effect:g}", hint="expected a fraction from 0 on, say 0.03")
    return Rule(confidence, min_effect)


def _failed(found: Comparison, failing: list[str]) -> list[tuple[str, str]]:
    """Cell and what of --fail-on it is, with what differs."""
    told = []
    for row in found.cells.to_dict("records"):
        if row["verdict"] in failing:
            told.append((row["cell_id"], row["verdict"]))
        elif "counters" in failing and isinstance(row["counters"], str) and row["counters"] != "equal":
            told.append((row["cell_id"], f"counters ({row['counters']})"))
    return told
