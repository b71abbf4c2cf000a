"""The theory beside what others published and what was measured here, as scalebench project --validate shows it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.theory.paced_links import PacedRow, paced_rows
from bench.theory.published_rows import LEFT_OUT_FAMILIES, left_out, published_rows
from bench.theory.validation import (
    FITTED,
    CrossValidation,
    Score,
    cross_validations,
    fitted_constants,
    predictions,
    scores,
)
from bench.verbs.shared import terminal


def show_validation(as_json: bool, output: Path | None = None) -> None:
    """Print the errors of every class, family and machine, the naive model beside them, and what was left out and why; then the
    errors of step time on this repository's shaped links.

    Into `output` goes every row with its predictions and charts of them: validation.csv, .png and .svg, and so of paced_links,
    sync_links, sync_crossing and slow_worker.
    """
    found, crossed = scores(), cross_validations()
    if output is not None:
        _write(output)
    if as_json:
        content = {
            "scores": [dataclasses.asdict(score) for score in found],
            "cross_validation": [dataclasses.asdict(one) for one in crossed],
            "fitted": dict(zip(("contention_frac", "lateness_s"), FITTED, strict=True)),
            "left_out_families": LEFT_OUT_FAMILIES,
            "left_out_rows": dict(left_out()),
            "rows": predictions(),
            "paced_links": _paced(),
        }
        print(json.dumps(content, indent=1))
        return
    console = terminal()
    console.print(_errors(found))
    console.print(_crossed(crossed))
    console.print(_on_links(paced_rows()))
    best = fitted_constants()
    print(
        f"Fitted: contention {FITTED[0]:g}, lateness {1e3 * FITTED[1]:g} ms (the grid's best is {best[0]:g} and "
        f"{1e3 * best[1]:g} ms). The naive model's three constants are fitted to the rows it is judged on."
    )
    for family, reason in LEFT_OUT_FAMILIES.items():
        print(f"left out: {family}: {reason}")
    for reason, rows in left_out().most_common():
        print(f"not usable: {rows} rows: {reason}")
    print(f"usable: {len(published_rows())} rows, and their one-GPU rows")
    if output is not None:
        print(f"charts: {', '.join(str(path) for path in sorted(output.glob('*.png')))}")


def _write(output: Path) -> None:
    import pandas as pd

    from bench.drawing import saved
    from bench.theory.slow_worker import slow_worker_rows
    from bench.theory.sync_links import crossing_rows, crossings_mbit_per_s, table_rows
    from bench.writing import write_bytes, write_text
    from reports.foresight import on_shaped_links
    from reports.sync_links import crossing, slow_worker, ways
    from reports.validation import against_published

    paced, crossed = pd.DataFrame(_paced()), crossing_rows()
    for name, rows, figure in (
        ("validation", published := pd.DataFrame(predictions()), against_published(published)),
        ("paced_links", paced, on_shaped_links(paced)),
        ("sync_links", table_rows(), ways(table_rows())),
        ("sync_crossing", crossed, crossing(crossed, *crossings_mbit_per_s(crossed))),
        ("slow_worker", slow_worker_rows(), slow_worker(slow_worker_rows())),
    ):
        png, svg = saved(figure)
        write_text(output / f"{name}.csv", rows.to_csv(index=False))
        write_text(output / f"{name}.svg", svg)
        write_bytes(output / f"{name}.png", png)


def _paced() -> list[dict[str, Any]]:
    derived = ("host_bound", "predicted_s", "error_frac")
    return [{**dataclasses.asdict(row), **{name: getattr(row, name) for name in derived}} for row in paced_rows()]


def _errors(found: list[Score]) -> Table:
    table = Table("absolute error of efficiency", "rows", "median", "90 %", "bias", "naive median", "naive 90 %")
    for score in found:
        table.add_row(
            score.name,
            str(score.rows),
            f"{score.theory_median:.3f}",
            f"{score.theory_p90:.3f}",
            f"{score.theory_bias:+.3f}",
            f"{score.naive_median:.3f}",
            f"{score.naive_p90:.3f}",
        )
    return table


def _on_links(rows: list[PacedRow]) -> Table:
    """Errors of step time by strategy, over all hosts, rates and accumulations; what the lab's two cores held up apart."""
    table = Table("step time on shaped links, predicted from one host", "rows", "median", "largest", "bias")
    strategies = dict.fromkeys(row.strategy for row in rows)
    groups = [(name, [row for row in rows if row.strategy == name and not row.host_bound]) for name in strategies]
    groups.append(("all of these", [row for row in rows if not row.host_bound]))
    groups.append(("hosts held up by the two cores they share", [row for row in rows if row.host_bound]))
    for name, group in groups:
        errors = [row.error_frac for row in group]
        absolute = [abs(error) for error in errors]
        table.add_row(
            name,
            str(len(errors)),
            f"{100 * statistics.median(absolute):.1f} %",
            f"{100 * max(absolute):.1f} %",
            f"{100 * statistics.median(errors):+.1f} %",
        )
    return table


def _crossed(crossed: list[CrossValidation]) -> Table:
    table = Table("cross-validation: left out of the fit", "rows", "median", "90 %", "contention", "lateness")
    for one in crossed:
        table.add_row(
            f"each {one.left_out_by}: {one.name}",
            str(one.rows),
            f"{one.median:.3f}",
            f"{one.p90:.3f}",
            f"{one.contention_frac[0]:.1f} to {one.contention_frac[1]:.1f}",
            f"{1e3 * one.lateness_s[0]:g} to {1e3 * one.lateness_s[1]:g} ms",
        )
    return table
