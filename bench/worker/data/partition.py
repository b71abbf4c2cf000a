"""Which rank trains on which sequences of a global batch: pure functions of what the sequences cost."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.plan.workload import Partition

Costs = npt.NDArray[np.float64]
Parts = list[list[int]]


def deal(
    partition: Partition,
    costs: Costs,
    num_parts: int,
    *,
    seed: Sequence[int] = (0,),
    rates: Costs | None = None,
    least: int = 1,
) -> Parts:
    """The numbers of the sequences of each part: every sequence is in exactly one.

    `costs` (num_sequences,) is what each costs, in any unit. `contiguous`, `random` (by `seed`), `round_robin` and
    `sorted_buckets` give each part equally many, as far as that is possible. `lpt`, `karmarkar_karp` and `dynamic` balance what
    the parts cost; `dynamic` counts a part's cost as more the lower its `rates` (num_parts,), cost per second, is. None of these
    three ever has a larger maximum than `contiguous`. Each part has at least `least` sequences.
    Raises ValueError if there are too few for that.
    """
    num_sequences = len(costs)
    if num_parts < 1 or num_sequences < num_parts * least:
        raise ValueError(f"found {num_sequences} sequences for {num_parts} parts of at least {least}")
    in_order = [part.tolist() for part in np.array_split(np.arange(num_sequences), num_parts)]
    if partition == "contiguous":
        return in_order
    if partition == "random":
        order = np.random.default_rng([*seed]).permutation(num_sequences)
        return [part.tolist() for part in np.array_split(order, num_parts)]
    if partition == "round_robin":
        return [list(range(part, num_sequences, num_parts)) for part in range(num_parts)]
    if partition == "sorted_buckets":
        return sorted_buckets(costs, num_parts)
    speeds = rates if partition == "dynamic" and rates is not None else np.ones(num_parts)
    balanced = karmarkar_karp(costs, num_parts) if partition == "karmarkar_karp" else lpt(costs, speeds)
    _at_least(balanced, costs, least)
    return min(balanced, in_order, key=lambda parts: largest_load(parts, costs, speeds))


def largest_load(parts: Parts, costs: Costs, rates: Costs | None = None) -> float:
    """What the part that takes longest costs, over its rate."""
    loads = np.array([costs[part].sum() for part in parts])
    return float((loads if rates is None else loads / rates).max())


def _descending(costs: Costs) -> list[int]:
    """Dearest first; of equal ones the first."""
    order: list[int] = np.argsort(-costs, kind="stable").tolist()
    return order


def sorted_buckets(costs: Costs, num_parts: int) -> Parts:
    """Buckets of `num_parts` sequences of about equal cost, dealt one to each part, there and back again: so the n-th
    sequences of all parts are about equally long."""
    parts: Parts = [[] for _ in range(num_parts)]
    for place, sequence in enumerate(_descending(costs)):
        lap, part = divmod(place, num_parts)
        parts[part if lap % 2 == 0 else num_parts - 1 - part].append(sequence)
    return parts


def lpt(costs: Costs, rates: Costs) -> Parts:
    """Longest processing time first: the dearest sequence that is left goes to the part that would end first with it.

    For equal rates its maximum is at most 4/3 - 1/(3 num_parts) of the least possible. Source: Graham 1969, theorem 2; for
    unequal rates, where it is at most twice the least, Gonzalez, Ibarra and Sahni 1977.
    """
    parts: Parts = [[] for _ in rates]
    loads = np.zeros(len(rates))
    for sequence in _descending(costs):
        part = int(np.argmin((loads + costs[sequence]) / rates))
        parts[part].append(sequence)
        loads[part] += costs[sequence]
    return parts


def karmarkar_karp(costs: Costs, num_parts: int) -> Parts:
    """Largest differencing: the two partial deals whose loads differ most are joined, the dearest part of one with the
    cheapest of the other, until one deal is left. Usually nearer to the least maximum than `lpt`.

    Source: Karmarkar and Karp 1982, for many parts as in Korf 2009, section 2.3.
    """
    # (-difference, number, loads dearest first, the parts to these loads); the number settles ties.
    heap: list[tuple[float, int, list[float], Parts]] = []
    for sequence, cost in enumerate(costs.tolist()):
        rest = num_parts - 1
        heap.append((-cost if rest else 0.0, sequence, [cost, *[0.0] * rest], [[sequence], *([] for _ in range(rest))]))
    heapq.heapify(heap)
    number = len(heap)
    while len(heap) > 1:
        _, _, loads, parts = heapq.heappop(heap)
        _, _, other_loads, other_parts = heapq.heappop(heap)
        joined = sorted(
            (
                (load + other, part + other_part)
                for load, other, part, other_part in zip(
                    loads, reversed(other_loads), parts, reversed(other_parts), strict=True
                )
            ),
            key=lambda entry: -entry[0],
        )
        loads, parts = [load for load, _ in joined], [part for _, part in joined]
        heapq.heappush(heap, (loads[-1] - loads[0], number, loads, parts))
        number += 1
    return heap[0][3]


def _at_least(parts: Parts, costs: Costs, least: int) -> None:
    """Move the cheapest sequences of the parts with most of them to those with fewer than `least`."""
    while len(poorest := min(parts, key=len)) < least:
        richest = max(parts, key=len)
        cheapest = min(richest, key=lambda sequence: (costs[sequence], sequence))
        richest.remove(cheapest)
        poorest.append(cheapest)
