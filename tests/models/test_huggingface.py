"""Models of transformers: no dropout, no shift of their own, counts that torch confirms."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.build import build_model
from models.huggingface import HuggingFaceLM

GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 64, "vocab_size": 320, "n_positions": 96}
LLAMA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 160,
    "vocab_size": 320,
}
BERT = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 160,
    "vocab_size": 320,
}


def _build(name: str, options: dict[str, Any]) -> HuggingFaceLM:
    model = build_model(name, options, seq_len=80, seed=0, device="cpu", dtype=torch.float32)
    assert isinstance(model, HuggingFaceLM)
    return model


@pytest.mark.parametrize(("name", "options"), [("hf:gpt2", GPT2), ("hf:llama", LLAMA)])
def test_flops_are_those_that_torch_counts(name: str, options: dict[str, Any]) -> None:
    model = _build(name, options)
    tokens = torch.randint(320, (2, 80))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    # llama's rotary angles are products of no weight: a few thousand FLOPs, forward only.
    assert counter.get_total_flops() == pytest.approx(model.flops_per_token(80) * tokens.numel(), rel=1e-3)


@pytest.mark.parametrize(("name", "options"), [("hf:gpt2", GPT2), ("hf:bert", BERT)])
def test_dropout_is_off_while_training(name: str, options: dict[str, Any]) -> None:
    """Both types drop 10 % by default."""
    model = _build(name, options)
    assert model.training
    tokens = torch.randint(320, (2, 80))
    assert torch.equal(model.logits(tokens), model.logits(tokens))


def test_the_loss_is_of_our_targets_without_a_shift() -> None:
    """transformers, given labels, shifts them by one itself; over the common positions both must agree."""
    model = _build("hf:gpt2", GPT2)
    sequences = torch.randint(320, (2, 41))
    theirs = model.model(input_ids=sequences, labels=sequences).loss
    assert model(sequences[:, :-1], sequences[:, 1:]).item() == pytest.approx(theirs.item(), abs=1e-5)


def test_an_encoder_becomes_causal() -> None:
    model = _build("hf:bert", BERT)
    tokens = torch.randint(320, (1, 80))
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 320
    with torch.no_grad():
        assert torch.allclose(model.logits(tokens)[:, :40], model.logits(changed)[:, :40], atol=1e-6)


def test_gpt2_by_default_is_the_published_small_one() -> None:
    assert (
        build_model("hf:gpt2", {}, seq_len=1024, seed=0, device="cpu", dtype=torch.bfloat16).num_params() == 124_439_808
    )
