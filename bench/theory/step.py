"""What a step of a workload under a strategy takes on N ranks, and of what parts that is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.theory.buckets import Exchange, exchange
from bench.theory.collectives import Group, collective_s
from bench.theory.stragglers import lateness_s, variation_frac
from bench.theory.timeline import gathered_backward_s, gathered_forward_s, overlapped_s
from bench.theory.workload import Workload
from bench.theory.zero_settings import DTYPE_BYTES


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step; `step_time_s` is the sum of the others.

    `forward_s`, `backward_s`, `update_s`: a typical rank's own work. `copy_s`: gradients into buckets and out. `variation_s`:
    the slowest device's work beyond that. `lateness_s`: the latest host. `exposed_comm_s`: what communication adds to it
    all, standing in line and slowing what runs beside it.
    """

    forward_s: float
    backward_s: float
    update_s: float
    copy_s: float
    variation_s: float
    lateness_s: float
    exposed_comm_s: float

    @property
    def step_time_s(self) -> float:
        own = self.forward_s + self.backward_s + self.update_s + self.copy_s
        return own + self.variation_s + self.lateness_s + self.exposed_comm_s


def exchange_of(work: Workload, strategy: str, group: Group) -> Exchange:
    """What a step of this work communicates among these ranks."""
    return exchange(
        strategy,
        num_params=work.num_params,
        gradient_bytes=work.gradient_bytes,
        parameter_bytes=DTYPE_BYTES[work.precision],
        grad_accum_steps=work.grad_accum_steps,
        world_size=group.world_size,
        backend=group.machine.node.backend,
        profile=work.profile,
        last_frac=work.last_frac,
    )


def step(work: Workload, strategy: str, group: Group, exchanged: Exchange) -> Step:
    """The step of the slowest rank, weak scaling: each rank does `work`, whatever their number.

    Accumulation repeats the passes; only those of `exchanged.times` micro-batches communicate. From stage 1 on a rank
    updates its part of the parameters. The slowest device is slower by `variation_frac` in all that it computes.
    On one rank nothing is exchanged or copied. Not counted: DeepSpeed's host time between kernels, the scaler's flags.
    """
    ranks, machine = group.world_size, group.machine
    passes = work.grad_accum_steps
    forward_s, backward_s = passes * work.forward_s, passes * work.backward_s
    if ranks == 1:
        return Step(forward_s, backward_s, work.update_s, 0.0, 0.0, 0.0, 0.0)
    update_s = work.update_s / ranks if _divides_update(strategy) else work.update_s
    copy_s = exchanged.times * work.copied_bytes / machine.device.memory_bytes_per_s.value
    slower = 1.0 + variation_frac(machine, ranks)
    sizes = np.array([size for size, _ in exchanged.buckets])
    ready = np.array([part for _, part in exchanged.buckets])
    durations = collective_s(exchanged.operation, sizes, group)
    contention = machine.behaviour.contention_frac.value
    gathered = exchanged.gathered_after_bytes
    exposed_s = float(collective_s("all_gather", gathered, group)) if gathered else 0.0
    if exchanged.gathered_in_pass_bytes:
        exposed_s += passes * _gathered_exposed_s(work, exchanged, group, float(durations.sum()), slower)
    elif exchanged.overlaps:
        alone = work.backward_s * slower
        exposed_s += exchanged.times * (float(overlapped_s(alone, ready, durations, contention)) - alone)
    else:
        exposed_s += exchanged.times * float(durations.sum())
    own = forward_s + backward_s + update_s
    return Step(
        forward_s,
        backward_s,
        update_s,
        copy_s,
        (slower - 1.0) * own,
        lateness_s(machine, ranks, work.num_params),
        exposed_s,
    )


def _divides_update(strategy: str) -> bool:
    return strategy in ("zero1", "zero2", "zero3")


def _gathered_exposed_s(work: Workload, exchanged: Exchange, group: Group, reduced_s: float, slower: float) -> float:
    """What ZeRO-3's gathers and reductions add to the two passes of a micro-batch."""
    layers = work.num_layers
    contention = group.machine.behaviour.contention_frac.value
    forward, backward = work.forward_s * slower, work.backward_s * slower
    micro_bytes = exchanged.gathered_in_pass_bytes / work.grad_accum_steps
    gather_s = float(collective_s("all_gather", micro_bytes / layers, group))
    if not exchanged.overlaps:
        return 2 * layers * gather_s + reduced_s
    spent = gathered_forward_s(forward / layers, layers, gather_s, contention)
    spent = spent + gathered_backward_s(backward / layers, layers, gather_s, reduced_s / layers, contention)
    return float(spent) - forward - backward
