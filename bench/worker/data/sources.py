"""Where the sequences of a global batch come from: each depends on (seed, step, its index) alone, whoever trains on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bench.plan.workload import REVERSE
from bench.worker.data.lengths import Lognormal
from bench.worker.data.markov import Markov
from bench.worker.data.packing import Rows

Numbers = npt.NDArray[np.int64]
InputsAndTargets = tuple[Numbers, Numbers]


class Source(ABC):
    """Sequences by step and index in the global batch. Knowing how long they are costs little, so that every rank knows it of
    all of them."""

    @abstractmethod
    def lengths(self, step: int) -> Numbers:
        """Tokens of each sequence of a step's global batch, (global_batch_size,)."""

    @abstractmethod
    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        """Inputs and targets of one sequence, each (length,), its length as `lengths` says."""


class MarkovSource(Source):
    """`markov` with drawn lengths, or all of `seq_len` (`drawn` None)."""

    def __init__(self, markov: Markov, seq_len: int, global_batch_size: int, drawn: Lognormal | None) -> None:
        self._markov, self._drawn = markov, drawn
        self._equal = np.full(global_batch_size, seq_len, dtype=np.int64)

    def lengths(self, step: int) -> Numbers:
        return self._equal if self._drawn is None else self._drawn.of_step(step, len(self._equal))

    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        walk = self._markov.sequence(step, index, length + 1)
        return walk[:-1], walk[1:]


class PairSource(Source):
    """Tokens drawn at random, each alike, and as their targets the same in reverse, or the same: after a source that has been
    read, a loss of 0 is possible. A shorter sequence is the beginning of a longer one."""

    def __init__(
        self, corpus: str, vocab_size: int, seq_len: int, size: int, seed: int, drawn: Lognormal | None
    ) -> None:
        self._reverses, self._vocab_size, self._seed, self._drawn = corpus == REVERSE, vocab_size, seed, drawn
        self._equal = np.full(size, seq_len, dtype=np.int64)

    def lengths(self, step: int) -> Numbers:
        return self._equal if self._drawn is None else self._drawn.of_step(step, len(self._equal))

    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        source = np.random.Generator(np.random.Philox(key=[self._seed, 0], counter=[0, 0, index, step]))
        tokens = source.integers(self._vocab_size, size=length)
        return tokens, tokens[::-1] if self._reverses else tokens


class RowSource(Source):
    """Rows of a text, all of them once an epoch, each time in another order drawn from the seed."""

    def __init__(self, numbers: npt.NDArray[np.int32], rows: Rows, global_batch_size: int, seed: int) -> None:
        assert len(rows), "a text without a row was refused before"
        self._numbers, self._rows, self._size = numbers, rows, global_batch_size
        self._row_lengths = rows.row_lengths
        num_rows = len(rows)

        @lru_cache(maxsize=2)
        def order(epoch: int) -> Numbers:
            return np.random.default_rng([seed, epoch]).permutation(num_rows)

        self._order = order

    @property
    def num_rows(self) -> int:
        """Rows of the text: sequences until one comes again."""
        return len(self._rows)

    def _row(self, step: int, index: int) -> int:
        epoch, place = divmod(step * self._size + index, len(self._rows))
        return int(self._order(epoch)[place])

    def lengths(self, step: int) -> Numbers:
        return self._row_lengths[[self._row(step, index) for index in range(self._size)]]

    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        row = self._row(step, index)
        inputs, targets = [], []
        for piece in range(self._rows.offsets[row], self._rows.offsets[row + 1]):
            begin = self._rows.begins[piece]
            tokens = self._numbers[begin : begin + self._rows.lengths[piece] + 1].astype(np.int64)
            inputs.append(tokens[:-1])
            targets.append(tokens[1:])
        return np.concatenate(inputs), np.concatenate(targets)


class WindowSource(Source):
    """Windows of a text that begin anywhere and have drawn lengths; documents run on in them."""

    def __init__(self, numbers: npt.NDArray[np.int32], global_batch_size: int, drawn: Lognormal) -> None:
        self._numbers, self._size, self._drawn = numbers, global_batch_size, drawn

    def lengths(self, step: int) -> Numbers:
        return self._drawn.of_step(step, self._size)

    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        place = np.random.Philox(key=[self._drawn.seed, 0], counter=[0, 0, index, step]).random_raw()
        begin = int(place) % (len(self._numbers) - length)
        tokens = self._numbers[begin : begin + length + 1].astype(np.int64)
        return tokens[:-1], tokens[1:]


class MixtureSource(Source):
    """Several sources: from which one a sequence comes is drawn by their weights."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], global_batch_size: int, seed: int) -> None:
        self._sources, self._size, self._seed = sources, global_batch_size, seed
        self._below = np.cumsum(weights) / sum(weights)

    def _choice(self, step: int) -> Numbers:
        """Which source each sequence of a step comes from, (global_batch_size,)."""
        # Far from the streams of lengths and of `markov`.
        source = np.random.Philox(key=[self._seed, 2**32], counter=[0, 0, 0, step])
        drawn = np.random.Generator(source).random(self._size)
        return np.minimum(np.searchsorted(self._below, drawn, side="right"), len(self._sources) - 1)

    def lengths(self, step: int) -> Numbers:
        return np.choose(self._choice(step), [source.lengths(step) for source in self._sources])

    def sequence(self, step: int, index: int, length: int) -> InputsAndTargets:
        return self._sources[int(self._choice(step)[index])].sequence(step, index, length)
