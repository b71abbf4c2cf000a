"""What every model promises, asked of each of them."""

import math
from typing import Any

import pytest
import torch

from models.build import LanguageModel, build_model
from models.layers import IGNORED

GPT_SIZES = {"num_layers": 2, "num_heads": 4, "hidden_size": 64, "vocab_size": 512, "max_seq_len": 64}
PACED_SIZES = {"num_layers": 2, "hidden_size": 64, "vocab_size": 512, "forward_s": 1e-4, "backward_s": 1e-4}
HF_GPT2_SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 64, "vocab_size": 512, "n_positions": 64}
HF_LLAMA_SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 512,
}
SMALL: dict[str, dict[str, Any]] = {
    "gpt-nano": GPT_SIZES,
    "seq2seq-nano": GPT_SIZES,
    "paced-nano": PACED_SIZES,
    "hf:gpt2": HF_GPT2_SIZES,
    "hf:llama": HF_LLAMA_SIZES,
}
every_model = pytest.mark.parametrize("name", SMALL)


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **kwargs: Any) -> LanguageModel:
    return build_model(name, SMALL[name], seq_len=32, seed=seed, device="cpu", dtype=dtype, **kwargs)


def batch(seed: int = 0, *, vocab_size: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    sequences = torch.randint(vocab_size, (4, 33), generator=torch.Generator().manual_seed(seed))
    return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()


@every_model
def test_counts_its_unique_parameters(name: str) -> None:
    model = build(name)
    assert model.num_params() == sum(parameter.numel() for parameter in model.parameters())


@every_model
def test_starts_out_knowing_nothing(name: str) -> None:
    loss = build(name)(*batch())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(512), abs=0.15)


@every_model
def test_learns_a_batch_by_heart(name: str) -> None:
    model = build(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model(*batch()).item()
    for _ in range(30):
        optimizer.zero_grad()
        model(*batch()).backward()
        optimizer.step()
    assert model(*batch()).item() < first - 1


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("seq2seq")])
def test_a_later_token_does_not_change_what_came_before(name: str) -> None:
    model = build(name)
    tokens, _ = batch()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 512
    with torch.no_grad():
        before, after = model.logits(tokens), model.logits(changed)  # type: ignore[operator]
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-6)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-3)


@every_model
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    one = build(name, seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    two = build(name, seed=5)
    other = build(name, seed=6)
    for (label, first), second, third in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second), label
        assert first.std() == 0 or not torch.equal(first, third), label
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "building a model advanced the global generator"


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_start_from_the_rounded_weights_and_lose_in_float32(name: str, dtype: torch.dtype) -> None:
    full, half = build(name, seed=3), build(name, seed=3, dtype=dtype)
    for (label, exact), rounded in zip(full.named_parameters(), half.parameters(), strict=True):
        assert torch.equal(exact.to(dtype), rounded), label
    loss = half(*batch())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full(*batch()).item(), abs=0.02)


@pytest.mark.parametrize("name", ["gpt-nano", "seq2seq-nano", "hf:gpt2", "hf:llama"])
def test_checkpointing_changes_no_gradient_and_recomputes(name: str) -> None:
    plain, checkpointed = build(name), build(name, activation_checkpointing=True)
    calls = {plain: 0, checkpointed: 0}
    for model in calls:
        first_norm = next(module for module in model.modules() if type(module).__name__.endswith("Norm"))
        first_norm.register_forward_hook(lambda *_, model=model: calls.__setitem__(model, calls[model] + 1))
        model(*batch()).backward()
    assert (calls[plain], calls[checkpointed]) == (1, 2)
    for (label, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(expected.grad, found.grad, atol=1e-6, rtol=1e-6), label  # type: ignore[arg-type]


@every_model
def test_a_sequence_that_is_too_long_is_refused(name: str) -> None:
    too_long = {"hf:llama": 2049}.get(name, 257 if name == "paced-nano" else 65)
    with pytest.raises(ValueError, match=f"seq_len: found {too_long}, expected at most {too_long - 1}"):
        build_model(name, SMALL[name], seq_len=too_long, seed=0, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt-nanoo", {}, "gpt-nanoo.*gpt-nano"),
        ("gpt-nano", {"num_layer": 3}, "num_layer.*num_layers"),
        ("hf:gpt22", {}, "gpt22.*gpt2"),
        ("hf:t5", {}, "hf:t5"),
        ("hf:gpt2", {"n_layers": 3}, "n_layers.*n_layer"),
    ],
)
def test_wrong_names_are_refused_and_the_nearest_is_named(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, options, seq_len=8, seed=0, device="cpu", dtype=torch.float32)


@every_model
def test_padding_is_in_no_loss(name: str) -> None:
    """Rows of unequal length, filled up behind their end: the loss is the mean over what is no padding."""
    model, (tokens, targets) = build(name), batch()
    padded, lengths = targets.clone(), [32, 7, 1, 20]
    for row, length in enumerate(lengths):
        padded[row, length:] = IGNORED
    losses = [model(tokens[row : row + 1, :n], targets[row : row + 1, :n]) * n for row, n in enumerate(lengths)]
    assert model(tokens, padded).item() == pytest.approx(torch.stack(losses).sum().item() / sum(lengths), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt-nano", "seq2seq-nano", "hf:gpt2", "hf:llama"])
@pytest.mark.parametrize("length", [1, 13, 32])
def test_what_a_sequence_costs_is_its_flops(name: str, length: int) -> None:
    model = build(name)
    per_token, per_pair = model.sequence_cost(32)
    assert per_token > 0 and per_pair > 0
    assert per_token * length + per_pair * length**2 == pytest.approx(length * model.flops_per_token(length), rel=1e-9)
