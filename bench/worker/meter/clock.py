"""How long each optimizer step takes, without disturbing it."""

from __future__ import annotations

import time
from typing import Protocol

import torch


class StepClock(Protocol):
    """Marks the boundaries of optimizer steps. `mark()` is called at the window's start and after every step, and
    `step_times_s()` once after the window: one entry a step."""

    def mark(self) -> None: ...

    def step_times_s(self) -> list[float]: ...


class HostClock:
    """Boundaries on the host's monotonic clock. Right where a step returns when its work is done: on CPU."""

    def __init__(self) -> None:
        self._marks_ns: list[int] = []

    def mark(self) -> None:
        self._marks_ns.append(time.perf_counter_ns())

    def step_times_s(self) -> list[float]:
        return [(b - a) / 1e9 for a, b in zip(self._marks_ns, self._marks_ns[1:], strict=False)]


class CudaClock:
    """Boundaries as events on the current CUDA stream, read after the window: no synchronisation inside it.

    The host runs ahead of the device, so host time stamps would measure launching, not working.
    """

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    def step_times_s(self) -> list[float]:
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in zip(self._events, self._events[1:], strict=False)]


def step_clock(device: torch.device) -> StepClock:
    """The clock for a device; synchronise it once before the first mark."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return CudaClock()
    return HostClock()
