"""Any causal language model of transformers, built from a configuration: nothing is downloaded."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models.build import LanguageModel
from models.layers import token_loss


class HuggingFaceLM(LanguageModel):
    """A transformers causal LM by its model type (`gpt2`, `llama`, ...), `options` overriding its default sizes.

    Weights are transformers' own initialisation after `torch.manual_seed(seed)` on the CPU in float32, cast to `dtype`
    afterwards: equal on every rank, but the whole model is once in host memory. Not to be built under
    `deepspeed.zero.Init`, where transformers' GPT-2 silently gets wrong weights. Every dropout of the configuration is
    set to 0 so that equal runs do equal work. Attention is the implementation that transformers chooses.
    Raises ValueError for an unknown type or option (naming the nearest), and where the type cannot be checkpointed.
    """

    supports_zero_init: ClassVar[bool] = False

    def __init__(
        self,
        model_type: str,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        activation_checkpointing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        config = _config(model_type, options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = AutoModelForCausalLM.from_config(config)
        # Parameters only: rotary frequencies and other buffers keep the precision that transformers gave them.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        self.model = model.to(device)
        self.model.train()
        if activation_checkpointing:
            _enable_checkpointing(model)
        text = config.get_text_config()
        self.model_type = model_type
        self.vocab_size: int = text.vocab_size
        self.max_seq_len = _longest_sequence(text)
        self._num_params = sum(parameter.numel() for parameter in model.parameters())
        self._num_multiplying = _num_multiplying(model)
        heads = getattr(text, "num_attention_heads", 0) or 0
        head_size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        self._attention_width = getattr(text, "num_hidden_layers", 0) * heads * head_size

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits (batch, seq, vocab) in the model's dtype. `tokens`: int64 (batch, seq)."""
        return cast(Tensor, self.model(input_ids=tokens, use_cache=False).logits)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return token_loss(self.logits(tokens), targets)

    def num_params(self) -> int:
        """Number of unique parameters, counted when the model was built."""
        return self._num_params

    def flops_per_token(self, seq_len: int) -> float:
        """Model FLOPs of one token's forward and backward: 6 N + 12 (layers x heads x head size) s, as in models.gpt.

        N are the parameters of two and more dimensions outside embedding tables, and the head. An upper bound for
        mixtures of experts (all experts are counted as if each token met them) and for sliding-window attention; the
        attention term is 0 where the configuration names no attention heads.
        """
        return 6.0 * self._num_multiplying + 12.0 * self._attention_width * seq_len

    def activation_bytes(self, micro_batch_size: int, seq_len: int, dtype_bytes: int) -> None:
        """`None`: an arbitrary architecture has no closed form."""
        return None


def _config(model_type: str, options: dict[str, Any]) -> Any:
    types = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type not in types:
        near = difflib.get_close_matches(model_type, list(types), n=3, cutoff=0.4)
        raise ValueError(
            f"hf:{model_type}: transformers knows no causal language model of that type"
            + (f"; the nearest: {', '.join(near)}" if near else "")
        )
    default = AutoConfig.for_model(model_type)
    for option in options:
        if not hasattr(default, option):
            near = difflib.get_close_matches(option, list(vars(default)), n=3, cutoff=0.4)
            raise ValueError(
                f"hf:{model_type} has no option {option!r}" + (f"; the nearest: {', '.join(near)}" if near else "")
            )
    config = AutoConfig.for_model(model_type, **options)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for field, value in list(vars(part).items()):
            if ("dropout" in field or "pdrop" in field) and isinstance(value, int | float):
                setattr(part, field, 0.0)
        if getattr(part, "is_decoder", None) is False:
            part.is_decoder = True  # BERT and its like attend to later tokens otherwise
    return config


def _enable_checkpointing(model: Any) -> None:
    """Store only each layer's input. Raises ValueError where the type cannot."""
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23 renamed it and warns about the old name
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _longest_sequence(config: Any) -> int | None:
    """Longest sequence in tokens, `None` if the configuration names none."""
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def _num_multiplying(model: nn.Module) -> int:
    """Number of parameters that multiply every token: matrices that are not look-up tables, and the head."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = cast(Any, model).get_output_embeddings()
    multiplying = [
        parameter
        for parameter in model.parameters()
        if parameter.dim() >= 2 and (id(parameter) not in tables or (head is not None and parameter is head.weight))
    ]
    return sum(parameter.numel() for parameter in multiplying)
