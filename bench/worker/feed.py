"""What one rank is fed: its micro-batches, made a step ahead, and what is remembered of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.plan.workload import MEASURED_FROM_STEP
from bench.results.fitted_cost import FittedCost
from bench.results.record import RankRecord
from bench.worker.data.micro_batch import MicroBatch, RankBatch
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.data.prefetch import Prefetch
from bench.worker.measured_cost import MeasuredCost
from bench.worker.own_time import OwnTime
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
        self._own_time: OwnTime | None = None
        self._pace: Pace | None = None
        self._measured: MeasuredCost | None = None
        if cell.dealt_by_measurement:
            self._own_time = OwnTime(model, device, STRATEGIES[cell.strategy].gathers_in_forward)
            by_measured_cost = cell.partition_cost == "measured"
            if cell.partition == "dynamic":
                self._pace = Pace(self._own_time, control, MEASURED_FROM_STEP if by_measured_cost else 0)
            if by_measured_cost:
                self._measured = MeasuredCost(model, self._own_time, control)
        self._prefetch = Prefetch(self._make)
        self._begun: int | None = None
        self._first: tuple[int, int] | None = None

    def _make(self, step: int) -> RankBatch:
        """Called on the thread that makes batches ahead."""
        assert self._begun is not None
        # What is measured is measured anew in each launch: a training that goes on begins later.
        since = step - self._begun
        rates = self._pace.rates(since) if self._pace is not None else None
        fitted = self._measured.fitted(since) if self._measured is not None else None
        return self._batches.of_rank(step, dist.get_rank(), rates, fitted)

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
        if self._begun is None:
            self._begun = step
        batch = self._prefetch.get(step)
        self.fed.append(replace(batch, micro_batches=[]))
        if self._measured is not None:
            self._measured.begin_step(batch.micro_batches)
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
        if self._own_time is None:
            return
        passes = self._own_time.taken()
        if self._pace is not None:
            fed = self.fed[-1]
            self._pace.end_step(fed.cost if fed.fitted_cost is None else fed.fitted_cost, passes)
        if self._measured is not None:
            self._measured.end_step(passes)

    def forget_forward_passes(self) -> None:
        """Forward passes since the last step were not of training."""
        if self._own_time is not None:
            self._own_time.taken()

    @property
    def fitted_cost(self) -> FittedCost | None:
        """What sequences were measured to cost, where any were dealt by it."""
        return self._measured.found if self._measured is not None else None

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
            "fitted_costs": [batch.fitted_cost for batch in fed if batch.fitted_cost is not None],
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
