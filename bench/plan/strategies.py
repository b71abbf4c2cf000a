"""Which ways of training there are: one line a strategy. A new ZeRO variant is one JSON file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    `offload` is what of a rank is kept in its host's memory. `gathers_in_forward` is True where a forward pass waits for
    other ranks' parts of the parameters. `needs_cuda` says why it can't run on CPU ("" where it can), `removed_in` names the
    DeepSpeed release from which on it is gone. `own_optimizer` is True where the optimizer of the file is the strategy.
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
    offload: Literal["none", "optimizer", "all"] = "none"
    gathers_in_forward: bool = False
    needs_cuda: str = ""
    removed_in: str = ""
    own_optimizer: bool = False

    @property
    def stage(self) -> int:
        """What is divided by the ranks, as ZeRO counts it: 0 nothing, 1 the optimizer, 2 gradients too, 3 parameters too."""
        return self.zero_stage or (3 if self.gathers_in_forward else 0)


_DEEPSPEED = "bench.worker.strategies.zero:Zero"

STRATEGIES: dict[str, StrategySpec] = {
    "ddp": StrategySpec("bench.worker.strategies.ddp:DDP"),
    "zero0": StrategySpec(_DEEPSPEED, "zero0.json", 0),
    "zero1": StrategySpec(_DEEPSPEED, "zero1.json", 1),
    "zero2": StrategySpec(_DEEPSPEED, "zero2.json", 2),
    "zero3": StrategySpec(_DEEPSPEED, "zero3.json", 3, gathers_in_forward=True),
    "zero2_offload": StrategySpec(_DEEPSPEED, "zero2_offload.json", 2, offload="optimizer"),
    "zero3_offload": StrategySpec(
        _DEEPSPEED,
        "zero3_offload.json",
        3,
        # Where parameters and optimizer are kept on a local disk; "" keeps them in memory.
        options={"nvme_path": ""},
        offload="all",
        gathers_in_forward=True,
    ),
    "zeropp": StrategySpec(
        _DEEPSPEED,
        "zeropp.json",
        3,
        # Ranks that keep a second copy of the parameters between them; 0: those of a node, at most 8.
        options={"hpz_partition_size": 0},
        equal_work=False,
        least={"hpz_partition_size": 0},
        gathers_in_forward=True,
        needs_cuda="ZeRO++ quantizes in DeepSpeed's CUDA kernels",
    ),
    "mics": StrategySpec(
        _DEEPSPEED,
        "mics.json",
        3,
        # Ranks that share one copy of the model; 0: those of a node, at most 8.
        options={"shard_size": 0},
        least={"shard_size": 0},
        gathers_in_forward=True,
        removed_in="0.19.7",
    ),
    "onebit_adam": StrategySpec(
        _DEEPSPEED,
        "onebit_adam.json",
        0,
        # Steps of plain Adam before compression begins.
        options={"freeze_step": 10},
        equal_work=False,
        least={"freeze_step": 1},
        needs_cuda="1-bit Adam packs signs with cupy and sends them by NCCL",
        removed_in="0.19.7",
        own_optimizer=True,
    ),
    "ddp_fp16": StrategySpec("bench.worker.strategies.ddp_half:DDPFloat16", equal_work=False),
    "ddp_bf16": StrategySpec("bench.worker.strategies.ddp_half:DDPBFloat16", equal_work=False),
    "ddp_powersgd": StrategySpec(
        "bench.worker.strategies.ddp_powersgd:DDPPowerSGD",
        options={
            **{"rank": 1, "start_iter": 2, "min_compression_rate": 2.0},
            **{"error_feedback": True, "warm_start": True},
        },
        equal_work=False,
        least={"rank": 1, "start_iter": 2, "min_compression_rate": 0.0},
    ),
    "fsdp": StrategySpec(
        "bench.worker.strategies.fsdp:FSDP",
        options={"reshard_after_forward": True, "sync_every_micro_batch": False},
        gathers_in_forward=True,
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


def num_servers(strategy: str, options: Mapping[str, OptionValue]) -> int:
    """How many of the ranks train nothing, of a strategy with these of its options set; 0 of an unknown one."""
    spec = STRATEGIES.get(strategy)
    return 0 if spec is None else int({**spec.options, **options}.get("num_servers", 0))
