"""Sharded, offloaded and compressing strategies on real ranks: DDP's losses, and traffic equal to theory to the byte."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.gates import faults
from bench.analysis.traffic import disagreement
from bench.plan.cell import Cell
from bench.results.record import Record
from bench.theory.traffic import traffic
from tests import forked

pytestmark = pytest.mark.slow

# Sizes are odd, so that everything is padded.
TINY: dict[str, Any] = {
    "model": "gpt-nano",
    "model_options": {"hidden_size": 36, "num_layers": 2, "num_heads": 2, "vocab_size": 101, "max_seq_len": 16},
    "seq_len": 16,
    "world_size": 2,
    "learning_rate": 3e-3,
}
FULL_RANK = {"rank": 1000, "min_compression_rate": 0.01}


def cell_of(strategy: str, **fields: Any) -> Cell:
    return Cell(**{**TINY, "strategy": strategy, **fields})


def losses_of(folder: Path, strategy: str, **fields: Any) -> Record:
    return forked.train(cell_of(strategy, steps=28, max_warmup_steps=2, **fields), folder=folder)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    """By accumulation."""
    folder = tmp_path_factory.mktemp("ddp")
    return {
        accumulation: losses_of(folder, "ddp", grad_accum_steps=accumulation, micro_batch_size=4 // accumulation)
        for accumulation in (1, 4)
    }


@pytest.mark.parametrize(
    ("strategy", "accumulation", "options", "tolerance"),
    [
        ("fsdp", 1, {}, 1e-4),
        ("fsdp", 4, {"reshard_after_forward": False}, 1e-4),
        ("fsdp", 4, {"sync_every_micro_batch": True}, 1e-4),
        ("zero2_offload", 4, {}, 1e-4),
        ("zero3_offload", 1, {}, 1e-4),
        ("ddp_powersgd", 1, FULL_RANK, 1e-3),
    ],
)
def test_thirty_steps_follow_ddp(
    strategy: str,
    accumulation: int,
    options: dict[str, Any],
    tolerance: float,
    ddp: dict[int, Record],
    tmp_path: Path,
) -> None:
    fields = {"grad_accum_steps": accumulation, "micro_batch_size": 4 // accumulation}
    record = losses_of(tmp_path, strategy, strategy_options=options, **fields)
    losses, expected = record.mean_losses(), ddp[accumulation].mean_losses()
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.1
    assert losses == pytest.approx(expected, rel=tolerance)
    assert faults(record) == []
    assert record.work is not None
    if strategy == "fsdp":
        assert record.work.replicas is None


def test_low_rank_is_other_training(ddp: dict[int, Record], tmp_path: Path) -> None:
    """What compresses must not pass the test above by not compressing; its replicas stay equal all the same."""
    record = losses_of(tmp_path, "ddp_powersgd", micro_batch_size=4)
    losses, expected = record.mean_losses(), ddp[1].mean_losses()
    assert losses[:3] == pytest.approx(expected[:3], rel=1e-6)
    assert losses[-1] != pytest.approx(expected[-1], rel=1e-3)
    assert record.work is not None and record.work.replicas is not None
    assert record.work.replicas.largest == 0


@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("fsdp", {"grad_accum_steps": 4, "activation_checkpointing": True, "max_grad_norm": 0.5}),
        ("fsdp", {"strategy_options": {"reshard_after_forward": False}, "precision": "bf16", "world_size": 3}),
        ("fsdp", {"strategy_options": {"sync_every_micro_batch": True}, "grad_accum_steps": 4}),
        ("fsdp", {"precision": "fp16"}),
        ("zero2_offload", {"grad_accum_steps": 4}),
        ("zero3_offload", {"grad_accum_steps": 4}),
        ("ddp_fp16", {"grad_accum_steps": 4}),
        ("ddp_bf16", {"world_size": 3}),
        ("ddp_powersgd", {"strategy_options": {"rank": 3}, "grad_accum_steps": 4, "world_size": 3}),
        ("ddp_powersgd", {"strategy_options": FULL_RANK, "profile": "tuned"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_ledger_is_what_theory_says(strategy: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Every message of every step on every rank; and the three arms of the meter run."""
    cell = cell_of(strategy, steps=2, max_warmup_steps=2, **fields)
    record = forked.train(cell, folder=tmp_path, kind="attribution")
    assert record.outline is not None
    expected = Counter(
        {
            (line.operation, line.group_size, line.payload_bytes): line.count
            for line in traffic(cell, record.outline, record.deepspeed_config)
        }
    )
    assert expected
    for rank in record.ranks:
        assert rank.attribution is not None and rank.attribution.finite
        for step in range(cell.steps):
            lines = (line for line in rank.attribution.ledger if step in line.steps)
            seen = Counter({(line.operation, line.group_size, line.payload_bytes): line.count for line in lines})
            assert seen == expected, (rank.rank, step)
    assert disagreement(record) is None
    assert faults(record) == []
