"""A model whose compute time is known by construction: layers that sleep. The truth that the meter is held to."""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.build import LanguageModel
from models.layers import IGNORED, Embedding, Linear, TiedHead, WeightInit, token_loss

# The blocks compute on every eighth position only: their parameters, and so the communication, are real, while eight
# ranks still fit on two cores.
_STRIDE = 8


class _Pace(torch.autograd.Function):
    """The identity, which sleeps on its way forward and on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_s: float, backward_s: float) -> Tensor:
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.backward_s)
        return grads[0], None, None


class PacedBlock(nn.Module):
    """A residual pair of linear layers, then a sleep of a known time for each token of the micro-batch.

    The sleep is the block's last operation, so it comes first in the backward pass: the gradients of this block's
    parameters are ready only after it, and their communication can overlap with the sleeps of the blocks below.
    """

    def __init__(
        self, hidden_size: int, *, forward_s_per_token: float, backward_s_per_token: float, std: float, init: WeightInit
    ) -> None:
        super().__init__()
        self.forward_s_per_token = forward_s_per_token
        self.backward_s_per_token = backward_s_per_token
        self.up = Linear(hidden_size, 4 * hidden_size, std=0.02, init=init)
        self.down = Linear(4 * hidden_size, hidden_size, std=std, init=init)

    def forward(self, x: Tensor, num_tokens: int) -> Tensor:
        x = x + self.down(F.relu(self.up(x)))
        paced = _Pace.apply(x, self.forward_s_per_token * num_tokens, self.backward_s_per_token * num_tokens)  # type: ignore[no-untyped-call]
        return cast(Tensor, paced)


class PacedLM(LanguageModel):
    """A small real language model whose blocks sleep: compute seconds are known, parameters and gradients are real.

    Each block sleeps `forward_s` x tokens / `reference_tokens` in its forward pass and `backward_s` x the same in its
    backward pass, tokens being those of the micro-batch whose target is not padding, with `time.sleep`: no CPU is
    burnt, so many ranks fit on few cores. On CUDA the host sleeps between kernel launches, so there too the time passes
    on the host, and a step lasts at least as long. Every position gets its embedding; each group of eight positions
    shares what the blocks make of its first one (causal: that one is never later). A block has 8 h^2 + 5 h parameters,
    131,712 at the preset's width of 128. Raises ValueError for activation checkpointing, whose second forward pass
    would sleep again.
    """

    supports_zero_init: ClassVar[bool] = True

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        vocab_size: int,
        max_seq_len: int,
        forward_s: float,
        backward_s: float,
        reference_tokens: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if activation_checkpointing:
            raise ValueError("activation_checkpointing: a paced model would sleep twice, take the option out")
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.max_seq_len: int = max_seq_len
        self.skips_padding = False
        """Set where sequences may be padded: padding is then not slept for."""
        self.seconds_per_token = num_layers * (forward_s + backward_s) / reference_tokens
        init = WeightInit(seed, device=device, dtype=dtype)
        self.token_embedding = Embedding(vocab_size, hidden_size, std=0.02, init=init)
        self.position_embedding = Embedding(max_seq_len, hidden_size, std=0.02, init=init)
        self.blocks = nn.ModuleList(
            PacedBlock(
                hidden_size,
                forward_s_per_token=forward_s / reference_tokens,
                backward_s_per_token=backward_s / reference_tokens,
                std=0.02 / math.sqrt(num_layers),
                init=init,
            )
            for _ in range(num_layers)
        )
        self.head = TiedHead(self.token_embedding)

    def slow_down(self, slower_frac: float) -> None:
        """From now on each sleep is longer by this fraction. `seconds_per_token` stays what it was: nobody is told."""
        for block in self.blocks:
            assert isinstance(block, PacedBlock)
            block.forward_s_per_token *= 1 + slower_frac
            block.backward_s_per_token *= 1 + slower_frac

    def logits(self, tokens: Tensor, num_tokens: int | None = None) -> Tensor:
        """Next-token logits (batch, seq, vocab) in the model's dtype. `tokens`: int64 (batch, seq). Sleeps for `num_tokens`,
        for all where none are given."""
        seq = tokens.shape[1]
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(seq, device=tokens.device))
        shared = x[:, ::_STRIDE]
        for block in self.blocks:
            shared = block(shared, tokens.numel() if num_tokens is None else num_tokens)
        return cast(Tensor, self.head(x + shared.repeat_interleave(_STRIDE, dim=1)[:, :seq]))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        # Only where there may be padding: on CUDA, counting waits for the device.
        num_tokens = int((targets != IGNORED).sum()) if self.skips_padding else None
        return token_loss(self.logits(tokens, num_tokens), targets)

    def paced_seconds(self, num_tokens: int) -> float:
        """Seconds that one micro-batch of `num_tokens` sleeps, forward and backward: its compute time by construction.

        num_layers x (forward_s + backward_s) x num_tokens / reference_tokens. The real arithmetic comes on top.
        """
        return self.seconds_per_token * num_tokens

    def num_params(self) -> int:
        """Number of unique parameters: L (8 h^2 + 5 h) + (V + max_seq_len) h, the tied head counted once."""
        h = self.hidden_size
        return self.num_layers * (8 * h * h + 5 * h) + (self.vocab_size + self.max_seq_len) * h

    def flops_per_token(self, seq_len: int) -> float:
        """FLOPs of one token's forward and backward that are really computed: 6 (L 8 h^2 ceil(s / 8) / s + V h).

        Look-ups, sums and biases are not counted. A paced model's speed says nothing about the device.
        """
        positions_frac = math.ceil(seq_len / _STRIDE) / seq_len
        return 6.0 * (self.num_layers * 8 * self.hidden_size**2 * positions_frac + self.vocab_size * self.hidden_size)

    def sequence_cost(self, seq_len: int) -> tuple[float, float]:
        """(a, b): a sequence of L tokens costs a L + b L^2, here in seconds of sleep: those of a token, and 0."""
        return self.seconds_per_token, 0.0

    def activation_bytes(self, micro_batch_size: int, seq_len: int, dtype_bytes: int) -> int:
        """Estimated bytes of activations at the peak of one micro-batch.

        A block stores its input (h) and the ReLU's output (4 h) for every eighth position; the head stores its input
        (h) and three float32 arrays of the vocabulary's size for every position, as in models.gpt.
        """
        h = self.hidden_size
        blocks = self.num_layers * math.ceil(seq_len / _STRIDE) * 5 * h * dtype_bytes
        return micro_batch_size * (blocks + seq_len * (h * dtype_bytes + 12 * self.vocab_size))
