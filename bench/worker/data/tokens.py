"""A text as tokens: one long array on disk, which all ranks of a host share, and where each document begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.worker.data.cache import cached, key_of
from bench.worker.data.tokenizer import Tokenizer

_RECIPE = 1
_AT_ONCE = 64
"""Documents that are encoded together: enough for all cores, few enough for the memory of a laptop."""


@dataclass(frozen=True)
class Tokens:
    """`numbers`, int32 (num_tokens,): the documents one after the other, each between a start and an end token. `offsets`,
    int64 (num_documents + 1,): where each begins, and where the last ends."""

    numbers: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]


def encoded(documents: Sequence[str], text_sha256: str, part: str, tokenizer: Tokenizer) -> Tokens:
    """The tokens of the documents: of the part of that name of a text with that digest. Made once and kept in the cache."""

    def make(folder: Path) -> None:
        pieces: list[npt.NDArray[np.int32]] = []
        for first in range(0, len(documents), _AT_ONCE):
            for found in tokenizer.encode(documents[first : first + _AT_ONCE]):
                pieces.append(np.array([tokenizer.start, *found, tokenizer.end], dtype=np.int32))
        np.save(folder / "numbers.npy", np.concatenate(pieces))
        np.save(folder / "offsets.npy", np.cumsum([0, *map(len, pieces)], dtype=np.int64))

    folder = cached(f"tokens-{key_of(_RECIPE, text_sha256, part, tokenizer.sha256)}", make)
    return Tokens(np.load(folder / "numbers.npy", mmap_mode="r"), np.load(folder / "offsets.npy", mmap_mode="r"))
