"""Decoder-only GPT: GPT-2's shape."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import GPT2_SCALED
from models.build import LanguageModel
from models.layers import Embedding, Linear, TiedHead, WeightInit, token_loss


class Block(nn.Module):
    """One pre-LayerNorm layer: causal self-attention, then an MLP of four times the width, each added to its input."""

    def __init__(self, hidden_size: int, num_heads: int, *, dropout: float, init: WeightInit) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        wide = 4 * hidden_size
        self.attention_norm = nn.LayerNorm(hidden_size, device=init.device, dtype=init.dtype)
        # Query, key and value are three matrices of their own, which lie side by side.
        self.qkv = Linear(hidden_size, 3 * hidden_size, std=init.std(hidden_size, hidden_size), init=init)
        out_std = init.std(hidden_size, hidden_size, residual=True)
        self.attention_out = Linear(hidden_size, hidden_size, std=out_std, init=init)
        self.mlp_norm = nn.LayerNorm(hidden_size, device=init.device, dtype=init.dtype)
        self.mlp_in = Linear(hidden_size, wide, std=init.std(hidden_size, wide), init=init)
        self.mlp_out = Linear(wide, hidden_size, std=init.std(wide, hidden_size, residual=True), init=init)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, hidden = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, seq, 3, self.num_heads, hidden // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self._dropped(self.attention_out(mixed.transpose(1, 2).reshape(batch, seq, hidden)))
        return x + self._dropped(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class GPT(LanguageModel):
    """A GPT-2: learned positions, pre-LayerNorm blocks, GELU (tanh), tied head.

    `initialization` is that of `WeightInit`, by default GPT-2's: normal with 0.02, projections into the residual stream with
    0.02 / sqrt(2 num_layers); biases are zero, norms one. `dropout` is where GPT-2 has it: behind the embeddings, in attention,
    and on what a block adds; its masks come from torch's generator. `activation_checkpointing` stores only each block's
    input and computes the block again in the backward pass. Raises ValueError if the heads do not divide `hidden_size`.
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
        self.activation_checkpointing = activation_checkpointing
        self.dropout = dropout
        init = WeightInit(seed, device=device, dtype=dtype, kind=initialization, num_residuals=2 * num_layers)
        self.token_embedding = Embedding(vocab_size, hidden_size, std=0.02, init=init)
        self.position_embedding = Embedding(max_seq_len, hidden_size, std=0.02, init=init)
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, dropout=dropout, init=init) for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(hidden_size, device=device, dtype=dtype)
        self.head = TiedHead(self.token_embedding)

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits (batch, seq, vocab) in the model's dtype. `tokens`: int64 (batch, seq)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                # Recomputation must stop early, as is torch's default: it then leaves the block's last layer before
                # ZeRO-3's hook partitions that layer again, whose gradient is the next thing to be computed.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=self.dropout > 0)
            else:
                x = block(x)
        return cast(Tensor, self.head(self.final_norm(x)))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return token_loss(self.logits(tokens), targets)

    def num_params(self) -> int:
        """Number of unique parameters: L (12 h^2 + 13 h) + (V + max_seq_len) h + 2 h, the tied head counted once."""
        h = self.hidden_size
        return self.num_layers * (12 * h * h + 13 * h) + (self.vocab_size + self.max_seq_len) * h + 2 * h

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one token's forward and backward: 6 N + 12 L h s, N the weights that multiply: 12 L h^2 + V h.

        A multiply-add is two FLOPs, the backward pass costs twice the forward. The head is counted, the embedding
        look-ups, norms, GELU, softmax and biases are not. Attention is counted as if every position saw all `seq_len`
        others (no discount for causality), as is the field's convention. Recomputation under activation checkpointing
        is not counted, these being the model's FLOPs: it adds 16 L h^2 + 4 L h s (all of a block but its last product).
        Source: Chowdhery et al. 2022 (PaLM), appendix B; Kaplan et al. 2020, table 1.
        """
        multiplying = 12 * self.num_layers * self.hidden_size**2 + self.vocab_size * self.hidden_size
        return 6.0 * multiplying + 12.0 * self.num_layers * self.hidden_size * seq_len

    def activation_bytes(self, micro_batch_size: int, seq_len: int, dtype_bytes: int) -> int:
        """Estimated bytes of activations when the backward pass starts, of one micro-batch: its peak.

        A block stores, per token and in elements of the model's dtype, 16 h: the inputs of two norms (2 h), of four
        linear layers (h, h, h, 4 h), of GELU (4 h), and query, key, value (3 h); beside them in float32 the norms'
        means and deviations and the attention's log-sum per head (4 (4 + num_heads) bytes). This is Korthikanti et al.
        2022 ("Reducing Activation Recomputation"), equation 1, 34 s b h bytes in 16 bit, without its dropout masks
        (2 s b h) and without the s^2 matrices, which scaled_dot_product_attention does not store. With activation
        checkpointing each block stores its input, h, and one block at a time is stored in full.
        The ends add the inputs of the last norm and of the head (2 h) and three float32 arrays of the vocabulary's
        size (log-probabilities, and two gradients while the first is passed back). Dropout adds masks of one byte an
        element, as CUDA keeps them: 2 h a block, h behind the embeddings. Not counted: temporaries inside a kernel,
        gradients flowing back, and attention kernels that do store s^2 (the math backend, which on CPU is the one with
        dropout).
        """
        tokens = micro_batch_size * seq_len
        masks = self.hidden_size if self.dropout else 0
        block = 16 * self.hidden_size * dtype_bytes + 4 * (4 + self.num_heads) + 2 * masks
        if self.activation_checkpointing:
            blocks = (self.num_layers - 1) * self.hidden_size * dtype_bytes + block
        else:
            blocks = self.num_layers * block
        ends = 2 * self.hidden_size * dtype_bytes + 12 * self.vocab_size + masks
        return tokens * (blocks + ends)
