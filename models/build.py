"""Builds a model by its name, and says what every model answers. The classes are imported when they are used."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from models import HUGGINGFACE_PREFIX, PRESETS


class LanguageModel(nn.Module, ABC):
    """What every model here answers: its loss, and its own counts by closed form.

    The counts do not read the parameters, whose `numel()` is 0 once ZeRO-3 has partitioned them.

    - `supports_zero_init`: True if it may be built under `deepspeed.zero.Init` and still get its stated weights.
    - `vocab_size`: token ids are in [0, vocab_size).
    - `max_seq_len`: longest sequence, `None` if there is no bound.
    """

    supports_zero_init: ClassVar[bool]
    vocab_size: int
    max_seq_len: int | None

    @abstractmethod
    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over all tokens whose target is not layers.IGNORED, in nats: a float32 scalar. `tokens`,
        `targets`: int64 (batch, seq)."""

    @abstractmethod
    def num_params(self) -> int:
        """Number of unique parameters: a tied head counts once."""

    @abstractmethod
    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one token's forward and backward in a sequence of `seq_len` tokens."""

    def sequence_cost(self, seq_len: int) -> tuple[float, float]:
        """(a, b): a sequence of L tokens, `seq_len` at most, costs a L + b L^2 model FLOPs.

        `flops_per_token` is linear in the length, so two values of it give both.
        """
        per_pair = (self.flops_per_token(seq_len + 1) - self.flops_per_token(1)) / seq_len
        return self.flops_per_token(1) - per_pair, per_pair

    @abstractmethod
    def activation_bytes(self, micro_batch_size: int, seq_len: int, dtype_bytes: int) -> int | None:
        """Estimated bytes of activations at the peak of one micro-batch, `None` if nobody knows."""


def model_class(name: str) -> type[LanguageModel]:
    """The class of the model that `name` stands for. Raises ValueError for an unknown name."""
    target, _ = _target_of(name)
    module, _, class_name = target.partition(":")
    return cast(type[LanguageModel], getattr(importlib.import_module(module), class_name))


def build_model(
    name: str,
    model_options: Mapping[str, Any],
    *,
    seq_len: int,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype,
    activation_checkpointing: bool = False,
) -> LanguageModel:
    """The model that `name` stands for, with weights that depend on `seed` alone, on `device` in `dtype`.

    `name` is a preset of `models.PRESETS`, whose sizes `model_options` overrides, or `hf:TYPE`, where `model_options`
    are fields of the transformers configuration. Raises ValueError for an unknown name, an unknown option, or a
    `seq_len` longer than the model can take.
    """
    _, sizes = _target_of(name)
    unknown = sorted(set(model_options) - set(sizes)) if name in PRESETS else []
    if unknown:
        raise ValueError(f"{name} has no option {unknown[0]!r}, expected one of: {', '.join(sizes)}")
    build: Any = model_class(name)
    model = build(
        **{**sizes, **model_options},
        seed=seed,
        device=device,
        dtype=dtype,
        activation_checkpointing=activation_checkpointing,
    )
    if model.max_seq_len is not None and seq_len > model.max_seq_len:
        raise ValueError(f"seq_len: found {seq_len}, expected at most {model.max_seq_len}, the longest of {name}")
    return cast(LanguageModel, model)


def _target_of(name: str) -> tuple[str, dict[str, Any]]:
    if name in PRESETS:
        target, sizes = PRESETS[name]
        return target, dict(sizes)
    if name.startswith(HUGGINGFACE_PREFIX):
        return "models.huggingface:HuggingFaceLM", {"model_type": name.removeprefix(HUGGINGFACE_PREFIX)}
    raise ValueError(f"model: found {name!r}, expected {HUGGINGFACE_PREFIX}TYPE or one of: {', '.join(PRESETS)}")
