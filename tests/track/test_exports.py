"""Exports have the shape that their services ask for, and the figures of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.examine import examine
from bench.track import exports
from bench.track.cells import Run, tracked
from tests import synthetic
from tests.track import planted
from tests.track.planted import CELLS


@pytest.fixture(params=["several launches", "one launch"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    records = planted.records(0)
    kept = records if request.param == "several launches" else records[: len(CELLS)]
    return tracked(examine(synthetic.write_fast(tmp_path, kept)))


def test_github_action_benchmark(run: Run) -> None:
    entries = json.loads(json.dumps(exports.github_action_benchmark(run), allow_nan=False))
    assert [entry["name"] for entry in entries] == list(run.cells)
    for entry in entries:
        cell = run.cells[entry["name"]]
        # name, unit and value are asked for; range and extra are text (BenchmarkResult of the action's extract.ts).
        assert entry.keys() - {"range"} == {"name", "unit", "value", "extra"}
        assert entry["value"] == cell.figures["step_time_s"] and entry["unit"] == "s/step"
        assert ("range" in entry) == (cell.launches > 1)
        assert all(isinstance(entry.get(name, ""), str) for name in ("range", "extra", "unit"))
        assert f"launches: {cell.launches}" in entry["extra"].splitlines()


def test_bencher_metric_format(run: Run) -> None:
    found = json.loads(json.dumps(exports.bencher(run), allow_nan=False))
    assert list(found) == list(run.cells)
    for cell_id, measures in found.items():
        cell = run.cells[cell_id]
        assert {"latency", "throughput"} <= measures.keys() <= {"latency", "throughput", "efficiency", "exposed-comm"}
        for metric in measures.values():
            # The schema: numbers, `value` required, nothing but the two bounds beside it.
            assert {"value"} <= metric.keys() <= {"value", "lower_value", "upper_value"}
            assert all(isinstance(value, float) for value in metric.values())
            assert metric.get("lower_value", 0.0) <= metric["value"] <= metric.get("upper_value", float("inf"))
        assert ("lower_value" in measures["latency"]) == (cell.launches > 1)
        step_time_s = cell.figures["step_time_s"]
        assert step_time_s is not None
        # Bencher's own units: nanoseconds, and operations per second.
        assert measures["latency"]["value"] == pytest.approx(step_time_s * 1e9)
        assert measures["throughput"]["value"] == pytest.approx(cell.measured.cell.tokens_per_step / step_time_s)


def test_cells_of_two_ranks_have_their_efficiency(run: Run) -> None:
    efficiency = run.cells[planted.DDP].figures["efficiency"]
    assert efficiency == pytest.approx(0.5, rel=0.02)
    assert exports.bencher(run)[planted.DDP]["efficiency"]["value"] == efficiency
