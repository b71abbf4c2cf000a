"""What DeepSpeed is told: complete files, the cell's settings in them, and no silent contradiction."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError, SuiteError
from bench.plan.cell import Cell
from bench.plan.deepspeed_config import (
    SHIPPED,
    check_deepspeed_config,
    fill_from_config,
    load_deepspeed_config,
    resolve_deepspeed_config,
)
from bench.plan.strategies import STRATEGIES


def cell_of(strategy: str, **fields: Any) -> Cell:
    return Cell(model="gpt-nano", strategy=strategy, world_size=2, micro_batch_size=3, grad_accum_steps=4, **fields)


@pytest.mark.parametrize("strategy", [name for name, spec in STRATEGIES.items() if spec.deepspeed_config])
def test_resolved_file_says_what_the_cell_says(strategy: str) -> None:
    cell = cell_of(strategy, precision="bf16", learning_rate=0.5, weight_decay=0.25)
    check_deepspeed_config(cell)
    config = resolve_deepspeed_config(cell, num_params=8_000_000)
    assert config["train_batch_size"] == 24
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 4
    assert config["bf16"]["enabled"] is True and config["fp16"]["enabled"] is False
    assert config["fp16"]["hysteresis"] == 1
    assert config["optimizer"]["params"]["lr"] == 0.5 and config["optimizer"]["params"]["weight_decay"] == 0.25
    # DeepSpeed clips at 1.0 if the file says nothing, and DDP does not.
    assert config["gradient_clipping"] == 0.0
    assert config["timers"]["throughput"]["enabled"] is False and config["wall_clock_breakdown"] is False
    assert config["zero_optimization"]["stage"] == STRATEGIES[strategy].zero_stage
    if STRATEGIES[strategy].zero_stage:
        assert config["zero_optimization"]["reduce_bucket_size"] == 1_000_000


def test_options_reach_the_file() -> None:
    def zero(strategy: str, world_size: int = 2, **options: Any) -> dict[str, Any]:
        cell = cell_of(strategy, strategy_options=options).model_copy(update={"world_size": world_size})
        found: dict[str, Any] = resolve_deepspeed_config(cell, 8_000_000)["zero_optimization"]
        return found

    assert zero("zero3_offload")["offload_param"]["device"] == "cpu"
    disk = zero("zero3_offload", nvme_path="/nvme")
    assert {disk[part]["device"] for part in ("offload_optimizer", "offload_param")} == {"nvme"}
    assert disk["offload_param"]["nvme_path"] == "/nvme"
    assert [zero("zeropp", ranks)["zero_hpz_partition_size"] for ranks in (2, 8, 12, 32)] == [2, 8, 4, 8]
    assert zero("zeropp", hpz_partition_size=1)["zero_hpz_partition_size"] == 1
    assert zero("mics", 16, shard_size=2)["mics_shard_size"] == 2
    with pytest.raises(SuiteError, match="hpz_partition_size: found 3, expected a divisor of world_size, 2"):
        cell_of("zeropp", strategy_options={"hpz_partition_size": 3})
    onebit = resolve_deepspeed_config(cell_of("onebit_adam", strategy_options={"freeze_step": 7}), 8_000_000)
    assert onebit["optimizer"]["type"] == "OneBitAdam" and onebit["optimizer"]["params"]["freeze_step"] == 7


def test_the_hosts_own_adam_is_for_gpus() -> None:
    cell = cell_of("zero2_offload")
    assert resolve_deepspeed_config(cell, 8_000_000)["optimizer"]["params"]["torch_adam"] is True
    assert "torch_adam" not in resolve_deepspeed_config(cell, 8_000_000, on_gpu=True)["optimizer"]["params"]
    assert (
        resolve_deepspeed_config(cell_of("zero2"), 8_000_000, on_gpu=True)["optimizer"]["params"]["torch_adam"] is True
    )


def test_a_window_of_compressed_steps_needs_a_warm_up_as_long() -> None:
    with pytest.raises(SuiteError, match="max_warmup_steps: found 30, expected at least 40"):
        cell_of("ddp_powersgd", strategy_options={"start_iter": 40})
    with pytest.raises(SuiteError, match=r"start_iter: found 1, expected at least 2"):
        cell_of("ddp_powersgd", strategy_options={"start_iter": 1})


@pytest.mark.slow
def test_deepspeed_accepts_the_files() -> None:
    """But those of strategies that the installed release no longer has, which it refuses by name."""
    config = importlib.import_module("deepspeed.runtime.config")
    release = tuple(map(int, importlib.metadata.version("deepspeed").partition("+")[0].split(".")[:3]))
    for strategy, spec in STRATEGIES.items():
        if spec.deepspeed_config is None:
            continue
        cell = Cell(model="gpt-nano", strategy=strategy, world_size=1)
        resolved = resolve_deepspeed_config(cell, 8_000_000)
        gone = bool(spec.removed_in) and release >= tuple(map(int, spec.removed_in.split(".")))
        if gone and strategy == "mics":
            with pytest.raises(config.DeepSpeedConfigError, match="MiCS"):
                config.DeepSpeedConfig(resolved)
        else:
            accepted = config.DeepSpeedConfig(resolved)
            assert accepted.zero_config.stage == spec.zero_stage
            assert gone == (accepted.optimizer_name not in config.DEEPSPEED_OPTIMIZERS)


def test_thresholds_of_stage_3_follow_the_model_and_stop_at_deepspeeds_defaults() -> None:
    small = resolve_deepspeed_config(cell_of("zero3"), num_params=4_000_000)["zero_optimization"]
    assert small["stage3_param_persistence_threshold"] == 10_000
    assert small["stage3_max_live_parameters"] == 1_000_000
    large = resolve_deepspeed_config(cell_of("zero3"), num_params=10_000_000_000)["zero_optimization"]
    assert large["stage3_param_persistence_threshold"] == 100_000
    assert large["stage3_max_live_parameters"] == 1_000_000_000


def test_the_all_gather_bucket_is_even_as_deepspeed_demands() -> None:
    for num_params in (8_000_000, 7_912, 7_904):
        zero = resolve_deepspeed_config(cell_of("zero2"), num_params)["zero_optimization"]
        assert zero["allgather_bucket_size"] % 2 == 0
        assert 0 <= zero["allgather_bucket_size"] - zero["reduce_bucket_size"] <= 1


def test_tuned_keeps_the_files_own_optimizer_and_buckets() -> None:
    shipped = load_deepspeed_config(SHIPPED / "zero2.json")
    tuned = resolve_deepspeed_config(cell_of("zero2", profile="tuned"), num_params=8_000_000)
    assert tuned["zero_optimization"] == shipped["zero_optimization"]
    assert tuned["optimizer"] == shipped["optimizer"]
    assert tuned["train_batch_size"] == 24
    faster = resolve_deepspeed_config(cell_of("zero2", profile="tuned", learning_rate=0.5), num_params=8_000_000)
    assert faster["optimizer"]["params"] == {**shipped["optimizer"]["params"], "lr": 0.5}


def write(folder: Path, content: Any) -> str:
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not valid JSON"]),
        ("[1]", ["list", "object"]),
        ({"zero_optimization": {"stage": 5}}, ["stage", "5"]),
        ({"zero_optimization": 2}, ["zero_optimization", "object"]),
        ({"zero_optimization": {"stage": 1}}, ["stage 1", "zero2", "write strategy zero1"]),
        ({"zero_optimization": {"stage": 2}, "elasticity": {}}, ["elasticity"]),
        ({"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 7}, ["micro_batch_size 7", "3"]),
        (
            {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": -7},
            ["train_micro_batch_size_per_gpu", "-7"],
        ),
        ({"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 2}, ["grad_accum_steps 2", "4"]),
        ({"zero_optimization": {"stage": 2}, "train_batch_size": 25}, ["train_batch_size 25", "24"]),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, ["precision 'fp16'", "'fp32'"]),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}}, ["Lamb", "tuned"]),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, ["gradient_clipping 1.0", "max_grad_norm 0.0"]),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "SGD"}}, ["optimizer 'sgd'", "'adamw'"]),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"params": {"lr": 0.5}}}, ["learning_rate 0.5"]),
    ],
)
def test_a_file_that_contradicts_the_cell_is_an_error(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        check_deepspeed_config(cell_of("zero2", deepspeed_config=path))
    for word in [*words, path]:
        assert word in str(caught.value)


def test_a_named_file_fills_what_the_cell_leaves_open(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "zero_optimization": {"stage": 1},
            "train_micro_batch_size_per_gpu": 5,
            "gradient_accumulation_steps": "auto",
            "bf16": {"enabled": True},
            "optimizer": {"type": "AdamW", "params": {"lr": 1}},
        },
    )
    fields = fill_from_config({"model": "gpt-nano", "world_size": 1, "deepspeed_config": path})
    cell = Cell(**fields)
    assert (cell.strategy, cell.micro_batch_size, cell.grad_accum_steps) == ("zero1", 5, 1)
    assert (cell.precision, cell.learning_rate) == ("bf16", 1.0)
    check_deepspeed_config(cell)
