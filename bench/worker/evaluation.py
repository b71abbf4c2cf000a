"""How good a model is on sequences that it was not trained on: its loss, and how often it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.worker.data.micro_batch import IGNORED, MicroBatch
from models.layers import logits_seen_by


@dataclass(frozen=True)
class Score:
    """Over `num_tokens` tokens: the mean loss in nats, and the fraction whose most likely token was the right one."""

    loss: float
    accuracy: float
    num_tokens: int


def score(
    model: nn.Module,
    forward: Callable[[Tensor, Tensor], Tensor],
    micro_batches: Sequence[MicroBatch],
    device: torch.device,
    control: dist.ProcessGroup | None = None,
    num_servers: int = 0,
) -> Score:
    """The score of `model`, whose loss `forward(tokens, targets)` computes, without a gradient.

    With `control`, all ranks call it with the same micro-batches; each takes its share, and all get the score of all. Where
    replicas differ it is the mean over their shares. Each rank runs equally many micro-batches, because sharded models wait for
    each other in each: a rank that has none left runs one that doesn't count. The last `num_servers` ranks of the group have no
    model: they take no share.
    """
    rank, num_shares = (dist.get_rank(control), dist.get_world_size(control)) if control is not None else (0, 1)
    num_shares -= num_servers
    firsts = range(0, len(micro_batches), num_shares) if rank < num_shares else ()
    # In float64, on the host: sums of many.
    sums = torch.zeros(3, dtype=torch.float64)
    right = 0

    def see(logits: Tensor, targets: Tensor) -> None:
        nonlocal right
        right = int((logits.argmax(dim=-1) == targets).sum())

    training = model.training
    model.eval()
    try:
        with torch.no_grad(), logits_seen_by(see):
            for first in firsts:
                counts = first + rank < len(micro_batches)
                tokens, targets, _ = micro_batches[first + rank if counts else first]
                loss = float(forward(tokens.to(device), targets.to(device)))
                if counts:
                    number = int((targets != IGNORED).sum())
                    sums += torch.tensor([loss * number, right, number], dtype=torch.float64)
    finally:
        model.train(training)
    if control is not None:
        dist.all_reduce(sums, group=control)
    nats, num_right, num_tokens = sums.tolist()
    return Score(nats / num_tokens, num_right / num_tokens, int(num_tokens))
