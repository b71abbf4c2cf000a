"""Which ways of training there are: one line a strategy. A new ZeRO variant is one JSON file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OptionValue = int | float | bool | str


@dataclass(frozen=True)
class StrategySpec:
    """How one strategy is loaded and told what to do.

    `target` is "module:class", imported by the rank program alone. `deepspeed_config` names the file in ds_configs/ that
    the strategy starts from, `None` for a strategy that does not use DeepSpeed. `zero_stage` is the stage that this
    file must have. `options` are the strategy's own settings with their defaults (a cell's `strategy_options`).
    `equal_work` is False where the losses are others than those of full synchronisation by nature (delayed, asynchronous
    or lossy communication): such a strategy is compared by loss against time, never by its step time alone. `drifting` is
    True where replicas differ at the end of a step by design. `equal_with` are the options with which the work is equal and
    replicas are all the same. `choices` are the values that an option of text may have, `least` the least of one of numbers.
    """

    target: str
    deepspeed_config: str | None = None
    zero_stage: int | None = None
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    equal_work: bool = True
    drifting: bool = False
    equal_with: Mapping[str, OptionValue] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)


_DEEPSPEED = "bench.worker.strategies.zero:Zero"

STRATEGIES: dict[str, StrategySpec] = {
    "ddp": StrategySpec("bench.worker.strategies.ddp:DDP"),
    "zero0": StrategySpec(_DEEPSPEED, "zero0.json", 0),
    "zero1": StrategySpec(_DEEPSPEED, "zero1.json", 1),
    "zero2": StrategySpec(_DEEPSPEED, "zero2.json", 2),
    "zero3": StrategySpec(_DEEPSPEED, "zero3.json", 3),
    "zero2_offload": StrategySpec(_DEEPSPEED, "zero2_offload.json", 2),
    "zero3_offload": StrategySpec(_DEEPSPEED, "zero3_offload.json", 3),
    "ddp_fp16": StrategySpec("bench.worker.strategies.ddp_half:DDPFloat16", equal_work=False),
    "ddp_bf16": StrategySpec("bench.worker.strategies.ddp_half:DDPBFloat16", equal_work=False),
    "ddp_powersgd": StrategySpec(
        "bench.worker.strategies.ddp_powersgd:DDPPowerSGD",
        options={
            **{"rank": 1, "start_iter": 2, "min_compression_rate": 2.0},
            **{"error_feedback": True, "warm_start": True},
        },
        equal_work=False,
    ),
    "fsdp": StrategySpec(
        "bench.worker.strategies.fsdp:FSDP", options={"reshard_after_forward": True, "sync_every_micro_batch": False}
    ),
    "local_sgd": StrategySpec(
        "bench.worker.strategies.local_sgd:LocalSGD",
        options={"every_steps": 8, "start_step": 0},
        equal_work=False,
        drifting=True,
        least={"every_steps": 1, "start_step": 0},
    ),
    "diloco": StrategySpec(
        "bench.worker.strategies.diloco:DiLoCo",
        options={"every_steps": 32, "outer_learning_rate": 0.7, "outer_momentum": 0.9, "outer_dtype": "fp32"},
        equal_work=False,
        drifting=True,
        choices={"outer_dtype": ("fp32", "fp16", "int8")},
        least={"every_steps": 1, "outer_learning_rate": 0.0, "outer_momentum": 0.0},
    ),
    "hierarchical": StrategySpec(
        "bench.worker.strategies.hierarchical:Hierarchical",
        options={"every_steps": 8, "ranks_per_node": 0},
        equal_work=False,
        drifting=True,
        least={"every_steps": 1, "ranks_per_node": 0},
    ),
    "param_server": StrategySpec(
        "bench.worker.strategies.param_server:ParamServer",
        options={
            "mode": "sync",
            "staleness": 4,
            "num_servers": 1,
            "aggregate": "gradients",
            "stale_scale": "none",
        },
        equal_work=False,
        drifting=True,
        equal_with={"mode": "sync", "aggregate": "gradients"},
        choices={
            "mode": ("sync", "async", "stale"),
            "aggregate": ("gradients", "weights"),
            "stale_scale": ("none", "inverse"),
        },
        least={"staleness": 0, "num_servers": 1},
    ),
}
