"""How many rings fit into a mesh of direct links: what a collective over some of its devices can use at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

Ring = tuple[int, ...]
"""Devices in the order in which data goes round them, beginning at the first."""


def num_rings(links_per_pair: Sequence[Sequence[int]], devices: Sequence[int]) -> int:
    """Rings through all of `devices` that use each direction of each link at most once; 0 where no ring exists.

    A link carries as much in one direction as in the other at the same time, so every closed path is two rings, one each
    way round; between two devices each link is a ring of its own, there and back. The largest set is searched for,
    over all Hamiltonian cycles of the subset with links as multiplicities, as NCCL searches its channels
    (src/graph/search.cc). `links_per_pair`: symmetric matrix of the whole machine.
    """
    count = len(devices)
    table = tuple(tuple(links_per_pair[a][b] for b in devices) for a in devices)
    if count < 2:
        return 0
    if count == 2:
        return table[0][1]
    return 2 * _packed(table)


@cache
def _packed(table: tuple[tuple[int, ...], ...]) -> int:
    """The largest number of cycles through all devices that share no link."""
    count = len(table)
    cycles = [_edges(cycle) for cycle in _cycles(table)]
    left = {(a, b): table[a][b] for a in range(count) for b in range(a + 1, count)}
    # Each cycle takes two links of every device.
    most = min(sum(row) // 2 for row in table)
    return _search(cycles, 0, left, most)


def _search(cycles: list[list[tuple[int, int]]], first: int, left: dict[tuple[int, int], int], most: int) -> int:
    if most == 0:
        return 0
    best = 0
    for place in range(first, len(cycles)):
        edges = cycles[place]
        if any(left[edge] == 0 for edge in edges):
            continue
        for edge in edges:
            left[edge] -= 1
        # The same cycle may come again, where its links are double.
        best = max(best, 1 + _search(cycles, place, left, most - 1))
        for edge in edges:
            left[edge] += 1
        if best == most:
            break
    return best


def _cycles(table: tuple[tuple[int, ...], ...]) -> list[Ring]:
    """All closed paths through every device along links, each in one of its two directions."""
    count = len(table)
    found: list[Ring] = []

    def extend(path: list[int]) -> None:
        if len(path) == count:
            if table[path[-1]][0] and path[1] < path[-1]:
                found.append(tuple(path))
            return
        for device in range(1, count):
            if device not in path and table[path[-1]][device]:
                extend([*path, device])

    extend([0])
    return found


def _edges(cycle: Ring) -> list[tuple[int, int]]:
    return [(min(a, b), max(a, b)) for a, b in zip(cycle, (*cycle[1:], cycle[0]), strict=True)]
