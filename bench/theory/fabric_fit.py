"""A machine whose collectives take what a sweep measured: its hop and link, or its network, fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from bench.errors import ProjectionError
from bench.theory.collectives import Group, collective_s
from bench.theory.line_fit import plane
from bench.theory.machine import Fabric, Machine, Network, Positive, Quantity

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter")
"""Those that training makes."""

# A link so fast, and a hop so long, that nothing but the other shows.
_ENDLESS = 1e30
# Sizes of an operation at which links, not latencies or protocols, decide; and how far, on the logarithm, a link may be off.
_LARGEST, _FURTHEST = 3, 7.0


@dataclass(frozen=True)
class Point:
    """One operation at one size, as a sweep measured it; `in_place` parts a series."""

    operation: str
    in_place: bool
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class FabricFit:
    """`hop_s`: seconds of one step of gloo's ring, None for NCCL, whose latencies are its own. `bus_bytes_per_s`: bus bandwidth
    of a large collective. Each with its ends. `error_frac`: median relative residual of the points."""

    hop_s: tuple[float, float, float] | None
    bus_bytes_per_s: tuple[float, float, float]
    error_frac: float
    num_points: int


def fit_fabric(points: Sequence[Point], machine: Machine, world_size: int) -> FabricFit:
    """The constants with which the theory's collectives (bench.theory.collectives) take what was measured.

    gloo: hop and bandwidth through all points of OPERATIONS at once, 95 % intervals. NCCL: the links with
    which the theory takes as long as each operation's largest sizes did, the median over operations; its ends are the least
    and the most of them. Raises ProjectionError where the points don't
    tell.
    """
    used = [point for point in points if point.operation in OPERATIONS]
    if not used:
        raise ProjectionError(
            "the sweep has no all_reduce, all_gather or reduce_scatter", hint="measure all_reduce at least"
        )
    if machine.node.backend == "nccl":
        return _fit_links(used, machine, world_size)
    times = np.array([point.seconds for point in used])
    found = plane(
        [_gloo_s(point, machine, world_size, hop_s=1.0, rate=_ENDLESS) for point in used],
        [_gloo_s(point, machine, world_size, hop_s=0.0, rate=1.0) for point in used],
        times,
    )
    if found is None:
        raise ProjectionError("the sweep does not tell latency from bandwidth", hint="measure sizes from 1KiB to 64MiB")
    return FabricFit(
        (found.latency_s, found.latency_s_lo, found.latency_s_hi),
        (found.bandwidth_bytes_per_s, found.bandwidth_bytes_per_s_lo, found.bandwidth_bytes_per_s_hi),
        found.error_frac,
        found.num_points,
    )


def _gloo_s(point: Point, machine: Machine, world_size: int, hop_s: float, rate: float) -> float:
    """Seconds by the theory among ranks of one node that nothing but a hop and a rate describe."""
    fabric = Fabric(
        kind="host",
        host_path_bytes_per_s=Positive(value=rate, source="one term of a fit"),
        hop_s=Quantity(value=hop_s, source="one term of a fit"),
    )
    node = machine.node.model_copy(update={"num_devices": world_size, "num_cores": None, "fabric": fabric})
    group = Group(machine.model_copy(update={"node": node}), world_size)
    return float(collective_s(point.operation, point.size_bytes, group))


def _fit_links(points: Sequence[Point], machine: Machine, world_size: int) -> FabricFit:
    ratios, errors = [], []
    for series in dict.fromkeys((point.operation, point.in_place) for point in points):
        own = [point for point in points if (point.operation, point.in_place) == series]
        largest = sorted(own, key=lambda point: point.size_bytes)[-_LARGEST:]

        def off(log_ratio: float, used: list[Point]) -> float:
            """Mean logarithm of predicted over measured, with links exp(log_ratio) as fast."""
            group = Group(_scaled(machine, math.exp(log_ratio)), world_size)
            foreseen = [float(collective_s(point.operation, point.size_bytes, group)) for point in used]
            return float(np.mean(np.log(foreseen) - np.log([point.seconds for point in used])))

        if off(-_FURTHEST, largest) > 0 > off(_FURTHEST, largest):
            ratio = float(optimize.brentq(off, -_FURTHEST, _FURTHEST, args=(largest,)))
            ratios.append(math.exp(ratio))
            errors += [abs(math.expm1(off(ratio, [point]))) for point in own]
    if not ratios:
        raise ProjectionError("the sweep does not tell the bandwidth", hint="measure sizes up to 1GiB")
    described = Group(machine, world_size).bus_bytes_per_s
    ends = [described * float(ratio) for ratio in (np.median(ratios), min(ratios), max(ratios))]
    return FabricFit(None, (ends[0], ends[1], ends[2]), float(np.median(errors)), len(points))


def _scaled(machine: Machine, ratio: float) -> Machine:
    """The machine with all that carries bytes inside a node `ratio` times as fast."""
    fabric = machine.node.fabric
    changes = {
        name: described.model_copy(update={"value": described.value * ratio})
        for name in ("host_path_bytes_per_s", "link_bytes_per_s")
        if (described := getattr(fabric, name)) is not None
    }
    node = machine.node.model_copy(update={"fabric": fabric.model_copy(update=changes)})
    return machine.model_copy(update={"node": node})


def with_fabric(machine: Machine, fit: FabricFit, world_size: int, num_nodes: int, source: str) -> Machine:
    """The machine with those constants: a node's links as fast as measured, or where several nodes were measured, `world_size` /
    `num_nodes` devices each, the network between them. `source`: of what, for each number."""
    rate, low, high = fit.bus_bytes_per_s
    told = (
        f"fitted: {source}; 95 % {low:.3g} to {high:.3g}" if fit.hop_s else f"fitted: {source}; {low:.3g} to {high:.3g}"
    )
    hop = None if fit.hop_s is None else fit.hop_s
    fabric = machine.node.fabric
    changes: dict[str, object] = {}
    if num_nodes == 1:
        if hop is not None:
            changes["hop_s"] = Quantity(value=hop[0], source=f"fitted: {source}; 95 % {hop[1]:.3g} to {hop[2]:.3g}")
        name = "host_path_bytes_per_s" if not _on_links(machine, world_size) else "link_bytes_per_s"
        described: Quantity = getattr(fabric, name)
        ratio = rate / Group(machine, world_size).bus_bytes_per_s
        changes[name] = Positive(value=described.value * ratio, source=f"{told} (of the bus: {rate:.3g})")
        node = machine.node.model_copy(update={"fabric": fabric.model_copy(update=changes)})
        return machine.model_copy(update={"node": node})
    described_hop = fabric.hop_s.value if fabric.hop_s is not None else 0.0
    added = 0.0 if hop is None else max(0.0, hop[0] - described_hop)
    network = Network(
        cards=Positive(value=1.0, source="one interface a node, as the sweep used it"),
        card_bytes_per_s=Positive(value=rate, source=told),
        added_latency_s=Quantity(
            value=added,
            source="NCCL's own" if hop is None else f"fitted: {source}; a hop of {hop[0]:.3g} less the node's own",
        ),
    )
    if fabric.host_path_bytes_per_s.value < rate:
        faster = Positive(value=rate, source=f"derived: at least what the network carries, {rate:.3g}")
        changes["host_path_bytes_per_s"] = faster
    node = machine.node.model_copy(
        update={"num_devices": world_size // num_nodes, "fabric": fabric.model_copy(update=changes)}
    )
    return machine.model_copy(update={"node": node, "network": network})


def _on_links(machine: Machine, world_size: int) -> bool:
    """Whether ranks of one node go round on direct links or a switch."""
    return machine.node.fabric.link_bytes_per_s is not None and Group(machine, world_size).uses_links
