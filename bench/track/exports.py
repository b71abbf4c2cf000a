"""The step times of a run in the formats of services that draw trends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.track.cells import Run, TrackedCell

# Bencher's name of a measure, and its unit in one of ours. A token is an operation.
_MEASURES = {
    "step_time_s": ("latency", 1e9),
    "tokens_per_s": ("throughput", 1.0),
    "efficiency": ("efficiency", 1.0),
    "exposed_comm_s": ("exposed-comm", 1.0),
}
_ENDS = {"lower_value": "_lo", "upper_value": "_hi"}


def github_action_benchmark(run: Run) -> list[dict[str, Any]]:
    """For github-action-benchmark, tool `customSmallerIsBetter`: an entry a cell, its step time in seconds.

    Source: README of benchmark-action/github-action-benchmark; `range` and `extra` are shown as they are.
    """
    return [
        {
            "name": cell_id,
            "unit": "s/step",
            "value": cell.figures["step_time_s"],
            **_range(cell),
            "extra": "\n".join(f"{name}: {value:.6g}" for name, value in _beside(cell).items() if value is not None),
        }
        for cell_id, cell in run.cells.items()
    ]


def bencher(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """Bencher Metric Format: by cell `latency` in nanoseconds and `throughput` in tokens/s, which are Bencher's own measures and
    units, and `efficiency` and `exposed-comm` (seconds) where they are known.

    Bounds are those of the 95 % interval; none of one launch. Source: bencher.dev/docs/reference/bencher-metric-format.
    """
    return {cell_id: dict(_metrics(cell)) for cell_id, cell in run.cells.items()}


def _range(cell: TrackedCell) -> dict[str, str]:
    low, high = cell.figures["step_time_s_lo"], cell.figures["step_time_s_hi"]
    return {} if low is None or high is None else {"range": f"{low:.6g} to {high:.6g}"}


def _beside(cell: TrackedCell) -> dict[str, float | None]:
    return {
        "tokens/s": cell.figures["tokens_per_s"],
        "efficiency": cell.figures["efficiency"],
        "exposed communication, s": cell.figures["exposed_comm_s"],
        "launches": cell.launches,
    }


def _metrics(cell: TrackedCell) -> Iterator[tuple[str, dict[str, float]]]:
    for figure, (measure, scale) in _MEASURES.items():
        value = cell.figures[figure]
        if value is not None:
            ends = {name: cell.figures[f"{figure}{end}"] for name, end in _ENDS.items()}
            yield measure, {"value": value * scale, **{name: at * scale for name, at in ends.items() if at is not None}}
