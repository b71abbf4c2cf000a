"""Encoder-decoder Transformer: the shape of torch's nn.Transformer, for pairs of sequences such as one and its reverse."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import GPT2_SCALED
from models.build import LanguageModel
from models.layers import IGNORED, Embedding, Linear, TiedHead, WeightInit, token_loss


class Attention(nn.Module):
    """Multi-head attention of one sequence to itself, or to another."""

    def __init__(self, hidden_size: int, num_heads: int, *, dropout: float, init: WeightInit) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        std = init.std(hidden_size, hidden_size)
        self.query = Linear(hidden_size, hidden_size, std=std, init=init)
        self.key_value = Linear(hidden_size, 2 * hidden_size, std=std, init=init)
        self.out = Linear(hidden_size, hidden_size, std=init.std(hidden_size, hidden_size, residual=True), init=init)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        """What `x` (batch, seq, hidden) takes from `seen` where `mask` (batch, 1, 1, seen's seq) is True; without a mask each
        position sees itself and those before it."""
        batch, seq, hidden = x.shape
        shape = (batch, -1, self.num_heads, hidden // self.num_heads)
        query = self.query(x).view(shape).transpose(1, 2)
        key, value = (part.reshape(shape).transpose(1, 2) for part in self.key_value(seen).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=self.dropout if self.training else 0.0, is_causal=mask is None
        )
        return cast(Tensor, self.out(mixed.transpose(1, 2).reshape(batch, seq, hidden)))


class Layer(nn.Module):
    """One pre-LayerNorm layer of either side: self-attention, in the decoder attention to what the encoder made, and an MLP of
    four times the width with ReLU, each added to its input."""

    def __init__(self, hidden_size: int, num_heads: int, *, decodes: bool, dropout: float, init: WeightInit) -> None:
        super().__init__()
        self.dropout = dropout

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(hidden_size, device=init.device, dtype=init.dtype)

        wide = 4 * hidden_size
        self.attention_norm = norm()
        self.attention = Attention(hidden_size, num_heads, dropout=dropout, init=init)
        self.decodes = decodes
        if decodes:
            self.cross_norm = norm()
            self.cross_attention = Attention(hidden_size, num_heads, dropout=dropout, init=init)
        self.mlp_norm = norm()
        self.mlp_in = Linear(hidden_size, wide, std=init.std(hidden_size, wide), init=init)
        self.mlp_out = Linear(wide, hidden_size, std=init.std(wide, hidden_size, residual=True), init=init)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        """`mask` is of the encoder's positions, `memory` what it made of them (decoder only)."""
        normed = self.attention_norm(x)
        x = x + self._dropped(self.attention(normed, normed, None if self.decodes else mask))
        if self.decodes:
            x = x + self._dropped(self.cross_attention(self.cross_norm(x), memory, mask))
        return x + self._dropped(self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x)))))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Seq2Seq(LanguageModel):
    """An encoder reads `tokens`, a decoder writes `targets` (Vaswani et al. 2017, section 3): each with `num_layers` layers,
    a last LayerNorm and learned positions; one table of tokens for both sides and the head.

    A sequence and its answer are equally long; where a target is layers.IGNORED, the token is padding as well. While it is
    trained the decoder is shown the answer one position later, behind a learned start. `initialization`, `dropout` and
    `activation_checkpointing` are as in models.gpt. Raises ValueError if the heads do not divide `hidden_size`.
    """

    supports_zero_init: ClassVar[bool] = True

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        hidden_size: int,
        vocab_size: int,
        max_seq_len: int,
        dropout: float = 0.0,
        initialization: str = GPT2_SCALED,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size: found {hidden_size}, expected a multiple of num_heads, {num_heads}")
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.max_seq_len: int = max_seq_len
        self.dropout = dropout
        self.activation_checkpointing = activation_checkpointing
        # Encoder layers write into their stream twice, decoder layers three times.
        init = WeightInit(seed, device=device, dtype=dtype, kind=initialization, num_residuals=3 * num_layers)
        self.token_embedding = Embedding(vocab_size, hidden_size, std=0.02, init=init)
        self.start = Embedding(1, hidden_size, std=0.02, init=init)
        self.source_positions = Embedding(max_seq_len, hidden_size, std=0.02, init=init)
        self.target_positions = Embedding(max_seq_len, hidden_size, std=0.02, init=init)
        self.encoder, self.decoder = (
            nn.ModuleList(
                Layer(hidden_size, num_heads, decodes=decodes, dropout=dropout, init=init) for _ in range(num_layers)
            )
            for decodes in (False, True)
        )
        self.encoder_norm = nn.LayerNorm(hidden_size, device=device, dtype=dtype)
        self.decoder_norm = nn.LayerNorm(hidden_size, device=device, dtype=dtype)
        self.head = TiedHead(self.token_embedding)

    def logits(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Logits (batch, seq, vocab) of each target, the targets before it being known. Both int64 (batch, seq)."""
        real = targets != IGNORED
        memory = self.encoded(tokens, real)
        return self.decoded(targets.where(real, 0)[:, :-1], memory, real)

    def encoded(self, tokens: Tensor, real: Tensor) -> Tensor:
        """What the encoder makes of `tokens`, int64 (batch, source), where `real`, bool of the same shape, is True: (batch,
        source, hidden)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        memory = self._dropped(self.token_embedding(tokens) + self.source_positions(positions))
        for layer in self.encoder:
            memory = self._through(layer, memory, real[:, None, None, :])
        return cast(Tensor, self.encoder_norm(memory))

    def decoded(self, answer: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        """Logits (batch, answered + 1, vocab) of the first token of the answer and of each that follows one of `answer`, int64
        (batch, answered), which may be empty. `memory` and `real` are those of `encoded`."""
        shown = self.token_embedding(answer)
        first = self.start(torch.zeros_like(real[:, :1], dtype=torch.int64))
        positions = torch.arange(answer.shape[1] + 1, device=answer.device)
        x = self._dropped(torch.cat([first, shown], dim=1) + self.target_positions(positions))
        for layer in self.decoder:
            x = self._through(layer, x, real[:, None, None, :], memory)
        return cast(Tensor, self.head(self.decoder_norm(x)))

    def _through(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            # Stopping early, torch's default, is needed under ZeRO-3: see models.gpt.
            found = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=self.dropout > 0)
        else:
            found = layer(*inputs)
        return cast(Tensor, found)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return token_loss(self.logits(tokens, targets), targets)

    def num_params(self) -> int:
        """Number of unique parameters: L (28 h^2 + 32 h) + (V + 2 max_seq_len + 5) h, the tied head counted once.

        An encoder layer has 12 h^2 + 13 h, a decoder layer 4 h^2 + 6 h more.
        """
        h = self.hidden_size
        return self.num_layers * (28 * h * h + 32 * h) + (self.vocab_size + 2 * self.max_seq_len + 5) * h

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one token and its answer, forward and backward: 6 (28 L h^2 + V h) + 36 L h s.

        Counted as in models.gpt; there are three attentions to a pair of layers. Recomputation would add 40 L h^2 + 12 L h s.
        """
        multiplying = 28 * self.num_layers * self.hidden_size**2 + self.vocab_size * self.hidden_size
        return 6.0 * multiplying + 36.0 * self.num_layers * self.hidden_size * seq_len

    def activation_bytes(self, micro_batch_size: int, seq_len: int, dtype_bytes: int) -> int:
        """Estimated bytes of activations when the backward pass starts, of one micro-batch: its peak.

        As in models.gpt, but ReLU needs its output alone, which the next layer stores: an encoder layer keeps 12 h elements
        a token, a decoder layer 18 h, and in float32 means and deviations of two or three norms and the log-sums of one or
        two attentions. The ends add the inputs of the last two norms, what the encoder made and the head's input (4 h),
        and three float32 arrays of the vocabulary's size. With activation checkpointing it is an upper estimate: these are
        gone when a layer is computed again.
        """
        tokens = micro_batch_size * seq_len
        h, masks = self.hidden_size, self.hidden_size if self.dropout else 0
        layers = [
            12 * h * dtype_bytes + 4 * (4 + self.num_heads) + 2 * masks,
            18 * h * dtype_bytes + 4 * (6 + 2 * self.num_heads) + 3 * masks,
        ]
        if self.activation_checkpointing:
            kept = (2 * self.num_layers - 1) * h * dtype_bytes + layers[1]
        else:
            kept = self.num_layers * sum(layers)
        return tokens * (kept + 4 * h * dtype_bytes + 12 * self.vocab_size + 2 * masks)
