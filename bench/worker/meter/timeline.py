"""When things happened inside one optimizer step of this rank: computing, and each collective launched and completed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd import Variable
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.results.metered import Span, SpanKind


@dataclass
class Passage:
    """One collective on its way."""

    timeline: Timeline
    operation: str
    payload_bytes: int
    start_s: float
    waited_s: float | None = None

    def waited(self) -> None:
        """The host begins to wait for it; the first time counts."""
        if self.waited_s is None:
            self.waited_s = time.perf_counter()

    def completed(self) -> None:
        span = Span(
            name=self.operation,
            kind="collective",
            start_s=self.start_s,
            end_s=time.perf_counter(),
            payload_bytes=self.payload_bytes,
        )
        self.timeline.passages.append((span, self))


class Timeline:
    """Collects spans on the host's monotonic clock, in seconds. For one step: taking stamps costs microseconds each.

    On CUDA a collective ends when the device has completed it, but computing is what the host sees of it: the launching.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.passages: list[tuple[Span, Passage]] = []

    def spans(self) -> list[Span]:
        """All that was noted, by its start. Call it when the step is over."""
        collectives = [span.model_copy(update={"waited_s": passage.waited_s}) for span, passage in self.passages]
        return sorted([*self._spans, *collectives], key=lambda span: span.start_s)

    def add(self, name: str, kind: SpanKind, start_s: float) -> None:
        """A span that ends now."""
        self._spans.append(Span(name=name, kind=kind, start_s=start_s, end_s=time.perf_counter()))

    def launched(self, operation: str, payload_bytes: int) -> Passage:
        """A collective is launched now; its passage says when it is waited for and when it completes."""
        return Passage(self, operation, payload_bytes, time.perf_counter())

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note forward and backward passes of `model`, and optimizer steps, while the block runs.

        A backward pass ends where autograd has nothing left to do, before its engine callbacks: DDP waits for its buckets in
        one of those.
        """
        started: dict[str, float] = {}

        def begin(name: str) -> None:
            started[name] = time.perf_counter()

        def end(name: str) -> None:
            self.add(name, "compute", started.pop(name))

        def loss_gradient(gradient: Tensor) -> None:
            begin("backward")
            Variable._execution_engine.queue_callback(lambda: end("backward"))

        def forward_ends(module: nn.Module, inputs: Any, output: Any) -> None:
            end("forward")
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(loss_gradient)  # type: ignore[no-untyped-call]

        hooks = [
            model.register_forward_pre_hook(lambda module, inputs: begin("forward")),
            model.register_forward_hook(forward_ends),
            register_optimizer_step_pre_hook(lambda optimizer, *_: begin("optimizer")),
            register_optimizer_step_post_hook(lambda optimizer, *_: end("optimizer")),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
