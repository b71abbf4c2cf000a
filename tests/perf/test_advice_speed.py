"""How fast a search is: over 100,000 candidates, which should take at most 2 s on one core. Run with --benchmark-only."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from bench.theory.advice import Advice, advise
from bench.theory.candidates import candidates, steps, world_sizes
from bench.theory.machine import load_machine, load_network

BATCH = 11_531_520
"""2^8 x 3^2 x 5 x 7 x 11 x 13: it can be shared in many ways."""


def test_a_hundred_thousand_settings(benchmark: BenchmarkFixture) -> None:
    """From the batch to the sentence's figures: enumeration, steps, memory, order."""
    machine, network = load_machine("dgx1-v100-16gb"), load_network("edr-4x")

    def search() -> Advice:
        found = candidates(BATCH, world_sizes(machine, BATCH, BATCH, network))
        taken = steps(found, machine, model="gpt2-xl", precision="fp16", network=network)
        return advise(found, taken, machine, tokens_per_step=1024.0 * BATCH, network=network)

    told = benchmark.pedantic(search, rounds=5, warmup_rounds=1)
    assert told.num_candidates > 100_000 and np.isfinite(told.best.step_time_s)
