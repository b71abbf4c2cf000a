"""Known disturbances, put into a running rank and taken out again: what the meter must find."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from bench.results.metered import Injection
from bench.worker.meter.line import Line
from bench.worker.meter.process_group import Meter


@contextmanager
def injected(
    injection: Injection | None, meter: Meter, trainer: Any, others: dict[int, dist.ProcessGroup | None]
) -> Iterator[None]:
    """Disturb this rank as `injection` says while the block runs; `others[r]` is the group of all ranks but r.

    `trainer` is a `bench.worker.trainer.Trainer`.
    """
    if injection is None:
        yield
    elif injection.kind == "delay":
        meter.line = line = Line(meter.device)
        line.delay_s = injection.seconds
        try:
            yield
        finally:
            meter.line = None
            line.close()
    elif injection.kind == "withhold":
        assert injection.rank is not None and injection.collective is not None
        meter.withheld = (injection.collective, others[injection.rank])
        try:
            yield
        finally:
            meter.withheld = None
    elif injection.rank == dist.get_rank():
        with _slow(injection, trainer):
            yield
    else:
        yield


@contextmanager
def _slow(injection: Injection, trainer: Any) -> Iterator[None]:
    def sleep(*_: Any) -> None:
        time.sleep(injection.seconds)

    if injection.where == "input":
        ready = trainer.input_pipeline

        def late(step: int) -> Any:
            sleep()
            return ready(step)

        trainer.input_pipeline = late
        try:
            yield
        finally:
            trainer.input_pipeline = ready
        return

    def forward_ends(module: Any, inputs: Any, loss: Tensor) -> None:
        loss.register_hook(sleep)  # type: ignore[no-untyped-call]

    if injection.where == "forward":
        hook = trainer.model.register_forward_pre_hook(sleep)
    else:
        hook = trainer.model.register_forward_hook(forward_ends)
    try:
        yield
    finally:
        hook.remove()
