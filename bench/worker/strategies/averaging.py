"""Averaging the replicas' weights, each weighted by the tokens that it trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.model_averaging.utils import average_parameters

from bench.worker.data.micro_batch import MicroBatch


def share_of(micro_batches: Sequence[MicroBatch]) -> float:
    """This rank's tokens over the mean of all ranks': 1 where all have equally many."""
    return sum(1 / micro_batch.divisor for micro_batch in micro_batches)


class Average:
    """The mean over all ranks of `parameters`, in place, weighted by the tokens since the last one.

    One all-reduce of them all, by torch's own averager; where ranks have unequal tokens, `weigh` is True and a number travels
    before it. `before` holds what this rank had before the last one of a window: kept, not copied, so that nothing is
    spent on it where time is measured.
    """

    def __init__(self, parameters: Sequence[Tensor], *, weigh: bool) -> None:
        self._parameters = parameters
        self._weigh = weigh
        self._tokens = 0.0
        self.before: list[Tensor] = []

    def trained(self, share: float) -> None:
        """This rank has trained on that share of a step's tokens."""
        self._tokens += share

    def weight(self) -> float:
        """This rank's tokens since the last call, over the mean of all ranks'."""
        tokens, self._tokens = self._tokens, 0.0
        if not self._weigh:
            return 1.0
        total = torch.tensor([tokens], dtype=torch.float64, device=self._parameters[0].device)
        dist.all_reduce(total)
        return tokens * dist.get_world_size() / float(total)

    def state_dict(self) -> dict[str, float]:
        """What the next average depends on besides the parameters."""
        return {"tokens": self._tokens}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from another one's state."""
        self._tokens = state["tokens"]

    def take(self, keep: bool) -> None:
        """Average. `keep`: this is the last one of a window."""
        weight = self.weight()
        own = [parameter.data for parameter in self._parameters] if keep else []
        if weight != 1.0:
            for parameter in self._parameters:
                parameter.data = parameter.data * weight
        average_parameters(iter(self._parameters), dist.group.WORLD)  # type: ignore[arg-type]
        self.before = own
