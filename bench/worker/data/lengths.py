"""How long the sequences of a global batch are, where lengths are drawn and not those of documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DEFAULT_MEDIAN_FRAC = 0.25


@dataclass(frozen=True)
class Lognormal:
    """Lengths in tokens whose logarithm is normal around that of `median` with standard deviation `spread`, rounded, at least 1
    and at most `longest`. They depend on (seed, stream, step, index) alone."""

    median: int
    spread: float
    longest: int
    seed: int
    stream: int = 0

    def of_step(self, step: int, count: int) -> npt.NDArray[np.int64]:
        """Lengths of the sequences of a step's global batch, (count,)."""
        # The key's second word is 0 for the tokens of `markov`: these are other streams.
        source = np.random.Philox(key=[self.seed, 1 + self.stream], counter=[0, 0, 0, step])
        drawn = self.median * np.exp(self.spread * np.random.Generator(source).standard_normal(count))
        lengths: npt.NDArray[np.int64] = np.clip(np.rint(drawn), 1, self.longest).astype(np.int64)
        return lengths
