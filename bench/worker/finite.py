"""Ends a training run at the first step whose loss or gradient is no finite number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.plan.cell import Cell
from bench.worker.strategies.base import StepLoss


class NotFinite(Exception):
    """Training has come to nothing: at which step (from 0), and on which rank first. Its outcome is `invalid`."""

    def __init__(self, step: int, rank: int, what: str) -> None:
        super().__init__(f"{what} in step {step} of rank {rank}")
        self.step = step
        self.rank = rank


class Guard:
    """Looks at each step's loss and at the gradient that the optimizer was given, on every rank; all ranks raise the same.

    Each step waits for the device and for the other ranks: for training runs, never inside a measured window, whose losses and
    replicas are looked at after it (bench.analysis). `largest_norm` is what the norm of a rank's gradients may come to, after
    clipping, for those who want training to end where it explodes.
    """

    def __init__(self, cell: Cell, control: dist.ProcessGroup, largest_norm: float = math.inf) -> None:
        self._skips_by_scaler = cell.precision == "fp16"
        self._control = control
        self._largest_norm = largest_norm
        self._norms: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Optimizers of this process are seen while the block runs."""
        hook = register_optimizer_step_post_hook(self._updated)
        try:
            yield
        finally:
            hook.remove()

    def _updated(self, optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self._norms.append(get_total_norm(gradients))

    def check(self, step: int, result: StepLoss) -> float | None:
        """The norm of this rank's gradients in that step, None where nothing was updated. A collective; raises NotFinite."""
        norm = sum(float(norm) ** 2 for norm in self._norms) ** 0.5 if self._norms else None
        self._norms.clear()
        if result.skipped:
            # DeepSpeed leaves a step out whose gradient is not finite; only a scaler of fp16 goes on from there.
            norm = None if self._skips_by_scaler else math.nan
        told = torch.tensor([float(result.loss), 0.0 if norm is None else norm], dtype=torch.float64)
        by_rank = [torch.zeros_like(told) for _ in range(dist.get_world_size(self._control))]
        dist.all_gather(by_rank, told, group=self._control)
        if (why := _wrong([(float(loss), float(norm)) for loss, norm in by_rank], self._largest_norm)) is not None:
            raise NotFinite(step, *why)
        return norm


def _wrong(by_rank: Sequence[tuple[float, float]], largest_norm: float) -> tuple[int, str] | None:
    """The first rank with something wrong, and what: losses first, as they come before gradients."""
    for rank, (loss, _) in enumerate(by_rank):
        if not math.isfinite(loss):
            return rank, f"loss is {loss:g}"
    for rank, (_, norm) in enumerate(by_rank):
        if not math.isfinite(norm):
            return rank, "gradient is not finite"
        if norm > largest_norm:
            return rank, f"gradient norm is {norm:.4g}, above {largest_norm:g}"
    return None
