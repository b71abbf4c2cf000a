"""Sweeps of collectives with known latency and bandwidth, as ranks would have written them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.results.comm import OPERATIONS, CommPlan, CommPoint, CommRank, CommRecord, Operation
from bench.results.comm_sizes import fitting_bytes, num_elements
from tests.synthetic import environment

VARIANTS: tuple[tuple[Operation, bool], ...] = (
    *(("all_reduce", True), ("all_gather", False), ("all_gather", True), ("reduce_scatter", False)),
    *(("reduce_scatter", True), ("broadcast", True), ("all_to_all", False)),
)


def sweep(
    seconds: Callable[[str, int], float],
    world_size: int = 2,
    *,
    octaves: int = 15,
    noise: float = 0.05,
    seed: int = 0,
    operations: Sequence[Operation] = OPERATIONS,
    num_nodes: int = 1,
    **place: Any,
) -> CommRecord:
    """A sweep in which each operation takes `seconds(operation, size_bytes)`, with lognormal noise over nine repetitions; rank 0
    is always a tenth quicker than the slowest."""
    draw = np.random.default_rng(seed)
    points = []
    for octave in range(octaves):
        for operation, in_place in VARIANTS:
            if operation not in operations:
                continue
            size = fitting_bytes(operation, 1024 * 2**octave, world_size)
            slowest = seconds(operation, size) * np.exp(noise * draw.standard_normal(9))
            points.append(
                CommPoint(
                    operation=operation,
                    in_place=in_place,
                    size_bytes=size,
                    num_elements=num_elements(operation, size, world_size),
                    num_warmups=2,
                    num_checked=(2 + 9) * world_size,
                    times_s=[(slowest * (0.9 if rank == 0 else 1.0)).tolist() for rank in range(world_size)],
                )
            )
    return CommRecord(
        launch_id="0123456789ab",
        plan=CommPlan(world_size=world_size, operations=tuple(operations)),
        started_at="2026-01-01T00:00:00+00:00",
        launcher="deepspeed",
        hostname="node-0",
        outcome="ok",
        limit="as asked",
        environment=environment(None, **{"num_nodes": num_nodes, **place}),  # type: ignore[arg-type]
        ranks=[CommRank(rank=rank, hostname=f"node-{rank % num_nodes}", device="cpu") for rank in range(world_size)],
        points=points,
    )
