"""What a cell trains on: the corpus and how it is read, the lengths of its sequences, and how ranks share them out."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import SuiteError, nearest

MARKOV, STDLIB, MIXTURE, PATH = "markov", "stdlib", "mixture", "path:"
PAIRS = REVERSE, COPY = "reverse", "copy"
"""Sequences of tokens drawn at random and their answers, for models that read one and write the other."""
SYNTHETIC = (MARKOV, *PAIRS)
CLEANING = ("html", "control", "space")
BPE, CHAR = "bpe", "char"
LEAST_VOCABULARY = 256 + 3
"""Every byte, and the tokens for start, end and padding."""

Documents = Literal["file", "paragraph", "line"]
BadBytes = Literal["error", "replace"]
Batching = Literal["fixed", "packed", "padded"]
Partition = Literal["contiguous", "random", "round_robin", "sorted_buckets", "lpt", "karmarkar_karp", "dynamic"]
PartitionCost = Literal["flops", "measured"]
MEASURED_FROM_STEP = 12
"""The first step that is dealt by measured costs: those before it are measured."""

Length = Annotated[int, Field(ge=1)]
Spread = Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)]

_TEXT_KEYS = ("documents", "cleaning", "bad_bytes", "tokenizer")


class MixtureSource(BaseModel):
    """One source of a mixture: its corpus, how often a sequence is drawn from it (relative to the others), and lengths of its
    own as in `Workload`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corpus: str = MARKOV
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    median_len: Length | None = None
    length_spread: Spread | None = None


class Workload(BaseModel):
    """What is trained on, and which rank trains on what.

    `corpus`: `markov`, `stdlib`, `path:GLOB` or `mixture`; `reverse` or `copy` for a seq2seq model. `documents` says what one
    document of a text is, `cleaning` what is taken out of it (`html`, `control`, `space`, joined by `+`), `tokenizer` how it
    becomes tokens: `bpe` (as large as the model's vocabulary, or `bpe:N`), `char`, or `path:FILE`, a tokenizer.json.

    `batching`: `fixed`, sequences of `seq_len` tokens; `packed`, whole documents, several to a sequence; `padded`, a document
    or a piece of one to a sequence. Lengths of `padded` are the documents' own, or lognormal where `length_spread`, the
    standard deviation of their logarithm, is given: around `median_len` tokens (a quarter of `seq_len`), at most `seq_len`.
    `partition` says which rank trains on which sequences of the global batch; it changes no loss. `partition_cost` says what a
    sequence of L tokens is reckoned to cost for it, a L + b L^2: by the model's FLOPs (of a paced model what it sleeps), or
    `measured`, a and b fitted to the first steps. `slow_rank_frac` makes the last rank of a paced model sleep this fraction
    longer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    corpus: str = MARKOV
    mixture: dict[str, MixtureSource] = Field(default={})
    documents: Documents = "file"
    cleaning: str = "none"
    bad_bytes: BadBytes = "error"
    tokenizer: str = BPE
    batching: Batching = "fixed"
    median_len: Length | None = None
    length_spread: Spread | None = None
    partition: Partition = "contiguous"
    partition_cost: PartitionCost = "flops"
    slow_rank_frac: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _says_one_thing(self) -> Workload:
        for source in self.sources.values():
            _check_name(source.corpus)
        if (self.corpus == MIXTURE) != bool(self.mixture):
            raise SuiteError(
                f"mixture: found {'none' if not self.mixture else 'one'} for corpus {self.corpus}, expected its sources "
                f"with `corpus: {MIXTURE}`, and none otherwise"
            )
        for source in self.mixture.values():
            if source.corpus in PAIRS:
                raise SuiteError(f"mixture: {source.corpus} is for seq2seq models alone, expected a text or {MARKOV}")
        if len({source.corpus == MARKOV for source in self.sources.values()}) > 1:
            raise SuiteError(f"mixture: {MARKOV} has no text, expected sources that all have, or all have not")
        if not self.is_text:
            for key in _TEXT_KEYS:
                if getattr(self, key) != Workload.model_fields[key].default:
                    raise SuiteError(f"{key}: {self.corpus} has no text that it could be for", hint="take the key out")
        unknown = sorted(set(self.cleaning_steps) - set(CLEANING))
        if unknown:
            raise SuiteError(
                f"cleaning: found {self.cleaning!r}, expected none, or steps joined by '+'",
                hint=nearest(unknown[0], CLEANING),
            )
        self._check_tokenizer()
        self._check_lengths()
        if self.partition_cost == "measured" and self.batching == "fixed":
            raise SuiteError(
                "partition_cost: sequences of batching fixed are equally long and cost the same, expected packed or padded",
                hint="take the key out, or write `batching: padded`",
            )
        return self

    def _check_tokenizer(self) -> None:
        kind, _, size = self.tokenizer.partition(":")
        if self.tokenizer in (BPE, CHAR) or (kind == "path" and size):
            return
        if kind != BPE:
            raise SuiteError(
                f"tokenizer: found {self.tokenizer!r}, expected {BPE}, {BPE}:N, {CHAR} or path:FILE",
                hint=nearest(self.tokenizer, (BPE, CHAR)),
            )
        if not (size.isascii() and size.isdigit() and len(size) <= 9 and int(size) >= LEAST_VOCABULARY):
            raise SuiteError(
                f"tokenizer: found {self.tokenizer!r}, expected {BPE}:N with N from {LEAST_VOCABULARY} on",
                hint="every byte and the tokens for start, end and padding have one each",
            )

    def _check_lengths(self) -> None:
        own = {"": MixtureSource(median_len=self.median_len, length_spread=self.length_spread)}
        for at, one in {**own, **{f"mixture.{label}.": source for label, source in self.mixture.items()}}.items():
            if one.median_len is not None and one.length_spread is None:
                raise SuiteError(
                    f"{at}median_len: found no length_spread beside it", hint="give both, 0 for equal lengths"
                )
            if one.length_spread is not None and self.batching != "padded":
                raise SuiteError(
                    f"{at}length_spread: found batching {self.batching}, expected padded",
                    hint="write `batching: padded`",
                )
        if self.mixture and self.length_spread is not None:
            raise SuiteError(
                "length_spread: a mixture's sources have lengths of their own", hint="give it to each of them"
            )
        if self.is_text or self.batching == "fixed":
            return
        if self.batching == "packed":
            raise SuiteError(
                f"batching: {self.corpus} has no documents to pack", hint="choose a text, or fixed or padded"
            )
        if any(source.length_spread is None for source in self.sources.values()):
            raise SuiteError(
                f"length_spread: {self.corpus} has no lengths of its own, expected a number", hint="0 for equal lengths"
            )

    @property
    def sources(self) -> dict[str, MixtureSource]:
        """The sources by their labels: those of the mixture, or the one corpus."""
        if self.corpus == MIXTURE:
            return self.mixture
        return {
            self.corpus: MixtureSource(corpus=self.corpus, median_len=self.median_len, length_spread=self.length_spread)
        }

    @property
    def is_text(self) -> bool:
        """True if tokens come from text, through a tokenizer."""
        return any(source.corpus not in SYNTHETIC for source in self.sources.values())

    @property
    def cleaning_steps(self) -> tuple[str, ...]:
        """What is taken out of the text, in the order in which it is."""
        return () if self.cleaning == "none" else tuple(self.cleaning.split("+"))

    @property
    def equal_lengths(self) -> bool:
        """True if every rank has `micro_batch_size` sequences of `seq_len` tokens in each micro-batch, and no padding."""
        return self.batching == "fixed" and self.partition != "dynamic"

    @property
    def dealt_by_measurement(self) -> bool:
        """True if it depends on measured seconds which rank trains on what, so that no two launches need deal alike."""
        return self.partition == "dynamic" or self.partition_cost == "measured"

    @property
    def data(self) -> str:
        """What of the workload settles the losses besides the corpus' name, in words; "" where nothing is asked for."""
        asked: dict[str, Any] = self.model_dump(exclude_defaults=True, include=set(_DATA))
        return ", ".join(
            f"{name} {json.dumps(asked[name], sort_keys=True) if name == 'mixture' else asked[name]}"
            for name in _DATA
            if name in asked
        )


_DATA = ("mixture", *_TEXT_KEYS, "batching", "median_len", "length_spread")


def _check_name(corpus: str) -> None:
    """Raise SuiteError unless `corpus` is the name of one."""
    if corpus in (*SYNTHETIC, STDLIB, MIXTURE) or (corpus.startswith(PATH) and len(corpus) > len(PATH)):
        return
    raise SuiteError(
        f"corpus: found {corpus!r}, expected {MARKOV}, {STDLIB}, {PATH}GLOB or {MIXTURE}, "
        f"or {' or '.join(PAIRS)} for a seq2seq model",
        hint=nearest(corpus, (*SYNTHETIC, STDLIB, MIXTURE)),
    )
