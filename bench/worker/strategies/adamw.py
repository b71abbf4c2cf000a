"""AdamW in the arithmetic that all strategies share: float32 weights, and a scaled loss in fp16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.plan.cell import Cell
from bench.worker.strategies.base import DTYPES, own_part


class MasterAdamW:
    """torch's AdamW as DeepSpeed applies it: in half precision on float32 copies of the weights (`masters`), in fp16 with a
    dynamically scaled loss. `optimizer` is the one inside."""

    def __init__(self, cell: Cell, parameters: Sequence[Tensor], device: torch.device) -> None:
        self._parameters = parameters
        half = DTYPES[cell.precision] != torch.float32
        self.masters = [p.detach().clone().float().requires_grad_() for p in parameters] if half else []
        fused = cell.profile == "tuned" and device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.masters or parameters,
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

    def backward(self, loss: Tensor) -> None:
        """The backward pass of this part of the step's loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def take(self, share: float = 1.0) -> None:
        """Add this share of the parameters' gradients to the masters', and zero them. In fp32, where the parameters are what
        is optimized, there is nothing to take."""
        for master, parameter in zip(self.masters, self._parameters, strict=False):
            assert parameter.grad is not None, "every parameter takes part in the loss"
            gradient = parameter.grad.float()
            if share != 1.0:
                gradient *= share
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        if self.masters:
            self._zero()

    def step(self) -> bool:
        """Update the parameters and zero the gradients; True if the scaler skipped the update."""
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        skipped = self._scaler.get_scale() < scale
        if self.masters:
            torch._foreach_copy_([own_part(p) for p in self._parameters], [own_part(m) for m in self.masters])
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self._zero()
        return skipped

    def _zero(self) -> None:
        # Zeroed, not freed: the gradients may be views of DDP's buckets.
        torch._foreach_zero_([own_part(p.grad) for p in self._parameters if p.grad is not None])
