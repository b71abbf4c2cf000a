"""What a preset's model weighs and computes, from its sizes alone: the counts of models/*.py without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import ProjectionError
from bench.plan.presets import preset_sizes
from bench.theory.zero_settings import DTYPE_BYTES

# A paced model's blocks compute on every eighth position (models/paced.py).
_PACED_STRIDE = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of a preset's model. `num_layers` of an encoder-decoder (`translates`) are those of both sides. `paced_s_per_token`:
    seconds that it sleeps instead of computing, (forward, backward); None for a model that computes.
    tests/theory/test_transformer.py holds every count against the model itself."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    max_seq_len: int
    num_heads: int | None = None
    paced_s_per_token: tuple[float, float] | None = None
    translates: bool = False

    @property
    def num_params(self) -> int:
        """L (12 h^2 + 13 h) + (V + s) h + 2 h for a GPT, L (8 h^2 + 5 h) + (V + s) h for a paced model, and of an encoder-decoder
        with L layers on each side L (28 h^2 + 32 h) + (V + 2 s) h + 5 h."""
        h = self.hidden_size
        if self.translates:
            pairs = self.num_layers // 2
            return pairs * (28 * h * h + 32 * h) + self.embedding_params + (self.max_seq_len + 5) * h
        if self.paced_s_per_token is not None:
            return self.num_layers * (8 * h * h + 5 * h) + self.embedding_params
        return self.num_layers * (12 * h * h + 13 * h) + self.embedding_params + 2 * h

    @property
    def embedding_params(self) -> int:
        """(V + s) h: the token table is the head too, so that its gradient is complete only when the first layer's is. Positions
        and start of a decoder are not in it: their gradients are there before the encoder's backward pass."""
        return (self.vocab_size + self.max_seq_len) * self.hidden_size

    def flops_per_token(self, seq_len: int, activation_checkpointing: bool = False) -> float:
        """FLOPs of a token's forward and backward pass: 6 N + 12 L h s, N = 12 L h^2 + V h (models/gpt.py).

        With activation checkpointing the recomputation is counted too, 16 L h^2 + 4 L h s: these are the hardware's FLOPs.
        Of an encoder-decoder 6 (28 L h^2 + V h) + 36 L h s for a token and its answer (models/seq2seq.py), L layers on each side,
        and 40 L h^2 + 12 L h s again: a layer's last product is never computed twice.
        """
        layers, h = self.num_layers, self.hidden_size
        if self.translates:
            pairs = layers // 2
            model = 6.0 * (28 * pairs * h * h + self.vocab_size * h) + 36.0 * pairs * h * seq_len
            return model + (40.0 * pairs * h * h + 12.0 * pairs * h * seq_len if activation_checkpointing else 0.0)
        model = 6.0 * (12 * layers * h * h + self.vocab_size * h) + 12.0 * layers * h * seq_len
        return model + (16.0 * layers * h * h + 4.0 * layers * h * seq_len if activation_checkpointing else 0.0)

    def activation_bytes(
        self, micro_batch_size: int, seq_len: int, precision: str, activation_checkpointing: bool = False
    ) -> float:
        """Bytes of activations when the backward pass starts (models/gpt.py, models/seq2seq.py, models/paced.py)."""
        item, h = DTYPE_BYTES[precision], self.hidden_size
        if self.num_heads is None:
            blocks = self.num_layers * math.ceil(seq_len / _PACED_STRIDE) * 5 * h * item
            return float(micro_batch_size * (blocks + seq_len * (h * item + 12 * self.vocab_size)))
        if self.translates:
            encodes = 12 * h * item + 4 * (4 + self.num_heads)
            block, ends = 18 * h * item + 4 * (6 + 2 * self.num_heads), 4
            blocks = self.num_layers // 2 * (encodes + block)
        else:
            block, ends = 16 * h * item + 4 * (4 + self.num_heads), 2
            blocks = self.num_layers * block
        if activation_checkpointing:
            blocks = (self.num_layers - 1) * h * item + block
        return float(micro_batch_size * seq_len * (blocks + ends * h * item + 12 * self.vocab_size))


def preset_shape(name: str, options: Mapping[str, int | float | bool | str] | None = None) -> Shape:
    """The shape of a preset, `options` in the place of its own sizes where they are given (`model_options` of a cell).

    Raises SuiteError for an unknown name, ProjectionError for a kind without a theory.
    """
    kind, own = preset_sizes(name)
    asked = {**own, **(options or {})}
    sizes = {key: float(value) for key, value in asked.items() if not isinstance(value, str)}
    layers, hidden, vocabulary, longest = (
        int(sizes[key]) for key in ("num_layers", "hidden_size", "vocab_size", "max_seq_len")
    )
    if kind == "GPT":
        return Shape(layers, hidden, vocabulary, longest, num_heads=int(sizes["num_heads"]))
    if kind == "Seq2Seq":
        heads = int(sizes["num_heads"])
        return Shape(2 * layers, hidden, vocabulary, longest, num_heads=heads, translates=True)
    if kind == "PacedLM":
        token_s = layers / sizes["reference_tokens"]
        paced_s = (sizes["forward_s"] * token_s, sizes["backward_s"] * token_s)
        return Shape(layers, hidden, vocabulary, longest, paced_s_per_token=paced_s)
    raise ProjectionError(
        f"--model: the theory has no shape for {name}",
        hint="choose a gpt or seq2seq preset, or give `scalebench project` --num-params and --step-time-1",
    )
