"""How fast the theory is: a search over settings asks it 100,000 times. Nothing here gates on time."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from bench.theory.collectives import Group, collective_s
from bench.theory.machine import load_machine
from bench.theory.timeline import overlapped_s


def test_a_hundred_thousand_candidates(benchmark: BenchmarkFixture) -> None:
    """Durations of the collectives of eight buckets each, and the backward pass that they run beside."""
    rng = np.random.default_rng(0)
    compute_s, sizes = rng.uniform(0.01, 1.0, 100_000), rng.uniform(1e5, 1e8, (100_000, 8))
    ready = np.arange(1, 9) / 8
    group = Group(load_machine("dgx1-v100-16gb"), 8)
    done = benchmark(lambda: overlapped_s(compute_s, ready, collective_s("all_reduce", sizes, group), 0.7))
    assert done.shape == (100_000,) and (done > compute_s).all()
