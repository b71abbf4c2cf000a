"""What a step of each strategy communicates, and when: gradients in buckets, parameters gathered, by the engines' own rules.

The same totals as bench.theory.traffic, which knows every tensor, for models of which only the size is known: gradients fill
the buckets evenly, and the small messages by which ranks agree (flags, norms) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.plan.deepspeed_config import SHIPPED, bucket_elements, load_deepspeed_config
from bench.plan.strategies import STRATEGIES

# torch/nn/parallel/distributed.py: 25 MiB, the first bucket 1 MiB so that communication starts early.
_DDP_BUCKET_BYTES, _DDP_FIRST_BYTES = 25 * 2**20, 2**20
# DeepSpeed's engine.py, MEMORY_OPT_ALLREDUCE_SIZE, in elements.
_ZERO_0_ELEMENTS = 500_000_000


@dataclass(frozen=True)
class Exchange:
    """The communication of one optimizer step. Sizes are bytes of the full array of a call.

    `buckets`: gradients in the order in which they are ready, as (bytes, part of the backward pass after which they are).
    `times`: micro-batches whose backward pass reduces them: all, or the last alone. `operation` reduces them.
    `overlaps`: beside the backward pass, or after it. `gathered_after_bytes`: parameters gathered after the update.
    `gathered_in_pass_bytes`: parameters gathered in each forward and again in each backward pass (ZeRO-3), by layers.
    `gathers_overlap`: whether a layer's parameters come beside the layer before. `each_micro_batch`: whether all micro-batches
    reduce.
    """

    operation: str
    buckets: tuple[tuple[float, float], ...]
    times: int
    overlaps: bool
    gathered_after_bytes: float = 0.0
    gathered_in_pass_bytes: float = 0.0
    gathers_overlap: bool = False
    each_micro_batch: bool = False

    @property
    def total_bytes(self) -> float:
        """Bytes of all calls of a step together, times accumulation where it counts."""
        reduced = self.times * sum(size for size, _ in self.buckets)
        return reduced + self.gathered_after_bytes + 2 * self.gathered_in_pass_bytes


def exchange(
    strategy: str,
    *,
    num_params: int,
    gradient_bytes: int,
    parameter_bytes: int,
    grad_accum_steps: int,
    world_size: int,
    backend: str,
    profile: str = "tuned",
    last_frac: float = 0.0,
    num_layers: int = 1,
    tensors: Sequence[int] = (),
) -> Exchange:
    """What a step of `strategy` exchanges. `gradient_bytes` and `parameter_bytes` are those of one element on the wire.

    DDP: one all-reduce a bucket of 25 MiB beside the last backward pass. ZeRO-0: after it. ZeRO-1: beside it, then one
    all-gather. ZeRO-2: beside each. ZeRO-3: a reduce-scatter in each, and parameters gathered in each pass. Bucket sizes and
    overlap as ds_configs/ say (`tuned`), or an eighth of the model (`matched`). On gloo DeepSpeed's reductions do not
    overlap, while ZeRO-3's gathers do: they are prefetched, and waited for only where their layer begins. On one rank
    nothing is gathered. `last_frac` of the gradients are ready only when the pass ends. An array is padded to equal parts
    of the ranks where it is scattered or gathered. FSDP2 (fsdp, at its defaults): a reduce-scatter of each of `num_layers`
    equal blocks beside the last backward pass, then of the rest; blocks are gathered in both passes of each micro-batch,
    the rest in the forward pass alone. `tensors`: elements of each in the order in which their gradients are ready, where they
    are known: DDP closes a bucket when one fills it, and no tensor is divided.
    """
    whole = float(num_params * gradient_bytes)
    if strategy == "fsdp":
        part = math.ceil(num_params / world_size) * world_size
        block = part * gradient_bytes * (1 - last_frac) / num_layers
        rest = part * gradient_bytes * last_frac
        sizes = [(block, (place + 1) / num_layers) for place in range(num_layers)] + [(rest, 1.0)] * (rest > 0)
        in_pass = part * parameter_bytes * grad_accum_steps * (1 - last_frac / 2) if world_size > 1 else 0.0
        beside = backend != "gloo"
        return Exchange(
            "reduce_scatter", tuple(sizes), 1, beside, gathered_in_pass_bytes=in_pass, gathers_overlap=beside
        )
    stage = STRATEGIES[strategy].zero_stage
    if stage is None:
        limit, first = float(_DDP_BUCKET_BYTES), float(_DDP_FIRST_BYTES)
        if profile == "matched":
            limit = first = float(bucket_elements(num_params) * gradient_bytes)
        known = [float(elements * gradient_bytes) for elements in tensors]
        filled = _closed(known, limit, first, last_frac) if known else _filled(whole, limit, first, last_frac)
        return Exchange("all_reduce", filled, 1, overlaps=True)
    if stage == 0:
        limit = float(_ZERO_0_ELEMENTS * gradient_bytes)
        return Exchange("all_reduce", _filled(whole, limit, limit, last_frac), 1, overlaps=False)
    file = STRATEGIES[strategy].deepspeed_config
    assert file is not None
    zero = load_deepspeed_config(SHIPPED / file)["zero_optimization"]
    elements = bucket_elements(num_params) if profile == "matched" else int(zero.get("reduce_bucket_size", 5e8))
    limit = float(elements * gradient_bytes)
    overlaps = bool(zero.get("overlap_comm", stage == 3)) and backend != "gloo"
    padded = float(math.ceil(num_params / world_size) * world_size)
    gathered = padded * parameter_bytes if world_size > 1 else 0.0
    times = 1 if stage == 1 else grad_accum_steps
    if stage == 3:
        buckets = _filled(padded * gradient_bytes, limit, limit, last_frac)
        in_pass = gathered * grad_accum_steps
        return Exchange(
            "reduce_scatter",
            buckets,
            times,
            overlaps,
            gathered_in_pass_bytes=in_pass,
            gathers_overlap=overlaps or backend == "gloo",
            each_micro_batch=True,
        )
    return Exchange(
        "all_reduce",
        _filled(whole, limit, limit, last_frac),
        times,
        overlaps,
        gathered_after_bytes=gathered,
        each_micro_batch=stage == 2,
    )


def _filled(whole: float, limit: float, first: float, last_frac: float) -> tuple[tuple[float, float], ...]:
    """Buckets of `limit` bytes, the first of `first`, and what is left; each ready when so much of the gradients is.

    All but `last_frac` of them become ready evenly, those at the very end: an embedding that is also the head.
    """
    early = whole * (1 - last_frac)
    sizes = [min(first, whole)]
    left = whole - sizes[0]
    sizes += [limit] * int(left // limit)
    rest = left - limit * (left // limit)
    if rest > 0:
        sizes.append(rest)
    return _ready(sizes, early)


def _closed(tensors: Sequence[float], limit: float, first: float, last_frac: float) -> tuple[tuple[float, float], ...]:
    """Buckets of whole tensors, each closed as soon as it holds `limit` bytes, the first `first`; ready as in `_filled`."""
    sizes: list[float] = []
    held = 0.0
    for size in tensors:
        held += size
        if held >= (limit if sizes else first):
            sizes.append(held)
            held = 0.0
    return _ready([*sizes, held] if held else sizes, sum(tensors) * (1 - last_frac))


def _ready(sizes: Sequence[float], early: float) -> tuple[tuple[float, float], ...]:
    """Each bucket with the part of the backward pass after which it is full, where `early` bytes become ready evenly."""
    found, held = [], 0.0
    for size in sizes:
        held += size
        found.append((size, min(1.0, held / early) if early > 0 else 1.0))
    return tuple(found)
