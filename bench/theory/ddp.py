"""What torch DDP sends in an optimizer step: its buckets, and what each becomes by its communication hook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import bucket_elements
from bench.results.metered import Outline
from bench.theory.compression import HALF_BYTES
from bench.theory.zero3 import Call
from bench.theory.zero_settings import DTYPE_BYTES, UnknownTraffic

DDP_STRATEGIES = ("ddp", "ddp_fp16", "ddp_bf16", "ddp_powersgd")

# torch's own bucket, and the first, which is smaller so that communication starts early (distributed.py, c10d reducer).
_BUCKET_BYTES, _FIRST_BUCKET_BYTES = 25 * 2**20, 2**20


def ddp_calls(cell: Cell, outline: Outline, step: int | None = None) -> Counter[Call]:
    """Every all-reduce of a step of DDP, as the hook of the cell's strategy has them: none but at the last micro-batch.

    `step` counts from the first of warm-up: ddp_powersgd begins with plain all-reduces. None is a step that it compresses.
    Raises UnknownTraffic for a model with buffers, and for ddp_powersgd where shapes are not known.
    """
    if outline.num_buffers:
        raise UnknownTraffic(f"torch DDP broadcasts the model's {outline.num_buffers} buffers in each forward pass")
    elements = [parameter.num_elements for parameter in outline.parameters]
    item = DTYPE_BYTES[cell.precision]
    calls: Counter[Call] = Counter()
    for bucket in buckets(cell, elements, outline.ready):
        if cell.strategy == "ddp_powersgd" and (step is None or step >= int(cell.options["start_iter"])):
            calls.update(("all_reduce", size * item) for size in _low_rank(cell, outline, bucket))
        else:
            on_wire = HALF_BYTES if cell.strategy in ("ddp_fp16", "ddp_bf16") else item
            calls["all_reduce", sum(elements[parameter] for parameter in bucket) * on_wire] += 1
    return calls


def buckets(cell: Cell, elements: Sequence[int], ready: Sequence[int]) -> list[list[int]]:
    """The parameters of each bucket. After the first step the buckets are made anew: gradients in the order in which they became
    ready, a bucket closed as soon as it holds its limit. Source: torch/csrc/distributed/c10d/reducer.cpp,
    compute_bucket_assignment_by_size and rebuild_buckets."""
    itemsize = DTYPE_BYTES[cell.precision]
    limits = [_FIRST_BUCKET_BYTES, _BUCKET_BYTES]
    if cell.profile == "matched":
        limits = [bucket_elements(sum(elements)) * itemsize]
    found: list[list[int]] = []
    bucket: list[int] = []
    for parameter in ready:
        bucket.append(parameter)
        if sum(elements[held] for held in bucket) * itemsize >= limits[0]:
            found.append(bucket)
            bucket, limits = [], limits[1:] or limits
    return [*found, bucket] if bucket else found


def _low_rank(cell: Cell, outline: Outline, bucket: Sequence[int]) -> tuple[int, int, int]:
    """Elements of the three all-reduces of one bucket: what is sent as it is, all P, all Q; each is called, be it empty.

    A gradient is a matrix of its first dimension and the rest, n x m, so a vector is n x 1. Source:
    torch/distributed/algorithms/ddp_comm_hooks/powerSGD_hook.py, powerSGD_hook and _should_compress.
    """
    options = cell.options
    rank, rate = int(options["rank"]), float(options["min_compression_rate"])
    whole = left = right = 0
    for parameter in bucket:
        size, rows = outline.parameters[parameter].num_elements, outline.parameters[parameter].num_rows
        if rows is None:
            raise UnknownTraffic(
                "the record does not hold the parameters' shapes: it was written by an older scalebench"
            )
        columns = size // rows
        own_rank = min(rows, columns, rank)
        if (rows + columns) * own_rank * rate < size:
            left += rows * own_rank
            right += columns * own_rank
        else:
            whole += size
    return whole, left, right
