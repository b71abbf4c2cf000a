"""The corpus has the entropy that it claims, and the same sequences whatever the split."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.worker.data.batches import GlobalBatches
from bench.worker.data.markov import MARKOV_ENTROPY_NATS


def _global_batch(batches: GlobalBatches, step: int) -> torch.Tensor:
    """All sequences of a step in the order of the global batch, (global_batch_size, seq_len + 1)."""
    parts = [
        torch.cat([tokens, targets[:, -1:]], dim=1)
        for rank in range(batches.world_size)
        for tokens, targets in batches.micro_batches(step, rank)
    ]
    return torch.cat(parts)


@settings(max_examples=60, deadline=None)
@given(
    factors=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    order=st.permutations([0, 1, 2]),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_split_trains_on_the_same_sequences(
    factors: tuple[int, int, int], order: list[int], step: int, seed: int
) -> None:
    micro, accumulation, world = (factors[i] for i in order)
    total = micro * accumulation * world
    split = GlobalBatches(11, 7, micro, accumulation, world, seed)
    whole = GlobalBatches(11, 7, total, 1, 1, seed)
    assert split.global_batch_size == total
    assert torch.equal(_global_batch(split, step), _global_batch(whole, step))


def test_shapes_and_shift() -> None:
    batches = GlobalBatches(vocab_size=50, seq_len=9, micro_batch_size=3, grad_accum_steps=2, world_size=2, seed=1)
    micro_batches = batches.micro_batches(step=4, rank=1)
    assert len(micro_batches) == 2
    for tokens, targets in micro_batches:
        assert tokens.shape == targets.shape == (3, 9)
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.is_contiguous() and targets.is_contiguous()
        assert torch.equal(tokens[:, 1:], targets[:, :-1])
        assert int(tokens.min()) >= 0 and int(tokens.max()) < 50


def test_sequences_differ_between_steps_ranks_indices_and_seeds() -> None:
    rows = [
        row
        for seed in (0, 1)
        for step in (0, 1)
        for row in _global_batch(GlobalBatches(1000, 32, 2, 2, 2, seed), step).tolist()
    ]
    assert len({tuple(row) for row in rows}) == 2 * 2 * 8


def test_entropy_is_the_closed_form() -> None:
    """1.75 bits, and what is seen in 640,000 transitions: the conditional entropy by counting pairs.

    A counted entropy is low by (free parameters) / (2 n) (Miller and Madow 1955): 32 x 3 / 1.28e6, below the tolerance.
    """
    assert pytest.approx(1.75 * math.log(2)) == MARKOV_ENTROPY_NATS
    batches = GlobalBatches(32, 1000, 640, 1, 1, seed=3)
    ((tokens, targets),) = batches.micro_batches(0, 0)
    pairs = Counter(zip(tokens.flatten().tolist(), targets.flatten().tolist(), strict=True))
    firsts: Counter[int] = Counter()
    for (first, _), count in pairs.items():
        firsts[first] += count
    total = tokens.numel()
    entropy = -sum(count / total * math.log(count / firsts[first]) for (first, _), count in pairs.items())
    assert entropy == pytest.approx(MARKOV_ENTROPY_NATS, abs=0.004)
    assert len(pairs) == 32 * 4
    # Every token is as likely as any other, so a model that sees nothing cannot do better than ln V.
    assert -sum(n / total * math.log(n / total) for n in firsts.values()) == pytest.approx(math.log(32), abs=0.002)


def test_the_best_bigram_model_reaches_the_entropy_on_data_it_has_not_seen() -> None:
    """Cross entropy of the true transition table, built from the ring alone, on fresh sequences."""
    batches = GlobalBatches(4096, 128, 256, 1, 1, seed=0)
    place = torch.empty(4096, dtype=torch.int64)
    place[torch.from_numpy(batches.source.ring)] = torch.arange(4096)
    ((tokens, targets),) = batches.micro_batches(7, 0)
    distance = (place[targets] - place[tokens]) % 4096
    loss = -torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[distance - 1].mean().item()
    assert loss == pytest.approx(1.2130, abs=0.015)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 3),
        ("seq_len", 0),
        ("micro_batch_size", 0),
        ("grad_accum_steps", 0),
        ("world_size", 0),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(field: str, value: int) -> None:
    sizes = {"vocab_size": 8, "seq_len": 4, "micro_batch_size": 1, "grad_accum_steps": 1, "world_size": 1, "seed": 0}
    with pytest.raises(ValueError, match=field):
        GlobalBatches(**{**sizes, field: value})


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        GlobalBatches(8, 4, 1, 1, 2, 0).micro_batches(0, 2)
