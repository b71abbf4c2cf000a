"""Memory against the ZeRO paper's table, to its digits, and against what published runs say fits."""

from __future__ import annotations

import math

import pytest

from bench.theory.buckets import exchange
from bench.theory.memory import FRAGMENTATION_FRAC, memory, model_states

# Rajbhandari et al. 2020 (arXiv:1910.02054), table 1: GB of a rank by model, data-parallel degree, and stage 1, 2, 3.
TABLE_1 = {
    7.5e9: {
        1: ("120", "120", "120"),
        4: ("52.5", "41.3", "30"),
        16: ("35.6", "21.6", "7.5"),
        64: ("31.4", "16.6", "1.88"),
        256: ("30.4", "15.4", "0.47"),
        1024: ("30.1", "15.1", "0.12"),
    },
    128e9: {
        1: ("2048", "2048", "2048"),
        4: ("896", "704", "512"),
        16: ("608", "368", "128"),
        64: ("536", "284", "32"),
        256: ("518", "263", "8"),
        1024: ("513", "257", "2"),
    },
    1e12: {
        1: ("16000", "16000", "16000"),
        4: ("7000", "5500", "4000"),
        16: ("4750", "2875", "1000"),
        64: ("4187", "2218", "250"),
        256: ("4046", "2054", "62.5"),
        1024: ("4011", "2013", "15.6"),
    },
}
CASES = [
    (params, ranks, stage, printed[stage - 1])
    for params, by_ranks in TABLE_1.items()
    for ranks, printed in by_ranks.items()
    for stage in (1, 2, 3)
]


@pytest.mark.parametrize(("params", "ranks", "stage", "printed"), CASES)
def test_the_zero_papers_table_to_its_digits(params: float, ranks: int, stage: int, printed: str) -> None:
    gigabytes = model_states(params, "fp16", stage, ranks).states / 1e9
    scale = 10.0 ** len(printed.partition(".")[2])
    # The paper rounds some of its figures and cuts others: 41.25 is printed 41.3, 4187.5 is printed 4187.
    near = {math.floor(gigabytes * scale), math.floor(gigabytes * scale + 0.5)}
    assert round(float(printed) * scale) in near


def test_another_optimizer_keeps_less() -> None:
    for state_bytes in (0, 4):
        found = [model_states(10, precision, 0, 4, state_bytes=state_bytes).optimizer for precision in ("fp32", "bf16")]
        assert found == [10 * state_bytes, 10 * (state_bytes + 4)]


def test_adam_in_both_precisions_and_offload() -> None:
    mixed, single = model_states(10, "fp16", 0, 4), model_states(10, "fp32", 0, 4)
    assert (mixed.parameters, mixed.gradients, mixed.optimizer) == (20, 20, 120)
    assert (single.parameters, single.gradients, single.optimizer) == (40, 40, 80)
    # ZeRO-Offload keeps the half-precision parameters alone on the device; at stage 3 with everything away, nothing.
    assert model_states(10, "fp16", 2, 4, "optimizer").states == 20
    assert model_states(10, "fp16", 3, 4, "optimizer").states == 5
    assert model_states(10, "fp16", 3, 4, "all").states == 0


def of(strategy: str, ranks: int, activations: float | None, params: int = 10**9) -> float:
    exchanged = exchange(
        strategy,
        num_params=params,
        gradient_bytes=2,
        parameter_bytes=2,
        grad_accum_steps=1,
        world_size=ranks,
        backend="nccl",
    )
    return memory(
        strategy,
        num_params=params,
        precision="fp16",
        world_size=ranks,
        exchange=exchanged,
        activation_bytes=activations,
        reserved_bytes=1e9,
        num_layers=24,
    ).total_bytes


def test_the_parts_add_up() -> None:
    assert of("ddp", 8, 4e9) == pytest.approx(16e9 + 4e9 * (1 + FRAGMENTATION_FRAC) + 1e9)
    # Two buckets of 50 million halves.
    assert of("zero1", 8, None) == pytest.approx(4e9 + 12e9 / 8 + 2e8 * (1 + FRAGMENTATION_FRAC) + 1e9)
    assert of("ddp", 8, None) < of("ddp", 8, 1e9)


def test_more_ranks_and_higher_stages_never_need_more() -> None:
    for ranks in (2, 4, 8, 64):
        totals = [of(strategy, ranks, 1e9) for strategy in ("zero1", "zero2", "zero3")]
        assert totals == sorted(totals, reverse=True)
        assert of("zero3", 2 * ranks, 1e9) < of("zero3", ranks, 1e9)


def test_the_largest_models_that_the_paper_says_fit() -> None:
    """Table 2 on 64 GPUs of 32 GB, theoretical: 2B, 7.6B, 14.4B and 128B parameters; model states alone."""
    for params, stage in ((2e9, 0), (7.6e9, 1), (14.4e9, 2), (128e9, 3)):
        assert model_states(params, "fp16", stage, 64).states == pytest.approx(32e9, rel=0.01)
