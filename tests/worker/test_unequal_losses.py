"""Where ranks have unequally many tokens, every strategy still trains what one process would on the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.analysis.gates import faults
from bench.plan.cell import Cell
from bench.results.record import Record
from bench.results.reference import read_references
from bench.results.store import read_records
from bench.worker.data.micro_batch import IGNORED
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.strategies.base import build_cells_model
from tests.command_line import Scalebench

pytestmark = pytest.mark.slow

SUITE = """
aa_pair: false
defaults:
  model: gpt-nano
  model_options: {hidden_size: 64, num_layers: 2, vocab_size: 512}
  seq_len: 64
  batching: padded
  length_spread: 0.8
  world_size: 2
  steps: 4
  max_warmup_steps: 6
  learning_rate: 0.001
  timeout_s: 240
grids:
  - {strategy: ddp, partition: contiguous, micro_batch_size: 2, grad_accum_steps: 4}
  - {strategy: zero1, partition: karmarkar_karp, micro_batch_size: 4, grad_accum_steps: 2}
  - {strategy: zero2, partition: dynamic, micro_batch_size: 4, grad_accum_steps: 2}
  - {strategy: zero3, partition: lpt, micro_batch_size: 4, grad_accum_steps: 2}
"""

Unequal = tuple[Path, list[Record]]


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory, scalebench: Scalebench) -> Unequal:
    """Four launches that train on the same global batches of sixteen sequences, each dealt in another way."""
    folder = tmp_path_factory.mktemp("unequal")
    suite, results = folder / "unequal.yaml", folder / "results"
    suite.write_text(SUITE)
    done = scalebench("run", suite, "--output", results, "--device", "cpu")
    # The gates are part of the run: tokens, losses against plain training.
    assert done.returncode == 0, done.stdout + done.stderr
    return results, read_records(results)


def losses_of_one_process(cell: Cell, num_steps: int) -> list[float]:
    """Plain PyTorch, the whole global batch in one padded micro-batch; the mean over tokens is taken here."""
    torch.set_num_threads(1)
    one = cell.model_copy(update={"world_size": 1, "grad_accum_steps": 1, "micro_batch_size": cell.global_batch_size})
    model = build_cells_model(one, torch.device("cpu"))
    batches, _ = batches_of_cell(one, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cell.learning_rate, weight_decay=cell.weight_decay)
    losses = []
    for step in range(num_steps):
        [(tokens, targets, _)] = batches.of_rank(step, 0).micro_batches
        real = targets != IGNORED
        # Row by row, each as long as it is: padding has no part in it.
        sums = [
            model(row[mask][None], target[mask][None]) * mask.sum()
            for row, target, mask in zip(tokens, targets, real, strict=True)
        ]
        loss = torch.stack(sums).sum() / real.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_losses_follow_one_process_to_1e_5(unequal: Unequal) -> None:
    results, records = unequal
    assert len(records) == 4 and {len(read_references(results)), len({str(r.cell.work) for r in records})} == {1}
    losses = losses_of_one_process(records[0].cell, 10)
    assert losses[0] - losses[-1] > 0.05
    for record in records:
        found = record.mean_losses()
        assert len(found) >= 8 and found == pytest.approx(losses[: len(found)], rel=1e-5), record.cell.id


def test_ranks_have_unequal_tokens_and_padding_is_not_counted(unequal: Unequal) -> None:
    for record in unequal[1]:
        assert record.work is not None
        by_rank = [rank.tokens for rank in record.ranks]
        assert by_rank[0] != by_rank[1]
        assert [sum(step) for step in zip(*by_rank, strict=True)] == record.work.batch_tokens
        for rank in record.ranks:
            assert rank.witnessed is not None and sum(rank.padding) > 0
            assert rank.witnessed.tokens == rank.tokens[: len(rank.witnessed.tokens)]
            assert rank.witnessed.padding == rank.padding[: len(rank.witnessed.padding)]
            assert len(rank.input_times_s) == len(rank.step_times_s) == record.cell.steps
        assert record.work.tokens_per_step == record.work.batch_tokens[record.work.num_warmup_steps - 1]


def test_a_rank_that_leaves_a_sequence_out_is_found_out(unequal: Unequal) -> None:
    """The record as it would be if rank 1 had skipped part of its share in step 2, and had hidden it, or not."""
    record = unequal[1][0]
    assert faults(record) == []
    rank = record.ranks[1]
    assert rank.witnessed is not None
    fewer = [tokens - 5 * (step == 2) for step, tokens in enumerate(rank.tokens)]
    seen = rank.witnessed.model_copy(update={"tokens": fewer[: len(rank.witnessed.tokens)]})
    caught = record.model_copy(update={"ranks": [record.ranks[0], rank.model_copy(update={"witnessed": seen})]})
    assert "rank 1 trained on" in faults(caught)[0] and "in warm-up step 2" in faults(caught)[0]
    hidden = rank.model_copy(update={"witnessed": seen, "tokens": fewer})
    [reason] = faults(record.model_copy(update={"ranks": [record.ranks[0], hidden]}))
    assert "ranks were dealt" in reason and "those of the global batch" in reason
