"""What a step would take on a described machine: one row a strategy and world size, each with an honest interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.theory.collectives import Group
from bench.theory.machine import Machine, Network
from bench.theory.ways import DEFAULTS, Options, memory_of, step_of, way_of
from bench.theory.workload import Workload

EFFICIENCY_ERROR = {"one machine": 0.075, "across nodes": 0.085}
"""Nine of ten published rows are at most this far from the theory's efficiency: the largest, rounded up, of the 90th percentiles
with each family and each machine left out of the fit (`bench.theory.validation.cross_validations`) and of those of rows to
which nothing was fitted. Software such as that of the families left out (bench.theory.published_rows) falls outside.
tests/theory/test_validation.py holds them."""

# What published rows say nothing about has twice that interval, gloo on CPUs, where even the rates are assumed, four times:
# assumed.
_UNSEEN, _UNSEEN_BACKEND = 2.0, 4.0
_SEEN_MACHINES = (
    "dgx1-v100-16gb",
    "dgx1-v100-32gb",
    "dgx2-v100-32gb",
    "dgx2h-v100-32gb",
    "p3.16xlarge",
    "p3dn.24xlarge",
)
_SEEN_STRATEGY, _SEEN_RANKS = "ddp", 32
# No published row that is kept scales worse; below, the error is taken in proportion: assumed.
_LOWEST_SEEN = 0.69


@dataclass(frozen=True)
class Row:
    """A projected step. `efficiency` is weak scaling's, against one rank of the same machine, strategy and work.

    `*_lo` and `*_hi` are meant to hold nine cases of ten. `memory_bytes` is one rank's; of a workload known only by its numbers
    it lacks the activations, so that it may say that a step does not fit (`fits` false), never that it does (None).
    `tokens_per_s`: of all ranks, None where the tokens are not known. The parts, from `forward_s` on and with
    `exposed_comm_s`, add up to `step_time_s` (bench.theory.step).
    """

    strategy: str
    world_size: int
    nodes: int
    step_time_s: float
    step_time_lo_s: float
    step_time_hi_s: float
    efficiency: float
    efficiency_lo: float
    efficiency_hi: float
    exposed_comm_s: float
    memory_bytes: float
    fits: bool | None
    tokens_per_s: float | None
    forward_s: float
    backward_s: float
    update_s: float
    copy_s: float
    variation_s: float
    lateness_s: float


def project(
    work: Workload,
    strategy: str,
    machine: Machine,
    world_size: int,
    network: Network | None = None,
    options: Options = DEFAULTS,
) -> Row:
    """The step of `work` on `world_size` ranks of as few nodes as hold them, each rank doing all of it (weak scaling).

    Raises ProjectionError for an unknown strategy, a world size below one, and several nodes without a network.
    """
    group = Group(machine, world_size, network)
    parts = step_of(work, strategy, group, options)
    step_1_s = step_of(work, strategy, Group(machine, 1, network), options).step_time_s
    efficiency = step_1_s / parts.step_time_s
    # A host's Adam has less to do the more ranks there are, so that efficiency may pass 1.
    most = 1.0 if way_of(strategy).offload == "none" else float("inf")
    rates_fitted = machine.rates_fitted(world_size, network)
    ends = efficiency_interval(efficiency, efficiency_error(strategy, machine, world_size, rates_fitted), most)
    low, high = float(ends[0]), float(ends[1])
    off = work.compute_error_frac
    kept = memory_of(work, strategy, group, options).total_bytes
    fits: bool | None = kept <= machine.device.memory_bytes.value
    if fits and work.activation_bytes is None:
        fits = None
    tokens = work.tokens_per_step
    return Row(
        strategy=strategy,
        world_size=world_size,
        nodes=group.num_nodes,
        step_time_s=parts.step_time_s,
        step_time_lo_s=(1 - off) * step_1_s / high,
        step_time_hi_s=(1 + off) * step_1_s / low,
        efficiency=efficiency,
        efficiency_lo=low,
        efficiency_hi=high,
        exposed_comm_s=parts.exposed_comm_s,
        memory_bytes=kept,
        fits=fits,
        tokens_per_s=None if tokens is None else world_size * tokens / parts.step_time_s,
        forward_s=parts.forward_s,
        backward_s=parts.backward_s,
        update_s=parts.update_s,
        copy_s=parts.copy_s,
        variation_s=parts.variation_s,
        lateness_s=parts.lateness_s,
    )


def projections(
    work: Workload,
    strategy: str,
    machine: Machine,
    world_sizes: Sequence[int],
    network: Network | None = None,
    options: Options = DEFAULTS,
) -> list[Row]:
    """A row for each world size."""
    return [project(work, strategy, machine, world_size, network, options) for world_size in world_sizes]


def efficiency_interval(
    efficiency: ArrayLike, error: ArrayLike, most: ArrayLike = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the interval of an efficiency, of any shape: `error` on each side, less in proportion below what was seen, and
    nothing above `most`."""
    value = np.asarray(efficiency, dtype=np.float64)
    half = in_proportion(error, value)
    return value - half, np.maximum(value, np.minimum(most, value + half))


def efficiency_error(strategy: str, machine: Machine, world_size: int, rates_fitted: bool = False) -> float:
    """Half the interval of efficiency: the theory's own error on published rows of that class, twice it where there are none.

    One rank needs no theory of scaling: 0. Published rows are of plain data parallelism on machines of V100s up to 32 ranks. The
    rates of gloo are assumed, so that it is four times, unless `rates_fitted` (bench.theory.calibration, .fabric_fit).
    """
    if world_size == 1:
        return 0.0
    error = EFFICIENCY_ERROR["one machine" if machine.num_nodes(world_size) == 1 else "across nodes"]
    if machine.node.backend == "gloo" and not rates_fitted:
        return _UNSEEN_BACKEND * error
    seen = strategy == _SEEN_STRATEGY and machine.name in _SEEN_MACHINES and world_size <= _SEEN_RANKS
    return error if seen else _UNSEEN * error


def in_proportion(error: ArrayLike, efficiency: ArrayLike) -> NDArray[np.float64]:
    """The error of a projection of that efficiency: below what published rows reach, in proportion."""
    return np.asarray(np.asarray(error) * np.minimum(1.0, np.asarray(efficiency, dtype=np.float64) / _LOWEST_SEEN))
