"""What a model is judged by: sequences of the validation or test split, the same each time, and how many bytes they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.plan.cell import Cell
from bench.results.corpus import Corpus
from bench.worker.data.micro_batch import IGNORED, MicroBatch
from bench.worker.data.of_cell import Data, data_of_cell
from bench.worker.data.sources import RowSource
from bench.worker.data.text import Split
from bench.worker.data.tokenizer import Tokenizer
from bench.worker.data.tokens import encoded

UNLIMITED_SEQUENCES = 512
"""How many are taken of a source that has no end, where all are asked for."""

# Of sources without splits: no training gets as far as these steps.
_STEPS: dict[Split, int] = {"train": 0, "validation": 2**40, "test": 2**41}


@dataclass(frozen=True)
class HeldOut:
    """Micro-batches of at most `micro_batch_size` rows, `num_tokens` in all. `tokens_per_byte`: tokens that are predicted over
    bytes of UTF-8, in the whole split; None where there is no text, or several, of which the sequences are no fixed part."""

    micro_batches: list[MicroBatch]
    num_tokens: int
    tokens_per_byte: float | None
    corpus: Corpus
    tokenizer: Tokenizer | None


def held_out(cell: Cell, vocab_size: int, split: Split, num_sequences: int | None) -> HeldOut:
    """`num_sequences` sequences of a split, of the kind that the cell trains on, at most once each; None for all there are.

    Raises SuiteError where the corpus has none in that split.
    """
    wanted = num_sequences or UNLIMITED_SEQUENCES
    data = data_of_cell(cell, vocab_size, split, wanted)
    if isinstance(data.source, RowSource):
        there = data.source.num_rows
        count = there if num_sequences is None else min(num_sequences, there)
        if count != wanted:
            data = data_of_cell(cell, vocab_size, split, count)
    step = 0 if cell.is_text else _STEPS[split]
    lengths = data.source.lengths(step)
    padding = 0 if data.tokenizer is None else data.tokenizer.padding
    found = []
    for first in range(0, len(lengths), cell.micro_batch_size):
        rows = range(first, min(first + cell.micro_batch_size, len(lengths)))
        shape = (len(rows), int(lengths[rows].max()))
        tokens = np.full(shape, padding, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        for row, index in enumerate(rows):
            length = int(lengths[index])
            tokens[row, :length], targets[row, :length] = data.source.sequence(step, index, length)
        found.append(MicroBatch(torch.from_numpy(tokens), torch.from_numpy(targets), 1.0))
    return HeldOut(found, int(lengths.sum()), _tokens_per_byte(cell, data, split), data.corpus, data.tokenizer)


def _tokens_per_byte(cell: Cell, data: Data, split: Split) -> float | None:
    if data.tokenizer is None or len(data.texts) != 1:
        return None
    [text] = data.texts.values()
    documents = text.split(split)
    offsets = encoded(documents, text.sha256, split, data.tokenizer).offsets
    # A document's start is predicted only where documents run on.
    num_predicted = int(offsets[-1]) - (
        1 if cell.batching == "fixed" or cell.length_spread is not None else len(documents)
    )
    return num_predicted / sum(len(document.encode("utf-8")) for document in documents)
