"""How text becomes tokens and text again: characters, byte-level BPE, or a tokenizer.json of the user's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE as BPEModel

from bench.errors import SuiteError
from bench.plan.workload import BPE, CHAR, LEAST_VOCABULARY
from bench.worker.data.cache import cached, key_of

START, END, PADDING = "<|start|>", "<|end|>", "<|padding|>"
SPECIAL = [START, END, PADDING]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_FILE = "tokenizer.json"
_RECIPE = 1
"""Raised when a change here makes other tokens of the same text."""

# How other people's tokenizers call these, the most telling name first.
_NAMES = {
    START: (START, "<|startoftext|>", "<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "[CLS]"),
    END: (END, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]"),
    PADDING: (PADDING, "<|pad|>", "<pad>", "[PAD]"),
}


class Tokenizer:
    """A tokenizer with tokens for start, end and padding of a sequence.

    Text that looks like one of these tokens stays text. For `char` and `bpe` decoding is the exact inverse of encoding,
    for any text. `serialized` is the whole tokenizer as JSON, `sha256` that of this.
    """

    def __init__(self, serialized: str) -> None:
        self.serialized = serialized
        self._inner = tokenizers.Tokenizer.from_str(serialized)
        self._inner.no_padding()
        self._inner.no_truncation()
        # A setting of the object, not of the file.
        self._inner.encode_special_tokens = True
        self.start, self.end, self.padding = (self._special(name) for name in SPECIAL)
        # A foreign vocabulary may have gaps.
        self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1
        self.sha256 = hashlib.sha256(serialized.encode("utf-8")).hexdigest()

    def _special(self, name: str) -> int:
        """The token's number; one that a foreign tokenizer lacks is added behind all others."""
        for known in _NAMES[name]:
            if (number := self._inner.token_to_id(known)) is not None:
                return int(number)
        self._inner.add_special_tokens([name])
        return int(self._inner.get_vocab(with_added_tokens=True)[name])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without start and end."""
        return [found.ids for found in self._inner.encode_batch(texts, add_special_tokens=False)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of the tokens; those for start, end and padding have none."""
        special = {self.start, self.end, self.padding}
        return self._inner.decode([number for number in numbers if number not in special], skip_special_tokens=False)


def make_tokenizer(kind: str, documents: Sequence[str], text_sha256: str, vocab_size: int) -> Tokenizer:
    """The tokenizer of `Workload.tokenizer` for documents of a text with that digest, of at most `vocab_size` tokens.

    `char` and `bpe` are made of the documents and kept in the cache, `path:FILE` is read. Raises SuiteError if a vocabulary of
    that size can't hold it, or a file is no tokenizer.
    """
    name, _, argument = kind.partition(":")
    if name == "path":
        made = _read(Path(argument))
    else:
        size = min(int(argument), vocab_size) if argument else vocab_size
        if size < LEAST_VOCABULARY:
            raise SuiteError(
                f"tokenizer: the model has {vocab_size} tokens, expected at least {LEAST_VOCABULARY}",
                hint="every byte and the tokens for start, end and padding have one each",
            )
        build: Callable[[Sequence[str], int], tokenizers.Tokenizer] = {BPE: _bpe, CHAR: _char}[name]
        key = key_of(_RECIPE, tokenizers.__version__, name, size, text_sha256)

        def make(folder: Path) -> None:
            (folder / _FILE).write_text(build(documents, size).to_str(), encoding="utf-8")

        made = Tokenizer((cached(f"tokenizer-{key}", make) / _FILE).read_text(encoding="utf-8"))
    if made.vocab_size > vocab_size:
        raise SuiteError(
            f"tokenizer: {kind} has {made.vocab_size} tokens, but the model {vocab_size}",
            hint="choose a model with a larger vocabulary (model_options: {vocab_size: N})",
        )
    return made


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"tokenizer: cannot read {path}: {error.strerror}") from error
    # The library raises Exception itself.
    except Exception as error:
        raise SuiteError(
            f"tokenizer: {path} is no tokenizer: {error}", hint="expected a tokenizer.json of the tokenizers library"
        ) from error


def _bpe(documents: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Byte-level byte-pair encoding (Radford et al. 2019, section 2.2), trained on the documents."""
    made = tokenizers.Tokenizer(BPEModel())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(documents, trainer)
    return made


def _char(documents: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A token for each character of the documents, the most frequent where not all have room; others are their bytes."""
    counts = Counter[str]()
    for document in documents:
        counts.update(document)
    room = vocab_size - LEAST_VOCABULARY
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *_BYTES, *kept])}
    # Byte-pair encoding without a pair to join: of the library's models the one that falls back on bytes.
    made = tokenizers.Tokenizer(BPEModel(vocab=vocabulary, merges=[], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(SPECIAL)
    return made
