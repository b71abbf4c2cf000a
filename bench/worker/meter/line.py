"""A line through which collectives complete one after the other: late, for a known delay, or only stamped."""

from __future__ import annotations

import datetime
import queue
import threading
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.worker.meter.timeline import Passage

_Entry = tuple[dist.Work, "torch.futures.Future[Any]", list[Tensor], Passage | None]


class _Late(dist.Work):
    """A collective that completes when the line says so."""

    def __init__(self, future: torch.futures.Future[Any], passage: Passage | None) -> None:
        super().__init__()
        self._future = future
        self._passage = passage

    def wait(self, timeout: datetime.timedelta | None = None) -> bool:
        if self._passage is not None:
            self._passage.waited()
        self._future.wait()
        return True

    def is_completed(self) -> bool:
        return self._future.done()

    def get_future(self) -> torch.futures.Future[Any]:
        return self._future


class Line:
    """Completes each collective `delay_s` after it really completed or, if that is later, after the one before it did: as
    a link would that takes that much longer for each message.

    One thread waits and sleeps, so that what overlaps with communication goes on overlapping.
    """

    def __init__(self, device: torch.device) -> None:
        self.delay_s = 0.0
        self._device = device
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scalebench-line", daemon=True)
        self._thread.start()

    def carry(self, work: dist.Work, outputs: list[Tensor], passage: Passage | None = None) -> dist.Work:
        """A Work that completes when `work` has passed the line; `passage` is told so."""
        future: torch.futures.Future[Any] = torch.futures.Future(
            devices=[self._device] if self._device.type == "cuda" else []
        )
        entry = (work, future, outputs, passage)
        if threading.current_thread() is self._thread:
            # Called by what waited for another collective (PowerSGD's hook), and waited for there: nobody else would deliver it.
            self._deliver(*entry)
        else:
            self._entries.put(entry)
        return _Late(future, passage)

    def close(self) -> None:
        """Let what is in the line pass, and end its thread."""
        self._entries.put(None)
        self._thread.join()

    def _run(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                self._pass_on()
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        while (entry := self._entries.get()) is not None:
            self._deliver(*entry)
            # Not until the next entry comes: a kept Work keeps its tensors.
            del entry

    def _deliver(
        self, work: dist.Work, future: torch.futures.Future[Any], outputs: list[Tensor], passage: Passage | None
    ) -> None:
        try:
            work.wait()
            if self._device.type == "cuda":
                # There wait() only queues the waiting on this thread's stream.
                torch.cuda.current_stream(self._device).synchronize()
            time.sleep(self.delay_s)
            if passage is not None:
                passage.completed()
            future.set_result(outputs)
        except Exception as error:
            future.set_exception(error)
