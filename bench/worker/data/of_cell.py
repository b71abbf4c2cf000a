"""What a cell trains on, made ready: its corpus read, its tokens found, its batches."""

from __future__ import annotations

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
from bench.worker.data.text import Text, load_text
from bench.worker.data.tokenizer import Tokenizer, make_tokenizer
from bench.worker.data.tokens import encoded


class Sized(Protocol):
    """What is asked of a model."""

    @property
    def vocab_size(self) -> int: ...

    def sequence_cost(self, seq_len: int) -> tuple[float, float]: ...


def batches_of_cell(cell: Cell, model: Sized) -> tuple[Batches, Corpus]:
    """The batches that a cell trains on, whoever trains it, and what they are made of.

    Raises SuiteError where the corpus or the tokenizer can't be had, or has too few tokens for one sequence.
    """
    per_token, per_pair = model.sequence_cost(cell.seq_len)
    if cell.corpus == MARKOV and cell.batching == "fixed" and cell.partition == "contiguous":
        cost = per_token * cell.seq_len + per_pair * cell.seq_len**2
        return EqualBatches(GlobalBatches.of_cell(cell, model.vocab_size), cost), _markov_corpus()
    tokenizer, texts = None, {}
    # A pair's answer can be told from its source.
    corpus = Corpus(name=cell.corpus, entropy_floor_nats=0.0) if cell.corpus in PAIRS else _markov_corpus()
    if cell.is_text:
        texts = {source.corpus: load_text(source.corpus, cell) for source in cell.sources.values()}
        tokenizer = _tokenizer(cell, texts, model.vocab_size)
        corpus = _text_corpus(texts, tokenizer)
    found = [
        _source(cell, source, number, model.vocab_size, texts.get(source.corpus), tokenizer)
        for number, source in enumerate(cell.sources.values())
    ]
    weights = [source.weight for source in cell.sources.values()]
    return DealtBatches(
        source=found[0]
        if len(found) == 1
        else sources.MixtureSource(found, weights, cell.global_batch_size, cell.seed),
        world_size=cell.num_workers,
        grad_accum_steps=cell.grad_accum_steps,
        partition=cell.partition,
        cost=(per_token, per_pair),
        padding=0 if tokenizer is None else tokenizer.padding,
        seed=cell.seed,
    ), corpus


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
) -> sources.Source:
    """One source of the cell; `number` sets the lengths of a mixture's sources apart."""
    drawn = None
    if asked.length_spread is not None:
        median = asked.median_len or max(1, round(DEFAULT_MEDIAN_FRAC * cell.seq_len))
        drawn = Lognormal(median, asked.length_spread, cell.seq_len, cell.seed, stream=number)
    if asked.corpus in PAIRS:
        return sources.PairSource(asked.corpus, vocab_size, cell.seq_len, cell.global_batch_size, cell.seed, drawn)
    if text is None or tokenizer is None:
        return sources.MarkovSource(Markov(vocab_size, cell.seed), cell.seq_len, cell.global_batch_size, drawn)
    tokens = encoded(text.split("train"), text.sha256, "train", tokenizer)
    if len(tokens.numbers) <= cell.seq_len:
        raise SuiteError(
            f"corpus: {text.name} has {len(tokens.numbers)} tokens to train on, expected more than seq_len, {cell.seq_len}",
            hint="take more text, or shorter sequences",
        )
    if drawn is not None:
        return sources.WindowSource(tokens.numbers, cell.global_batch_size, drawn)
    if cell.batching == "fixed":
        rows = packing.windows(len(tokens.numbers), cell.seq_len)
    else:
        rows = packing.documents(tokens.offsets, cell.seq_len)
        rows = packing.packed(rows, cell.seq_len) if cell.batching == "packed" else rows
    return sources.RowSource(tokens.numbers, rows, cell.global_batch_size, cell.seed)
