"""The documents of a corpus of text: read, cleaned, and split into those for training, validation and test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bench.errors import SuiteError
from bench.plan.corpus_files import corpus_files, read_text
from bench.plan.workload import Documents, Workload
from bench.worker.data.cleaning import clean

Split = Literal["train", "validation", "test"]
SPLIT_FRACS: dict[Split, float] = {"train": 0.9, "validation": 0.05, "test": 0.05}

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
_CUTS: dict[Documents, Callable[[str], list[str]]] = {
    "file": lambda text: [text],
    "paragraph": _PARAGRAPHS.split,
    "line": str.splitlines,
}
# A mark, a line, and where the document ends in front of it: what differs, differs in its digest.
_DIGEST_FORMAT = b"scalebench corpus 1\n"


@dataclass(frozen=True)
class Text:
    """Documents in the order of their files, none empty. `num_bytes` of UTF-8, `sha256` of all of them in that order."""

    name: str
    documents: tuple[str, ...]
    num_bytes: int
    sha256: str

    def split(self, split: Split) -> tuple[str, ...]:
        """The documents of one split. Raises SuiteError for a corpus with none in it."""
        found = tuple(document for document in self.documents if split_of(document) == split)
        if not found:
            raise SuiteError(
                f"corpus: {self.name} has {len(self.documents)} documents, none of them in the split {split}",
                hint="cut files into more of them: `documents: paragraph` or `documents: line`",
            )
        return found


def split_of(document: str) -> Split:
    """Which split a document is in, by the digest of its text alone: it stays there however many others come or go, and
    two equal documents are never in two splits."""
    place = int.from_bytes(hashlib.sha256(document.encode("utf-8")).digest()[:8], "big") / 2**64
    for split, frac in SPLIT_FRACS.items():
        if place < frac:
            return split
        place -= frac
    return "test"


def load_text(corpus: str, workload: Workload) -> Text:
    """The text of `stdlib` or `path:GLOB`, cut into documents and cleaned as the workload says.

    Raises SuiteError if there are no files, one can't be read, or nothing is left of them.
    """
    texts = (read_text(path, workload.bad_bytes) for path in corpus_files(corpus))
    documents = tuple(_documents(texts, workload.documents, workload.cleaning_steps))
    if not documents:
        raise SuiteError(
            f"corpus: {corpus} has no text left", hint="look at what `cleaning` and `documents` make of it"
        )
    digest = hashlib.sha256(_DIGEST_FORMAT)
    num_bytes = 0
    for document in documents:
        content = document.encode("utf-8")
        num_bytes += len(content)
        digest.update(len(content).to_bytes(8, "big") + content)
    return Text(corpus, documents, num_bytes, digest.hexdigest())


def _documents(texts: Iterable[str], kind: Documents, cleaning: tuple[str, ...]) -> Iterator[str]:
    """Markup may go over many lines, so that a file is freed of it before it is cut."""
    for text in texts:
        whole = clean(text, [step for step in cleaning if step != "space"])
        for part in _CUTS[kind](whole):
            document = clean(part, [step for step in cleaning if step == "space"])
            if document.strip():
                yield document
