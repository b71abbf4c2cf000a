"""The schema of what was trained on."""

from __future__ import annotations

from bench.results.schema import Schema


class Corpus(Schema):
    """What a launch trained on. `sha256` is of the documents after cleaning, of all splits, `num_bytes` their UTF-8;
    `vocab_size` counts the tokenizer's tokens. `entropy_floor_nats` is the least loss that any model can reach, where it is known
    in closed form; a text has no such figure, and a synthetic source no text: None."""

    name: str
    sha256: str | None = None
    num_documents: int | None = None
    num_bytes: int | None = None
    tokenizer_sha256: str | None = None
    vocab_size: int | None = None
    entropy_floor_nats: float | None = None
