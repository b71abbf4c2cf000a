"""One server's part of the weights, and how what workers send changes it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from bench.plan.cell import Cell
from bench.worker.strategies.optimizer import MasterOptimizer


class Shard:
    """A flat part of the weights on the CPU. `version` counts its updates.

    A gradient is one update by the cell's optimizer, whose momentum and moments advance once an update, in the order of
    arrival: with N workers at their own pace they forget N times as fast in time as with full synchronisation. A
    learning rate that follows a schedule does so by steps of all workers, N updates each. The mean of all workers' gradients
    is clipped by its norm over `servers`; at their own pace each worker clips its own before it sends it. With
    `stale_scale: inverse` a gradient that is s updates old is scaled by 1 / (1 + s) first (Zhang et al. 2016, arXiv:1511.05950).
    Weights come as differences from those that the worker had fetched (its own optimizer made them), and are added at their
    mean: 1 / N each.
    """

    def __init__(self, cell: Cell, weights: Tensor, servers: dist.ProcessGroup | None = None) -> None:
        self.weights = weights.detach().clone().cpu().requires_grad_()
        self.version = 0
        clipped = cell.model_copy(update={"max_grad_norm": 0.0}) if cell.own_pace else cell
        self._optimizer = MasterOptimizer(clipped, [self.weights], torch.device("cpu"), servers)
        self._updates_per_step = cell.num_workers if cell.own_pace else 1
        self._takes_weights = cell.options["aggregate"] == "weights"
        self._scales = cell.options["stale_scale"] == "inverse"
        self._num_workers = cell.num_workers

    def apply(self, sent: Tensor, staleness: int) -> None:
        """One worker's message, so many updates old."""
        if self._takes_weights:
            self._move(sent, 1 / self._num_workers)
        else:
            self._step(sent / (1 + staleness) if self._scales else sent)
        self.version += 1

    def apply_mean(self, sent: list[Tensor]) -> None:
        """The messages of all workers, as one update; summed in the order of the list."""
        total = sent[0]
        for other in sent[1:]:
            total += other
        if self._takes_weights:
            self._move(total, 1 / self._num_workers)
        else:
            self._step(total.div_(self._num_workers))
        self.version += 1

    def _step(self, gradient: Tensor) -> None:
        self.weights.grad = gradient
        self._optimizer.take()
        self._optimizer.num_steps = self.version // self._updates_per_step
        self._optimizer.step()

    def _move(self, difference: Tensor, share: float) -> None:
        kept = self._optimizer.masters[0] if self._optimizer.masters else self.weights
        kept.detach().add_(difference.float() if self._optimizer.masters else difference, alpha=share)
        self._optimizer.put_back()
