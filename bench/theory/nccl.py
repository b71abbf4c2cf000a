"""NCCL's own cost model: which algorithm and protocol it would choose, and what that takes.

Constants are those of NCCL's src/graph/tuning.cc and topo.h (@5067397), in SI units. They are what NCCL believes of itself;
what was measured differs by some percent (tests/theory/test_collectives.py).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PROTOCOLS = ("LL", "LL128", "Simple")

# By algorithm, then protocol: seconds of a launch; seconds of a step inside a node and between nodes.
_BASE_S = {"tree": (6.8e-6, 14e-6, 8.4e-6), "ring": (6.6e-6, 14e-6, 8.4e-6)}
_NVLINK_S = {"tree": (0.6e-6, 1.25e-6, 4.0e-6), "ring": (0.6e-6, 1.9e-6, 3.4e-6)}
_PCI_S = {"tree": (1.0e-6, 1.9e-6, 4.0e-6), "ring": (1.0e-6, 2.5e-6, 5.7e-6)}
_NET_S = {"tree": (5.0e-6, 8.5e-6, 14e-6), "ring": (2.7e-6, 4.0e-6, 14e-6)}

# For 1, 2 and more nodes, of a Volta.
_LL_MOST_BYTES_PER_S = (39e9, 39e9, 20.4e9)
_TREE_MOST_PER_CHANNEL = (26.5e9, 18.5e9, 10e9)
_LL128_MOST_PER_CHANNEL = 20e9
# LL sends a flag with every four bytes of data, LL128 one with 120.
_LL_SHARE, _LL128_SHARE, _TREE_SHARE = 0.5, 0.92, 0.92


def nccl_s(
    operation: str,
    payload_bytes: NDArray[np.float64],
    *,
    world_size: int,
    num_nodes: int,
    bus_bytes_per_s: float,
    channels: int,
    nvlink: bool,
    added_latency_s: float = 0.0,
) -> NDArray[np.float64]:
    """Seconds of one collective of `payload_bytes` (the full array), by the fastest algorithm and protocol.

    latency + bytes / bandwidth for each of ring and tree (tree for all-reduce alone) with LL, LL128 (inside one node of
    NVLinks) and Simple; the least of them. Ring: base + (steps - between) x inside + between x net, steps 2 (n - 1) for an
    all-reduce, n - 1 for an all-gather or a reduce-scatter; bytes x steps / n over the bus bandwidth. Tree: base +
    2 ((n / nodes - 1) x inside + log2(nodes) x net), bytes twice over the bandwidth. A rooted operation goes along a chain.
    """
    inside = _NVLINK_S if nvlink else _PCI_S
    size = min(num_nodes, 3) - 1
    all_reduce = operation == "all_reduce"
    rooted = operation in ("broadcast", "reduce")
    if rooted:
        steps, between, share = world_size, num_nodes, 1.0
    elif all_reduce:
        steps, between, share = 2 * (world_size - 1), 2 * num_nodes, 2 * (world_size - 1) / world_size
    else:
        steps, between, share = world_size - 1, num_nodes - 1, (world_size - 1) / world_size
    between = between if num_nodes > 1 else 0
    choices = []
    for place, protocol in enumerate(PROTOCOLS):
        if protocol == "LL128" and not (nvlink and num_nodes == 1):
            continue
        ring_rate, tree_rate = _rates(protocol, bus_bytes_per_s, channels, size)
        net = _NET_S["ring"][place] + added_latency_s
        latency = _BASE_S["ring"][place] + max(0, steps - between) * inside["ring"][place] + between * net
        choices.append(latency + payload_bytes * share / ring_rate)
        if all_reduce:
            net = _NET_S["tree"][place] + added_latency_s
            depth = (world_size / num_nodes - 1) * inside["tree"][place] + math.log2(num_nodes) * net
            choices.append(_BASE_S["tree"][place] + 2 * depth + 2 * payload_bytes / tree_rate)
    return np.asarray(np.minimum.reduce(choices))


def _rates(protocol: str, bus_bytes_per_s: float, channels: int, size: int) -> tuple[float, float]:
    """Bandwidth of ring and tree under a protocol, in bytes/s."""

    def carried(rate: float) -> float:
        if protocol == "LL":
            return min(_LL_SHARE * rate, _LL_MOST_BYTES_PER_S[size])
        if protocol == "LL128":
            return min(_LL128_SHARE * rate, channels * _LL128_MOST_PER_CHANNEL)
        return rate

    tree = min(_TREE_SHARE * bus_bytes_per_s, channels * _TREE_MOST_PER_CHANNEL[size])
    return carried(bus_bytes_per_s), carried(tree)
