"""The bandwidths by which nccl-tests reports a collective, so that figures can be laid beside anybody's.

Source: NVIDIA nccl-tests, doc/PERFORMANCE.md, and src/{all_reduce,all_gather,reduce_scatter,broadcast,alltoall}.cu. Its sizes are
those of bench.results.comm_sizes.
"""

from __future__ import annotations

from bench.errors import ProjectionError
from bench.results.comm_sizes import PARTED


def algbw(size_bytes: float, seconds: float) -> float:
    """Algorithm bandwidth in bytes/s: size over time."""
    return size_bytes / seconds


def bus_factor(operation: str, world_size: int) -> float:
    """Bus over algorithm bandwidth: 2 (n - 1) / n for an all-reduce, (n - 1) / n where the array is parted, 1 for a broadcast.

    It makes of algbw what the slowest link carries in one direction, whatever the number of ranks.
    Raises ProjectionError for an operation without a rule.
    """
    if operation == "all_reduce":
        return 2 * (world_size - 1) / world_size
    if operation in PARTED:
        return (world_size - 1) / world_size
    if operation == "broadcast":
        return 1.0
    raise ProjectionError(f"operation: found {operation!r}, expected all_reduce, broadcast, {', '.join(PARTED)}")


def busbw(operation: str, size_bytes: float, seconds: float, world_size: int) -> float:
    """Bus bandwidth in bytes/s."""
    return algbw(size_bytes, seconds) * bus_factor(operation, world_size)
