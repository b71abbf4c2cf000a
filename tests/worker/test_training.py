"""Every optimizer, schedule, clipping and L1: each synchronous strategy trains what plain PyTorch does, on the same ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.worker.curves import cell, curves, mean_losses, plain_losses

SYNCHRONOUS = ("ddp", "zero0", "zero1", "zero2", "zero3", "fsdp")
"""Those that communicate differently; others keep parts elsewhere, and are held to plain training in tests of their own."""
NUM_STEPS = 24
WAYS: dict[str, dict[str, Any]] = {
    "adam": {
        **{"optimizer": "adam", "weight_decay": 0.1, "max_grad_norm": 0.5},
        **{"schedule": "linear", "schedule_steps": 22},
    },
    "adagrad": {"optimizer": "adagrad", "learning_rate": 0.02, "l1": 0.01, "schedule_warmup_steps": 4},
    "sgd": {
        **{"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.9, "max_grad_norm": 0.3},
        **{"schedule": "cosine", "schedule_steps": 20, "schedule_warmup_steps": 4},
    },
}


@pytest.fixture(scope="module")
def plain() -> dict[str, list[float]]:
    """The losses of plain PyTorch, by the name of the way."""
    return {name: plain_losses(cell(**way), NUM_STEPS) for name, way in WAYS.items()}


@pytest.mark.slow
def test_losses_follow_plain_torch_with_every_optimizer_and_schedule(
    plain: dict[str, list[float]], tmp_path: Path
) -> None:
    cells = [
        cell(strategy=strategy, world_size=2, micro_batch_size=1, grad_accum_steps=2, **way)
        for way in WAYS.values()
        for strategy in SYNCHRONOUS
    ]
    by_rank = forked.run(2, curves, cells, NUM_STEPS, folder=tmp_path)
    for index, one in enumerate(cells):
        name = list(WAYS)[index // len(SYNCHRONOUS)]
        assert mean_losses(by_rank, index) == pytest.approx(plain[name], rel=1e-4), (name, one.strategy)
        rates = [one.learning_rate_at(step) for step in range(NUM_STEPS)]
        for ranks in by_rank:
            assert ranks[index].learning_rates == pytest.approx(rates), (name, one.strategy)
            assert (ranks[index].replica_distance or 0.0) <= 1e-6


@pytest.mark.parametrize("name", WAYS)
def test_every_setting_changes_the_losses(name: str, plain: dict[str, list[float]]) -> None:
    """Or that strategies agree on them would say nothing."""
    assert plain[name][0] - plain[name][-1] > 0.1
    for left_out in set(WAYS[name]) - {"schedule", "schedule_steps"}:
        other = {key: value for key, value in WAYS[name].items() if key != left_out and key != "momentum"}
        assert abs(plain_losses(cell(**other), NUM_STEPS)[-1] / plain[name][-1] - 1) > 1e-3, left_out


@pytest.mark.slow
def test_clipping_in_half_precision_is_the_same_too(tmp_path: Path) -> None:
    """bf16 on float32 master weights, in a rate at which an unclipped step would be another one."""
    way = {"optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.2, "precision": "bf16"}
    cells = [cell(strategy=strategy, world_size=2, micro_batch_size=2, **way) for strategy in SYNCHRONOUS]
    by_rank = forked.run(2, curves, cells, 12, folder=tmp_path)
    full = plain_losses(cell(**{**way, "precision": "fp32"}), 12)
    unclipped = plain_losses(cell(**{**way, "precision": "fp32", "max_grad_norm": 0.0}), 12)
    assert max(abs(a / b - 1) for a, b in zip(unclipped, full, strict=True)) > 0.03
    for index, one in enumerate(cells):
        assert mean_losses(by_rank, index) == pytest.approx(full, rel=5e-3), one.strategy


@pytest.mark.slow
def test_one_loss_curve_over_50_steps_whatever_the_strategy_and_the_split(tmp_path: Path) -> None:
    """On 1, 2 and 4 ranks: eight sequences a step, shared out by the ranks, by micro-batches, or by accumulation."""
    way = {"max_grad_norm": 1.0, "schedule": "cosine", "schedule_steps": 60, "schedule_warmup_steps": 5}
    plain = plain_losses(cell(micro_batch_size=8, **way), 50)
    assert plain[0] - plain[-1] > 0.5
    for world_size, splits in {1: [(8, 1), (2, 4)], 2: [(2, 2)], 4: [(1, 2)]}.items():
        cells = [
            cell(strategy=strategy, world_size=world_size, micro_batch_size=size, grad_accum_steps=number, **way)
            for strategy in SYNCHRONOUS
            for size, number in splits
        ]
        by_rank = forked.run(world_size, curves, cells, 50, folder=tmp_path / str(world_size))
        for index, one in enumerate(cells):
            assert one.global_batch_size == 8
            assert mean_losses(by_rank, index) == pytest.approx(plain, rel=1e-4), one.id
