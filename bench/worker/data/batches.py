"""What is trained on where all sequences are equally long: the global batches of `markov`, the same however they are split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.plan.cell import Cell
from bench.worker.data.markov import Markov


@dataclass(frozen=True)
class GlobalBatches:
    """The micro-batches of every rank and step, from the source `markov`.

    A sequence depends on (seed, step, its index in the global batch) alone. Rank r trains on the r-th contiguous slice
    of the global batch, its micro-batches in order. Hence any split of the same `global_batch_size` into micro-batches,
    accumulation steps and ranks trains on the same sequences.
    Raises ValueError where a number is out of range.
    """

    vocab_size: int
    seq_len: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int
    seed: int

    @classmethod
    def of_cell(cls, cell: Cell, vocab_size: int) -> GlobalBatches:
        """The batches that a cell trains on, whoever trains it."""
        return cls(
            vocab_size=vocab_size,
            seq_len=cell.seq_len,
            micro_batch_size=cell.micro_batch_size,
            grad_accum_steps=cell.grad_accum_steps,
            world_size=cell.num_workers,
            seed=cell.seed,
        )

    def __post_init__(self) -> None:
        Markov(self.vocab_size, self.seed)
        for name in ("seq_len", "micro_batch_size", "grad_accum_steps", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least 1")

    @property
    def global_batch_size(self) -> int:
        """Sequences per optimizer step over all ranks."""
        return self.micro_batch_size * self.grad_accum_steps * self.world_size

    @cached_property
    def source(self) -> Markov:
        """Where the tokens come from."""
        return Markov(self.vocab_size, self.seed)

    def micro_batches(self, step: int, rank: int) -> list[tuple[Tensor, Tensor]]:
        """The micro-batches of `rank` in optimizer step `step` (from 0): grad_accum_steps pairs (tokens, targets).

        Each is an int64 CPU tensor (micro_batch_size, seq_len); `targets` are `tokens` one position later.
        """
        if step < 0 or not 0 <= rank < self.world_size:
            raise ValueError(f"found step {step}, rank {rank}, expected step >= 0, 0 <= rank < {self.world_size}")
        per_rank = self.micro_batch_size * self.grad_accum_steps
        # Copied by numpy: torch would do it with threads of its own, beside those of training.
        sequences = [self.source.sequence(step, rank * per_rank + index, self.seq_len + 1) for index in range(per_rank)]
        found = []
        for first in range(0, per_rank, self.micro_batch_size):
            rows = np.stack(sequences[first : first + self.micro_batch_size])
            found.append((_tensor(rows[:, :-1]), _tensor(rows[:, 1:])))
        return found


def _tensor(rows: npt.NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows))
