"""What a step communicates, against counts made by hand, published factors, and rules that hold for every model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import bucket_elements, resolve_deepspeed_config
from bench.results.metered import ModuleOutline, Outline, ParameterOutline
from bench.theory.traffic import TrafficLine, factor_of_parameters, ring_volume_bytes, traffic
from bench.theory.zero_settings import UnknownTraffic
from tests.theory.outlines import outline_of

NOTHING_KEPT = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_prefetch_bucket_size": 0,
}
SIZES = [4000, 1000, 16, 1000, 16, 1000, 16]


def cell_of(strategy: str, **fields: Any) -> Cell:
    return Cell(**{"model": "gpt-nano", "strategy": strategy, "world_size": 2, **fields})


def lines_of(cell: Cell, sizes: list[int], tied: bool = True, **zero: Any) -> list[TrafficLine]:
    """The traffic of a model of these parameters, `zero` changing what the resolved file says."""
    config = None
    if cell.strategy != "ddp":
        config = resolve_deepspeed_config(cell, sum(sizes))
        config["zero_optimization"] = {**config.get("zero_optimization", {}), **zero}
    return traffic(cell, outline_of(sizes, tied=tied), config)


def calls(lines: list[TrafficLine]) -> Counter[tuple[str, int]]:
    return Counter({(line.operation, line.payload_bytes): line.count for line in lines})


def payload(lines: list[TrafficLine], operation: str) -> int:
    return sum(line.payload_bytes * line.count for line in lines if line.operation == operation)


def test_a_ring_sends_what_nccl_tests_says() -> None:
    # NVIDIA nccl-tests, doc/PERFORMANCE.md: 2 (n - 1) / n for all-reduce, (n - 1) / n for all-gather and reduce-scatter.
    assert ring_volume_bytes([TrafficLine("all_reduce", 4, 100, 2)]) == 300
    assert ring_volume_bytes([TrafficLine("all_gather", 4, 100, 1), TrafficLine("reduce_scatter", 2, 100, 3)]) == 225
    assert ring_volume_bytes([TrafficLine("all_reduce", 1, 100, 1), TrafficLine("barrier", 4, 0, 1)]) == 0
    # A message is counted where it leaves.
    assert ring_volume_bytes([TrafficLine("send", 4, 100, 3), TrafficLine("recv", 4, 100, 5)]) == 300
    with pytest.raises(UnknownTraffic, match="gossip"):
        ring_volume_bytes([TrafficLine("gossip", 2, 100, 1)])


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    ("strategy", "zero", "expected"),
    [
        ("ddp", {}, lambda g: 2),
        ("zero0", {}, lambda g: 2),
        ("zero1", {}, lambda g: 3),
        ("zero2", {}, lambda g: 2 * g + 1),
        ("zero2", {"use_multi_rank_bucket_allreduce": False}, lambda g: g + 1),
        ("zero3", NOTHING_KEPT, lambda g: 3 * g),
    ],
)
def test_the_factors_of_the_strategies(
    strategy: str, zero: dict[str, Any], expected: Any, accumulation: int, world_size: int
) -> None:
    """The known volumes of Rajbhandari et al. 2020 (ZeRO), section 7, and what DeepSpeed makes of them."""
    cell = cell_of(strategy, grad_accum_steps=accumulation, world_size=world_size)
    sizes = [80_000, 160_000, 160_000, 800]
    volume = ring_volume_bytes(lines_of(cell, sizes, tied=False, **zero))
    assert factor_of_parameters(volume, sum(sizes), "fp32", world_size) == pytest.approx(
        expected(accumulation), rel=1e-4
    )


def test_ddp_closes_a_bucket_when_it_is_full() -> None:
    # An eighth of 7048 elements is 881: every 1000 closes one, alone or with the 16 that became ready before.
    assert calls(lines_of(cell_of("ddp"), SIZES)) == {("all_reduce", 4 * 1016): 3, ("all_reduce", 4 * 4000): 1}


def test_ddp_of_its_own_has_a_small_first_bucket() -> None:
    mib = 2**18
    lines = lines_of(cell_of("ddp", profile="tuned"), [40 * mib, 20 * mib, 10 * mib, mib // 2, mib // 2])
    # Ready are 0.5 + 0.5 MiB (the first bucket's limit), then 10 + 20 (above 25), then 40.
    assert calls(lines) == {("all_reduce", 2**20): 1, ("all_reduce", 30 * 2**20): 1, ("all_reduce", 40 * 2**20): 1}


def test_zero_closes_a_bucket_before_it_is_too_full() -> None:
    lines = lines_of(cell_of("zero2", grad_accum_steps=3), SIZES, reduce_bucket_size=1020)
    assert calls(lines) == {
        ("all_reduce", 4 * 1016): 9,
        # Larger than a bucket, so cut where the ranks' parts of 3524 elements meet.
        ("all_reduce", 4 * 3524): 3,
        ("all_reduce", 4 * 476): 3,
        ("all_reduce", 4): 1,
        ("all_gather", 4 * 7048): 1,
    }


def test_zero_1_without_overlap_reduces_in_the_order_of_the_model() -> None:
    # As they become ready: 300 + 700 | 1000 | 4000. In the model's order: 4000 | 1000 + 700 | 300.
    sizes = [4000, 1000, 700, 300]
    ready = lines_of(cell_of("zero1"), sizes, reduce_bucket_size=1000, overlap_comm=True, reduce_scatter=False)
    model = lines_of(cell_of("zero1"), sizes, reduce_bucket_size=1700, overlap_comm=False, reduce_scatter=False)
    assert calls(ready)["all_reduce", 4 * 1000] == 2
    assert calls(model)["all_reduce", 4 * 1700] == 1


def test_rooted_reductions_go_to_the_owner_of_each_part() -> None:
    zero = {"use_multi_rank_bucket_allreduce": False, "reduce_bucket_size": 10_000}
    lines = lines_of(cell_of("zero2", world_size=3), [5, 5, 3], **zero)
    # 13 elements are padded to 18: parts of 6. The bucket holds all, so each owner gets what it has: 6, 6 and 1.
    assert calls(lines) == {("reduce", 24): 2, ("reduce", 4): 1, ("all_reduce", 4): 1, ("all_gather", 72): 1}


def test_zero_3_pads_each_parameter() -> None:
    lines = lines_of(cell_of("zero3", world_size=4), [5, 3], tied=False, reduce_bucket_size=100, **NOTHING_KEPT)
    assert calls(lines) == {
        # Forward and backward; the parameter of 5 is padded to 8, that of 3 to 4.
        ("all_gather", 4 * 8): 2,
        ("all_gather", 4 * 4): 2,
        ("reduce_scatter", 4 * 12): 1,
        ("all_reduce", 8): 1,
    }


def test_zero_3_gathers_a_tied_parameter_at_each_of_its_uses() -> None:
    lines = lines_of(cell_of("zero3"), [1000, 10, 10], tied=True, **NOTHING_KEPT)
    assert calls(lines)["all_gather", 4 * 1000] == 4


def test_zero_3_keeps_a_parameter_while_another_module_is_at_work_with_it() -> None:
    inner, outer = 1, 0
    outline = Outline(
        parameters=[ParameterOutline(name="shared", num_elements=1000)],
        modules=[ModuleOutline(name="", parameters=[0]), ModuleOutline(name="inner", parameters=[0])],
        visits=[
            *(("enter_forward", outer), ("enter_forward", inner), ("leave_forward", inner), ("enter_forward", inner)),
            *(("leave_forward", inner), ("leave_forward", outer), ("enter_backward", outer), ("enter_backward", inner)),
            *(("leave_backward", inner), ("leave_backward", outer)),
        ],
        ready=[0],
    )
    cell = cell_of("zero3")
    config = resolve_deepspeed_config(cell, 1000)
    config["zero_optimization"] |= NOTHING_KEPT
    assert calls(traffic(cell, outline, config))["all_gather", 4 * 1000] == 2


def test_zero_3_gathers_what_persists_once_a_step() -> None:
    for accumulation in (1, 4):
        lines = lines_of(
            cell_of("zero3", grad_accum_steps=accumulation), SIZES, stage3_param_persistence_threshold=5000
        )
        assert payload(lines, "all_gather") == 4 * sum(SIZES)
        assert sum(line.count for line in lines if line.operation == "all_gather") == len(SIZES)


def test_zero_3_prefetches_together_what_one_bucket_holds() -> None:
    keep = {**NOTHING_KEPT, "stage3_max_live_parameters": 10**6, "stage3_prefetch_bucket_size": 10**6}
    lines = lines_of(cell_of("zero3"), SIZES, tied=False, **keep)
    # The root, which owns nothing, prefetches everything, which the forward pass then frees for the backward pass.
    assert calls(lines)["all_gather", 4 * sum(SIZES)] == 1


def test_zero_3_keeps_what_comes_again_soon() -> None:
    kept = lines_of(cell_of("zero3"), SIZES, **{**NOTHING_KEPT, "stage3_max_reuse_distance": 10**6})
    assert payload(kept, "all_gather") == 4 * sum(SIZES)


def test_each_sub_group_of_zero_3_has_a_norm() -> None:
    # Parts of 500 elements, groups closed at 1000 or more.
    assert calls(lines_of(cell_of("zero3"), [1000] * 5, sub_group_size=1000))["all_reduce", 8] == 3


@pytest.mark.parametrize(("precision", "flags"), [("fp32", 0), ("bf16", 1), ("fp16", 1)])
def test_flags_and_norms(precision: str, flags: int) -> None:
    found = calls(lines_of(cell_of("zero1", precision=precision), SIZES))
    assert (found["all_reduce", 1], found["all_reduce", 4]) == (flags, 1)
    found = calls(lines_of(cell_of("zero3", precision=precision), SIZES))
    assert (found["all_reduce", 1], found["all_reduce", 8]) == (flags if precision == "fp16" else 0, 1)
    assert calls(lines_of(cell_of("zero0", precision=precision), SIZES))["all_reduce", 1] == 0


def test_clipping_costs_zero_0_a_norm() -> None:
    cell = cell_of("zero0", profile="tuned")
    config = resolve_deepspeed_config(cell, sum(SIZES))
    assert calls(traffic(cell, outline_of(SIZES), config))["all_reduce", 4] == 0
    del config["gradient_clipping"]  # then DeepSpeed clips at 1
    assert calls(traffic(cell, outline_of(SIZES), config))["all_reduce", 4] == 1


@pytest.mark.parametrize("strategy", ["ddp", "zero0", "zero1", "zero2", "zero3"])
def test_one_rank_reduces_over_a_group_of_one_and_gathers_nothing(strategy: str) -> None:
    lines = lines_of(cell_of(strategy, world_size=1), SIZES)
    assert lines and all(line.group_size == 1 for line in lines)
    assert payload(lines, "all_gather") == 0
    assert factor_of_parameters(ring_volume_bytes(lines), sum(SIZES), "fp32", 1) is None


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    world_size=st.integers(2, 9),
    accumulation=st.integers(1, 4),
    bucket=st.integers(1, 8000),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    rooted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_gradient_travels_once_whatever_the_buckets(
    sizes: list[int], world_size: int, accumulation: int, bucket: int, precision: str, rooted: bool
) -> None:
    item = {"fp32": 4, "bf16": 2, "fp16": 2}[precision]
    fields: dict[str, Any] = {"world_size": world_size, "grad_accum_steps": accumulation, "precision": precision}
    total = sum(sizes) * item
    ddp = lines_of(cell_of("ddp", **fields), sizes)
    assert payload(ddp, "all_reduce") == total
    limit = bucket_elements(sum(sizes)) * item
    assert sum(line.count for line in ddp if line.payload_bytes < limit) <= 1, "all but the last bucket are full"
    zero = {"reduce_bucket_size": bucket, "use_multi_rank_bucket_allreduce": not rooted}
    for strategy, times in (("zero1", 1), ("zero2", accumulation)):
        lines = lines_of(cell_of(strategy, **fields), sizes, **zero)
        tiny = 4 + (precision != "fp32")
        assert payload(lines, "reduce" if rooted else "all_reduce") == total * times + (0 if rooted else tiny)
        gathered = payload(lines, "all_gather")
        assert gathered % (2 * world_size * item) == 0 and total <= gathered < total + 2 * world_size * item
    lines = lines_of(cell_of("zero3", **fields), sizes, reduce_bucket_size=bucket)
    scattered = sum(-(-size // world_size) * world_size for size in sizes) * item
    assert payload(lines, "reduce_scatter") == scattered * accumulation


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=2, max_size=8),
    accumulation=st.integers(1, 3),
    threshold=st.integers(0, 3000),
    prefetch=st.integers(0, 6000),
    live=st.integers(0, 9000),
    reuse=st.integers(0, 9000),
)
@settings(max_examples=80, deadline=None)
def test_zero_3_gathers_between_once_and_at_every_use(
    sizes: list[int], accumulation: int, threshold: int, prefetch: int, live: int, reuse: int
) -> None:
    lines = lines_of(
        cell_of("zero3", grad_accum_steps=accumulation),
        sizes,
        stage3_param_persistence_threshold=threshold,
        stage3_prefetch_bucket_size=prefetch,
        stage3_max_live_parameters=live,
        stage3_max_reuse_distance=reuse,
    )
    at_every_use = calls(lines_of(cell_of("zero3", grad_accum_steps=accumulation), sizes, **NOTHING_KEPT))
    most = sum(size * count for (name, size), count in at_every_use.items() if name == "all_gather")
    least = sum(-(-size // 2) * 2 * 4 for size in sizes)
    assert least <= payload(lines, "all_gather") <= most
