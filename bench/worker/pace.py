"""How fast each rank is, measured while it trains: what the partition `dynamic` deals by."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

LAG_STEPS = 3
"""A step is dealt by what was measured three steps before it and earlier: it is made ready one step ahead, and the device may be
a step behind the host when it is asked how long it took."""
WINDOW_STEPS = 10
"""The newest of these count, so that a rank that becomes slow is found out."""


class Pace:
    """Each rank's rate: what its sequences were reckoned to cost over the seconds of its forward passes.

    Forward passes, because in the backward pass ranks wait for each other. The ranks tell each other once a step, on `control`,
    while they train; nobody waits for it. All ranks know the same, so they deal alike.
    """

    def __init__(self, model: nn.Module, device: torch.device, control: dist.ProcessGroup) -> None:
        self._device, self._control = device, control
        self._marks: list[Any] = []
        self._told: list[tuple[Any, list[Tensor]]] = []
        self._before: tuple[float, list[Any]] | None = None
        self._known: npt.NDArray[np.float64] | None = None
        self.frozen = False
        """Set when rates are not to change any more."""
        model.register_forward_pre_hook(self._mark)
        model.register_forward_hook(self._mark)

    def _mark(self, *_: Any) -> None:
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def forget(self) -> None:
        """The forward passes since the last step don't count."""
        self._marks = []

    def end_step(self, cost: float) -> None:
        """The step is over in which this rank's sequences cost that much: tell what the step before it took."""
        marks, self._marks = self._marks, []
        before, self._before = self._before, (cost, marks)
        if self.frozen or before is None:
            return
        mine = torch.tensor([before[0], self._seconds(before[1])], dtype=torch.float64)
        others = [torch.zeros_like(mine) for _ in range(dist.get_world_size(self._control))]
        self._told.append((dist.all_gather(others, mine, group=self._control, async_op=True), others))

    def _seconds(self, marks: list[Any]) -> float:
        pairs = zip(marks[::2], marks[1::2], strict=True)
        if self._device.type != "cuda":
            return float(sum(end - begin for begin, end in pairs))
        return float(sum(begin.elapsed_time(end) for begin, end in pairs)) / 1e3

    def rates(self, step: int) -> npt.NDArray[np.float64] | None:
        """Cost per second of each rank, (world_size,), by which `step` is dealt; None before anything is known."""
        if self.frozen:
            return self._known
        counted = self._told[max(0, step + 1 - LAG_STEPS - WINDOW_STEPS) : max(0, step + 1 - LAG_STEPS)]
        if counted:
            for work, _ in counted:
                work.wait()
            costs, seconds = torch.stack([torch.stack(others) for _, others in counted]).sum(dim=0).numpy().T
            if (costs > 0).all() and (seconds > 0).all():
                self._known = costs / seconds
        return self._known
