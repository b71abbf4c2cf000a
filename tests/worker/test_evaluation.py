"""A model's score on held-out text, against sums by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench.plan.cell import Cell
from bench.results.training import bits_per_byte, perplexity
from bench.worker.data.held_out import held_out
from bench.worker.data.markov import MARKOV_ENTROPY_NATS, Markov
from bench.worker.data.text import load_text
from bench.worker.evaluate import chosen
from bench.worker.evaluation import score
from models.build import LanguageModel, build_model
from models.layers import token_loss

CPU = torch.device("cpu")
OPTIONS = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 300, "max_seq_len": 16}


def text_cell(folder: Path, **changes: object) -> Cell:
    """Lines of Latin, Chinese and emoji: of unequally many bytes a character."""
    lines = [f"line {number} 火车 {number * number} 🚂" for number in range(400)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    fields = {
        "model": "gpt-nano",
        "model_options": OPTIONS,
        "strategy": "ddp",
        "world_size": 1,
        "corpus": f"path:{folder}/text.txt",
        "documents": "line",
        "tokenizer": "char",
        "micro_batch_size": 3,
    }
    return Cell(**{**fields, **changes})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LanguageModel:
    monkeypatch.setenv("SCALEBENCH_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return build_model("gpt-nano", OPTIONS, seq_len=16, seed=1, device="cpu", dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("batching", ["fixed", "padded", "packed"])
def test_bits_per_byte_is_that_of_sums_by_hand(model: LanguageModel, tmp_path: Path, batching: str) -> None:
    cell = text_cell(tmp_path, batching=batching)
    data = held_out(cell, 300, "test", None)
    found = score(model, model, data.micro_batches, CPU)
    # By hand: each document by itself, start and end around it; `fixed` has them run on.
    tokenizer = data.tokenizer
    assert tokenizer is not None
    documents = load_text(cell.corpus, cell).split("test")
    rows = [[tokenizer.start, *tokens, tokenizer.end] for tokens in tokenizer.encode(documents)]
    num_bytes = sum(len(document.encode()) for document in documents)
    if batching == "fixed":
        stream = [token for row in rows for token in row]
        num_predicted = len(stream) - 1
        whole = num_predicted // 16 * 16
        pairs = [(stream[at : at + 16], stream[at + 1 : at + 17]) for at in range(0, whole, 16)]
    else:
        num_predicted = sum(len(row) - 1 for row in rows)
        pairs = [
            (row[at : at + 16][: len(row) - 1 - at], row[at + 1 : at + 17])
            for row in rows
            for at in range(0, len(row) - 1, 16)
        ]
    assert data.tokens_per_byte == pytest.approx(num_predicted / num_bytes)
    assert found.num_tokens == sum(len(targets) for _, targets in pairs)
    if batching == "packed":
        return  # tokens see the documents before them
    nats, right = 0.0, 0
    for tokens, targets in pairs:
        logits = model.logits(torch.tensor([tokens]))[0]
        for place, target in enumerate(targets):
            nats -= float(torch.log_softmax(logits[place].double(), dim=0)[target])
            right += int(logits[place].argmax()) == target
    assert found.loss == pytest.approx(nats / found.num_tokens, rel=1e-5)
    assert found.accuracy == pytest.approx(right / found.num_tokens)
    if batching == "padded":  # here every token of the split was predicted
        assert bits_per_byte(found.loss, data.tokens_per_byte) == pytest.approx(
            nats / math.log(2) / num_bytes, rel=1e-5
        )
    assert perplexity(found.loss) == pytest.approx(math.exp(nats / found.num_tokens), rel=1e-4)


def test_validation_and_test_are_never_trained_on(model: LanguageModel, tmp_path: Path) -> None:
    cell = text_cell(tmp_path, batching="padded")
    splits = {split: load_text(cell.corpus, cell).split(split) for split in ("train", "validation", "test")}
    for split in ("validation", "test"):
        data = held_out(cell, 300, split, None)
        assert data.tokenizer is not None
        rows = [
            row[target >= 0].tolist()
            for batch in data.micro_batches
            for row, target in zip(batch.targets, batch.targets, strict=True)
        ]
        texts = "".join(data.tokenizer.decode(row) for row in rows)
        assert sorted(texts) == sorted("".join(splits[split])) and not set(splits[split]) & set(splits["train"])
    # Fewer are the same ones each time.
    few = [held_out(cell, 300, "validation", 5).micro_batches for _ in range(2)]
    assert [len(batch.tokens) for batch in few[0]] == [3, 2]
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(*few, strict=True))


def test_a_model_that_knows_the_source_scores_its_entropy() -> None:
    """The mean over a finite sample: within four standard errors of the entropy rate."""
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=1, seq_len=64, micro_batch_size=8)
    source = Markov(64, 0)
    place = torch.from_numpy(source.ring).argsort()
    table = torch.full((64, 64), -torch.inf)
    for offset, chance in zip((1, 2, 3, 4), (0.5, 0.25, 0.125, 0.125), strict=True):
        following = torch.from_numpy(source.ring)[(place + offset) % 64]
        table[torch.arange(64), following] = math.log(chance)
    data = held_out(cell, 64, "validation", 256)
    found = score(
        torch.nn.Identity(), lambda tokens, targets: token_loss(table[tokens], targets), data.micro_batches, CPU
    )
    assert data.tokens_per_byte is None and found.num_tokens == 256 * 64
    # Surprise has a standard deviation of 0.57 nats here.
    assert found.loss == pytest.approx(MARKOV_ENTROPY_NATS, abs=4 * 0.57 / 128)
    assert found.accuracy == pytest.approx(0.5, abs=4 * 0.5 / 128)


@torch.no_grad()
def test_the_label_that_is_likelier_is_chosen(model: LanguageModel, tmp_path: Path) -> None:
    tokenizer = held_out(text_cell(tmp_path), 300, "validation", 4).tokenizer
    assert tokenizer is not None
    labels = ["1", "line", "火"]

    def likelihood(prompt: str, label: str) -> float:
        [before, own] = tokenizer.encode([prompt, label])
        tokens = [tokenizer.start, *before, *own]
        sums = 0.0
        for place in range(1 + len(before), len(tokens)):
            logits = model.logits(torch.tensor([tokens[:place][-16:]]))[0, -1]
            sums += float(torch.log_softmax(logits.double(), dim=0)[tokens[place]])
        return sums

    for prompt in ("lin", "", "1 火车"):
        expected = max(labels, key=lambda label: likelihood(prompt, label))
        assert chosen(model, tokenizer, prompt, labels, CPU) == expected
