"""The leaf layers of our own models: each draws its own weights, the same on every rank, device and dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import GPT2_SCALED, INITIALIZATIONS, XAVIER

IGNORED = -100
"""A target that is in no loss: what stands there is padding."""

_STD = 0.02

_DRAW_CHUNK = 1 << 20  # numbers drawn at a time: 4 MiB of host memory, whatever the size of the parameter


class WeightInit:
    """How weights start out, and the numbers themselves.

    `kind`: every matrix is normal with 0.02 (`normal`), and in `gpt2-scaled` those that write into the residual stream with
    0.02 / sqrt(`num_residuals`), of which there are so many (Radford et al. 2019, section 2.3); or linear layers are normal with
    sqrt(2 / (inputs + outputs)) (`xavier`: Glorot and Bengio 2010), embeddings with 0.02. Raises ValueError for another kind.

    Draws each parameter from a generator of its own: (seed, how many parameters were drawn before it).

    The same seed gives the same weights on every rank, on CPU and CUDA, and in every dtype up to rounding. It also
    holds under `deepspeed.zero.Init`, which partitions a module's parameters as soon as its `__init__` returns, and
    patches torch's constructors: numpy draws, so nothing patched is called. On the `meta` device nothing is drawn.
    """

    def __init__(
        self,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        kind: str = GPT2_SCALED,
        num_residuals: int = 1,
    ) -> None:
        if kind not in INITIALIZATIONS:
            raise ValueError(f"initialization: found {kind!r}, expected one of: {', '.join(INITIALIZATIONS)}")
        self.kind = kind
        self.num_residuals = num_residuals
        self.seed = seed
        self.device = torch.device(device)
        self.dtype = dtype
        self._num_drawn = 0

    def std(self, in_features: int, out_features: int, *, residual: bool = False) -> float:
        """Of a linear layer's weights; `residual`: of one that writes into the residual stream."""
        if self.kind == XAVIER:
            return math.sqrt(2 / (in_features + out_features))
        return _STD / math.sqrt(self.num_residuals) if residual and self.kind == GPT2_SCALED else _STD

    @torch.no_grad()
    def normal_(self, parameter: Tensor, std: float) -> None:
        """Fill `parameter` with normal numbers of mean 0: drawn in float32 on the host, a chunk at a time."""
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([self.seed, self._num_drawn])))
        self._num_drawn += 1
        if parameter.is_meta:
            return
        flat = parameter.detach().view(-1)
        for start in range(0, flat.numel(), _DRAW_CHUNK):
            chunk = flat[start : start + _DRAW_CHUNK]
            drawn = rng.standard_normal(chunk.numel(), dtype=np.float32)
            drawn *= np.float32(std)
            chunk.copy_(torch.from_numpy(drawn))


class Linear(nn.Linear):
    """A linear layer with bias, whose weights are normal with `std` and whose bias is zero."""

    def __init__(self, in_features: int, out_features: int, *, std: float, init: WeightInit) -> None:
        super().__init__(in_features, out_features, device=init.device, dtype=init.dtype)
        init.normal_(self.weight, std)
        nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Draws nothing: torch's default would cost time and advance the global generator, only to be overwritten."""


class Embedding(nn.Embedding):
    """An embedding table, normal with `std`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float, init: WeightInit) -> None:
        super().__init__(num_embeddings, embedding_dim, device=init.device, dtype=init.dtype)
        init.normal_(self.weight, std)

    def reset_parameters(self) -> None:
        """Draws nothing, see Linear."""


class TiedHead(nn.Module):
    """Logits over the vocabulary from the embedding's own weight.

    A module that owns the shared parameter, so that ZeRO-3's hooks gather it here as they do at the embedding.
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


_watchers: list[Callable[[Tensor, Tensor], None]] = []


@contextmanager
def logits_seen_by(see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """While the block runs, `see(logits, targets)` is called with whatever a loss is computed from: for models that a strategy
    has wrapped, where nothing but their own forward may be called."""
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over all tokens whose target is not IGNORED, in nats, computed in float32. `logits` (batch, seq,
    vocab). NaN where all are."""
    for see in _watchers:
        see(logits.detach(), targets)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
