"""What one rank is fed: its micro-batches, made a step ahead, and what is remembered of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from bench.results.record import RankRecord
from bench.worker.data.micro_batch import MicroBatch, RankBatch
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.data.prefetch import Prefetch
from bench.worker.pace import Pace


class Feed:
    """The batches of one rank, on its device.

    `fed` has an entry a step, without tensors; `input_times_s` the seconds that training waited for each.
    """

    def __init__(self, cell: Cell, model: Any, device: torch.device, control: dist.ProcessGroup) -> None:
        self._batches, self.corpus = batches_of_cell(cell, model)
        self._equal_lengths = cell.equal_lengths
        self.fed: list[RankBatch] = []
        self.input_times_s: list[float] = []
        self._device = device
        self._pace = Pace(model, device, control) if cell.partition == "dynamic" else None
        self._prefetch = Prefetch(self._make)
        self._first: tuple[int, int] | None = None

    def _make(self, step: int) -> RankBatch:
        """Called on the thread that makes batches ahead."""
        rates = self._pace.rates(step) if self._pace is not None else None
        return self._batches.of_rank(step, dist.get_rank(), rates)

    def again_from(self, step: int, now: int) -> None:
        """From here on, step `now` of training gets the batch of `step`, and those after it the ones after that; the speeds by
        which `dynamic` deals stay as they are."""
        self._first = (now, step)
        if self._pace is not None:
            self._pace.frozen = True

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """What this rank trains on in that step, on its device."""
        if self._first is not None:
            step += self._first[1] - self._first[0]
        batch = self._prefetch.get(step)
        self.fed.append(replace(batch, micro_batches=[]))
        if self._device.type == "cpu":
            return batch.micro_batches
        return [
            MicroBatch(
                tokens.pin_memory().to(self._device, non_blocking=True),
                targets.pin_memory().to(self._device, non_blocking=True),
                divisor,
            )
            for tokens, targets, divisor in batch.micro_batches
        ]

    def waited_since(self, asked_s: float) -> None:
        """The batch that was asked for then is there."""
        self.input_times_s.append(time.perf_counter() - asked_s)

    def end_step(self) -> None:
        """The optimizer step on the newest batch is over."""
        if self._pace is not None:
            self._pace.end_step(self.fed[-1].cost)

    def forget_forward_passes(self) -> None:
        """Forward passes since the last step were not of training."""
        if self._pace is not None:
            self._pace.forget()

    def num_tokens(self, step: int) -> int:
        """Tokens of the global batch of that step."""
        return self._batches.num_tokens(step)

    def told(self, num_steps: int, num_warmup_steps: int) -> dict[str, Any]:
        """What a record keeps of the first `num_steps`, by the names of RankRecord."""
        fed = self.fed[:num_steps]
        return {
            "tokens": [batch.num_tokens for batch in fed],
            "padding": [batch.num_padding for batch in fed],
            "costs": [batch.cost for batch in fed],
            "input_times_s": self.input_times_s[num_warmup_steps:num_steps],
        }

    def batch_tokens(self, num_steps: int, first: int = 0) -> list[int]:
        """Tokens of each of so many global batches; none where all are equally long."""
        steps = range(first, first + num_steps)
        return [] if self._equal_lengths else [self._batches.num_tokens(step) for step in steps]


def flops_per_token(model: Any, cell: Cell, ranks: Sequence[RankRecord]) -> float:
    """Model FLOPs of a token: in sequences of `seq_len`, or where lengths differ the mean over all that were trained on."""
    if cell.equal_lengths or cell.paced:
        return float(model.flops_per_token(cell.seq_len))
    return sum(sum(rank.costs) for rank in ranks) / sum(sum(rank.tokens) for rank in ranks)
