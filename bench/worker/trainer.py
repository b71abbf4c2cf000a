"""What one rank trains, step by step: warm-up by rule and a clean window, timed."""

from __future__ import annotations

import importlib
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.results.synchronisation import ReplicaSample
from bench.worker.data.micro_batch import MicroBatch
from bench.worker.feed import Feed
from bench.worker.finite import Guard
from bench.worker.guard import may_be_missed
from bench.worker.masks import draw_masks_of
from bench.worker.meter.clock import step_clock
from bench.worker.meter.memory import MemoryPeak
from bench.worker.meter.process_group import Meter
from bench.worker.strategies.base import StepLoss, Strategy

WARMUP_BLOCK_STEPS = 3
WARMUP_TOLERANCE = 0.05


class Trainer:
    """One rank's training: a strategy, its batches, and what each optimizer step came to."""

    def __init__(
        self, cell: Cell, device: torch.device, control: dist.ProcessGroup, meter: Meter | None = None
    ) -> None:
        module, _, name = STRATEGIES[cell.strategy].target.partition(":")
        self.cell = cell
        self.device = device
        self.control = control
        self.meter = meter
        self.strategy: Strategy = getattr(importlib.import_module(module), name)()
        # After the strategy's imports: DeepSpeed's own 100 MiB are not the model's.
        self.memory = MemoryPeak(device)
        self.model: Any = self.strategy.prepare(cell, device)
        if cell.paced:
            self.model.skips_padding = not cell.equal_lengths
            if cell.slow_rank_frac and dist.get_rank() == cell.num_workers - 1:
                self.model.slow_down(cell.slow_rank_frac)
        self.feed = Feed(cell, self.model, device, control)
        self.results: list[StepLoss] = []
        self.first_step = 0
        """Where training began: at the beginning, or where it was resumed."""
        self.guard: Guard | None = None
        """Ends training at the first step that is not finite, at the cost of waiting for each."""
        self.samples: list[ReplicaSample] = []
        self.num_lost = 0
        # An attribute, so that a disturbance can be put in its place.
        self.input_pipeline = self._micro_batches

    def step(self) -> None:
        """One optimizer step on the next global batch."""
        if self.meter is not None:
            self.meter.begin_step()
        asked_s = time.perf_counter()
        step = self.first_step + len(self.results)
        micro_batches = self.input_pipeline(step)
        self.feed.waited_since(asked_s)
        draw_masks_of(self.cell, step, dist.get_rank())
        self.results.append(self.strategy.step(micro_batches))
        self.feed.end_step()
        if self.guard is not None:
            self.guard.check(step, self.results[-1])

    def _micro_batches(self, step: int) -> list[MicroBatch]:
        return self.feed.micro_batches(step)

    def timed_steps(self, num_steps: int, drain: bool = True) -> list[float]:
        """Seconds of each of `num_steps` optimizer steps, begun together by all ranks, and drained at the end, unless training
        goes on."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        dist.barrier(self.control)
        if self.cell.own_pace:
            may_be_missed()
        self.strategy.begin(num_steps)
        clock = step_clock(self.device)
        clock.mark()
        num_done = 0
        while self.strategy.goes_on(num_done):
            self.step()
            num_done += 1
            if drain and not self.strategy.goes_on(num_done):
                self.strategy.finish()
            clock.mark()
        if not num_done:
            self.strategy.finish()
        self._go_on_without_the_lost()
        return clock.step_times_s()

    def _go_on_without_the_lost(self) -> None:
        """Where workers may be lost: what follows is the others' business."""
        lost = {lost.rank for lost in self.strategy.lost}
        if len(lost) == self.num_lost:
            return
        self.num_lost = len(lost)
        staying = [rank for rank in range(self.cell.world_size) if rank not in lost]
        self.control = dist.new_group(staying, backend="gloo", use_local_synchronization=True)
        self.strategy.regroup(self.control)

    def warm_up(self) -> tuple[int, bool]:
        """Train until the step time has settled: the medians of the last two blocks, of the slowest rank's seconds,
        agree within 5 %, and the loss scaler skipped no step of the last block.

        Returns the number of steps and whether it settled within the cell's `max_warmup_steps`. All ranks agree. Blocks are of
        whole periods where ranks agree every H steps only.
        """
        every = self.cell.every_steps
        most = self.cell.max_warmup_steps // every * every
        medians: list[float] = []
        num_steps = 0
        while num_steps < most:
            block = min(-(-WARMUP_BLOCK_STEPS // every) * every, most - num_steps)
            taken = len(self.results)
            times_s = self._of_steps(self.timed_steps(block), block)
            dist.all_reduce(times_s, op=dist.ReduceOp.MAX, group=self.control)
            self.sample()
            medians.append(statistics.median(times_s.tolist()))
            num_steps += block
            skipped = any(result.skipped for result in self.results[taken:])
            ready = len(medians) > 1 and not skipped and num_steps >= self.cell.least_warmup_steps
            if ready and abs(medians[-1] / medians[-2] - 1) <= WARMUP_TOLERANCE:
                return num_steps, True
        return num_steps, False

    def _of_steps(self, times_s: list[float], num_steps: int) -> torch.Tensor:
        """This rank's seconds of each of so many steps: none of a server, the mean of all where a rank goes at its own pace."""
        if len(times_s) == num_steps and not self.cell.own_pace:
            return torch.tensor(times_s, dtype=torch.float64)
        return torch.full((num_steps,), sum(times_s) / num_steps, dtype=torch.float64)

    def sample(self) -> None:
        """Note how far apart the replicas are, where they drift. A collective, outside what is measured."""
        if not self.cell.drifting:
            return
        found = self.strategy.drift()
        if found is not None:
            self.samples.append(ReplicaSample(step=len(self.results), largest=found.largest, mean=found.mean))
