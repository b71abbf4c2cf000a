"""Which token comes next: from a model's logits, greedily or drawn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import CheckpointError
from models.build import LanguageModel
from models.seq2seq import Seq2Seq


def probabilities(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """What the next token is drawn by, (vocab,), float64, adding up to 1. `logits` (vocab,).

    Softmax of the logits over `temperature`; at 0 all is on the most likely token (the first of several). `top_k` leaves the k
    most likely, `top_p` then the fewest of them, most likely first, that together have that much (Holtzman et al. 2020).
    """
    logits = logits.double()
    if temperature == 0:
        return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
    order = logits.sort(descending=True, stable=True).indices
    likely = torch.softmax(logits[order] / temperature, dim=0)
    if top_k is not None:
        likely[top_k:] = 0
        likely /= likely.sum()
    if top_p is not None:
        # Those before which less than top_p is gathered: the first is always among them.
        likely[likely.cumsum(0) - likely >= top_p] = 0
        likely /= likely.sum()
    return torch.zeros_like(likely).index_copy_(0, order, likely)


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    end: int | None = None,
    never: Sequence[int] = (),
) -> list[int]:
    """At most `max_tokens` tokens that follow `prompt`, which has at least one; the last is `end` if that came.

    Tokens of `never` are not drawn. The model sees the last `max_seq_len` tokens. The same seed draws the same.
    """
    device = next(model.parameters()).device

    def following(found: list[int]) -> Tensor:
        seen = [*prompt, *found]
        return next_logits(model, torch.tensor([seen[-(model.max_seq_len or len(seen)) :]], device=device))[-1]

    return _drawn(following, max_tokens, temperature, top_k, top_p, seed, end, never)


@torch.no_grad()
def translate(
    model: Seq2Seq,
    source: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> list[int]:
    """What an encoder-decoder answers to `source`, which has at least one token: as many as it has, at most `max_tokens`. The
    source is read once; each token is drawn as in `generate`, those before it being known."""
    device = next(model.parameters()).device
    tokens = torch.tensor([list(source)], device=device)
    real = torch.ones_like(tokens, dtype=torch.bool)
    memory = model.encoded(tokens, real)

    def following(found: list[int]) -> Tensor:
        shown = torch.tensor([found], dtype=torch.int64, device=device)
        return model.decoded(shown, memory, real)[0, -1].float().cpu()

    return _drawn(following, min(max_tokens, len(source)), temperature, top_k, top_p, seed)


def _drawn(
    following: Callable[[list[int]], Tensor],
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    end: int | None = None,
    never: Sequence[int] = (),
) -> list[int]:
    """Tokens, each drawn from the logits (vocab,) that `following` gives of those before it."""
    generator = torch.Generator().manual_seed(seed)
    forbidden = torch.tensor(sorted(set(never)), dtype=torch.int64)
    found: list[int] = []
    while len(found) < max_tokens:
        logits = following(found)
        logits[forbidden] = -torch.inf
        chances = probabilities(logits, temperature, top_k, top_p)
        # A greedy choice draws nothing, so that it is the same for every seed.
        found.append(int(chances.argmax() if temperature == 0 else torch.multinomial(chances, 1, generator=generator)))
        if found[-1] == end:
            break
    return found


def next_logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits of the token after each position, (seq, vocab), float32 on the host. `tokens` (1, seq). Raises CheckpointError for a
    model that does not predict one token after the other."""
    of_tokens: Any = getattr(model, "logits", None)
    # An encoder-decoder's take the answer too.
    if of_tokens is None or "targets" in inspect.signature(of_tokens).parameters:
        raise CheckpointError(f"{type(model).__name__} does not continue a text, token after token", hint="train a GPT")
    found: Tensor = of_tokens(tokens)[0]
    return found.float().cpu()
