"""How long compute and communication take together: one stream of each, what waits for what, what stands still meanwhile.

While a collective runs, compute beside it goes on at 1 - `contention` of its speed: the kernels of NCCL hold multiprocessors
and memory bandwidth for as long as they run, also while they wait for the wire or for a late rank. With 0 overlap is
free, with 1 it gains nothing. Everything is numpy over candidates, exact to the event: the recurrences below visit the same
instants as an event queue would (tests/theory/test_timeline.py holds them against one).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Seconds = NDArray[np.float64]


def overlapped_s(compute_s: ArrayLike, ready_frac: ArrayLike, durations_s: ArrayLike, contention: ArrayLike) -> Seconds:
    """Seconds from the start of a backward pass until it and all its collectives are done.

    `compute_s`: seconds of the backward pass alone, shape (...). `ready_frac`: the part of it after which each bucket is
    full, ascending, (..., buckets). `durations_s`: of each bucket's collective alone, (..., buckets), 0 for none.
    Collectives run one after another in that order, each from when its bucket is full and the one before is done.
    """
    work = np.asarray(compute_s, dtype=np.float64)
    durations = np.asarray(durations_s, dtype=np.float64)
    ready = np.asarray(ready_frac, dtype=np.float64) * work[..., None]
    speed = 1.0 - np.asarray(contention, dtype=np.float64)
    now = np.zeros(np.broadcast_shapes(work.shape, durations.shape[:-1]))
    done = np.zeros_like(now)
    for bucket in range(durations.shape[-1]):
        lasts = durations[..., bucket]
        needed = np.where(lasts > 0, np.maximum(0.0, ready[..., bucket] - done), 0.0)
        now = now + needed + lasts
        done = np.minimum(work, done + needed + speed * lasts)
    return np.asarray(now + (work - done))


def gathered_forward_s(
    layer_s: ArrayLike, num_layers: ArrayLike, gather_s: ArrayLike, contention: ArrayLike
) -> Seconds:
    """Seconds of a ZeRO-3 forward pass: each of the equal layers needs its gathered parameters, the next one's come meanwhile.

    g + (L - 1) max(c + k g, g) + c: the first gather waits alone, each further one runs beside the layer before.
    """
    layers = np.asarray(num_layers, dtype=np.float64)
    gather, layer = np.asarray(gather_s, dtype=np.float64), np.asarray(layer_s, dtype=np.float64)
    return np.asarray(gather + (layers - 1) * np.maximum(layer + np.asarray(contention) * gather, gather) + layer)


def gathered_backward_s(
    layer_s: ArrayLike, num_layers: ArrayLike, gather_s: ArrayLike, reduce_s: ArrayLike, contention: ArrayLike
) -> Seconds:
    """Seconds of a ZeRO-3 backward pass: as forward, and each layer's gradients are reduced beside the layer below it.

    g + c1 + (L - 2) inner + last + r. Beside the first layer there is a gather alone, beside the last a reduction alone.
    """
    layers = np.asarray(num_layers, dtype=np.float64)
    gather, reduction = np.asarray(gather_s, dtype=np.float64), np.asarray(reduce_s, dtype=np.float64)
    layer, taken = np.asarray(layer_s, dtype=np.float64), np.asarray(contention, dtype=np.float64)

    def beside(communication: Seconds) -> Seconds:
        return np.maximum(layer + taken * communication, communication)

    inner = np.maximum(0.0, layers - 2) * beside(gather + reduction)
    ends = np.where(layers > 1, beside(gather) + beside(reduction), layer)
    return np.asarray(gather + inner + ends + reduction)
