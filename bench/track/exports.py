"""The step times of a run in the formats of services that draw trends."""

from __future__ import annotations

from typing import Any

from bench.track.cells import Run, TrackedCell


def github_action_benchmark(run: Run) -> list[dict[str, Any]]:
    """For github-action-benchmark, tool `customSmallerIsBetter`: an entry a cell, its step time in seconds.

    Source: README of benchmark-action/github-action-benchmark; `range` and `extra` are shown as they are.
    """
    return [
        {
            "name": cell_id,
            "unit": "s/step",
            "value": cell.step_time_s,
            **_range(cell),
            "extra": "\n".join(f"{name}: {value:.6g}" for name, value in _beside(cell).items() if value is not None),
        }
        for cell_id, cell in run.cells.items()
    ]


def bencher(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """Bencher Metric Format: by cell `latency` in nanoseconds and `throughput` in tokens/s, which are Bencher's own measures and
    units (a token is an operation), and `efficiency` and `exposed-comm` (seconds) where they are known.

    Bounds are those of the 95 % interval; none of one launch. Source: bencher.dev/docs/reference/bencher-metric-format.
    """
    return {cell_id: _metrics(cell) for cell_id, cell in run.cells.items()}


def _range(cell: TrackedCell) -> dict[str, str]:
    if cell.step_time_s_lo is None:
        return {}
    return {"range": f"{cell.step_time_s_lo:.6g} to {cell.step_time_s_hi:.6g}"}


def _beside(cell: TrackedCell) -> dict[str, float | None]:
    return {
        "tokens/s": cell.tokens_per_s,
        "efficiency": cell.efficiency,
        "exposed communication, s": cell.exposed_comm_s,
        "launches": cell.launches,
    }


def _metrics(cell: TrackedCell) -> dict[str, dict[str, float]]:
    latency = {"value": cell.step_time_s * 1e9}
    throughput = {"value": cell.tokens_per_s}
    if cell.step_time_s_lo is not None and cell.step_time_s_hi is not None:
        tokens = cell.measured.cell.tokens_per_step
        latency.update(lower_value=cell.step_time_s_lo * 1e9, upper_value=cell.step_time_s_hi * 1e9)
        throughput.update(lower_value=tokens / cell.step_time_s_hi, upper_value=tokens / cell.step_time_s_lo)
    known = {"efficiency": cell.efficiency, "exposed-comm": cell.exposed_comm_s}
    return {
        "latency": latency,
        "throughput": throughput,
        **{name: {"value": value} for name, value in known.items() if value is not None},
    }
