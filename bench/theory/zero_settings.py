"""What in a DeepSpeed file decides what is communicated; and which files no theory here covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.plan.cell import Cell

DEEPSPEED = "0.19"
"""The release whose source the rules were read in and whose runs they were held against (0.19.8)."""

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class UnknownTraffic(Exception):
    """The theory does not cover this; the message says why."""


@dataclass(frozen=True)
class ZeroSettings:
    """Sizes are in elements, as DeepSpeed counts them; `parameter_bytes` and `gradient_bytes` are those of one element on
    the wire."""

    stage: int
    parameter_bytes: int
    gradient_bytes: int
    checks_overflow: bool
    clips: bool
    computes_norm: bool
    overlap_comm: bool
    contiguous_gradients: bool
    reduce_scatter: bool
    multi_rank_allreduce: bool
    reduce_bucket_size: int
    sub_group_size: int
    prefetch_bucket_size: int
    param_persistence_threshold: int
    model_persistence_threshold: int
    max_live_parameters: int
    max_reuse_distance: int
    offloads_optimizer: bool


_HOST = frozenset({"device", "pin_memory", "fast_init"})

# What may stand in a file with any value. Of everything else only what is switched off is known to change nothing.
_COVERED = {
    "": frozenset(
        {
            *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "fp16"),
            *("bf16", "gradient_clipping", "zero_optimization", "zero_allow_untested_optimizer", "steps_per_print"),
            *("wall_clock_breakdown", "timers", "scheduler", "communication_data_type", "prescale_gradients"),
            *("gradient_predivide_factor", "memory_breakdown", "dump_state", "zero_force_ds_cpu_optimizer"),
        }
    ),
    "zero_optimization": frozenset(
        {
            *("stage", "overlap_comm", "contiguous_gradients", "reduce_scatter", "compute_grad_norm"),
            *("use_multi_rank_bucket_allreduce", "reduce_bucket_size", "allgather_partitions"),
            *("allgather_bucket_size", "sub_group_size", "load_from_fp32_weights", "elastic_checkpoint"),
            *("ignore_unused_parameters", "memory_efficient_linear", "override_module_apply"),
            *("log_trace_cache_warnings", "stage3_gather_16bit_weights_on_model_save"),
            *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"),
            *("stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance"),
            *("offload_optimizer", "offload_param"),
        }
    ),
    "zero_optimization.offload_optimizer": _HOST,
    "zero_optimization.offload_param": _HOST,
    "fp16": frozenset(
        {
            *("enabled", "loss_scale", "loss_scale_window", "initial_scale_power", "hysteresis", "min_loss_scale"),
            "consecutive_hysteresis",
        }
    ),
    "bf16": frozenset({"enabled", "check_grad_overflow"}),
}
_OFF: tuple[Any, ...] = (None, False, 0, "", {}, [])
_OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd")


def zero_settings(cell: Cell, config: Mapping[str, Any]) -> ZeroSettings:
    """What decides the traffic of `cell` under the resolved DeepSpeed file `config`, DeepSpeed's defaults put in.

    Source of the defaults: deepspeed/runtime/zero/config.py, constants.py and precision_config.py, 0.19.8. Raises
    UnknownTraffic for a file with a feature that the theory does not cover: offload to NVMe, ZeRO++, leaf modules and others.
    """
    for block, covered in _COVERED.items():
        for key, value in _block(config, block).items():
            if key not in covered and not _off(key, value):
                name = f"{block}.{key}" if block else key
                raise UnknownTraffic(f"the theory does not cover the DeepSpeed setting {name}: {value!r}")
    zero: Mapping[str, Any] = config.get("zero_optimization", {})
    for part in ("offload_optimizer", "offload_param"):
        device = (zero.get(part) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            raise UnknownTraffic(
                f"the theory does not cover the order in which ZeRO-3 gathers what is kept on {device}"
            )
    optimizer = str(config.get("optimizer", {}).get("type", "AdamW"))
    if optimizer.lower() not in _OPTIMIZERS:
        raise UnknownTraffic(f"the theory does not cover the DeepSpeed optimizer {optimizer}, which may communicate")
    stage = int(zero.get("stage", 0))
    overlap = zero.get("overlap_comm")
    checks = cell.precision == "bf16" and bool(config.get("bf16", {}).get("check_grad_overflow", True))
    communicated = config.get("communication_data_type")
    return ZeroSettings(
        stage=stage,
        parameter_bytes=DTYPE_BYTES[cell.precision],
        gradient_bytes=DTYPE_BYTES[cell.precision if communicated is None else communicated.lower()],
        # At stage 3 fp16 alone is checked; at stage 0 no flag is exchanged.
        checks_overflow=stage > 0 and (cell.precision == "fp16" or (checks and stage < 3)),
        clips=config.get("gradient_clipping", 1.0) > 0,
        computes_norm=bool(zero.get("compute_grad_norm", True)),
        overlap_comm=stage == 3 if overlap is None else bool(overlap),
        contiguous_gradients=bool(zero.get("contiguous_gradients", True)),
        reduce_scatter=bool(zero.get("reduce_scatter", True)),
        multi_rank_allreduce=bool(zero.get("use_multi_rank_bucket_allreduce", True)),
        reduce_bucket_size=int(zero.get("reduce_bucket_size", 5e8)),
        sub_group_size=int(zero.get("sub_group_size", 1e9)),
        prefetch_bucket_size=int(zero.get("stage3_prefetch_bucket_size", 5e7)),
        param_persistence_threshold=int(zero.get("stage3_param_persistence_threshold", 1e5)),
        model_persistence_threshold=int(zero.get("stage3_model_persistence_threshold", 2**63 - 1)),
        max_live_parameters=int(zero.get("stage3_max_live_parameters", 1e9)),
        max_reuse_distance=int(zero.get("stage3_max_reuse_distance", 1e9)),
        offloads_optimizer=(zero.get("offload_optimizer") or {}).get("device", "none") != "none",
    )


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A block of the file by the names on the way to it; an absent one is empty."""
    for part in filter(None, name.split(".")):
        config = config.get(part) or {}
    return config


def _off(key: str, value: Any) -> bool:
    """Whether a setting is as good as absent."""
    if isinstance(value, Mapping):
        return not value or value.get("enabled") is False or value.get("device") == "none"
    # ZeRO++ partitions over groups of one rank where it is off.
    return value in _OFF or (key == "zero_hpz_partition_size" and value == 1)
