"""Bytes that a rank sends in a mean optimizer step, by strategy: the closed forms of what a ledger counts."""

from __future__ import annotations

from bench.plan.cell import Cell
from bench.theory.compression import HALF_BYTES
from bench.theory.delayed_traffic import DELAYED, averaging_calls, served_calls
from bench.theory.traffic import TrafficLine, ring_volume_bytes
from bench.theory.zero_settings import DTYPE_BYTES

_RING = {"ddp": (2, 0), "zero0": (2, 0), "zero1": (3, 0), "zero2": (1, 2)}
"""Multiples of P (n - 1) / n, once a step and for each micro-batch: gradients all-reduced, and with ZeRO 1 and 2 the parameters
gathered."""


def sent_bytes_per_step(
    cell: Cell, num_params: int, num_tensors: int = 0, num_nodes: int | None = None
) -> float | None:
    """Bytes that a rank sends in an optimizer step: collectives round a ring, the mean over all ranks that are launched and over
    the period of a strategy that exchanges every H steps. None where no closed form is known.

    `num_tensors` counts the parameters, each of which has a scale in int8; `num_nodes` is where a strategy by nodes runs.
    Flags and norms of some bytes are not counted. Of a parameter server with N workers both sides send P a step for each
    worker, and headers: 2 N P over all ranks, servers included.
    """
    ranks, item = cell.world_size, DTYPE_BYTES[cell.precision]
    ring = 2 * num_params * item * (ranks - 1) / ranks
    if cell.strategy in _RING and cell.deepspeed_config is None:
        once, each = _RING[cell.strategy]
        return ring / 2 * (once + each * cell.grad_accum_steps)
    if cell.strategy in ("ddp_fp16", "ddp_bf16"):
        return ring / item * HALF_BYTES
    if cell.num_servers:
        return _of_servers(cell, num_params)
    if cell.strategy not in DELAYED:
        return None
    elements = [num_params, *[0] * (num_tensors - 1)]
    lines = [TrafficLine(name, ranks, size, count) for (name, size), count in averaging_calls(cell, elements).items()]
    inside = 0.0
    if cell.strategy == "hierarchical":
        size = int(cell.options["ranks_per_node"]) or (ranks // num_nodes if num_nodes else 0)
        if not size:
            return None
        inside = 2 * num_params * item * (size - 1) / size
    return inside + ring_volume_bytes(lines) / cell.every_steps


def _of_servers(cell: Cell, num_params: int) -> float:
    """What a worker receives, a server has sent."""
    calls = served_calls(cell, num_params)
    whole = sum(size * count for (_, _, size), count in calls.items())
    return cell.num_workers * whole / cell.world_size
