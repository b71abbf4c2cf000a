"""What a step of DDP takes whose gradients travel in fewer bytes: half precision, or low rank (PowerSGD)."""

from __future__ import annotations

import dataclasses
import math

from bench.theory.buckets import Exchange
from bench.theory.collectives import Group
from bench.theory.step import Step, exchange_of, step
from bench.theory.workload import Workload

HALF_BYTES = 2

# Beside DDP's own division of the bucket: it is written and read once more in half precision
# (torch/distributed/algorithms/ddp_comm_hooks/default_hooks.py, _compress_hook).
_CAST_BYTES_PER_PARAM = 2 * HALF_BYTES
# Passes over the gradients of PowerSGD with error feedback: the error is added (3), a copy kept (2), M Q (1), M^T P (1), P Q^T
# (1), the new error (3) (powerSGD_hook.py; Vogels et al. 2019, algorithms 1 and 2).
_POWERSGD_PASSES = 11
POWERSGD_CALLS = 3
"""Of each bucket: the vectors, then P, then Q."""


def half_step(work: Workload, group: Group) -> Step:
    """The step of the slowest rank where each bucket is cast to half precision before its all-reduce and back after it.

    Buckets are filled as plain DDP fills them; on the wire they have 2 bytes an element. Of gradients that are of half
    precision already only the casts are left.
    """
    plain = exchange_of(work, "ddp", group)
    share = HALF_BYTES / work.gradient_bytes
    moved = dataclasses.replace(work, copied_bytes=work.copied_bytes + _CAST_BYTES_PER_PARAM * work.num_params)
    return step(moved, "ddp", group, _smaller(plain, share, 1))


def powersgd_step(work: Workload, group: Group, rank: int) -> Step:
    """The step of the slowest rank where each matrix of gradients is sent as two of that rank, and vectors as they are.

    Vogels et al. 2019 (arXiv:1905.13727), by torch's hook: of each bucket the vectors, then P, then Q, each when the one before
    is there. On gloo a bucket is complete before the backward pass goes on (bench/worker/strategies/ddp_powersgd.py), so that
    nothing is hidden. Not counted: making P orthogonal, what the host takes to begin a call, and the 1,000 steps of plain
    all-reduces that the hook starts with.
    """
    share = powersgd_share(work, rank)
    moved_bytes = work.copied_bytes + _POWERSGD_PASSES * work.gradient_bytes * work.num_params
    sent = _smaller(exchange_of(work, "ddp", group), share, POWERSGD_CALLS)
    sent = dataclasses.replace(sent, overlaps=sent.overlaps and group.machine.node.backend != "gloo")
    return step(dataclasses.replace(work, copied_bytes=moved_bytes), "ddp", group, sent)


def powersgd_share(work: Workload, rank: int) -> float:
    """The part of the gradients' bytes that is sent, at most 1.

    A layer of width h has matrices h x 3h, h x h, h x 4h, 4h x h: rank x 16 h, and 13 h of vectors, of 12 h^2 + 13 h. The
    embedding V x h sends rank x (V + h). h from the layers' parameters, 12 L h^2.
    """
    embedding = work.last_frac * work.num_params
    width = math.sqrt((work.num_params - embedding) / (12 * work.num_layers))
    sent = work.num_layers * (16 * rank + 13) * width + rank * (embedding / width + width if embedding else 0.0)
    return min(1.0, sent / work.num_params)


def _smaller(plain: Exchange, share: float, calls: int) -> Exchange:
    """The exchange with buckets of that share, each in so many calls."""
    buckets = tuple((share * size / calls, ready) for size, ready in plain.buckets for _ in range(calls))
    return dataclasses.replace(plain, buckets=buckets)
