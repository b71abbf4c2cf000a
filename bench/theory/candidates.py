"""Every setting that trains one global batch on a machine, side by side: what each takes and whether it fits, in numpy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProjectionError
from bench.theory.buckets import Exchange
from bench.theory.collectives import Group
from bench.theory.machine import Machine, Network
from bench.theory.memory import FRAGMENTATION_FRAC, memory
from bench.theory.offload import host_update_s, moved_beside_s, own_copy_s
from bench.theory.project import efficiency_error, efficiency_interval
from bench.theory.step import added_to_passes_s, divides_update, exchange_of, gathered_after_s
from bench.theory.stragglers import lateness_s, variation_frac
from bench.theory.ways import way_of
from bench.theory.workload import Workload, from_preset

SEARCHED = ("ddp", "zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
"""Strategies that a search tries, the plainest first: those that every update of which is the same as plain training's. The
last two only where the machine's host is described."""


def searched(machine: Machine) -> tuple[str, ...]:
    """Those of SEARCHED that can be projected on the machine."""
    return tuple(name for name in SEARCHED if machine.host is not None or way_of(name).offload == "none")


# More sequences than any update has; its divisors are looked for one by one.
_LARGEST_BATCH = 10**9

Seconds = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Settings of one global batch, one at each place of the arrays. `strategy` is the place in SEARCHED."""

    strategy: Counts
    world_size: Counts
    micro_batch_size: Counts
    grad_accum_steps: Counts
    activation_checkpointing: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.strategy)


@dataclass(frozen=True)
class Steps:
    """What each candidate takes, at the same places, by the same rules as `bench.theory.step` (the tests hold the two equal).

    `scaling_lo_s`, `scaling_hi_s`: the interval of the step from how it scales alone; that of one rank's own work,
    `compute_error_frac` of it, comes on top. `memory_bytes` of one rank, its activations left out where `activations_known` is
    false.
    """

    forward_s: Seconds
    backward_s: Seconds
    update_s: Seconds
    copy_s: Seconds
    variation_s: Seconds
    lateness_s: Seconds
    exposed_comm_s: Seconds
    step_time_s: Seconds
    scaling_lo_s: Seconds
    scaling_hi_s: Seconds
    memory_bytes: Seconds
    fits: NDArray[np.bool_]
    compute_error_frac: float
    activations_known: bool


def check_batch(global_batch_size: int) -> None:
    """Raise ProjectionError for a batch that can't be shared."""
    if not 1 <= global_batch_size <= _LARGEST_BATCH:
        raise ProjectionError(f"--global-batch-size: found {global_batch_size}, expected 1 to {_LARGEST_BATCH}")


def world_sizes(machine: Machine, global_batch_size: int, most: int, network: Network | None) -> list[int]:
    """Ranks that share the batch equally: any number in one node, and whole nodes beyond it where a network joins them."""
    node = machine.node.num_devices
    joined = network is not None or machine.network is not None
    return [
        size
        for size in _divisors(global_batch_size)
        if size <= most and (size <= node or (joined and size % node == 0))
    ]


def candidates(
    global_batch_size: int, sizes: Sequence[int], strategies: Sequence[str] = SEARCHED, checkpointing: bool = True
) -> Candidates:
    """All of strategy x world size x micro-batch x accumulation, with and (`checkpointing`) without activation checkpointing.

    Micro-batch x accumulation x world size is the global batch for each. Raises ProjectionError for a batch that can't be.
    """
    check_batch(global_batch_size)
    shares = []
    parts = np.array(_divisors(global_batch_size), dtype=np.int64)
    for size in sizes:
        micro = parts[global_batch_size // size % parts == 0]
        shares.append(np.stack([np.full_like(micro, size), micro, global_batch_size // size // micro]))
    ranks, micro, accumulation = np.concatenate(shares, axis=1)
    places = np.array([SEARCHED.index(name) for name in strategies], dtype=np.int64)
    switches = np.array([False, True] if checkpointing else [False])
    shape = (len(places), len(switches), len(ranks))

    def spread(values: NDArray[np.int64], axis: int) -> Counts:
        return np.broadcast_to(np.expand_dims(values, tuple({0, 1, 2} - {axis})), shape).ravel()

    return Candidates(
        strategy=spread(places, 0),
        world_size=spread(ranks, 2),
        micro_batch_size=spread(micro, 2),
        grad_accum_steps=spread(accumulation, 2),
        activation_checkpointing=spread(switches.astype(np.int64), 1).astype(np.bool_),
    )


def steps(
    found: Candidates,
    machine: Machine,
    *,
    model: str,
    precision: str,
    seq_len: int | None = None,
    network: Network | None = None,
) -> Steps:
    """The step of every candidate, those of one strategy and world size at once.

    Raises SuiteError and ProjectionError as `bench.theory.workload.from_preset`.
    """
    names = ("forward_s", "backward_s", "update_s", "copy_s", "variation_s", "lateness_s", "exposed_comm_s")
    columns = {name: np.zeros(len(found)) for name in (*names, "step_1_s", "error", "memory_bytes")}
    sharing = found.strategy * (int(found.world_size.max()) + 1) + found.world_size
    order = np.argsort(sharing, kind="stable")
    starts = np.flatnonzero(np.diff(sharing[order], prepend=-1))
    works: dict[int, dict[bool, tuple[Workload, Workload]]] = {}
    for chosen in np.split(order, starts[1:]):
        place, ranks = int(found.strategy[chosen[0]]), int(found.world_size[chosen[0]])
        if place not in works:
            works[place] = {
                checkpointed: _two_sizes(machine, model, precision, way_of(SEARCHED[place]).base, seq_len, checkpointed)
                for checkpointed in (False, True)
            }
        group = Group(machine, ranks, network)
        for name, values in _of_group(found, chosen, works[place], SEARCHED[place], group).items():
            columns[name][chosen] = values
    step_time_s = np.sum([columns[name] for name in names], axis=0)
    offloads = np.array([way_of(name).offload != "none" for name in SEARCHED])[found.strategy]
    # A host's Adam has less to do the more ranks there are, so that efficiency may pass 1.
    low, high = efficiency_interval(
        columns["step_1_s"] / step_time_s, columns["error"], np.where(offloads, np.inf, 1.0)
    )
    one = next(iter(works.values()))[False][0]
    return Steps(
        **{name: columns[name] for name in names},
        step_time_s=step_time_s,
        scaling_lo_s=columns["step_1_s"] / high,
        scaling_hi_s=columns["step_1_s"] / low,
        memory_bytes=columns["memory_bytes"],
        fits=columns["memory_bytes"] <= machine.device.memory_bytes.value,
        compute_error_frac=one.compute_error_frac,
        activations_known=one.activation_bytes is not None,
    )


def _two_sizes(
    machine: Machine, model: str, precision: str, strategy: str, seq_len: int | None, checkpointed: bool
) -> tuple[Workload, Workload]:
    """The work of micro-batches of one and of two sequences: all others lie on the line through them."""
    one, two = (
        from_preset(
            machine,
            model=model,
            micro_batch_size=size,
            precision=precision,
            strategy=strategy,
            seq_len=seq_len,
            activation_checkpointing=checkpointed,
        )
        for size in (1, 2)
    )
    return one, two


def _of_group(
    found: Candidates, chosen: Counts, works: dict[bool, tuple[Workload, Workload]], strategy: str, group: Group
) -> dict[str, Seconds | float]:
    """The columns of the candidates `chosen`, which have this strategy and these ranks in common."""
    machine, ranks = group.machine, group.world_size
    beyond = found.micro_batch_size[chosen] - 1.0
    checkpointed = found.activation_checkpointing[chosen]
    passes = found.grad_accum_steps[chosen].astype(np.float64)

    def on_the_line(name: str) -> Seconds:
        lines = []
        for switch in (False, True):
            first, second = ((getattr(work, name) or 0.0) for work in works[switch])
            lines.append(first + beyond * (second - first))
        return np.where(checkpointed, lines[1], lines[0])

    work = works[False][0]
    way = way_of(strategy)
    forward_s, backward_s = on_the_line("forward_s"), on_the_line("backward_s")
    exchanged = exchange_of(work, way.base, group)
    kept = memory(
        way.base,
        num_params=work.num_params,
        precision=work.precision,
        world_size=ranks,
        exchange=exchanged,
        activation_bytes=None,
        reserved_bytes=machine.behaviour.reserved_bytes.value,
        num_layers=work.num_layers,
        offload=way.offload,
    ).total_bytes
    own_s = passes * (forward_s + backward_s)
    slower = 1.0 + variation_frac(machine, ranks)
    slow_s = forward_s * slower, backward_s * slower
    update_s = work.update_s / ranks if ranks > 1 and divides_update(way.base) else work.update_s
    # The host's update has no slowest device.
    variation_s = (slower - 1.0) * (own_s + (update_s if way.offload == "none" else 0.0))
    moved_s: Seconds = np.zeros_like(passes)
    step_1_s = own_s + work.update_s
    if way.offload != "none":
        update_s = host_update_s(work, group)
        moved_s = passes * _moved_s(slow_s, exchanged, group, way.base, work)
        step_1_s = _offloaded_alone_s(forward_s, backward_s, passes, way.base, work, group)
    columns: dict[str, Seconds | float] = {
        "forward_s": passes * forward_s,
        "backward_s": passes * backward_s,
        "update_s": update_s,
        "exposed_comm_s": moved_s,
        "step_1_s": step_1_s,
        "memory_bytes": kept + (1 + FRAGMENTATION_FRAC) * on_the_line("activation_bytes"),
    }
    if ranks == 1:
        return columns
    added_s = added_to_passes_s(*slow_s, exchanged, group, exchanged.gathered_in_pass_bytes, work.num_layers)
    times = passes if exchanged.each_micro_batch else np.ones_like(passes)
    return {
        **columns,
        "copy_s": times * work.copied_bytes / machine.device.memory_bytes_per_s.value,
        "variation_s": variation_s,
        "lateness_s": lateness_s(machine, ranks, work.num_params),
        "exposed_comm_s": gathered_after_s(exchanged, group) + times * added_s + moved_s,
        "error": efficiency_error(strategy, machine, ranks, machine.rates_fitted(ranks, group.network)),
    }


def _moved_s(slow_s: tuple[Seconds, Seconds], exchanged: Exchange, group: Group, base: str, work: Workload) -> Seconds:
    """What copies to and from the host add to each micro-batch."""
    return moved_beside_s(*slow_s, exchanged, group, base, own_copy_s(work, group), work, 1)


def _offloaded_alone_s(
    forward_s: Seconds, backward_s: Seconds, passes: Seconds, base: str, work: Workload, group: Group
) -> Seconds:
    """The step of one rank alone with its optimizer, or all, in the host."""
    alone = dataclasses.replace(group, world_size=1, devices=None)
    slower = 1.0 + variation_frac(alone.machine, 1)
    moved_s = _moved_s((forward_s * slower, backward_s * slower), exchange_of(work, base, alone), alone, base, work)
    own_s = passes * (forward_s + backward_s)
    return np.asarray(own_s * slower + host_update_s(work, alone) + passes * moved_s)


def _divisors(number: int) -> list[int]:
    small = [part for part in range(1, int(number**0.5) + 1) if number % part == 0]
    return sorted({*small, *(number // part for part in small)})
