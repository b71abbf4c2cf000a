"""What a step of a workload under a strategy takes on N ranks, and of what parts that is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.plan.strategies import STRATEGIES
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
        num_layers=work.num_layers,
        tensors=work.tensors,
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
    update_s = work.update_s / ranks if divides_update(strategy) else work.update_s
    copy_s = exchanged.times * work.copied_bytes / machine.device.memory_bytes_per_s.value
    slower = 1.0 + variation_frac(machine, ranks)
    gathered_bytes = exchanged.gathered_in_pass_bytes / passes
    added_s = added_to_passes_s(
        work.forward_s * slower, work.backward_s * slower, exchanged, group, gathered_bytes, work.num_layers
    )
    exposed_s = gathered_after_s(exchanged, group) + exchanged.times * float(added_s)
    if gathered_bytes and exchanged.times < passes:
        # FSDP2 gathers in every micro-batch, and reduces in the last alone.
        gathering = dataclasses.replace(exchanged, buckets=())
        exposed_s += (passes - exchanged.times) * float(
            added_to_passes_s(
                work.forward_s * slower, work.backward_s * slower, gathering, group, gathered_bytes, work.num_layers
            )
        )
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


def divides_update(strategy: str) -> bool:
    """Whether a rank updates its part of the parameters alone."""
    return STRATEGIES[strategy].stage >= 1


def gathered_after_s(exchanged: Exchange, group: Group) -> float:
    """Seconds in which the parameters are gathered after the update: none where nothing is, not even a call's latency."""
    gathered = exchanged.gathered_after_bytes
    return float(collective_s("all_gather", gathered, group)) if gathered else 0.0


def added_to_passes_s(
    forward_s: ArrayLike,
    backward_s: ArrayLike,
    exchanged: Exchange,
    group: Group,
    gathered_bytes: float,
    num_layers: int,
    fetch_s: float = 0.0,
) -> NDArray[np.float64]:
    """Seconds that communication adds to the two passes of one micro-batch that reduces; of many workloads at once.

    `forward_s`, `backward_s`: of the slowest device, any shape, and so is the result. `gathered_bytes`: parameters gathered in
    each of the two passes (ZeRO-3), 0 for none. `fetch_s`: what a rank's own part of them takes to come from the host, a layer
    ahead of its gather, in each pass.
    """
    forward, backward = (np.asarray(seconds, dtype=np.float64) for seconds in (forward_s, backward_s))
    sizes = np.array([size for size, _ in exchanged.buckets])
    ready = np.array([part for _, part in exchanged.buckets])
    durations = collective_s(exchanged.operation, sizes, group)
    contention = group.machine.behaviour.contention_frac.value
    reduced_s = float(durations.sum())
    if not gathered_bytes and not fetch_s:
        if exchanged.overlaps:
            return overlapped_s(backward, ready, durations, contention) - backward
        return np.full_like(backward, reduced_s)
    gather_s = max(float(collective_s("all_gather", gathered_bytes / num_layers, group)), fetch_s / num_layers)
    if not exchanged.gathers_overlap:
        return np.full_like(backward, 2 * num_layers * gather_s + reduced_s)
    beside_s, after_s = (reduced_s, 0.0) if exchanged.overlaps else (0.0, reduced_s)
    spent = gathered_forward_s(forward / num_layers, num_layers, gather_s, contention)
    spent = spent + gathered_backward_s(backward / num_layers, num_layers, gather_s, beside_s / num_layers, contention)
    return spent + after_s - forward - backward
