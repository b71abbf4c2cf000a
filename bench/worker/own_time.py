"""How long a rank itself computes in its forward passes, what it waits for other ranks in them taken out."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

Marks = list[Any]
"""When own time began and ended in one forward pass, taking turns: seconds of the host's clock, or CUDA events."""


class OwnTime:
    """Reads the clock at the ends of the bare model's forward passes: forward, because in backward passes ranks wait for each
    other where gradients become ready.

    `waits_in_hooks`: the strategy gathers parameters in forward hooks of the modules (ZeRO-3, FSDP2), where ranks wait for each
    other too. Then each module's chain of hooks is bracketed, and no time in it counts. Made after the strategy's own hooks, so
    that these are within the brackets. On CUDA the marks are events on the stream that computes: what it waits for the stream
    that gathers is taken out alike.
    """

    def __init__(self, model: nn.Module, device: torch.device, waits_in_hooks: bool) -> None:
        self._device = device
        self._passes: list[Marks] = []
        self._inside = False
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end, prepend=True)
        if not waits_in_hooks:
            return
        for module in model.modules():
            if module is not model:
                module.register_forward_pre_hook(self._turn, prepend=True)
                module.register_forward_pre_hook(self._turn)
                module.register_forward_hook(self._turn, prepend=True)
                module.register_forward_hook(self._turn)

    def _begin(self, *_: Any) -> None:
        self._inside = True
        self._passes.append([self._now()])

    def _turn(self, *_: Any) -> None:
        # Activation checkpointing enters modules again, in the backward pass.
        if self._inside:
            self._passes[-1].append(self._now())

    def _end(self, *_: Any) -> None:
        self._passes[-1].append(self._now())
        self._inside = False

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def taken(self) -> list[Marks]:
        """The forward passes since this was last asked."""
        passes, self._passes = self._passes, []
        return passes

    def seconds(self, marks: Marks) -> float:
        """Own seconds of one pass. On CUDA it waits until the pass is over."""
        pairs = zip(marks[::2], marks[1::2], strict=True)
        if self._device.type != "cuda":
            return float(sum(end - begin for begin, end in pairs))
        marks[-1].synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in pairs)) / 1e3
