"""What is trained on: the global batches of the corpus `markov`, the same however they are split over ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.plan.cell import Cell

# The source steps ahead by one of these offsets, with these probabilities: 1.75 bits a token.
MARKOV_OFFSETS = (1, 2, 3, 4)
MARKOV_PROBABILITIES = (0.5, 0.25, 0.125, 0.125)
MARKOV_ENTROPY_NATS = -sum(p * math.log(p) for p in MARKOV_PROBABILITIES)

# Offset by the low three bits of a random byte: probabilities are eighths, so one byte decides without bias.
_OFFSET_OF_BYTE = np.repeat(MARKOV_OFFSETS, [int(8 * p) for p in MARKOV_PROBABILITIES])[np.arange(256) % 8]


@dataclass(frozen=True)
class GlobalBatches:
    """The micro-batches of every rank and step, from a seeded source whose entropy rate is known in closed form.

    The source walks a ring on which the `vocab_size` tokens lie in an order drawn from `seed`: each token is followed
    by the one 1, 2, 3 or 4 places on, with probabilities 1/2, 1/4, 1/8, 1/8. So the best possible loss of a model that
    sees one token or more is `MARKOV_ENTROPY_NATS` = 1.75 ln 2 = 1.2130 nats, and of one that sees none ln(vocab_size).

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
            world_size=cell.world_size,
            seed=cell.seed,
        )

    def __post_init__(self) -> None:
        if self.vocab_size < len(MARKOV_OFFSETS):
            raise ValueError(f"vocab_size: found {self.vocab_size}, expected at least {len(MARKOV_OFFSETS)}")
        for name in ("seq_len", "micro_batch_size", "grad_accum_steps", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: found {self.seed}, expected 0 <= seed < 2**63")

    @property
    def global_batch_size(self) -> int:
        """Sequences per optimizer step over all ranks."""
        return self.micro_batch_size * self.grad_accum_steps * self.world_size

    @cached_property
    def ring(self) -> npt.NDArray[np.int64]:
        """The tokens in the order in which they lie on the ring, (vocab_size,)."""
        return np.random.default_rng(self.seed).permutation(self.vocab_size)

    def micro_batches(self, step: int, rank: int) -> list[tuple[Tensor, Tensor]]:
        """The micro-batches of `rank` in optimizer step `step` (from 0): grad_accum_steps pairs (tokens, targets).

        Each is an int64 CPU tensor (micro_batch_size, seq_len); `targets` are `tokens` one position later.
        """
        if step < 0 or not 0 <= rank < self.world_size:
            raise ValueError(f"found step {step}, rank {rank}, expected step >= 0, 0 <= rank < {self.world_size}")
        per_rank = self.micro_batch_size * self.grad_accum_steps
        sequences = torch.from_numpy(self._sequences(step, rank * per_rank, per_rank))
        return [
            (part[:, :-1].contiguous(), part[:, 1:].contiguous())
            for part in torch.split(sequences, self.micro_batch_size)
        ]

    def _sequences(self, step: int, first: int, count: int) -> npt.NDArray[np.int64]:
        """Sequences `first` to `first + count` of a step's global batch, (count, seq_len + 1)."""
        walk = np.empty((count, self.seq_len + 1), dtype=np.int64)
        for row in range(count):
            # Step and index stand in the high words of Philox's counter, which a sequence advances in the lowest:
            # every sequence has a stream of its own, found without hashing.
            source = np.random.Philox(key=[self.seed, 0], counter=[0, 0, first + row, step])
            walk[row, 0] = source.random_raw() % self.vocab_size
            walk[row, 1:] = _OFFSET_OF_BYTE[np.frombuffer(np.random.Generator(source).bytes(self.seq_len), np.uint8)]
        return self.ring[np.cumsum(walk, axis=1) % self.vocab_size]
