"""What each optimizer step communicates: every collective of it, by operation and size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.results.metered import Outline
from bench.theory.ddp import DDP_STRATEGIES, ddp_calls
from bench.theory.delayed_traffic import DELAYED, delayed_calls
from bench.theory.fsdp import fsdp_calls
from bench.theory.zero3 import Call, gathers, padded
from bench.theory.zero_settings import DTYPE_BYTES, UnknownTraffic, ZeroSettings, zero_settings

FLAG_BYTES, NORM_BYTES, NORM_BYTES_STAGE_3 = 1, 4, 8
"""Messages by which ranks agree: did the loss overflow (uint8), the gradients' norm (float32; float64 at stage 3, unless the
optimizer is in the host)."""

# DeepSpeed's engine.py, MEMORY_OPT_ALLREDUCE_SIZE, in elements.
_ZERO_0_BUCKET = 500_000_000


@dataclass(frozen=True, order=True)
class TrafficLine:
    """`count` calls of one collective in an optimizer step of one rank. `payload_bytes` is the full array of one call, as in
    the ledger (bench.results.record.LedgerLine)."""

    operation: str
    group_size: int
    payload_bytes: int
    count: int


def traffic(
    cell: Cell,
    outline: Outline,
    deepspeed_config: Mapping[str, Any] | None,
    step: int | None = None,
    num_nodes: int | None = None,
) -> list[TrafficLine]:
    """Every collective of one optimizer step, the same on each rank, from the third step on.

    Where ranks agree every H steps only, `step` says which one it is, counted from the first that was trained; `num_nodes` is
    how many the ranks are spread over, where the strategy goes by nodes and the cell does not say.

    `deepspeed_config` is the file as DeepSpeed got it, None for ddp. The first two steps are others: torch DDP settles its
    buckets and ZeRO-3 its trace in them. A step that the loss scaler skips ends before the parameters are gathered.
    On one rank the lines are what is called all the same: DDP, ZeRO-0 to 2 and their flags reduce over a group of one, and
    nothing is gathered. Raises UnknownTraffic, saying why, where no rule is known.
    """
    elements = [parameter.num_elements for parameter in outline.parameters]
    if cell.strategy == "fsdp":
        calls = fsdp_calls(cell, outline)
        return sorted(TrafficLine(name, cell.world_size, size, count) for (name, size), count in calls.items())
    if sorted(outline.ready) != list(range(len(elements))):
        raise UnknownTraffic("a parameter got no gradient in the first micro-batch, or more than one")
    if cell.strategy in DELAYED:
        if step is None:
            raise UnknownTraffic(f"steps of {cell.strategy} are unequal, and no step is named")
        found = delayed_calls(cell, elements, ddp_calls(cell, outline), step, _node_size(cell, num_nodes))
        return sorted(TrafficLine(*call, count) for call, count in found.items())
    if cell.strategy in DDP_STRATEGIES:
        calls = ddp_calls(cell, outline, step)
    elif deepspeed_config is None:
        raise UnknownTraffic("the record holds no DeepSpeed file")
    else:
        settings = zero_settings(cell, deepspeed_config)
        if STRATEGIES[cell.strategy].zero_stage != settings.stage:
            raise UnknownTraffic(f"no rule is known for strategy {cell.strategy}")
        calls = _zero(cell, outline, elements, settings)
    return sorted(TrafficLine(name, cell.world_size, size, count) for (name, size), count in calls.items())


def _node_size(cell: Cell, num_nodes: int | None) -> int:
    """Ranks of a node, for a strategy that goes by nodes."""
    size = int(cell.options.get("ranks_per_node", 1))
    if size:
        return size
    if num_nodes is None:
        raise UnknownTraffic("ranks_per_node is the launcher's, and the number of nodes is not known")
    return cell.world_size // num_nodes


def _zero(cell: Cell, outline: Outline, elements: Sequence[int], settings: ZeroSettings) -> Counter[Call]:
    ranks, times = cell.world_size, cell.grad_accum_steps
    calls: Counter[Call] = Counter()
    if settings.checks_overflow:
        calls["all_reduce", FLAG_BYTES] += 1
    if settings.stage == 0:
        for size in _closed_when_above(elements, _ZERO_0_BUCKET):
            calls["all_reduce", size * settings.gradient_bytes] += 1
        if settings.clips and cell.precision == "fp32":
            calls["all_reduce", NORM_BYTES] += 1
        return calls
    # ZeRO-1 reduces at the last micro-batch; without overlap not as gradients come, but when all are there.
    ordered = list(outline.ready)
    if settings.stage == 1:
        times = 1
        ordered = ordered if settings.overlap_comm else sorted(ordered)
    for bucket in _never_above(ordered, elements, settings.reduce_bucket_size):
        for call in _reduction(bucket, elements, settings, ranks):
            calls[call] += times
    if settings.stage < 3:
        if settings.computes_norm:
            calls["all_reduce", NORM_BYTES] += 1
        if ranks > 1:
            calls["all_gather", _partition_size(elements, ranks) * ranks * settings.parameter_bytes] += 1
        return calls
    norm_bytes = NORM_BYTES if settings.offloads_optimizer else NORM_BYTES_STAGE_3
    calls["all_reduce", norm_bytes] += _num_sub_groups(elements, settings.sub_group_size, ranks)
    return calls + gathers(outline, settings, ranks, cell.grad_accum_steps)


def _reduction(bucket: Sequence[int], elements: Sequence[int], settings: ZeroSettings, ranks: int) -> list[Call]:
    """How one bucket of gradients is reduced.

    At stage 3 each gradient is padded to equal parts. At stages 1 and 2 a bucket is all-reduced whole, although each
    rank needs its part alone; or reduced to each rank by itself (`use_multi_rank_bucket_allreduce` false). A gradient
    that is larger than a bucket goes in slices, cut where the flat parameters are cut between ranks.
    Source: deepspeed/runtime/zero/stage_1_and_2.py, average_tensor; stage3.py; comm/coalesced_collectives.py.
    """
    total, item = sum(elements[parameter] for parameter in bucket), settings.gradient_bytes
    if settings.stage == 3:
        if settings.contiguous_gradients and not settings.reduce_scatter and total <= settings.reduce_bucket_size:
            return [("all_reduce", total * item)]
        return [("reduce_scatter", sum(padded(elements[parameter], ranks) for parameter in bucket) * item)]
    if not settings.contiguous_gradients or not settings.reduce_scatter:
        return [("all_reduce", total * item)]
    slices = _slices(bucket, elements, _partition_size(elements, ranks))
    if settings.multi_rank_allreduce:
        sizes = [size for _, size in slices]
        return [("all_reduce", size * item) for size in _closed_when_above(sizes, settings.reduce_bucket_size)]
    of_rank: Counter[int] = Counter()
    for rank, size in slices:
        of_rank[rank] += size
    return [("reduce", size * item) for size in of_rank.values()]


def _slices(bucket: Sequence[int], elements: Sequence[int], partition_size: int) -> list[tuple[int, int]]:
    """The bucket's gradients as (owning rank, elements): a gradient is cut where the flat parameters are."""
    starts = [0]
    for size in elements:
        starts.append(starts[-1] + size)
    found = []
    for parameter in bucket:
        start, end = starts[parameter], starts[parameter + 1]
        while start < end:
            rank = start // partition_size
            stop = min(end, (rank + 1) * partition_size)
            found.append((rank, stop - start))
            start = stop
    return found


def _partition_size(elements: Sequence[int], ranks: int) -> int:
    """Elements of the flat parameters that one rank owns: padded, so that each part starts at a multiple of two."""
    return padded(sum(elements), 2 * ranks) // ranks


def _num_sub_groups(elements: Sequence[int], size: int, ranks: int) -> int:
    """Groups in which ZeRO-3 updates its part of the parameters; each has a norm of its own."""
    own = [padded(count, ranks) // ranks for count in elements]
    return 1 if size >= sum(own) else len(_closed_when_above(own, size - 1))


def _closed_when_above(sizes: Sequence[int], limit: int) -> list[int]:
    """Sums of consecutive sizes, each closed as soon as it is above the limit."""
    sums, held = [], 0
    for size in sizes:
        held += size
        if held > limit:
            sums.append(held)
            held = 0
    return [*sums, held] if held else sums


def _never_above(ordered: Sequence[int], elements: Sequence[int], limit: int) -> list[list[int]]:
    """Parameters in buckets, a bucket closed before the one that would not fit; a larger one is alone."""
    buckets: list[list[int]] = []
    held = limit
    for parameter in ordered:
        if held + elements[parameter] > limit:
            buckets.append([])
            held = 0
        buckets[-1].append(parameter)
        held += elements[parameter]
    return buckets


class Line(Protocol):
    """A line of the theory or of a ledger."""

    @property
    def operation(self) -> str: ...
    @property
    def group_size(self) -> int: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def count(self) -> int: ...


_SHARES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1, "reduce": 1, "barrier": 0}


# What is received was sent by another.
_MESSAGES = {"send": 1, "recv": 0}


def ring_volume_bytes(lines: Iterable[Line]) -> float:
    """Bytes that a rank sends in one step if every collective goes round a ring, the mean over ranks.

    Share x (n - 1) / n x payload, share 2 for all-reduce and 1 for all-gather, reduce-scatter, broadcast and reduce, in a
    group of n; a message counts where it is sent. For the first three that is each rank's and nccl-tests' bus-bandwidth factor
    (its doc/PERFORMANCE.md); a rooted operation passes the whole array along a chain, from n - 1 of n ranks. Raises
    UnknownTraffic for other operations.
    """
    volume = 0.0
    for line in lines:
        if line.operation in _MESSAGES:
            volume += _MESSAGES[line.operation] * line.payload_bytes * line.count
            continue
        if line.operation not in _SHARES:
            raise UnknownTraffic(f"no ring volume is known for {line.operation}")
        share = _SHARES[line.operation] * (line.group_size - 1) / line.group_size
        volume += share * line.payload_bytes * line.count
    return volume


def factor_of_parameters(volume_bytes: float, num_params: int, precision: str, world_size: int) -> float | None:
    """The volume as a multiple of P (n - 1) / n, P the parameters' bytes in `precision`; None on one rank, which sends none.

    2 for DDP and ZeRO-0, 3 for ZeRO-1, 2 G + 1 for ZeRO-2 (G + 1 with rooted reductions), about 3 G for ZeRO-3, G being
    the accumulation.
    """
    if world_size == 1:
        return None
    return volume_bytes / (num_params * DTYPE_BYTES[precision] * (world_size - 1) / world_size)
