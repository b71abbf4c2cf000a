"""Dropout: the same rank of the same split drops the same out, whatever the strategy, and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import SuiteError
from bench.worker.reference import train
from tests import forked
from tests.worker.curves import TINY, cell, curves, mean_losses
from tests.worker.test_training import SYNCHRONOUS

NUM_STEPS = 8
SPLIT: dict[str, Any] = {"world_size": 2, "micro_batch_size": 1, "grad_accum_steps": 2}


def dropping(**fields: Any) -> dict[str, Any]:
    return {**SPLIT, "model_options": {**TINY, "dropout": 0.2}, **fields}


@pytest.mark.slow
def test_every_strategy_drops_what_plain_training_drops(tmp_path: Path) -> None:
    cells = [cell(**dropping(strategy=name)) for name in SYNCHRONOUS]
    cells += [cell(**dropping(strategy=name, activation_checkpointing=True)) for name in ("ddp", "zero3")]
    cells += cells[:1]
    by_rank = forked.run(2, curves, cells, NUM_STEPS, folder=tmp_path)
    plain = train(cells[0], torch.device("cpu"), NUM_STEPS).losses
    assert plain[0] - plain[-1] > 0.1
    for index, one in enumerate(cells):
        assert mean_losses(by_rank, index) == pytest.approx(plain, rel=1e-4), one.id
    # Bit by bit, though much was drawn in between.
    assert mean_losses(by_rank, 0) == mean_losses(by_rank, len(cells) - 1)


def test_another_split_is_other_work() -> None:
    one, other = cell(**dropping()), cell(**dropping(grad_accum_steps=1, micro_batch_size=2))
    assert one.global_batch_size == other.global_batch_size and one.work != other.work
    without = [cell(**SPLIT), cell(**{**SPLIT, "grad_accum_steps": 1, "micro_batch_size": 2})]
    assert without[0].work == without[1].work
    losses = [train(found, torch.device("cpu"), 3).losses for found in (one, other, without[0])]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4) and losses[0] != pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_options": {"dropout": 1.0}}, "dropout: found 1.0, expected a number from 0 on and below 1"),
        ({"model_options": {"initialization": "xavir"}}, "initialization: found 'xavir'.*did you mean.*xavier"),
        ({"model_options": {"dropout": 0.1}, "partition": "dynamic"}, "partition: dynamic .*dropout"),
        ({"model": "paced-nano", "model_options": {"dropout": 0.1}}, "paced-nano has no option 'dropout'"),
    ],
)
def test_what_no_model_can_be_told(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SuiteError, match=words):
        cell(**fields)
