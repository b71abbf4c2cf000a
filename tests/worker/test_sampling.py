"""Greedy, temperature, top-k and top-p against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.worker.sampling import generate, probabilities
from models.build import build_model

LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))


def test_by_hand() -> None:
    def of(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> list[float]:
        return probabilities(LOGITS, temperature, top_k, top_p).tolist()

    assert of() == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=1e-6)
    assert of(temperature=0) == [0, 1, 0, 0]
    # p^2 over their sum at half the temperature.
    assert of(temperature=0.5) == pytest.approx([0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3], abs=1e-6)
    assert of(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    # 0.4 + 0.3 is less than 0.75, so the third is needed.
    assert of(top_p=0.75) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=1e-6)
    assert of(top_p=0.65) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-6)
    assert of(top_p=0.01) == [0, 1, 0, 0]
    # Of the two that top_k leaves, the first has 4/7.
    assert of(top_k=2, top_p=0.5) == [0, 1, 0, 0]


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=12),
    st.floats(0.1, 4),
    st.one_of(st.none(), st.integers(1, 14)),
    st.one_of(st.none(), st.floats(0.05, 1)),
)
def test_any_choice_is_a_distribution_over_the_most_likely(
    numbers: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    plain = [math.exp(number / temperature) for number in numbers]
    found = probabilities(torch.tensor(numbers, dtype=torch.float64), temperature, top_k, top_p).tolist()
    assert sum(found) == pytest.approx(1) and min(found) >= 0
    kept = [index for index, chance in enumerate(found) if chance > 0]
    assert 1 <= len(kept) <= (top_k or len(numbers))
    left = [number for index, number in enumerate(numbers) if index not in kept]
    assert not left or min(numbers[index] for index in kept) >= max(left)
    # What is kept has the ratios that it had.
    for index in kept:
        assert found[index] == pytest.approx(plain[index] / sum(plain[other] for other in kept))
    if top_k is None and top_p is not None:
        assert sum(plain[index] for index in kept) >= (top_p - 1e-9) * sum(plain)


@torch.no_grad()
def test_greedy_is_deterministic_and_draws_follow_the_seed() -> None:
    options = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32, "max_seq_len": 8}
    model = build_model("gpt-nano", options, seq_len=8, seed=3, device="cpu", dtype=torch.float32).eval()
    torch.set_num_threads(1)
    greedy = generate(model, [1, 2], 12, seed=1)
    # Longer than the model can see, too.
    assert len(greedy) == 12 and greedy == generate(model, [1, 2], 12, seed=2)
    expected = [1, 2]
    for _ in range(12):
        expected.append(int(model.logits(torch.tensor([expected[-8:]]))[0, -1].argmax()))
    assert greedy == expected[2:]
    drawn = [generate(model, [1, 2], 12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert generate(model, [1, 2], 12, end=greedy[3]) == greedy[: greedy.index(greedy[3]) + 1]
    assert set(generate(model, [1], 20, temperature=1.0, never=range(4, 32))) <= set(range(4))
    # Draws come as often as they should: 400 of one token.
    chances = probabilities(model.logits(torch.tensor([[5]]))[0, -1].detach(), 0.05, 3, None)
    generator = [generate(model, [5], 1, temperature=0.05, top_k=3, seed=seed)[0] for seed in range(400)]
    for token in chances.nonzero().flatten().tolist():
        chance = float(chances[token])
        assert abs(generator.count(token) / 400 - chance) < 5 * math.sqrt(chance * (1 - chance) / 400)
