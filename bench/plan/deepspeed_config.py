"""How DeepSpeed is told what a cell says: which JSON file a cell starts from, and what the cell changes in it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.plan.strategy_config import put_options

SHIPPED = Path(__file__).resolve().parents[2] / "ds_configs"

NUM_BUCKETS = 8
"""A model's gradients are cut in this many buckets, so that those of the last layers can travel while the backward
pass is still at the first ones. DeepSpeed's default of 5e8 elements puts any model below 500M in one bucket."""


def config_path(cell: Cell) -> Path:
    """The JSON file that the cell starts from: its own, or the one shipped for its strategy."""
    if cell.deepspeed_config is not None:
        return Path(cell.deepspeed_config)
    shipped = STRATEGIES[cell.strategy].deepspeed_config
    assert shipped is not None, f"{cell.strategy} does not use DeepSpeed"
    return SHIPPED / shipped


def load_deepspeed_config(path: Path) -> dict[str, Any]:
    """The content of a DeepSpeed JSON file. Raises ConfigError unless it is an object whose parts have the right types."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed_config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"deepspeed_config: {path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"deepspeed_config: {path} holds {type(config).__name__}, expected an object of settings")
    if "elasticity" in config:
        raise ConfigError(f"deepspeed_config: {path}: elasticity: DeepSpeed removed it", hint="take the block out")
    for key in ("zero_optimization", "fp16", "bf16", "optimizer", "timers"):
        if not isinstance(config.get(key, {}), dict):
            raise ConfigError(f"deepspeed_config: {path}: {key}: found {config[key]!r}, expected an object")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise ConfigError(f"deepspeed_config: {path}: zero_optimization.stage: found {stage!r}, expected 0, 1, 2 or 3")
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        value = config.get(key, "auto")
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"deepspeed_config: {path}: {key}: found {value!r}, expected a whole number from 1 on")
    return config


def fields_of_config(config: dict[str, Any]) -> dict[str, Any]:
    """What a DeepSpeed file says of a cell, by the cell's names. "auto" and absent settings are left out, and so is an
    optimizer that a cell can't have."""
    optimizer = config.get("optimizer", {}).get("params", {})
    precision = "fp32"
    for name in ("fp16", "bf16"):
        if config.get(name, {}).get("enabled") is True:
            precision = name
    fields = {
        "micro_batch_size": config.get("train_micro_batch_size_per_gpu", "auto"),
        "grad_accum_steps": config.get("gradient_accumulation_steps", "auto"),
        "learning_rate": optimizer.get("lr", "auto"),
        "weight_decay": optimizer.get("weight_decay", "auto"),
        "optimizer": _optimizer_of(config) or "auto",
        "momentum": optimizer.get("momentum", "auto"),
        "max_grad_norm": config.get("gradient_clipping", "auto"),
        "precision": precision,
    }
    return {key: value for key, value in fields.items() if value != "auto"}


def _optimizer_of(config: dict[str, Any]) -> str | None:
    """The cell's name for the optimizer of a file; None where it names none, or one that a cell can't have."""
    optimizer = config.get("optimizer", {})
    name = str(optimizer.get("type", "")).lower()
    if name == "adam":
        # DeepSpeed's Adam is AdamW unless it is told otherwise.
        return "adamw" if optimizer.get("params", {}).get("adam_w_mode", True) else "adam"
    return name if name in ("adamw", "adagrad", "sgd") else None


def fill_from_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Cell fields, with those that a named DeepSpeed file settles filled in where `fields` leaves them open."""
    path = fields.get("deepspeed_config")
    if not isinstance(path, str):
        return fields
    config = load_deepspeed_config(Path(path))
    filled = {**fields_of_config(config), **fields}
    for key in ("learning_rate", "weight_decay", "momentum", "max_grad_norm"):
        if isinstance(filled.get(key), int):
            filled[key] = float(filled[key])
    if "strategy" not in filled:
        filled["strategy"] = f"zero{config.get('zero_optimization', {}).get('stage', 0)}"
    return filled


def check_deepspeed_config(cell: Cell) -> None:
    """Raise ConfigError if the file that the cell starts from can't be used for it.

    The cell's fields replace those of the files in ds_configs/. A user's own file is taken at its word instead, so
    a setting there that differs from the cell's is an error.
    """
    spec = STRATEGIES[cell.strategy]
    if spec.deepspeed_config is None:
        return
    path = config_path(cell)
    config = load_deepspeed_config(path)
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage != spec.zero_stage:
        raise ConfigError(
            f"deepspeed_config: {path} has zero_optimization.stage {stage}, but strategy {cell.strategy} "
            f"is stage {spec.zero_stage}",
            hint=f"write strategy zero{stage}, or name another file",
        )
    if path.resolve().parent == SHIPPED:
        return
    for key, value in fields_of_config(config).items():
        if value != getattr(cell, key):
            name = "gradient_clipping" if key == "max_grad_norm" else key
            raise ConfigError(
                f"deepspeed_config: {path} says {name} {value!r}, but the cell says {key} {getattr(cell, key)!r}",
                hint="make them equal, or take one of the two out",
            )
    total = config.get("train_batch_size", "auto")
    if total not in ("auto", cell.global_batch_size):
        raise ConfigError(
            f"deepspeed_config: {path} says train_batch_size {total}, but the cell has {cell.global_batch_size} "
            "(micro_batch_size x grad_accum_steps x world_size)",
            hint="take train_batch_size out: the cell settles it",
        )
    kind = config.get("optimizer", {}).get("type", "AdamW")
    if _optimizer_of({"optimizer": {"type": kind}}) is None and cell.profile == "matched":
        raise ConfigError(
            f"deepspeed_config: {path} says optimizer.type {kind!r}, but profile matched trains with {cell.optimizer}",
            hint="choose `profile: tuned` to keep the file's optimizer",
        )


def bucket_elements(num_params: int) -> int:
    """Elements of one gradient bucket under the profile `matched`: an eighth of the model."""
    return max(1, -(-num_params // NUM_BUCKETS))


def resolve_deepspeed_config(cell: Cell, num_params: int, on_gpu: bool = False) -> dict[str, Any]:
    """The file exactly as DeepSpeed gets it: the cell's batch, accumulation, precision, optimizer and bucket sizes put in.

    The profile `tuned` keeps the file's way of running the cell's optimizer, its buckets and overlap. `matched` gives every
    strategy torch's optimizer with equal settings, and buckets that scale with the model; at stage 3 the thresholds that
    decide what stays resident scale too, or a small model would never be sharded (their defaults are made for billions).
    Where GPUs offload their optimizer, it is DeepSpeed's own for the host, of the same arithmetic: torch's would take several
    times as long there, and nobody trains so. On CPU all strategies compute with torch's.
    """
    spec = STRATEGIES[cell.strategy]
    config = copy.deepcopy(load_deepspeed_config(config_path(cell)))
    config["train_batch_size"] = cell.global_batch_size
    config["train_micro_batch_size_per_gpu"] = cell.micro_batch_size
    config["gradient_accumulation_steps"] = cell.grad_accum_steps
    config["fp16"] = {**config.get("fp16", {}), "enabled": cell.precision == "fp16"}
    config["bf16"] = {**config.get("bf16", {}), "enabled": cell.precision == "bf16"}
    # DeepSpeed's own timers synchronise the device twice a step, and its communication log is wrong.
    config["wall_clock_breakdown"] = False
    config["timers"] = {**config.get("timers", {}), "throughput": {"enabled": False}}
    config.pop("comms_logger", None)
    put_options(cell, config)
    settled = {"lr": cell.learning_rate, "weight_decay": cell.weight_decay}
    tuned = cell.profile == "tuned"
    if spec.own_optimizer or (tuned and "optimizer" in config and _optimizer_of(config) in (None, cell.optimizer)):
        config["optimizer"]["params"] = {**config["optimizer"].get("params", {}), **settled}
    else:
        config["optimizer"] = _torch_optimizer(cell, settled)
        if spec.offload != "none" and on_gpu:
            config["optimizer"]["params"].pop("torch_adam", None)
        config["zero_allow_untested_optimizer"] = True
    if cell.max_grad_norm or not tuned:
        config["gradient_clipping"] = cell.max_grad_norm
    if tuned:
        return config
    # As torch's scaler in ddp: from 2^16, halved at every overflow (DeepSpeed's default waits for a second one), doubled after
    # 1000 good steps. Another rule would skip other steps, and the losses would part.
    config["fp16"] |= {"loss_scale": 0, "initial_scale_power": 16, "hysteresis": 1, "loss_scale_window": 1000}
    zero = config.setdefault("zero_optimization", {})
    bucket = bucket_elements(num_params)
    if spec.zero_stage != 0:
        zero["reduce_bucket_size"] = bucket
    if spec.zero_stage in (1, 2):
        # DeepSpeed refuses an odd one.
        zero["allgather_bucket_size"] = bucket + bucket % 2
    if spec.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
        zero["stage3_param_persistence_threshold"] = min(100_000, num_params // 400)
        zero["stage3_max_live_parameters"] = min(1_000_000_000, 2 * bucket)
        zero["stage3_max_reuse_distance"] = min(1_000_000_000, 2 * bucket)
    return config


def _torch_optimizer(cell: Cell, settled: dict[str, float]) -> dict[str, Any]:
    """The block by which DeepSpeed makes torch's own optimizer. A type that it does not know it takes from torch.optim."""
    settings = {**cell.optimizer_settings, **settled}
    if cell.optimizer in ("adam", "adamw"):
        settings["torch_adam"] = True
    if cell.optimizer == "adam":
        settings["adam_w_mode"] = False
    return {"type": cell.optimizer_class, "params": settings}
