"""What a collective that did not run hands back in its place."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Done(dist.Work):
    """A collective that is complete already."""

    def __init__(self, outputs: list[Tensor], device: torch.device) -> None:
        super().__init__()
        self._outputs = outputs
        self._devices: list[int | str | torch.device] = [device] if device.type == "cuda" else []

    def wait(self, timeout: datetime.timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> torch.futures.Future[Any]:
        future: torch.futures.Future[Any] = torch.futures.Future(devices=self._devices)
        future.set_result(self._outputs)
        return future


class InPlaceOf(dist.Work):
    """A collective that is complete when the one that runs in its place is; its future carries the original's tensors."""

    def __init__(self, work: dist.Work, outputs: list[Tensor]) -> None:
        super().__init__()
        self._work = work
        self._outputs = outputs

    def wait(self, timeout: datetime.timedelta | None = None) -> bool:
        return self._work.wait()

    def is_completed(self) -> bool:
        return self._work.is_completed()

    def get_future(self) -> torch.futures.Future[Any]:
        outputs = self._outputs
        return self._work.get_future().then(lambda _: outputs)
