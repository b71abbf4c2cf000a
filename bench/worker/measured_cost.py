"""What a sequence costs, measured while ranks train: `partition_cost: measured`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.plan.workload import MEASURED_FROM_STEP
from bench.results.fitted_cost import FittedCost
from bench.worker.data.cost_fit import fitted
from bench.worker.data.micro_batch import IGNORED, MicroBatch
from bench.worker.own_time import Marks, OwnTime

# The first two steps are others: first calls, torch DDP's buckets and ZeRO-3's trace are settled in them. As in bench.worker.pace
# a step is known a step later, and the next but one after that is the first that is not made yet.
FIRST_STEP, END_STEP = 2, MEASURED_FROM_STEP - 2


class MeasuredCost:
    """Fits a and b of a L + b L^2 to what forward passes took, steps FIRST_STEP to END_STEP - 1 of all ranks.

    Lengths are those that the model computes on: padded ones, but of a paced model that sleeps for no padding the real ones.
    Every rank tells the others its passes once, on `control`, and fits the same figures to them.
    """

    def __init__(self, model: Any, own_time: OwnTime, control: dist.ProcessGroup) -> None:
        self._own_time, self._control = own_time, control
        self._skips_padding = bool(getattr(model, "skips_padding", False))
        self._steps: list[list[tuple[float, float]]] = []
        self._passes: list[list[Marks]] = []
        self._told: tuple[Any, list[Tensor]] | None = None
        self._fitted: FittedCost | None = None

    def begin_step(self, micro_batches: list[MicroBatch]) -> None:
        """What this rank trains on in the next step, on the host."""
        if len(self._steps) < END_STEP:
            self._steps.append([self._sums(micro_batch) for micro_batch in micro_batches])

    def _sums(self, micro_batch: MicroBatch) -> tuple[float, float]:
        rows, columns = micro_batch.tokens.shape
        if not self._skips_padding:
            return float(rows * columns), float(rows * columns**2)
        lengths = (micro_batch.targets != IGNORED).sum(dim=1)
        return float(lengths.sum()), float((lengths**2).sum())

    def end_step(self, passes: list[Marks]) -> None:
        """The step is over, in which the model's forward passes were these."""
        if self._told is not None:
            return
        if len(self._passes) < END_STEP:
            self._passes.append(passes)
            return
        mine = torch.tensor(
            [
                [*sums, self._own_time.seconds(marks)]
                for step in range(FIRST_STEP, END_STEP)
                for sums, marks in zip(self._steps[step], self._passes[step], strict=True)
            ],
            dtype=torch.float64,
        )
        others = [torch.zeros_like(mine) for _ in range(dist.get_world_size(self._control))]
        self._told = (dist.all_gather(others, mine, group=self._control, async_op=True), others)
        self._steps, self._passes = [[]] * END_STEP, [[]] * END_STEP

    def fitted(self, step: int) -> FittedCost | None:
        """What `step` (from 0, of this launch) is dealt by; None before anything is known."""
        if step < MEASURED_FROM_STEP:
            return None
        if self._fitted is None:
            assert self._told is not None, f"step {step} is made before step {END_STEP} was over"
            work, others = self._told
            work.wait()
            self._fitted = fit([passes.tolist() for passes in others])
        return self._fitted

    @property
    def found(self) -> FittedCost | None:
        """What was fitted, if anything was dealt by it."""
        return self._fitted


def fit(by_rank: list[list[list[float]]]) -> FittedCost:
    """`by_rank`: of each pass of each rank the sum of L, of L^2, and its seconds."""
    found = fitted(
        [
            ([(1.0, tokens, pairs) for tokens, pairs, _ in passes], [seconds for *_, seconds in passes])
            for passes in by_rank
        ]
    )
    per_pass_s, per_token_s, per_pair_s = found.constants
    return FittedCost(
        per_pass_s=per_pass_s,
        per_token_s=per_token_s,
        per_pair_s=per_pair_s,
        rank_slowness=found.slowness,
        error_s=found.error,
        num_passes=sum(map(len, by_rank)),
        from_step=MEASURED_FROM_STEP,
    )
