"""What a cell says of its optimizer: learning rates by step, words for what settles losses, and errors for what can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import SuiteError
from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.results.reference import reference_path
from bench.results.store import read_records

EXAMPLE = Path(__file__).parents[2] / "reports" / "example" / "quick"


def cell(**fields: Any) -> Cell:
    return Cell(**{"model": "gpt-nano", "strategy": "zero1", "world_size": 2, "learning_rate": 0.1, **fields})


def rates(steps: list[int], **fields: Any) -> list[float]:
    return [cell(**fields).learning_rate_at(step) for step in steps]


def test_schedules() -> None:
    assert rates([0, 1, 1000]) == [0.1] * 3
    warmed = {"schedule_warmup_steps": 3}
    assert rates([0, 1, 2, 3, 1000], **warmed) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    ends = {**warmed, "schedule_steps": 13}
    assert rates([2, 3, 8, 12, 13, 99], schedule="linear", **ends) == pytest.approx([0.075, 0.1, 0.05, 0.01, 0, 0])
    found = rates([2, 3, 8, 13, 99], schedule="cosine", **ends)
    assert found == pytest.approx([0.075, 0.1, 0.05, 0, 0], abs=1e-12)
    assert rates([5], schedule="cosine", **ends)[0] > rates([5], schedule="linear", **ends)[0]


def test_what_is_not_asked_for_is_in_no_words_and_no_name(tmp_path: Path) -> None:
    plain = cell()
    assert plain.work["training"] == plain.work["masks"] == ""
    asked = cell(optimizer="sgd", momentum=0.9, max_grad_norm=1.0)
    assert asked.work["training"] == "optimizer sgd, momentum 0.9, max_grad_norm 1.0"
    assert asked.id != plain.id and reference_path(tmp_path, asked) != reference_path(tmp_path, plain)
    # The ids of the committed example are those of today's code.
    records = read_records(EXAMPLE)
    assert len(records) > 3
    assert {record.cell.id for record in records} <= {path.name for path in EXAMPLE.iterdir()}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"momentum": 0.9}, "momentum: adamw has no use for it"),
        ({"schedule": "linear"}, "schedule_steps: found none with schedule linear"),
        ({"schedule_steps": 5}, "schedule_steps: found 5 with schedule constant"),
        (
            {"schedule": "cosine", "schedule_steps": 5, "schedule_warmup_steps": 5},
            "expected more than schedule_warmup_steps",
        ),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SuiteError, match=words):
        cell(**fields)


@pytest.mark.parametrize(
    ("fields", "kind", "params"),
    [
        ({}, "AdamW", {"betas": [0.9, 0.999], "eps": 1e-8, "torch_adam": True}),
        # Without the flag DeepSpeed's Adam is AdamW.
        ({"optimizer": "adam"}, "Adam", {"betas": [0.9, 0.999], "eps": 1e-8, "torch_adam": True, "adam_w_mode": False}),
        ({"optimizer": "adagrad"}, "Adagrad", {"eps": 1e-10}),
        ({"optimizer": "sgd", "momentum": 0.5}, "SGD", {"momentum": 0.5}),
    ],
)
@pytest.mark.parametrize("profile", ["matched", "tuned"])
def test_deepspeed_is_told_the_same(profile: str, fields: dict[str, Any], kind: str, params: dict[str, Any]) -> None:
    config = resolve_deepspeed_config(cell(profile=profile, max_grad_norm=0.5, **fields), 1000)
    assert config["optimizer"] == {"type": kind, "params": {"lr": 0.1, "weight_decay": 0.01, **params}}
    assert config["gradient_clipping"] == 0.5 and config["zero_allow_untested_optimizer"] is True
