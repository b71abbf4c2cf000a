"""Every strategy trains the model that one process would train on the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.plan.cell import Cell
from bench.results.record import Record
from bench.results.reference import read_references
from bench.worker.data.batches import GlobalBatches
from models.build import build_model

pytestmark = pytest.mark.slow

EqualWork = tuple[Path, list[Record]]


def losses_of_one_process(cell: Cell, num_steps: int) -> list[float]:
    """Plain PyTorch on the whole global batch at once: no DDP, no DeepSpeed, no accumulation."""
    torch.set_num_threads(1)
    model = build_model(
        cell.model, cell.model_options, seq_len=cell.seq_len, seed=cell.seed, device="cpu", dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=cell.learning_rate, weight_decay=cell.weight_decay)
    batches = GlobalBatches(
        vocab_size=model.vocab_size,
        seq_len=cell.seq_len,
        micro_batch_size=cell.global_batch_size,
        grad_accum_steps=1,
        world_size=1,
        seed=cell.seed,
    )
    losses = []
    for step in range(num_steps):
        [(tokens, targets)] = batches.micro_batches(step, 0)
        loss = model(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_losses_follow_one_process_on_the_same_global_batch(equal_work: EqualWork) -> None:
    _, records = equal_work
    assert len(records) == 13
    reference = losses_of_one_process(records[0].cell, 14)
    # A reference that stands still would agree with a strategy that never updates.
    assert reference[0] - reference[-1] > 0.05
    for record in records:
        assert record.cell.global_batch_size == 8
        losses = record.mean_losses()
        assert record.work is not None
        assert len(losses) == record.work.num_warmup_steps + 8
        assert losses == pytest.approx(reference[: len(losses)], rel=1e-4), record.cell.id


def test_plain_training_follows_it_too(equal_work: EqualWork) -> None:
    results, records = equal_work
    [reference] = read_references(results)
    assert reference.outcome == "ok" and len(reference.losses) == 5
    assert reference.losses == pytest.approx(losses_of_one_process(records[0].cell, 5), rel=1e-6)


def test_every_rank_was_seen_to_do_its_share(equal_work: EqualWork) -> None:
    """Under each strategy: 512 tokens and one update a step, by AdamW as the cell sets it, on finite gradients."""
    for record in equal_work[1]:
        assert record.work is not None and record.work.tokens_per_step == 512
        for rank in record.ranks:
            assert rank.launch_id == record.launch_id and rank.affinity == record.affinity
            seen = rank.witnessed
            assert seen is not None
            num_steps = record.work.num_warmup_steps
            assert seen.tokens == [512 // record.cell.world_size] * num_steps, record.cell.id
            assert seen.num_updates == [1] * num_steps, record.cell.id
            assert seen.skipped == [False] * num_steps and seen.parameter_dtypes == ["float32"]
            assert all(norm is not None and 0 < norm < 100 for norm in seen.grad_norms), record.cell.id
            [optimizer] = seen.optimizers
            assert str(optimizer) == "AdamW(learning_rate=0.001, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-08)"


def test_replicas_are_equal_at_the_end(equal_work: EqualWork) -> None:
    for record in equal_work[1]:
        assert record.work is not None and record.work.replicas is not None
        assert record.work.replicas.largest <= 1e-6, record.cell.id
        assert record.work.replicas.num_params > 0


def test_records_hold_what_was_asked_and_measured(equal_work: EqualWork) -> None:
    for record in equal_work[1]:
        assert record.work is not None and record.environment is not None and record.wall_s is not None
        assert [rank.rank for rank in record.ranks] == list(range(record.cell.world_size))
        for rank in record.ranks:
            assert len(rank.step_times_s) == record.cell.steps
            assert min(rank.step_times_s) > 0
            assert sum(rank.step_times_s) <= rank.phases.window_s
            assert rank.threads == 1
            assert rank.peak_memory_bytes >= rank.base_memory_bytes > 50 * 2**20
            phases = rank.phases
            assert phases.start_s is not None
            told = (
                phases.start_s + phases.import_s + phases.build_s + phases.warmup_s + phases.window_s + phases.checks_s
            )
            assert told < record.wall_s
        assert record.environment.backend == "gloo"
        assert record.environment.versions["torch"] == torch.__version__
        assert record.environment.variables["DS_ACCELERATOR"] == "cpu"


def test_zero_sends_the_resolved_file_with_buckets_scaled_to_the_model(equal_work: EqualWork) -> None:
    for record in equal_work[1]:
        if record.cell.strategy == "ddp":
            assert record.deepspeed_config is None
            continue
        config = record.deepspeed_config
        assert config is not None and record.work is not None
        assert config["train_batch_size"] == 8
        assert config["gradient_accumulation_steps"] == record.cell.grad_accum_steps
        assert config["optimizer"]["params"]["lr"] == 0.001
        if record.cell.strategy != "zero0":
            assert config["zero_optimization"]["reduce_bucket_size"] * 8 == pytest.approx(
                record.work.num_params, rel=1e-3
            )


def test_zero3_shards_its_matrices(equal_work: EqualWork) -> None:
    """What ZeRO-3 keeps whole on every rank is the small parameters alone."""
    for record in equal_work[1]:
        assert record.work is not None and record.work.replicas is not None
        whole = record.work.replicas.num_params / record.work.num_params
        assert whole < 0.02 if record.cell.strategy == "zero3" else whole == 1, record.cell.id
