"""Local SGD: ranks train apart for H steps, then average their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook

from bench.plan.cell import Cell
from bench.results.record import Replicas
from bench.worker.strategies.averaging import Average, share_of
from bench.worker.strategies.base import MicroBatch, StepLoss, distance_to_rank_0
from bench.worker.strategies.ddp import DDP


class LocalSGD(DDP):
    """DDP whose gradients stay on their rank from step `start_step` on, and weights averaged every `every_steps` steps.

    Stich 2019 (arXiv:1805.09767); with a later start post-local SGD, Lin et al. 2020 (arXiv:1808.07217), by torch's own hook
    for it. What a rank trains on alone has the mean over its own tokens as its loss, and counts by its tokens in the
    average. Only weights are averaged: the optimizer's states stay a rank's own.
    """

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        model = super().prepare(cell, device)
        self._every = cell.every_steps
        self._start = int(cell.options.get("start_step", 0))
        self._weigh = not cell.equal_lengths
        self._local = self._gradient_group(cell)
        self._ddp.register_comm_hook(self._local, post_localSGD_hook)
        self._average = Average(self._weights, weigh=self._weigh)
        return model

    def _gradient_group(self, cell: Cell) -> PostLocalSGDState:
        """Which ranks average their gradients."""
        return PostLocalSGDState(dist.group.WORLD, None, self._start, post_local_gradient_allreduce=False)  # type: ignore[no-untyped-call]

    @property
    def _weights(self) -> list[torch.Tensor]:
        """What is averaged: in half precision the weights that are kept in float32."""
        return self._optimizer.masters or list(self._parameters)

    def begin(self, num_steps: int) -> None:
        super().begin(num_steps)
        self._num_left = num_steps

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        self._average.trained(share_of(micro_batches))
        result = super().step(micro_batches)
        self._num_left -= 1
        num_apart = self._optimizer.num_steps - self._start
        if num_apart > 0 and num_apart % self._every == 0:
            self._synchronise(keep=self._num_left < self._every)
        return result

    def _share(self, micro_batches: Sequence[MicroBatch]) -> float:
        return share_of(micro_batches) if self._weigh and self._optimizer.num_steps >= self._start else 1.0

    def _synchronise(self, keep: bool) -> None:
        self._average.take(keep)
        self._optimizer.put_back()

    def finish(self) -> None:
        """Nothing is in flight: averaging waits for its all-reduce."""

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "average": self._average}

    def load(self, folder: Path) -> None:
        super().load(folder)
        # Torch's hook counts the steps until ranks go apart, and no further.
        self._local.iter = min(self._optimizer.num_steps, self._start)

    def drift(self) -> Replicas | None:
        before, self._average.before = self._average.before, []
        return distance_to_rank_0(before or self._parameters)
