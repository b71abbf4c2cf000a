"""The counts of a preset, held against the model itself, built without memory."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models
from bench.theory.transformer import preset_shape
from models.gpt import GPT
from models.paced import PacedLM
from models.seq2seq import Seq2Seq

GPTS = [name for name, (target, _) in models.PRESETS.items() if target.endswith(":GPT")]
SEQ2SEQS = [name for name, (target, _) in models.PRESETS.items() if target == models.SEQ2SEQ]


@pytest.mark.parametrize("name", GPTS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gpt_counts_as_it_is(name: str, checkpointing: bool) -> None:
    sizes: dict[str, Any] = models.PRESETS[name][1]
    model = GPT(**sizes, device="meta", activation_checkpointing=checkpointing)
    shape = preset_shape(name)
    assert shape.num_params == model.num_params()
    ends = (model.token_embedding.weight, model.position_embedding.weight)
    assert shape.embedding_params == sum(weight.numel() for weight in ends)
    assert shape.flops_per_token(128) == model.flops_per_token(128)
    for precision, item in (("fp32", 4), ("fp16", 2)):
        got = shape.activation_bytes(4, 128, precision, checkpointing)
        assert got == model.activation_bytes(4, 128, item)


@pytest.mark.parametrize("name", SEQ2SEQS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_encoder_decoder_counts_as_it_is(name: str, checkpointing: bool) -> None:
    sizes: dict[str, Any] = models.PRESETS[name][1]
    model = Seq2Seq(**sizes, device="meta", activation_checkpointing=checkpointing)
    shape = preset_shape(name)
    assert shape.num_params == model.num_params() == sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_layers == len(model.encoder) + len(model.decoder)
    ends = (model.token_embedding.weight, model.source_positions.weight)
    assert shape.embedding_params == sum(weight.numel() for weight in ends)
    assert shape.flops_per_token(48) == model.flops_per_token(48)
    for precision, item in (("fp32", 4), ("fp16", 2)):
        assert shape.activation_bytes(4, 48, precision, checkpointing) == model.activation_bytes(4, 48, item)


def test_torch_counts_what_an_encoder_decoder_computes_again() -> None:
    """tests/models/test_seq2seq.py holds the model's own count; here the theory's, recomputation and all."""
    options: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "vocab_size": 96, "max_seq_len": 24}
    tokens = torch.randint(96, (2, 20))
    for checkpointing in (False, True):
        model = Seq2Seq(**options, activation_checkpointing=checkpointing)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(tokens, tokens).backward()
        shape = preset_shape("seq2seq-nano", options)
        assert counter.get_total_flops() == shape.flops_per_token(20, checkpointing) * tokens.numel()


def test_recomputation_is_what_the_model_says_it_adds() -> None:
    shape = preset_shape("gpt2-small")
    layers, h = shape.num_layers, shape.hidden_size
    more = shape.flops_per_token(1024, True) - shape.flops_per_token(1024)
    assert more == 16 * layers * h * h + 4 * layers * h * 1024


def test_a_paced_model_sleeps_as_it_is_built_to() -> None:
    sizes: dict[str, Any] = models.PRESETS["paced-nano"][1]
    model = PacedLM(**sizes, device=cast(Any, "meta"), dtype=torch.float32)
    shape = preset_shape("paced-nano")
    assert shape.num_params == model.num_params()
    assert shape.paced_s_per_token is not None
    assert sum(shape.paced_s_per_token) * 512 == pytest.approx(model.paced_seconds(512))
    for precision, item in (("fp32", 4), ("fp16", 2)):
        assert shape.activation_bytes(4, 100, precision) == model.activation_bytes(4, 100, item)


def test_options_of_a_cell_take_the_place_of_a_presets_sizes() -> None:
    assert preset_shape("gpt-nano", {"num_layers": 3, "hidden_size": 128}).num_params == 3 * (
        12 * 128**2 + 13 * 128
    ) + ((4096 + 256) * 128 + 2 * 128)
    assert preset_shape("gpt-nano", {}) == preset_shape("gpt-nano")
