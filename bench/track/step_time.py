"""The test module of tracking: one benchmark a cell, whose rounds are the cell's stored steps. `scalebench track` gives this file
to pytest; in the checkout it is tests/perf/test_step_time.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.track.plugin import run_of
from bench.track.replay import ReplayClock, replay

CLOCK = ReplayClock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Ids, not cells: pytest-benchmark writes the parameters of a test into its file.
    metafunc.parametrize("cell_id", list(run_of(metafunc.config).cells))


@pytest.mark.benchmark(timer=CLOCK.read)
def test_step_time(benchmark: BenchmarkFixture, cell_id: str, request: pytest.FixtureRequest) -> None:
    replay(benchmark, CLOCK, run_of(request.config).cells[cell_id])
