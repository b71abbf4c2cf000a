"""Where the ranks of one launch go: which hosts, and equally many on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.plan.cell import PlacementName


@dataclass(frozen=True)
class Placement:
    """The hosts of a launch in the order of their ranks, and the slots of each that are used: equally many."""

    slots: dict[str, tuple[int, ...]]

    @property
    def hosts(self) -> list[str]:
        return list(self.slots)

    @property
    def first(self) -> str:
        """The host of rank 0, at which all ranks meet."""
        return next(iter(self.slots))

    @property
    def num_nodes(self) -> int:
        return len(self.slots)

    @property
    def ranks_per_node(self) -> int:
        return len(self.slots[self.first])

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.ranks_per_node

    @property
    def include(self) -> str:
        """In the syntax of DeepSpeed's --include."""
        return "@".join(f"{host}:{','.join(map(str, numbers))}" for host, numbers in self.slots.items())

    def __str__(self) -> str:
        return f"{self.num_nodes} x {self.ranks_per_node} on {', '.join(self.hosts)}"


def place(slots: Mapping[str, tuple[int, ...]], world_size: int, placement: PlacementName) -> Placement | None:
    """`world_size` ranks on the first hosts: as few of them as can be (`pack`), or as many (`spread`); None if no number will do.

    Every host takes equally many, because DeepSpeed's launcher mixes up local ranks otherwise, and because unequal hosts would
    make their ranks unequal too.
    """
    hosts = list(slots)
    numbers = range(1, len(hosts) + 1)
    for num_nodes in numbers if placement == "pack" else reversed(numbers):
        each, left = divmod(world_size, num_nodes)
        if left == 0 and each > 0 and all(each <= len(slots[host]) for host in hosts[:num_nodes]):
            return Placement({host: slots[host][:each] for host in hosts[:num_nodes]})
    return None
