"""How step times that were measured before become samples of pytest-benchmark, through its public interface alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from bench.track.cells import TrackedCell

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class ReplayClock:
    """A timer between whose two reads of a round lies the round's sample: 0, then the sample, so that the difference is the
    sample to the last bit."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._samples_s: Iterator[float] = iter(())

    def load(self, samples_s: Iterable[float]) -> None:
        self._samples_s = iter(samples_s)

    def read(self) -> float:
        return self._now_s

    def reset(self) -> None:
        """Before each round."""
        self._now_s = 0.0

    def play(self) -> None:
        """The round itself: the next sample passes. Nothing does in a round that nobody times, as --benchmark-cprofile adds."""
        self._now_s = next(self._samples_s, 0.0)


def replay(benchmark: BenchmarkFixture, clock: ReplayClock, cell: TrackedCell) -> None:
    """Give a cell's steps to pytest-benchmark as rounds, and its figures as extra_info.

    `clock.read` is the timer of the benchmark. Fails where benchmarks are disabled, which would store nothing and pass, and
    where pytest-benchmark holds anything but the steps.
    """
    if not benchmark.enabled:
        pytest.fail(
            "benchmarks are disabled (by xdist or --benchmark-disable), so the stored step times were not replayed: run without "
            "-n, or leave these tests out",
            pytrace=False,
        )
    benchmark.group = cell.measured.cell.model
    benchmark.extra_info.update(cell.extra_info())
    clock.load(cell.steps_s)
    benchmark.pedantic(clock.play, setup=clock.reset, rounds=len(cell.steps_s), iterations=1)
    if benchmark.stats.stats.data != cell.steps_s:
        pytest.fail(
            f"pytest-benchmark holds other samples of {cell.measured.cell.id} than were measured: "
            f"{benchmark.stats.stats.data} instead of {cell.steps_s}",
            pytrace=False,
        )
