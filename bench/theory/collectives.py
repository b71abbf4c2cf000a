"""How long a collective takes among some ranks of a machine, alone and undisturbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import ProjectionError
from bench.theory.machine import Machine, Network
from bench.theory.nccl import nccl_s
from bench.theory.rings import num_rings

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")

# NCCL opens two channels at least where one path is all there is (src/graph/search.cc).
_FEWEST_CHANNELS = 2
# Assumed where a machine says nothing: a TCP message through the loop-back device, and the thread that waits for it woken.
_GLOO_STEP_S = 5e-5


@dataclass(frozen=True)
class Group:
    """The ranks of a collective: the first `world_size` devices of as few nodes as hold them, or `devices` of one node.

    Raises ProjectionError where several nodes are needed and no network is named, and where a node has no such devices.
    """

    machine: Machine
    world_size: int
    network: Network | None = None
    devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ProjectionError(f"world_size: found {self.world_size}, expected at least 1")
        if self.num_nodes > 1 and self.between is None:
            raise ProjectionError(
                f"{self.world_size} ranks need {self.num_nodes} nodes of {self.machine.name}", hint="name a --network"
            )
        if self.devices is not None:
            most = self.machine.node.num_devices
            if len(set(self.devices)) != self.world_size or not all(0 <= device < most for device in self.devices):
                raise ProjectionError(
                    f"devices: found {self.devices}, expected {self.world_size} different ones below {most}"
                )

    @property
    def between(self) -> Network | None:
        """What connects the nodes: the network that is named, or the machine's own."""
        return self.network or self.machine.network

    @property
    def num_nodes(self) -> int:
        return self.machine.num_nodes(self.world_size)

    @property
    def devices_by_node(self) -> list[tuple[int, ...]]:
        """Local devices of a node, for each kind of node that there is: full ones, and the last where it is not."""
        if self.devices is not None:
            return [self.devices]
        most = self.machine.node.num_devices
        left = self.world_size % most
        counts = [most] * (self.world_size >= most) + [left] * (left > 0)
        return [tuple(range(count)) for count in counts]

    @property
    def uses_links(self) -> bool:
        """Whether every node's ranks can go round on NVLinks; else all goes through the host."""
        return all(_links(self.machine, devices) is not None for devices in self.devices_by_node if len(devices) > 1)

    @property
    def bus_bytes_per_s(self) -> float:
        """Bus bandwidth of a large collective, as nccl-tests defines it: that of all its rings together in one direction.

        Inside a node: links of a switch, or rings that fit into the mesh of the given devices, times a link; the host's
        path where there is no ring, which ranks on fewer cores than they are share out. Between nodes the cards of a node,
        which all rings share, where they are slower.
        """
        rates = []
        for devices in self.devices_by_node:
            if len(devices) == 1:
                continue
            links = _links(self.machine, devices) if self.uses_links else None
            fabric = self.machine.node.fabric
            if links is None or fabric.link_bytes_per_s is None:
                cores = self.machine.node.num_cores
                shared = 1.0 if cores is None else min(1.0, cores / len(devices))
                rates.append(shared * fabric.host_path_bytes_per_s.value)
            else:
                rates.append(links * fabric.link_bytes_per_s.value)
        if self.num_nodes > 1:
            assert self.between is not None
            rates.append(self.between.node_bytes_per_s)
        return min(rates, default=float("inf"))

    @property
    def channels(self) -> int:
        """Rings that run beside each other."""
        found = [_links(self.machine, devices) or 0 for devices in self.devices_by_node if len(devices) > 1]
        return max(_FEWEST_CHANNELS, int(min(found, default=0)))


def collective_s(operation: str, payload_bytes: ArrayLike, group: Group) -> NDArray[np.float64]:
    """Seconds of one collective; `payload_bytes` is the full array of it, any shape, and so is the result.

    For an all-gather and a reduce-scatter the full array is what all ranks hold together. By NCCL's cost model, or for
    gloo a ring: 2 (n - 1) steps and twice (n - 1) / n of the bytes for an all-reduce, half of that for an all-gather. gloo's
    reduce-scatter is an all-reduce and a copy; its rooted operations pass the whole array to each in turn of a tree.
    One rank takes no time. Raises ProjectionError for an operation without a rule.
    """
    if operation not in OPERATIONS:
        raise ProjectionError(f"operation: found {operation!r}, expected one of {', '.join(OPERATIONS)}")
    payload = np.asarray(payload_bytes, dtype=np.float64)
    if group.world_size == 1:
        return np.zeros_like(payload)
    latency = 0.0 if group.num_nodes == 1 or group.between is None else group.between.added_latency_s.value
    if group.machine.node.backend == "gloo":
        hop = group.machine.node.fabric.hop_s
        step_s = (_GLOO_STEP_S if hop is None else hop.value) + latency
        return _gloo_s(operation, payload, group.world_size, group.bus_bytes_per_s, step_s)
    return nccl_s(
        operation,
        payload,
        world_size=group.world_size,
        num_nodes=group.num_nodes,
        bus_bytes_per_s=group.bus_bytes_per_s,
        channels=group.channels,
        nvlink=group.uses_links and max(map(len, group.devices_by_node)) > 1,
        added_latency_s=latency,
    )


def _gloo_s(
    operation: str, payload: NDArray[np.float64], ranks: int, rate: float, step_s: float
) -> NDArray[np.float64]:
    if operation in ("broadcast", "reduce"):
        depth = int(np.ceil(np.log2(ranks)))
        return depth * (step_s + payload / rate)
    rounds = 1 if operation == "all_gather" else 2
    return rounds * ((ranks - 1) * step_s + payload * (ranks - 1) / ranks / rate)


def _links(machine: Machine, devices: tuple[int, ...]) -> float | None:
    """Links that a ring's traffic can use at once, None where there is no ring."""
    fabric = machine.node.fabric
    if fabric.kind == "switch":
        assert fabric.links_per_device is not None
        return fabric.links_per_device.value
    if fabric.kind == "mesh":
        assert fabric.links_per_pair is not None
        return num_rings(fabric.links_per_pair, devices) or None
    return None
