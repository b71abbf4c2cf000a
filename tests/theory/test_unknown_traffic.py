"""Where the theory does not reach, it says so and names why."""

from __future__ import annotations

from typing import Any

import pytest

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.theory.traffic import traffic
from bench.theory.zero_settings import UnknownTraffic
from tests.theory.outlines import outline_of

SIZES = [4000, 1000, 16]


def cell_of(strategy: str) -> Cell:
    return Cell(model="gpt-nano", strategy=strategy, world_size=2)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"zero_optimization": {"stage": 2, "round_robin_gradients": True}}, "round_robin_gradients"),
        ({"zero_optimization": {"stage": 2, "zero_quantized_gradients": True}}, "zero_quantized_gradients"),
        ({"optimizer": {"type": "OneBitAdam"}}, "OneBitAdam"),
        ({"data_types": {"grad_accum_dtype": "fp32"}}, "data_types"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel"),
        ({"fp16": {"enabled": False, "fp16_master_weights_and_grads": True}}, "fp16_master_weights_and_grads"),
        ({"zero_optimization": {"stage": 1}}, "zero2"),
    ],
)
def test_what_is_not_covered_is_named(change: dict[str, Any], word: str) -> None:
    cell = cell_of("zero2")
    config = {**resolve_deepspeed_config(cell, sum(SIZES)), **change}
    with pytest.raises(UnknownTraffic, match=word):
        traffic(cell, outline_of(SIZES), config)


def test_what_is_switched_off_is_covered() -> None:
    cell = cell_of("zero2")
    config = resolve_deepspeed_config(cell, sum(SIZES))
    plain = traffic(cell, outline_of(SIZES), config)
    config["zero_optimization"] |= {"offload_optimizer": {"device": "none"}, "zero_quantized_gradients": False}
    config |= {"flops_profiler": {"enabled": False}, "data_types": {}}
    assert traffic(cell, outline_of(SIZES), config) == plain


def test_models_that_break_a_rule_have_no_theory() -> None:
    outline = outline_of(SIZES)
    with pytest.raises(UnknownTraffic, match="no gradient"):
        traffic(cell_of("ddp"), outline.model_copy(update={"ready": outline.ready[1:]}), None)
    with pytest.raises(UnknownTraffic, match="3 buffers"):
        traffic(cell_of("ddp"), outline.model_copy(update={"num_buffers": 3}), None)
    cell = cell_of("zero3")
    with pytest.raises(UnknownTraffic, match="experts"):
        traffic(cell, outline.model_copy(update={"own_rules": ["experts"]}), resolve_deepspeed_config(cell, sum(SIZES)))
    with pytest.raises(UnknownTraffic, match="no DeepSpeed file"):
        traffic(cell, outline, None)
