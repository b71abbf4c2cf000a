"""What a rank trains on where sequences are unequal: its part of the global batch, in padded micro-batches, weighted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bench.plan.workload import Partition
from bench.results.fitted_cost import FittedCost
from bench.worker.data.batches import GlobalBatches
from bench.worker.data.micro_batch import IGNORED, MicroBatch, RankBatch
from bench.worker.data.partition import Parts, deal
from bench.worker.data.sources import Source

Costs = npt.NDArray[np.float64]


class Batches(ABC):
    """What every rank trains on in every step."""

    @abstractmethod
    def of_rank(self, step: int, rank: int, rates: Costs | None = None, fitted: FittedCost | None = None) -> RankBatch:
        """What `rank` trains on in optimizer step `step`; `rates` (world_size,) are the ranks' speeds, for `dynamic`, `fitted`
        what a sequence costs where that was measured."""

    @abstractmethod
    def num_tokens(self, step: int) -> int:
        """Tokens of the whole global batch, padding not counted."""


@dataclass(frozen=True)
class EqualBatches(Batches):
    """Sequences of equal length in contiguous parts; `sequence_cost` is what one costs."""

    batches: GlobalBatches
    sequence_cost: float

    def of_rank(self, step: int, rank: int, rates: Costs | None = None, fitted: FittedCost | None = None) -> RankBatch:
        pairs = self.batches.micro_batches(step, rank)
        divisor = float(self.batches.grad_accum_steps)
        num_sequences = self.batches.micro_batch_size * self.batches.grad_accum_steps
        return RankBatch(
            micro_batches=[MicroBatch(tokens, targets, divisor) for tokens, targets in pairs],
            num_tokens=num_sequences * self.batches.seq_len,
            num_padding=0,
            cost=num_sequences * self.sequence_cost,
        )

    def num_tokens(self, step: int) -> int:
        return self.batches.global_batch_size * self.batches.seq_len


@dataclass(frozen=True)
class DealtBatches(Batches):
    """The sequences of `source`, dealt to ranks by `partition` and on each rank to `grad_accum_steps` micro-batches.

    A sequence of L tokens costs `cost[0]` L + `cost[1]` L^2 by the model's own count. Rows are filled up with `padding` behind
    their sequence, to the longest of the micro-batch: causal models don't see it from there, and the loss doesn't count it.
    """

    source: Source
    world_size: int
    grad_accum_steps: int
    partition: Partition
    cost: tuple[float, float]
    padding: int
    seed: int

    def num_tokens(self, step: int) -> int:
        return int(self.source.lengths(step).sum())

    def of_rank(self, step: int, rank: int, rates: Costs | None = None, fitted: FittedCost | None = None) -> RankBatch:
        if step < 0 or not 0 <= rank < self.world_size:
            raise ValueError(f"found step {step}, rank {rank}, expected step >= 0, 0 <= rank < {self.world_size}")
        lengths = self.source.lengths(step)
        own_costs = _costs(self.cost, lengths)
        costs = own_costs
        if fitted is not None and fitted.tells:
            costs = _costs((fitted.per_token_s, fitted.per_pair_s), lengths)
        mine = deal(
            self.partition,
            costs,
            self.world_size,
            seed=(self.seed, step),
            rates=rates,
            least=self.grad_accum_steps,
        )[rank]
        total = int(lengths.sum())
        found = [self._micro_batch(step, group, lengths, total) for group in self._groups(mine, costs)]
        num_tokens = int(lengths[mine].sum())
        return RankBatch(
            micro_batches=found,
            num_tokens=num_tokens,
            num_padding=sum(micro_batch.tokens.numel() for micro_batch in found) - num_tokens,
            cost=float(own_costs[mine].sum()),
            fitted_cost=None if fitted is None else float(costs[mine].sum()),
        )

    def _groups(self, mine: Sequence[int], costs: Costs) -> Parts:
        """A rank's sequences by micro-batch. Those of balanced parts are balanced too and the dearest comes first, because
        some strategies wait for each other in every micro-batch; the others keep their order."""
        if self.partition in ("lpt", "karmarkar_karp", "dynamic"):
            groups = deal("lpt", costs[mine], self.grad_accum_steps)
            groups.sort(key=lambda group: -costs[mine][group].sum())
        else:
            groups = deal("contiguous", costs[mine], self.grad_accum_steps)
        return [[mine[place] for place in group] for group in groups]

    def _micro_batch(self, step: int, group: Sequence[int], lengths: npt.NDArray[np.int64], total: int) -> MicroBatch:
        shape = (len(group), int(lengths[group].max()))
        tokens = np.full(shape, self.padding, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        for row, index in enumerate(group):
            length = int(lengths[index])
            tokens[row, :length], targets[row, :length] = self.source.sequence(step, index, length)
        divisor = total / (self.world_size * int(lengths[group].sum()))
        return MicroBatch(torch.from_numpy(tokens), torch.from_numpy(targets), divisor)


def _costs(cost: tuple[float, float], lengths: npt.NDArray[np.int64]) -> Costs:
    per_token, per_pair = cost
    return per_token * lengths + per_pair * lengths.astype(np.float64) ** 2
