"""The global batch is the same however it is dealt, and its gradient too; padding is none of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.plan.workload import Partition
from bench.worker.data import packing
from bench.worker.data.dealt import Batches
from bench.worker.data.lengths import Lognormal
from bench.worker.data.micro_batch import IGNORED, mean_loss
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.data.packing import Rows
from bench.worker.data.prefetch import Prefetch
from bench.worker.strategies.base import build_cells_model

TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 300}
CPU = torch.device("cpu")
PADDED = {"batching": "padded", "length_spread": 0.7, "median_len": 12}
SPLITS = [(1, 1, 24), (2, 3, 4), (4, 2, 3), (3, 1, 8)]


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory):
    """A corpus of 300 short lines, and a cache of its own."""
    folder = tmp_path_factory.mktemp("novel")
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(["the", "cat", "猫", "sat", "🙂"], 3 + number % 17)) for number in range(300)]
    (folder / "novel.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALEBENCH_CACHE", str(folder / "cache"))
        yield f"path:{folder}/*.txt"


def cell(world: int = 2, accumulation: int = 3, micro: int = 4, **changes: Any) -> Cell:
    fields: dict[str, Any] = {"model": "gpt-nano", "model_options": TINY, "strategy": "ddp", "seq_len": 32, "seed": 3}
    fields |= {"world_size": world, "grad_accum_steps": accumulation, "micro_batch_size": micro}
    return Cell(**{**fields, **changes})


def batches(asked: Cell) -> Batches:
    return batches_of_cell(asked, build_cells_model(asked, torch.device("meta")))[0]


def rows_of(asked: Cell, step: int, rates: np.ndarray | None = None) -> Counter[tuple[tuple[int, int], ...]]:
    """The (input, target) pairs of every sequence of a step's global batch, however it was dealt."""
    found: Counter[tuple[tuple[int, int], ...]] = Counter()
    made = batches(asked)
    total = padding = 0
    for rank in range(asked.world_size):
        batch = made.of_rank(step, rank, rates)
        assert len(batch.micro_batches) == asked.grad_accum_steps
        total += batch.num_tokens
        padding += batch.num_padding
        for tokens, targets, divisor in batch.micro_batches:
            assert tokens.shape == targets.shape and tokens.shape[1] <= asked.seq_len and divisor > 0
            for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
                real = [pair for pair in zip(row, wanted, strict=True) if pair[1] != IGNORED]
                assert all(target == IGNORED for target in wanted[len(real) :])
                padding -= len(row) - len(real)
                found[tuple(real)] += 1
    assert total == made.num_tokens(step) == sum(len(row) * number for row, number in found.items())
    assert padding == 0
    return found


@pytest.mark.parametrize("partition", get_args(Partition))
@pytest.mark.parametrize("kind", ["markov", "lines", "packed", "windows", "fixed", "mixture"])
def test_any_split_and_any_partition_trains_on_the_same_sequences(novel: str, partition: str, kind: str) -> None:
    text = {"corpus": novel, "documents": "line", "tokenizer": "bpe:280"}
    lines = {"corpus": novel, "weight": 3.0}
    changes: dict[str, Any] = {
        "markov": PADDED,
        "lines": {**text, "batching": "padded"},
        "packed": {**text, "batching": "packed"},
        "windows": {**text, **PADDED},
        "fixed": text,
        "mixture": {
            **text,
            **{"corpus": "mixture", "batching": "padded"},
            "mixture": {"lines": lines, "cuts": {"corpus": novel, "median_len": 5, "length_spread": 0.1}},
        },
    }[kind]
    whole = rows_of(cell(1, 1, 24, **changes), 2)
    assert sum(whole.values()) == 24
    if kind != "fixed":
        assert len({len(row) for row in whole}) > 1
    for split in SPLITS[1:]:
        assert rows_of(cell(*split, partition=partition, **changes), 2, np.arange(1.0, split[0] + 1)) == whole
    assert rows_of(cell(1, 1, 24, **changes), 3) != whole != rows_of(cell(1, 1, 24, **{**changes, "seed": 4}), 2)


@pytest.mark.parametrize("partition", ["contiguous", "karmarkar_karp", "dynamic"])
def test_the_weighted_gradient_is_that_of_the_global_batch(partition: str) -> None:
    """What ranks would average, against one pass over all tokens of the global batch (losses are float32)."""
    torch.set_num_threads(1)
    asked = cell(3, 2, 4, partition=partition, **PADDED)
    model = build_cells_model(asked, CPU).double()
    made = batches(asked)
    nats, number = torch.zeros((), dtype=torch.float64), 0
    rank_losses, rank_tokens = [], []
    for rank in range(3):
        batch = made.of_rank(0, rank, np.array([1.0, 2.0, 4.0]))
        losses = []
        for tokens, targets, divisor in batch.micro_batches:
            loss = model(tokens, targets)
            (loss / divisor / 3).backward()
            losses.append(loss.detach())
            logits = model.logits(tokens)[targets != IGNORED].double()
            nats = nats + torch.nn.functional.cross_entropy(logits, targets[targets != IGNORED], reduction="sum")
            number += int((targets != IGNORED).sum())
        rank_losses.append(float(mean_loss(losses, batch.micro_batches)))
        rank_tokens.append(batch.num_tokens)
    weighted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (nats / number).backward()
    assert number == made.num_tokens(0) and len(set(rank_tokens)) > 1
    for found, parameter in zip(weighted, model.parameters(), strict=True):
        assert float((found - parameter.grad).norm() / parameter.grad.norm()) < 1e-6
    assert np.average(rank_losses, weights=rank_tokens) == pytest.approx(float(nats.detach() / number), rel=1e-6)


def test_fixed_batches_keep_what_they_were() -> None:
    """Written down from the sequences that older results were measured on: any other batch makes other losses."""
    made = batches(cell(2, 1, 2))
    [(tokens, targets, divisor)] = made.of_rank(5, 1).micro_batches
    assert divisor == 1
    assert tokens[0, :8].tolist() == [171, 246, 291, 238, 211, 58, 180, 141] and torch.equal(
        tokens[:, 1:], targets[:, :-1]
    )


def test_documents_are_gone_through_once_an_epoch(novel: str) -> None:
    asked = cell(1, 1, 24, corpus=novel, documents="line", batching="padded", tokenizer="bpe:280", seq_len=256)
    source = batches(asked).source  # type: ignore[attr-defined]
    num_rows = len(source._rows)
    epoch = [source._row(*divmod(number, 24)) for number in range(num_rows)]
    second = [source._row(*divmod(number, 24)) for number in range(num_rows, 2 * num_rows)]
    assert sorted(epoch) == sorted(second) == list(range(num_rows)) and epoch != second


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60), seq_len=st.integers(1, 16))
def test_packed_rows_hold_every_token_once(lengths: list[int], seq_len: int) -> None:
    offsets = np.cumsum([0, *lengths])
    pieces = packing.documents(offsets, seq_len)
    inputs = [
        place
        for begin, length in zip(pieces.begins, pieces.lengths, strict=True)
        for place in range(begin, begin + length)
    ]
    # All but the last token of each document are inputs.
    assert inputs == [place for begin, end in pairwise(offsets.tolist()) for place in range(begin, end - 1)]
    packed = packing.packed(pieces, seq_len)
    assert packed.row_lengths.max() <= seq_len and packed.row_lengths.sum() == pieces.lengths.sum()
    assert sorted(zip(packed.begins, packed.lengths, strict=True)) == sorted(
        zip(pieces.begins, pieces.lengths, strict=True)
    )
    # No two rows could be one.
    assert sum(sorted(packed.row_lengths)[:2]) > seq_len or len(packed) == 1


def test_packing_on_an_example_by_hand() -> None:
    pieces = Rows(np.array([0, 10, 20, 30, 40]), np.array([6, 5, 5, 3, 1]), np.arange(6))
    packed = packing.packed(pieces, 10)
    assert packed.row_lengths.tolist() == [10, 10] and len(packed) == 2


def test_lengths_are_lognormal_with_the_spread_that_was_asked_for() -> None:
    lengths = np.concatenate([Lognormal(100, 0.5, 10_000, seed=1).of_step(step, 500) for step in range(20)])
    assert np.median(lengths) == pytest.approx(100, rel=0.03)
    assert np.log(lengths).std() == pytest.approx(0.5, rel=0.03)
    assert Lognormal(100, 0.0, 80, seed=1).of_step(0, 5).tolist() == [80] * 5
    mixed = cell(
        1,
        1,
        4000,
        corpus="mixture",
        batching="padded",
        mixture={
            "short": {"weight": 3.0, "median_len": 4, "length_spread": 0.0},
            "long": {"median_len": 20, "length_spread": 0.0},
        },
    )
    lengths = batches(mixed).source.lengths(0)  # type: ignore[attr-defined]
    assert np.mean(lengths == 4) == pytest.approx(0.75, abs=0.03) and set(lengths.tolist()) == {4, 20}


def test_too_little_text_is_said(novel: str, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    for number in range(100):
        path.write_text(f"{number}")
        try:
            batches(cell(corpus=f"path:{path}", tokenizer="char"))
        except SuiteError as error:
            if "to train on, expected more than seq_len, 32" in str(error):
                return
    raise AssertionError("no text was in the split for training")


def test_a_batch_is_made_a_step_ahead_and_its_error_is_raised_where_it_is_asked_for() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        if step == 12:
            raise ZeroDivisionError
        return step

    ahead = Prefetch(make)
    assert [ahead.get(step) for step in (0, 1, 2, 10, 11)] == [0, 1, 2, 10, 11]
    with pytest.raises(ZeroDivisionError):
        ahead.get(12)
    assert made[:6] == [0, 1, 2, 3, 10, 11]
