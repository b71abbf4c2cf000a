"""Plain torch DistributedDataParallel, accumulation through `no_sync`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import bucket_elements
from bench.results.record import Replicas
from bench.worker.strategies.base import (
    DTYPES,
    MicroBatch,
    StepLoss,
    Strategy,
    build_cells_model,
    distance_to_rank_0,
    mean_loss,
)
from bench.worker.strategies.optimizer import MasterOptimizer

Hook = Callable[[Any, Any], torch.futures.Future[Tensor]]
"""What torch DDP calls for each full bucket in place of its all-reduce: with its state and the bucket."""


class DDP(Strategy):
    """DDP with the cell's optimizer, in the same arithmetic as DeepSpeed's: in half precision the model and the gradients that
    travel are half."""

    def hook(self, cell: Cell, device: torch.device) -> tuple[object, Hook] | None:
        """State and function of the communication hook; None for DDP's own all-reduce."""
        return None

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        dtype = DTYPES[cell.precision]
        self._cell = cell
        self._model = build_cells_model(cell, device)
        bucket_cap_mb: float | None = None
        if cell.profile == "matched":
            bucket_cap_mb = bucket_elements(self._model.num_params()) * dtype.itemsize / 2**20
        self._ddp = DistributedDataParallel(
            self._model,
            device_ids=[device.index] if device.type == "cuda" else None,
            bucket_cap_mb=bucket_cap_mb,
            gradient_as_bucket_view=True,
        )
        if (hooked := self.hook(cell, device)) is not None:
            self._ddp.register_comm_hook(*hooked)
        self._parameters = list(self._model.parameters())
        self._optimizer = MasterOptimizer(cell, self._parameters, device)
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        losses: list[Tensor] = []
        last = len(micro_batches) - 1
        share = self._share(micro_batches)
        for index, (tokens, targets, divisor) in enumerate(micro_batches):
            with self._ddp.no_sync() if index < last else contextlib.nullcontext():
                loss = self._ddp(tokens, targets)
                self._optimizer.backward(loss / (divisor * share))
            losses.append(loss.detach())
        self._optimizer.take()
        skipped = self._optimizer.step()
        return StepLoss(mean_loss(losses, micro_batches), skipped)

    def _share(self, micro_batches: Sequence[MicroBatch]) -> float:
        """What the weights of this step's losses are divided by: 1 where all ranks' gradients are averaged."""
        return 1.0

    def finish(self) -> None:
        """Nothing is in flight: backward waits for its buckets, and the optimizer has run."""

    def replica_distance(self) -> Replicas | None:
        return distance_to_rank_0(self._parameters)

    def stateful(self) -> dict[str, Any]:
        return {"model": self._model, "optimizer": self._optimizer}

    def load(self, folder: Path) -> None:
        self._settle_buckets()
        super().load(folder)

    def _settle_buckets(self) -> None:
        """Have DDP make its buckets: it starts with one of all gradients, and divides them as they came after the first backward
        pass. A hook keeps what it knows by bucket, and where more than two ranks add up gradients, the order depends on where in
        a bucket they are: so the first step from a checkpoint must have the buckets of the step before it. This pass changes
        nothing else that `load` does not bring back."""
        tokens = torch.zeros((1, self._cell.seq_len), dtype=torch.int64, device=self._parameters[0].device)
        self._ddp(tokens, tokens).backward()
        self._optimizer.zero()
