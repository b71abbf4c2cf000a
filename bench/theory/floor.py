"""What no step and no collective can be faster than on a described machine."""

from __future__ import annotations

from dataclasses import dataclass

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.theory.collectives import Group
from bench.theory.flops import peak_flops_per_s
from bench.theory.machine import Machine, Quantity
from bench.theory.traffic import TrafficLine, ring_volume_bytes
from bench.theory.workload import ADAM_BYTES_PER_PARAM


@dataclass(frozen=True)
class Floor:
    """The least seconds of a step for one reason, in words, and what that stands on."""

    seconds: float
    because: str
    source: str


def floors(
    cell: Cell, num_params: int, flops_per_token: float, volume_bytes: float | None, machine: Machine
) -> list[Floor]:
    """What a step of the cell takes at least: its arithmetic at the device's peak, what Adam moves at the memory's bandwidth, and
    what a rank sends at the links'. They may all overlap, so that each is a floor by itself and their sum is none.

    `volume_bytes`: what a rank sends in a step round a ring (`bench.theory.traffic.ring_volume_bytes`), None where nobody
    counted it. Nothing is a floor that stands on an assumed number, nor the arithmetic of a paced model, which sleeps.
    The roofline: Williams, Waterman and Patterson 2009, section 3. Raises ProjectionError as `Group` does.
    """
    found = []
    peak = peak_flops_per_s(machine.device.name, cell.precision)
    tokens = cell.tokens_per_step / cell.world_size
    if peak is not None and not cell.paced:
        found.append(
            Floor(tokens * flops_per_token / peak, "arithmetic at the device's peak", str(machine.device.name))
        )
    memory = machine.device.memory_bytes_per_s
    if not _assumed(memory):
        divided = STRATEGIES[cell.strategy].stage >= 1
        params = num_params / (cell.world_size if divided else 1)
        seconds = ADAM_BYTES_PER_PARAM * params / memory.value
        found.append(Floor(seconds, "Adam's bytes at the memory's bandwidth", memory.source))
    if volume_bytes and cell.world_size > 1:
        group = Group(machine, cell.world_size)
        link = _link(machine)
        if not _assumed(link):
            found.append(Floor(volume_bytes / group.bus_bytes_per_s, "bytes sent at the links' bandwidth", link.source))
    return found


def bus_limit_bytes_per_s(world_size: int, machine: Machine) -> float | None:
    """The bus bandwidth that a large collective reaches at most; None where the machine's file assumes its links."""
    return None if _assumed(_link(machine)) else Group(machine, world_size).bus_bytes_per_s


def bus_bytes_per_s(operation: str, payload_bytes: int, world_size: int, seconds: float) -> float:
    """Bus bandwidth of one collective, as nccl-tests counts it. Raises UnknownTraffic for an operation without a factor."""
    return ring_volume_bytes([TrafficLine(operation, world_size, payload_bytes, 1)]) / seconds


def _link(machine: Machine) -> Quantity:
    fabric = machine.node.fabric
    return fabric.host_path_bytes_per_s if fabric.link_bytes_per_s is None else fabric.link_bytes_per_s


def _assumed(quantity: Quantity) -> bool:
    return quantity.source.startswith("assumed")
