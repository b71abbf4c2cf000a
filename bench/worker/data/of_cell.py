"""What a cell trains on, made ready: its corpus read, its tokens found, its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.plan.workload import MARKOV, PAIRS, MixtureSource
from bench.results.corpus import Corpus
from bench.worker.data import packing, sources
from bench.worker.data.batches import GlobalBatches
from bench.worker.data.dealt import Batches, DealtBatches, EqualBatches
from bench.worker.data.lengths import DEFAULT_MEDIAN_FRAC, Lognormal
from bench.worker.data.markov import MARKOV_ENTROPY_NATS, Markov
from bench.worker.data.text import Split, Text, load_text
from bench.worker.data.tokenizer import Tokenizer, make_tokenizer
from bench.worker.data.tokens import encoded

_USE: dict[Split, str] = {"train": "to train on", "validation": "for validation", "test": "for the test"}


class Sized(Protocol):
    """What is asked of a model."""

    @property
    def vocab_size(self) -> int: ...

    def sequence_cost(self, seq_len: int) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Data:
    """Where a cell's sequences come from: a `source`, of the texts of one split, through a tokenizer. `markov` has no text."""

    source: sources.Source
    corpus: Corpus
    tokenizer: Tokenizer | None
    texts: dict[str, Text]


def batches_of_cell(cell: Cell, model: Sized) -> tuple[Batches, Corpus]:
    """The batches that a cell trains on, whoever trains it, and what they are made of.

    Raises SuiteError where the corpus or the tokenizer can't be had, or has too few tokens for one sequence.
    """
    per_token, per_pair = model.sequence_cost(cell.seq_len)
    if cell.corpus == MARKOV and cell.batching == "fixed" and cell.partition == "contiguous":
        cost = per_token * cell.seq_len + per_pair * cell.seq_len**2
        return EqualBatches(GlobalBatches.of_cell(cell, model.vocab_size), cost), _markov_corpus()
    data = data_of_cell(cell, model.vocab_size, "train", cell.global_batch_size)
    return DealtBatches(
        source=data.source,
        world_size=cell.num_workers,
        grad_accum_steps=cell.grad_accum_steps,
        partition=cell.partition,
        cost=(per_token, per_pair),
        padding=0 if data.tokenizer is None else data.tokenizer.padding,
        seed=cell.seed,
    ), data.corpus


def data_of_cell(cell: Cell, vocab_size: int, split: Split, num_sequences: int) -> Data:
    """The sequences of that split, of the kind that the cell trains on, `num_sequences` of them a step. Raises as
    `batches_of_cell`."""
    tokenizer, texts = None, {}
    # A pair's answer can be told from its source.
    corpus = Corpus(name=cell.corpus, entropy_floor_nats=0.0) if cell.corpus in PAIRS else _markov_corpus()
    if cell.is_text:
        texts = {source.corpus: load_text(source.corpus, cell) for source in cell.sources.values()}
        tokenizer = _tokenizer(cell, texts, vocab_size)
        corpus = _text_corpus(texts, tokenizer)
    found = [
        _source(cell, source, number, vocab_size, texts.get(source.corpus), tokenizer, split, num_sequences)
        for number, source in enumerate(cell.sources.values())
    ]
    weights = [source.weight for source in cell.sources.values()]
    source = found[0] if len(found) == 1 else sources.MixtureSource(found, weights, num_sequences, cell.seed)
    return Data(source, corpus, tokenizer, texts)


def _tokenizer(cell: Cell, texts: dict[str, Text], vocab_size: int) -> Tokenizer:
    """One for all sources, of the documents for training."""
    documents = [document for text in texts.values() for document in text.split("train")]
    return make_tokenizer(cell.tokenizer, documents, _digest(texts), vocab_size)


def _digest(texts: dict[str, Text]) -> str:
    return "+".join(text.sha256 for text in texts.values())


def _markov_corpus() -> Corpus:
    return Corpus(name=MARKOV, entropy_floor_nats=MARKOV_ENTROPY_NATS)


def _text_corpus(texts: dict[str, Text], tokenizer: Tokenizer) -> Corpus:
    return Corpus(
        name=" + ".join(texts),
        sha256=_digest(texts),
        num_documents=sum(len(text.documents) for text in texts.values()),
        num_bytes=sum(text.num_bytes for text in texts.values()),
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
    )


def _source(
    cell: Cell,
    asked: MixtureSource,
    number: int,
    vocab_size: int,
    text: Text | None,
    tokenizer: Tokenizer | None,
    split: Split,
    num_sequences: int,
) -> sources.Source:
    """One source of the cell; `number` sets the lengths of a mixture's sources apart."""
    drawn = None
    if asked.length_spread is not None:
        median = asked.median_len or max(1, round(DEFAULT_MEDIAN_FRAC * cell.seq_len))
        drawn = Lognormal(median, asked.length_spread, cell.seq_len, cell.seed, stream=number)
    if asked.corpus in PAIRS:
        return sources.PairSource(asked.corpus, vocab_size, cell.seq_len, num_sequences, cell.seed, drawn)
    if text is None or tokenizer is None:
        return sources.MarkovSource(Markov(vocab_size, cell.seed), cell.seq_len, num_sequences, drawn)
    tokens = encoded(text.split(split), text.sha256, split, tokenizer)
    if len(tokens.numbers) <= cell.seq_len:
        raise SuiteError(
            f"corpus: {text.name} has {len(tokens.numbers)} tokens {_USE[split]}, expected more than seq_len, {cell.seq_len}",
            hint="take more text, or shorter sequences",
        )
    if drawn is not None:
        return sources.WindowSource(tokens.numbers, num_sequences, drawn)
    if cell.batching == "fixed":
        rows = packing.windows(len(tokens.numbers), cell.seq_len)
    else:
        rows = packing.documents(tokens.offsets, cell.seq_len)
        rows = packing.packed(rows, cell.seq_len) if cell.batching == "packed" else rows
    return sources.RowSource(tokens.numbers, rows, num_sequences, cell.seed)
