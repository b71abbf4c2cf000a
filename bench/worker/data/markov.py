"""A synthetic source of tokens whose entropy rate is known in closed form: the corpus `markov`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

# The source steps ahead by one of these offsets, with these probabilities: 1.75 bits a token.
MARKOV_OFFSETS = (1, 2, 3, 4)
MARKOV_PROBABILITIES = (0.5, 0.25, 0.125, 0.125)
MARKOV_ENTROPY_NATS = -sum(p * math.log(p) for p in MARKOV_PROBABILITIES)

# Offset by the low three bits of a random byte: probabilities are eighths, so one byte decides without bias.
_OFFSET_OF_BYTE = np.repeat(MARKOV_OFFSETS, [int(8 * p) for p in MARKOV_PROBABILITIES])[np.arange(256) % 8]


@dataclass(frozen=True)
class Markov:
    """An unlimited seeded source. It walks a ring on which the `vocab_size` tokens lie in an order drawn from `seed`: each
    token is followed by the one 1, 2, 3 or 4 places on, with probabilities 1/2, 1/4, 1/8, 1/8.

    So the best possible loss of a model that sees one token or more is `MARKOV_ENTROPY_NATS` = 1.75 ln 2 = 1.2130 nats, and
    of one that sees none ln(vocab_size). Raises ValueError where a number is out of range.
    """

    vocab_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.vocab_size < len(MARKOV_OFFSETS):
            raise ValueError(f"vocab_size: found {self.vocab_size}, expected at least {len(MARKOV_OFFSETS)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: found {self.seed}, expected 0 <= seed < 2**63")

    @cached_property
    def ring(self) -> npt.NDArray[np.int64]:
        """The tokens in the order in which they lie on the ring, (vocab_size,)."""
        return np.random.default_rng(self.seed).permutation(self.vocab_size)

    def sequence(self, step: int, index: int, num_tokens: int) -> npt.NDArray[np.int64]:
        """Sequence `index` of a step's global batch, (num_tokens,): it depends on (seed, step, index) alone, and a shorter one
        is the beginning of a longer one."""
        # Step and index stand in the high words of Philox's counter, which a sequence advances in the lowest: every
        # sequence has a stream of its own, found without hashing.
        source = np.random.Philox(key=[self.seed, 0], counter=[0, 0, index, step])
        walk = np.empty(num_tokens, dtype=np.int64)
        walk[0] = source.random_raw() % self.vocab_size
        walk[1:] = _OFFSET_OF_BYTE[np.frombuffer(np.random.Generator(source).bytes(num_tokens - 1), np.uint8)]
        return self.ring[np.cumsum(walk) % self.vocab_size]
