"""The encoder-decoder against torch's nn.Transformer and torch's counters, and whether it learns to reverse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.reference import train
from models.build import build_model
from models.layers import IGNORED
from models.seq2seq import Layer, Seq2Seq
from tests import forked
from tests.models.test_gpt import _PeakBytes
from tests.worker.curves import cell, curves
from tests.worker.test_training import SYNCHRONOUS

CPU = torch.device("cpu")


def copy_layer(mine: Layer, theirs: nn.Module) -> None:
    """Our weights into torch's layer, which keeps query, key and value in one matrix."""
    pairs = [(mine.attention, theirs.self_attn)]
    norms = [(mine.attention_norm, theirs.norm1)]
    if mine.decodes:
        pairs.append((mine.cross_attention, theirs.multihead_attn))  # type: ignore[arg-type]
        norms += [(mine.cross_norm, theirs.norm2), (mine.mlp_norm, theirs.norm3)]  # type: ignore[list-item]
    else:
        norms.append((mine.mlp_norm, theirs.norm2))
    for attention, other in pairs:
        other.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.key_value.weight]))
        other.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.key_value.bias]))
        other.out_proj.load_state_dict(attention.out.state_dict())
    for norm, other in [*norms, (mine.mlp_in, theirs.linear1), (mine.mlp_out, theirs.linear2)]:
        other.load_state_dict(norm.state_dict())  # type: ignore[union-attr]


def test_it_computes_what_torchs_transformer_computes() -> None:
    torch.manual_seed(0)
    ours = Seq2Seq(2, 4, 32, 50, 16)
    theirs = nn.Transformer(32, 4, 2, 2, 128, dropout=0.0, batch_first=True, norm_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for mine, other in zip(
            [*ours.encoder, *ours.decoder], [*theirs.encoder.layers, *theirs.decoder.layers], strict=True
        ):
            copy_layer(mine, other)  # type: ignore[arg-type]
        theirs.encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        theirs.decoder.norm.load_state_dict(ours.decoder_norm.state_dict())
    tokens, targets = torch.randint(50, (3, 12)), torch.randint(50, (3, 12))
    targets[1, 7:] = IGNORED
    padding = targets == IGNORED
    source = ours.token_embedding(tokens) + ours.source_positions.weight[:12]
    shown = ours.token_embedding(targets.clamp_min(0))[:, :-1]
    start = ours.start.weight.expand(3, 1, 32)
    target = torch.cat([start, shown], 1) + ours.target_positions.weight[:12]
    made = theirs(
        source,
        target,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(12),
        tgt_is_causal=True,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    expected = made @ ours.token_embedding.weight.T
    real = ~padding
    assert torch.allclose(ours.logits(tokens, targets)[real], expected[real], atol=1e-4)


def test_a_target_depends_on_the_whole_source_and_on_the_targets_before_it() -> None:
    model = Seq2Seq(2, 4, 64, 50, 16, initialization="xavier")
    tokens, targets = torch.randint(50, (2, 12)), torch.randint(50, (2, 12))
    with torch.no_grad():
        before = model.logits(tokens, targets)
        later = targets.clone()
        later[:, 6:] = (later[:, 6:] + 1) % 50
        after = model.logits(tokens, later)
        assert torch.allclose(before[:, :7], after[:, :7], atol=1e-6)
        assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)
        last = tokens.clone()
        last[:, 11] = (last[:, 11] + 1) % 50
        assert not torch.allclose(before[:, 0], model.logits(last, targets)[:, 0], atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_its_flops_and_bytes_are_those_that_torch_counts(checkpointing: bool) -> None:
    model = Seq2Seq(3, 4, 64, 320, 96, activation_checkpointing=checkpointing)
    tokens = torch.randint(320, (8, 80))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    # A layer that is computed again ends before its last product, as in models.gpt.
    again = tokens.numel() * (40 * 3 * 64**2 + 12 * 3 * 64 * 80) if checkpointing else 0
    assert counter.get_total_flops() == model.flops_per_token(80) * tokens.numel() + again
    model.zero_grad(set_to_none=True)
    with _PeakBytes() as memory:
        model(tokens, tokens).backward()
    # With checkpointing a last layer is computed again when the logits are gone: at most what is estimated.
    estimated = model.activation_bytes(8, 80, 4)
    assert (0.8 if checkpointing else 0.9) * estimated <= memory.peak <= (1.0 if checkpointing else 1.1) * estimated


def test_the_base_preset_is_the_papers_in_size() -> None:
    """65 million with sinusoidal positions, which are no parameters, and one vocabulary (Vaswani et al. 2017, table 3)."""
    model = build_model("seq2seq-base", {}, seq_len=512, seed=0, device="meta", dtype=torch.float32)
    assert model.num_params() == pytest.approx(65e6, rel=0.05)


def pairs(corpus: str = "reverse", **fields: object) -> Cell:
    sizes = {"hidden_size": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 16}
    return cell(model="seq2seq-nano", model_options=sizes, corpus=corpus, seq_len=8, **fields)


def test_pairs_are_what_their_corpus_says() -> None:
    for corpus, step in (("reverse", -1), ("copy", 1)):
        batches, told = batches_of_cell(pairs(corpus, batching="padded", length_spread=0.5), build_model_of(pairs()))
        assert told.entropy_floor_nats == 0.0
        [(tokens, targets, _)] = batches.of_rank(3, 0).micro_batches
        for row, answer in zip(tokens.tolist(), targets.tolist(), strict=True):
            length = sum(token != IGNORED for token in answer)
            assert answer[:length] == row[:length][::step] and 1 <= length <= 8
    with pytest.raises(SuiteError, match="corpus: found reverse for gpt-nano"):
        cell(corpus="reverse")
    with pytest.raises(SuiteError, match="corpus: found markov for seq2seq-nano, expected reverse or copy"):
        cell(model="seq2seq-nano", model_options={})


def build_model_of(one: Cell) -> Seq2Seq:
    model = build_model(one.model, one.model_options, seq_len=one.seq_len, seed=0, device="cpu", dtype=torch.float32)
    assert isinstance(model, Seq2Seq)
    return model


def test_it_learns_to_reverse() -> None:
    """From ln 8 = 2.08 to below 0.1 in some two seconds of CPU: the floor is 0."""
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 8, "initialization": "xavier"}
    rate = {"learning_rate": 1e-2, "schedule": "cosine", "schedule_steps": 150, "schedule_warmup_steps": 20}
    one = cell(model="seq2seq-nano", model_options=sizes, corpus="reverse", seq_len=6, micro_batch_size=32, **rate)
    losses = train(one, CPU, 150, budget_s=600).losses
    assert losses[0] > 1.9 and sum(losses[-10:]) / 10 < 0.1


@pytest.mark.slow
def test_every_strategy_trains_it(tmp_path: Path) -> None:
    ways = [(name, precision) for precision in ("fp32", "bf16") for name in SYNCHRONOUS]
    split = {"world_size": 2, "micro_batch_size": 2, "batching": "padded", "length_spread": 0.5}
    cells = [pairs(strategy=name, precision=precision, **split) for name, precision in ways]
    by_rank = forked.run(2, curves, cells, 6, folder=tmp_path)
    tokens = {
        step: [batches_of_cell(cells[0], build_model_of(cells[0]))[0].of_rank(step, r).num_tokens for r in (0, 1)]
        for step in range(6)
    }
    for index, one in enumerate(cells):
        plain = train(one, CPU, 6).losses
        by_step = zip(*(ranks[index].losses for ranks in by_rank), strict=True)
        found = [
            sum(a * b for a, b in zip(losses, tokens[step], strict=True)) / sum(tokens[step])
            for step, losses in enumerate(by_step)
        ]
        assert found == pytest.approx(plain, rel=1e-4 if one.precision == "fp32" else 1e-2), one.id
