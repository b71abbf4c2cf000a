"""Plain torch DistributedDataParallel, accumulation through `no_sync`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

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
)


class DDP(Strategy):
    """DDP with AdamW, in the same arithmetic as DeepSpeed's: in half precision the model and the gradients that travel
    are half, the optimizer's weights are float32 copies, and fp16 scales the loss dynamically."""

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        dtype = DTYPES[cell.precision]
        self._model = build_cells_model(cell, device)
        self._grad_accum_steps = cell.grad_accum_steps
        bucket_cap_mb: float | None = None
        if cell.profile == "matched":
            bucket_cap_mb = bucket_elements(self._model.num_params()) * dtype.itemsize / 2**20
        self._ddp = DistributedDataParallel(
            self._model,
            device_ids=[device.index] if device.type == "cuda" else None,
            bucket_cap_mb=bucket_cap_mb,
            gradient_as_bucket_view=True,
        )
        self._parameters = list(self._model.parameters())
        half = dtype != torch.float32
        self._masters = [p.detach().clone().float().requires_grad_() for p in self._parameters] if half else []
        fused = cell.profile == "tuned" and device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self._masters or self._parameters,
            lr=cell.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=cell.weight_decay,
            fused=fused or None,
        )
        # DeepSpeed's dynamic scaling: starts at 2^16, halves on overflow, doubles after 1000 good steps.
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=2.0**16, growth_interval=1000, enabled=cell.precision == "fp16"
        )
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        losses: list[Tensor] = []
        last = len(micro_batches) - 1
        for index, (tokens, targets) in enumerate(micro_batches):
            with self._ddp.no_sync() if index < last else contextlib.nullcontext():
                loss = self._ddp(tokens, targets)
                self._scaler.scale(loss / self._grad_accum_steps).backward()
            losses.append(loss.detach())
        skipped = self._update()
        return StepLoss(torch.stack(losses).mean(), skipped)

    def _update(self) -> bool:
        """The optimizer's step on the accumulated gradients; True if the scaler skipped it."""
        for master, parameter in zip(self._masters, self._parameters, strict=False):
            assert parameter.grad is not None, "every parameter takes part in the loss"
            master.grad = parameter.grad.float()
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        skipped = self._scaler.get_scale() < scale
        if self._masters:
            torch._foreach_copy_([p.detach() for p in self._parameters], [m.detach() for m in self._masters])
            self._optimizer.zero_grad(set_to_none=True)
        # Zeroed, not freed: the gradients are views of DDP's buckets.
        torch._foreach_zero_([p.grad for p in self._parameters if p.grad is not None])
        return skipped

    def finish(self) -> None:
        """Nothing is in flight: backward waits for its buckets, and the optimizer has run."""

    def replica_distance(self) -> Replicas | None:
        return distance_to_rank_0(self._parameters)
