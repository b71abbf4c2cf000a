"""What travels where ranks train apart for H steps, and what between workers and a parameter server: the closed forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.plan.cell import Cell
from bench.theory.delayed import OUTER_BYTES
from bench.theory.zero_settings import DTYPE_BYTES, UnknownTraffic

GroupCall = tuple[str, int, int]
"""Operation, group size, payload bytes."""

WEIGHED_BYTES = 8
"""The number that travels where ranks have unequal tokens."""
SCALE_BYTES = 4
HEADER_BYTES = 16
"""Two whole numbers before each message of a parameter server."""

DELAYED = ("local_sgd", "diloco", "hierarchical")


def delayed_calls(
    cell: Cell, elements: Sequence[int], gradients: Counter[tuple[str, int]], step: int, node_size: int
) -> Counter[GroupCall]:
    """Every collective of one rank in optimizer step `step`, counted from the first that was trained.

    `elements`: of each parameter; `gradients`: what DDP calls in a step, by operation and bytes; `node_size`: ranks of a
    node.
    """
    ranks, calls = cell.world_size, Counter[GroupCall]()
    start = int(cell.options.get("start_step", 0))
    if cell.strategy == "hierarchical":
        for (name, size), count in gradients.items():
            calls[name, node_size, size] += count
        if not cell.equal_lengths:
            calls["all_reduce", node_size, WEIGHED_BYTES] += 1
    elif step < start:
        for (name, size), count in gradients.items():
            calls[name, ranks, size] += count
    if step + 1 <= start or (step + 1 - start) % cell.every_steps:
        return calls
    for (name, size), count in averaging_calls(cell, elements).items():
        calls[name, ranks, size] += count
    return calls


def averaging_calls(cell: Cell, elements: Sequence[int]) -> Counter[tuple[str, int]]:
    """What all ranks exchange once every `every_steps` steps."""
    ranks, total = cell.world_size, sum(elements)
    calls: Counter[tuple[str, int]] = Counter()
    if not cell.equal_lengths:
        calls["all_reduce", WEIGHED_BYTES] += 1
    outer = str(cell.options.get("outer_dtype", "fp32"))
    if outer == "int8":
        calls["all_gather", ranks * total] += 1
        calls["all_gather", ranks * SCALE_BYTES * len(elements)] += 1
    else:
        calls["all_reduce", OUTER_BYTES[outer] * total] += 1
    return calls


def served_calls(cell: Cell, num_params: int) -> Counter[GroupCall]:
    """Every message of one worker in one step: to each server a header and what was trained, and later a header that asks for
    the weights, which come after one; from the first server the word to go on."""
    if not cell.num_servers:
        raise UnknownTraffic(f"{cell.strategy} has no server")
    ranks, servers, item = cell.world_size, cell.num_servers, DTYPE_BYTES[cell.precision]
    calls: Counter[GroupCall] = Counter()
    calls["send", ranks, HEADER_BYTES] += 2 * servers
    calls["recv", ranks, HEADER_BYTES] += servers + 1
    for number in range(servers):
        part = (number + 1) * num_params // servers - number * num_params // servers
        calls["send", ranks, part * item] += 1
        calls["recv", ranks, part * item] += 1
    return calls
