"""What a strategy is handed: the micro-batches of one rank and step, weighted so that gradients are the global batch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.layers import IGNORED

__all__ = ["IGNORED", "MicroBatch", "RankBatch", "mean_loss"]


class MicroBatch(NamedTuple):
    """`tokens` and `targets`, int64 (rows, columns), and what the mean loss over them is divided by.

    A target of IGNORED is padding, and in no loss. Over the micro-batches of a rank the sum of loss / divisor is the rank's
    part, and the mean of that over ranks is the mean loss over all tokens of the global batch: divisor = the step's tokens /
    (world_size x tokens here). Where all micro-batches have equally many tokens it is `grad_accum_steps`.
    """

    tokens: Tensor
    targets: Tensor
    divisor: float


@dataclass(frozen=True)
class RankBatch:
    """One rank's part of a global batch: its micro-batches, how many tokens and how many of padding they have, and what their
    sequences cost by the model's own count; beside it by the measured cost that they were dealt out by, None where they were
    not."""

    micro_batches: list[MicroBatch]
    num_tokens: int
    num_padding: int
    cost: float
    fitted_cost: float | None = None


def mean_loss(losses: Sequence[Tensor], micro_batches: Sequence[MicroBatch]) -> Tensor:
    """The mean over a rank's tokens of the mean losses of its micro-batches."""
    weights = [1 / micro_batch.divisor for micro_batch in micro_batches]
    if len(set(weights)) == 1:
        return torch.stack(list(losses)).mean()
    parts = [loss * (weight / sum(weights)) for loss, weight in zip(losses, weights, strict=True)]
    return torch.stack(parts).sum()
