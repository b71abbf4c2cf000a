"""What a step takes whose optimizer, or whose parameters too, are kept in the host's memory (ZeRO-Offload)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import ProjectionError
from bench.theory.buckets import Exchange
from bench.theory.collectives import Group
from bench.theory.machine import Host
from bench.theory.step import Step, added_to_passes_s, exchange_of, step
from bench.theory.stragglers import variation_frac
from bench.theory.workload import Workload

CPU_ADAM_BYTES_PER_PARAM = 30
"""What DeepSpeed's CPU Adam moves: gradient, weight, momentum and variance of float32 are read, the last three written, and
the half-precision weight (csrc/adam/cpu_adam.cpp)."""

# Of a one-rank step that was measured as a whole, the host's update is at most this part: assumed.
_MOST_HOST_FRAC = 0.8
_HALVINGS = 50


def offloaded_step(work: Workload, base: str, group: Group) -> Step:
    """The step of the slowest rank under `base`: zero2 with its optimizer in the host, or zero3 with its parameters there too.

    A rank's part of the gradients is copied to the host beside each backward pass, its part of Adam runs on the host, and new
    weights come back tile by tile meanwhile: max(CPU Adam, copy). At stage 3 a rank's part of each layer is fetched from the
    host ahead of its gather, in both passes: max(gather, fetch). Ranks of a node share its memory and its links. Ren et al.
    2021 (ZeRO-Offload), sections 4 and 5; Rajbhandari et al. 2021 (ZeRO-Infinity), section 5. A step that was measured as a
    whole is taken to be that of one rank with its optimizer in the host. Not counted: gradients of several micro-batches
    that are added up in the host, the norm, NVMe. Raises ProjectionError for a machine whose host is not described.
    """
    _host(group)
    if work.tokens_per_step is not None:
        return _taken(work, base, group, 1.0)
    alone = dataclasses.replace(group, world_size=1, devices=None)
    counted = min(1.0, _MOST_HOST_FRAC * work.step_1_s / host_update_s(work, alone))
    # The passes with which one rank takes what was measured: by halving, since longer passes never make a shorter step.
    low_s, high_s = 0.0, work.step_1_s
    for _ in range(_HALVINGS):
        middle_s = (low_s + high_s) / 2
        longer = _taken(_with_passes_of(work, middle_s), base, alone, counted).step_time_s > work.step_1_s
        low_s, high_s = (low_s, middle_s) if longer else (middle_s, high_s)
    return _taken(_with_passes_of(work, high_s), base, group, counted)


def _taken(work: Workload, base: str, group: Group, counted: float) -> Step:
    """The step; of the host's update only the part `counted`."""
    update_s, copy_s = counted * host_update_s(work, group), own_copy_s(work, group)
    exchanged = exchange_of(work, base, group)
    plain = step(work, base, group, exchanged)
    slower = 1.0 + variation_frac(group.machine, group.world_size)
    passes = work.grad_accum_steps
    moved_s = float(
        moved_beside_s(work.forward_s * slower, work.backward_s * slower, exchanged, group, base, copy_s, work, passes)
    )
    # The host's update has no slowest device.
    own_s = passes * (work.forward_s + work.backward_s)
    return dataclasses.replace(
        plain,
        update_s=update_s,
        variation_s=(slower - 1.0) * own_s,
        exposed_comm_s=plain.exposed_comm_s + passes * moved_s,
    )


def moved_beside_s(
    forward_s: ArrayLike,
    backward_s: ArrayLike,
    exchanged: Exchange,
    group: Group,
    base: str,
    copy_s: float,
    work: Workload,
    passes: ArrayLike,
) -> NDArray[np.float64]:
    """Seconds that copies to and from the host add to one micro-batch beyond its communication; of many micro-batches at once.

    `forward_s`, `backward_s`: of the slowest device, any shape, and so is the result. `copy_s`: of a rank's own part, one way.
    `passes`: micro-batches of a step, by which `exchanged` counts what is gathered.
    """
    left_s = np.maximum(0.0, copy_s - np.asarray(backward_s, dtype=np.float64))
    if base != "zero3":
        return left_s
    gathered_bytes = float(exchanged.gathered_in_pass_bytes / np.max(np.asarray(passes)))

    def added_s(fetch_s: float) -> NDArray[np.float64]:
        return added_to_passes_s(forward_s, backward_s, exchanged, group, gathered_bytes, work.num_layers, fetch_s)

    return left_s + added_s(copy_s) - (added_s(0.0) if group.world_size > 1 else 0.0)


def host_update_s(work: Workload, group: Group) -> float:
    """Adam of a rank's part on the host, and the new weights' way back beside it."""
    host = _host(group)
    sharing = min(group.world_size, group.machine.node.num_devices)
    rate = min(host.process_bytes_per_s.value, host.memory_bytes_per_s.value / sharing)
    adam_s = CPU_ADAM_BYTES_PER_PARAM * work.num_params / group.world_size / rate
    return max(adam_s, own_copy_s(work, group))


def own_copy_s(work: Workload, group: Group) -> float:
    """Seconds in which a rank's part of the gradients, or of the weights, goes to the host or comes back."""
    host = _host(group)
    sharing = min(group.world_size, group.machine.node.num_devices)
    rate = min(host.device_copy_bytes_per_s.value, host.node_copy_bytes_per_s.value / sharing)
    return work.gradient_bytes * work.num_params / group.world_size / rate


def _with_passes_of(work: Workload, passes_s: float) -> Workload:
    """The work with passes that take so long together."""
    scale = passes_s / (work.grad_accum_steps * (work.forward_s + work.backward_s))
    return dataclasses.replace(work, forward_s=scale * work.forward_s, backward_s=scale * work.backward_s)


def _host(group: Group) -> Host:
    if group.machine.host is None:
        raise ProjectionError(
            f"{group.machine.name}: its host is not described, so nothing is known of what is kept there",
            hint="add `host` to the machine's file, as bench/theory/machines/dgx2-v100-32gb.yaml has it",
        )
    return group.machine.host
