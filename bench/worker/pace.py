"""How fast each rank is, measured while it trains: what the partition `dynamic` deals by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from bench.worker.own_time import Marks, OwnTime

LAG_STEPS = 3
"""A step is dealt by what was measured three steps before it and earlier: it is made ready one step ahead, and the device may be
a step behind the host when it is asked how long it took."""
WINDOW_STEPS = 10
"""The newest of these count, so that a rank that becomes slow is found out."""


class Pace:
    """Each rank's rate: what its sequences were reckoned to cost over the seconds that it computed itself in forward passes.

    The ranks tell each other once a step, on `control`, while they train; nobody waits for it. All ranks know the same, so they
    deal alike. `in_unit_from`: the first step whose cost is in its last unit; steps before it count until one after it is known.
    """

    def __init__(self, own_time: OwnTime, control: dist.ProcessGroup, in_unit_from: int = 0) -> None:
        self._own_time, self._control, self._in_unit_from = own_time, control, in_unit_from
        self._told: list[tuple[Any, list[Tensor]]] = []
        self._before: tuple[float, list[Marks]] | None = None
        self._known: npt.NDArray[np.float64] | None = None
        self.frozen = False
        """Set when rates are not to change any more."""

    def end_step(self, cost: float, passes: list[Marks]) -> None:
        """The step is over in which this rank's sequences cost that much: tell what the step before it took."""
        before, self._before = self._before, (cost, passes)
        if self.frozen or before is None:
            return
        took_s = sum(self._own_time.seconds(marks) for marks in before[1])
        mine = torch.tensor([before[0], took_s], dtype=torch.float64)
        others = [torch.zeros_like(mine) for _ in range(dist.get_world_size(self._control))]
        self._told.append((dist.all_gather(others, mine, group=self._control, async_op=True), others))

    def rates(self, step: int) -> npt.NDArray[np.float64] | None:
        """Cost per second of each rank, (world_size,), by which `step` (from 0) is dealt; None before anything is known."""
        if self.frozen:
            return self._known
        end = max(0, step + 1 - LAG_STEPS)
        first = max(0, end - WINDOW_STEPS, self._in_unit_from if self._in_unit_from < end else 0)
        counted = self._told[first:end]
        if counted:
            for work, _ in counted:
                work.wait()
            costs, seconds = torch.stack([torch.stack(others) for _, others in counted]).sum(dim=0).numpy().T
            if (costs > 0).all() and (seconds > 0).all():
                self._known = costs / seconds
        return self._known
