"""What the timeline sends, held against the traffic theory, which knows every tensor and is equal to the ledger."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.theory.buckets import exchange
from bench.theory.ddp import buckets as ddp_buckets
from bench.theory.traffic import traffic
from bench.theory.zero_settings import DTYPE_BYTES
from tests.theory.outlines import outline_of
from tests.theory.test_traffic import NOTHING_KEPT

# Even layers, as the timeline takes them to be; divisible by every world size, so that nothing is padded.
SIZES = [72_000] * 16
AGREEMENT_BYTES = 8


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("strategy", ["ddp", "zero0", "zero1", "zero2", "zero3"])
def test_bytes_equal_those_of_the_traffic_theory(
    strategy: str, world_size: int, accumulation: int, precision: str
) -> None:
    cell = Cell(
        model="gpt-nano",
        strategy=strategy,
        world_size=world_size,
        grad_accum_steps=accumulation,
        precision=precision,  # type: ignore[arg-type]
    )
    config = None
    if strategy != "ddp":
        config = resolve_deepspeed_config(cell, sum(SIZES))
        if strategy == "zero3":
            config["zero_optimization"] |= NOTHING_KEPT
    sent: Counter[str] = Counter()
    for line in traffic(cell, outline_of(SIZES, tied=False), config):
        if line.payload_bytes > AGREEMENT_BYTES:
            sent[line.operation] += line.payload_bytes * line.count
    exchanged = exchange(
        strategy,
        num_params=sum(SIZES),
        gradient_bytes=DTYPE_BYTES[precision],
        parameter_bytes=DTYPE_BYTES[precision],
        grad_accum_steps=accumulation,
        world_size=world_size,
        backend="gloo",
        profile="matched",
    )
    got: Counter[str] = Counter()
    got[exchanged.operation] += round(exchanged.times * sum(size for size, _ in exchanged.buckets))
    got["all_gather"] += round(exchanged.gathered_after_bytes + 2 * exchanged.gathered_in_pass_bytes)
    assert +got == sent
    assert exchanged.total_bytes == sum(sent.values())


def test_buckets_of_torch_and_their_times() -> None:
    mib = 2**20
    exchanged = exchange(
        "ddp",
        num_params=60 * mib // 4,
        gradient_bytes=4,
        parameter_bytes=4,
        grad_accum_steps=1,
        world_size=2,
        backend="nccl",
    )
    assert [size / mib for size, _ in exchanged.buckets] == [1, 25, 25, 9]
    assert [part for _, part in exchanged.buckets] == pytest.approx([1 / 60, 26 / 60, 51 / 60, 1])
    assert exchanged.overlaps and exchanged.times == 1


def test_a_tied_embedding_comes_last() -> None:
    def ready(last_frac: float) -> list[float]:
        exchanged = exchange(
            "ddp",
            num_params=8 * 10**6,
            gradient_bytes=4,
            parameter_bytes=4,
            grad_accum_steps=1,
            world_size=2,
            backend="nccl",
            profile="matched",
            last_frac=last_frac,
        )
        return [part for _, part in exchanged.buckets]

    assert ready(0.0) == pytest.approx([place / 8 for place in range(1, 9)])
    assert ready(0.5) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    assert ready(1.0) == [1.0] * 8


def test_no_tensor_is_divided_where_they_are_known() -> None:
    """Four layers of two matrices h x 4h with their biases, then two embeddings: as DDP's reducer fills five buckets."""
    h = 256
    tensors = [h, 4 * h * h, 4 * h, 4 * h * h] * 4 + [256 * h, 512 * h]
    cell = Cell(model="paced-nano", strategy="ddp", world_size=2)
    expected = [sum(tensors[place] for place in bucket) for bucket in ddp_buckets(cell, tensors, range(len(tensors)))]
    exchanged = exchange(
        "ddp",
        num_params=sum(tensors),
        gradient_bytes=4,
        parameter_bytes=4,
        grad_accum_steps=1,
        world_size=2,
        backend="gloo",
        profile="matched",
        last_frac=sum(tensors[-2:]) / sum(tensors),
        tensors=tensors,
    )
    assert [size / 4 for size, _ in exchanged.buckets] == expected and len(expected) == 5
    assert [part for _, part in exchanged.buckets] == pytest.approx([0.25, 0.5, 0.75, 1, 1], abs=0.01)


@pytest.mark.parametrize(
    ("strategy", "backend", "overlaps"),
    [("ddp", "gloo", True), ("zero0", "nccl", False), ("zero2", "nccl", True), ("zero2", "gloo", False)],
)
def test_which_engine_overlaps(strategy: str, backend: str, overlaps: bool) -> None:
    exchanged = exchange(
        strategy,
        num_params=10**6,
        gradient_bytes=2,
        parameter_bytes=2,
        grad_accum_steps=2,
        world_size=4,
        backend=backend,
    )
    assert exchanged.overlaps is overlaps
