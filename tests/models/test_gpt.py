"""GPT against published sizes, against transformers' GPT-2, and against torch's own counters."""

import tracemalloc
import weakref
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from models.build import build_model
from models.gpt import GPT


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_sizes_are_those_of_the_published_checkpoints(name: str, published: int) -> None:
    model = build_model(name, {}, seq_len=1024, seed=0, device="meta", dtype=torch.float16)
    assert model.num_params() == published
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def _from_transformers(theirs: GPT2LMHeadModel, ours: GPT) -> None:
    """Copy GPT-2's weights into our GPT. transformers stores a linear layer's weight transposed."""
    source = theirs.transformer
    pairs = [
        (source.wte, ours.token_embedding, False),
        (source.wpe, ours.position_embedding, False),
        (source.ln_f, ours.final_norm, False),
    ]
    for block, mine in zip(source.h, ours.blocks, strict=True):
        pairs += [
            (block.ln_1, mine.attention_norm, False),
            (block.attn.c_attn, mine.qkv, True),
            (block.attn.c_proj, mine.attention_out, True),
            (block.ln_2, mine.mlp_norm, False),
            (block.mlp.c_fc, mine.mlp_in, True),
            (block.mlp.c_proj, mine.mlp_out, True),
        ]
    with torch.no_grad():
        for old, new, transposed in pairs:
            new.weight.copy_(old.weight.T if transposed else old.weight)
            if getattr(old, "bias", None) is not None:
                new.bias.copy_(old.bias)


def test_same_loss_and_gradient_as_transformers_gpt2() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_head=4, n_embd=64, vocab_size=300, n_positions=48, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    theirs, ours = GPT2LMHeadModel(config), GPT(3, 4, 64, 300, 48)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # away from symmetric starting values
    _from_transformers(theirs, ours)
    sequences = torch.randint(300, (3, 49))
    tokens, targets = sequences[:, :-1], sequences[:, 1:]
    logits = theirs(input_ids=tokens).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    found = ours(tokens, targets)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    found.backward()
    assert torch.allclose(ours.token_embedding.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(ours.blocks[0].qkv.weight.grad, theirs.transformer.h[0].attn.c_attn.weight.grad.T, atol=1e-6)


def test_weights_have_the_spread_that_gpt2_prescribes() -> None:
    model = GPT(8, 4, 256, 2048, 64)
    block = model.blocks[5]
    for parameter, std in [
        (model.token_embedding.weight, 0.02),
        (block.qkv.weight, 0.02),
        (block.mlp_in.weight, 0.02),
        (block.attention_out.weight, 0.02 / 4),
        (block.mlp_out.weight, 0.02 / 4),
    ]:
        assert parameter.std().item() == pytest.approx(std, rel=0.02)
        assert abs(parameter.mean().item()) < 0.02 * std
    assert torch.all(block.qkv.bias == 0) and torch.all(block.mlp_norm.weight == 1)
    assert not torch.equal(model.blocks[0].qkv.weight, block.qkv.weight)


def test_other_initialisations() -> None:
    normal, xavier = (GPT(8, 4, 256, 2048, 64, initialization=kind) for kind in ("normal", "xavier"))
    for model, spreads in [(normal, [0.02] * 4), (xavier, [256**-0.5, 256**-0.5, 640**-0.5, 640**-0.5])]:
        block = model.blocks[5]
        layers = (block.qkv, block.attention_out, block.mlp_in, block.mlp_out)
        for layer, std in zip(layers, spreads, strict=True):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    with pytest.raises(ValueError, match=r"initialization: found 'orthogonal'.*xavier"):
        GPT(1, 4, 64, 10, 8, initialization="orthogonal")


def test_dropout_drops_its_part_in_training_alone() -> None:
    torch.manual_seed(0)
    plain, dropping = (GPT(2, 4, 64, 300, 48, dropout=rate) for rate in (0.0, 0.25))
    tokens = torch.randint(300, (4, 48))
    seen: list[torch.Tensor] = []
    dropping.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert not torch.equal(dropping(tokens, tokens), dropping(tokens, tokens))
    for x in seen:
        assert (x == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    dropping.eval()
    assert torch.equal(dropping(tokens, tokens), plain(tokens, tokens))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_that_torch_counts(checkpointing: bool) -> None:
    """Equal to the last FLOP with the math backend; checkpointing runs the blocks again but for their last product."""
    model = GPT(3, 4, 64, 320, 96, activation_checkpointing=checkpointing)
    tokens = torch.randint(320, (2, 80))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).backward()
    again = tokens.numel() * (2 * 8 * 3 * 64**2 + 4 * 3 * 64 * 80) if checkpointing else 0
    assert counter.get_total_flops() == model.flops_per_token(80) * tokens.numel() + again


class _PeakBytes(TorchDispatchMode):
    """The most bytes alive at once, of what was allocated inside the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in known and id(storage) not in self._seen:
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def forget(_: Any) -> None:
            del self._seen[key]
            self.alive -= size

        self._seen[key] = weakref.ref(storage, forget)
        self.alive += size
        self.peak = max(self.peak, self.alive)


@pytest.mark.parametrize("vocab_size", [64, 4096])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_bytes_are_what_is_alive_at_the_peak(checkpointing: bool, vocab_size: int) -> None:
    model = GPT(6, 4, 64, vocab_size, 128, activation_checkpointing=checkpointing)
    tokens = torch.randint(vocab_size, (8, 128))
    with _PeakBytes() as memory:
        model(tokens, tokens).backward()
    assert memory.peak == pytest.approx(model.activation_bytes(8, 128, 4), rel=0.10)


def test_drawing_weights_needs_no_second_copy_of_the_model() -> None:
    """48 MiB of weights in float32; numpy's buffers, which tracemalloc sees, stay at two chunks of 4 MiB."""
    tracemalloc.start()
    model = GPT(2, 4, 512, 12_000, 64, dtype=torch.bfloat16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.num_params() * 4 > 40 * 2**20
    assert peak < 12 * 2**20


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="hidden_size: found 65"):
        GPT(1, 4, 65, 10, 8)
