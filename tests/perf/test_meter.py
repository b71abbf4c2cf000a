"""What the meter costs a collective. Run with --benchmark-only to see the figures; nothing here gates on time."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from pytest_benchmark.fixture import BenchmarkFixture

from bench.worker.meter.process_group import BACKEND, Meter, MeteringGroup, register


@pytest.fixture(scope="module")
def groups() -> Iterator[tuple[Meter, dict[str, dist.ProcessGroup]]]:
    """A metering group of one rank, and torch's own inside it."""
    meter = Meter(torch.device("cpu"))
    register(meter)
    store = dist.HashStore()
    dist.init_process_group(BACKEND, store=store, rank=0, world_size=1, timeout=datetime.timedelta(seconds=60))
    metered = dist.group.WORLD
    assert isinstance(metered, MeteringGroup)
    yield meter, {"plain": metered.inner, "metered": metered}
    dist.destroy_process_group()


@pytest.mark.parametrize("which", ["plain", "metered"])
def test_all_reduce(
    benchmark: BenchmarkFixture, groups: tuple[Meter, dict[str, dist.ProcessGroup]], which: str
) -> None:
    meter, by_name = groups
    tensor = torch.ones(1024)
    meter.ledger.begin_step()
    rounds = 300

    def all_reduce() -> None:
        by_name[which].allreduce([tensor]).wait()

    benchmark.pedantic(all_reduce, rounds=rounds, iterations=1)
    counted = sum(line.count for line in meter.ledger.lines() if line.steps[-1] == len(meter.ledger._steps) - 1)
    assert counted == (rounds if which == "metered" else 0)
    assert tensor.sum() == 1024
