"""What a step takes on average where ranks train apart and agree every H steps: local SGD, DiLoCo."""

from __future__ import annotations

import math

from bench.theory.collectives import Group, collective_s
from bench.theory.step import Step
from bench.theory.stragglers import lateness_s, variation_frac
from bench.theory.workload import Workload

OUTER_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one element of what is exchanged."""

# In float32: the difference from the last common weights (2 read, 1 written), Nesterov's momentum (2, 1), and both weights anew
# (3, 2).
OUTER_UPDATE_BYTES_PER_PARAM = 44
# Flattened into one array and back.
_FLATTEN_PASSES = 4


def averaged_step(work: Workload, group: Group, every_steps: int) -> Step:
    """The mean step of local SGD: H steps apart, then the weights averaged by one all-reduce that nothing hides.

    Stich 2019 (arXiv:1805.09767); Lin et al. 2020 (arXiv:1808.07217). Weights travel in the precision in which they are kept.
    """
    exchanged_s = float(collective_s("all_reduce", work.gradient_bytes * work.num_params, group))
    return _delayed(work, group, every_steps, exchanged_s, 0.0, work.gradient_bytes)


def diloco_step(work: Workload, group: Group, every_steps: int, outer_dtype: str) -> Step:
    """The mean step of DiLoCo: H steps apart, then the differences averaged and an outer step of Nesterov's momentum.

    Douillard et al. 2023 (arXiv:2311.08105), algorithm 1. The differences are known only after the last inner step, so
    nothing hides their exchange: one all-reduce in `outer_dtype`; of int8, which can't be added up on the way, an all-gather
    of all ranks' differences.
    """
    item = OUTER_BYTES[outer_dtype]
    size = float(item * work.num_params)
    if outer_dtype == "int8":
        exchanged_s = float(collective_s("all_gather", group.world_size * size, group))
    else:
        exchanged_s = float(collective_s("all_reduce", size, group))
    outer_s = OUTER_UPDATE_BYTES_PER_PARAM * work.num_params / group.machine.device.memory_bytes_per_s.value
    return _delayed(work, group, every_steps, exchanged_s, outer_s, item)


def _delayed(work: Workload, group: Group, every: int, exchanged_s: float, outer_s: float, item: int) -> Step:
    """A slow device stays slow through all H steps; lateness of a host, drawn anew in each, adds up to sqrt(H) of one."""
    ranks, machine = group.world_size, group.machine
    passes = work.grad_accum_steps
    forward_s, backward_s = passes * work.forward_s, passes * work.backward_s
    if ranks == 1:
        return Step(forward_s, backward_s, work.update_s, 0.0, 0.0, 0.0, 0.0)
    slower = variation_frac(machine, ranks)
    flattened_s = _FLATTEN_PASSES * item * work.num_params / machine.device.memory_bytes_per_s.value
    return Step(
        forward_s=forward_s,
        backward_s=backward_s,
        update_s=work.update_s + outer_s / every,
        copy_s=flattened_s / every,
        variation_s=slower * (forward_s + backward_s + work.update_s),
        lateness_s=lateness_s(machine, ranks, work.num_params) / math.sqrt(every),
        exposed_comm_s=exchanged_s / every,
    )
