"""Every way to synchronise that the theory knows: those that the rank program runs, and more. What a step takes, what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import ProjectionError, nearest
from bench.plan.strategies import STRATEGIES
from bench.theory.collectives import Group
from bench.theory.compression import HALF_BYTES, half_step, powersgd_step
from bench.theory.delayed import OUTER_BYTES, averaged_step, diloco_step
from bench.theory.memory import FRAGMENTATION_FRAC, Memory, memory
from bench.theory.offload import offloaded_step
from bench.theory.server import served_step
from bench.theory.step import Step, exchange_of, step
from bench.theory.workload import Workload

# Kept by DiLoCo beside the model: the last common weights and the outer momentum, in float32.
_OUTER_STATE_BYTES = 8


@dataclass(frozen=True)
class Way:
    """A way to synchronise. `base`: the strategy whose work it does and whose memory it starts from; `offload`: what is in the
    host; `every_steps`: steps between two exchanges where nobody says. `equal_work`: whether an update is the same as
    plain training's; where it is not, a step must not be compared without the loss."""

    base: str
    offload: str = "none"
    every_steps: int = 1
    equal_work: bool = True


WAYS: Mapping[str, Way] = {
    **{name: Way(name) for name in ("ddp", "zero0", "zero1", "zero2", "zero3", "fsdp")},
    "zero2_offload": Way("zero2", offload="optimizer"),
    "zero3_offload": Way("zero3", offload="all"),
    "ddp_fp16": Way("ddp", equal_work=False),
    "ddp_bf16": Way("ddp", equal_work=False),
    "ddp_powersgd": Way("ddp", equal_work=False),
    "local_sgd": Way("ddp", every_steps=8, equal_work=False),
    "diloco": Way("ddp", every_steps=100, equal_work=False),
    "param_server": Way("ddp", equal_work=False),
}


@dataclass(frozen=True)
class Options:
    """How a way is set: steps between two exchanges (local_sgd, diloco; None is the way's own), what outer differences travel
    in (diloco), the rank of ddp_powersgd, and of param_server how many steps a worker may be ahead (0: none, all wait; None:
    any) and how many servers there are. Raises ProjectionError for values that can't be."""

    every_steps: int | None = None
    outer_dtype: str = "fp32"
    powersgd_rank: int = 1
    staleness: int | None = None
    num_servers: int = 1

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--every-steps", self.every_steps, 1),
            ("--powersgd-rank", self.powersgd_rank, 1),
            ("--staleness", self.staleness, 0),
            ("--num-servers", self.num_servers, 1),
        ):
            if value is not None and value < least:
                raise ProjectionError(f"{flag}: found {value}, expected a whole number from {least} on")
        if self.outer_dtype not in OUTER_BYTES:
            raise ProjectionError(
                f"--outer-dtype: found {self.outer_dtype!r}", hint=nearest(self.outer_dtype, OUTER_BYTES)
            )


DEFAULTS = Options()


def way_of(strategy: str) -> Way:
    """The way of that name. Raises ProjectionError where the theory knows none: of a strategy that only runs, too."""
    if strategy not in WAYS:
        known = "the theory does not cover it" if strategy in STRATEGIES else nearest(strategy, WAYS)
        raise ProjectionError(f"--strategy: found {strategy!r}", hint=known)
    return WAYS[strategy]


def step_of(work: Workload, strategy: str, group: Group, options: Options = DEFAULTS) -> Step:
    """The mean step of the slowest rank. Raises ProjectionError as `way_of`, and where a way needs what is not described."""
    way = way_of(strategy)
    every = options.every_steps or way.every_steps
    if way.offload != "none":
        return offloaded_step(work, way.base, group)
    if strategy in ("ddp_fp16", "ddp_bf16"):
        return half_step(work, group)
    if strategy == "ddp_powersgd":
        return powersgd_step(work, group, options.powersgd_rank)
    if strategy == "local_sgd":
        return averaged_step(work, group, every)
    if strategy == "diloco":
        return diloco_step(work, group, every, options.outer_dtype)
    if strategy == "param_server":
        return served_step(work, group, options.staleness, options.num_servers)
    return step(work, strategy, group, exchange_of(work, strategy, group))


def memory_of(work: Workload, strategy: str, group: Group, options: Options = DEFAULTS) -> Memory:
    """Bytes on one rank's device: the base's, without what is in the host, with what a way keeps besides.

    ddp_fp16 and ddp_bf16: a bucket in half precision. ddp_powersgd: the errors, as large as the gradients. local_sgd: the
    weights flattened. diloco: the last common weights, the outer momentum and the differences. param_server: no optimizer.
    """
    way = way_of(strategy)
    exchanged = exchange_of(work, way.base, group)
    kept = memory(
        way.base,
        num_params=work.num_params,
        precision=work.precision,
        world_size=group.world_size,
        exchange=exchanged,
        activation_bytes=work.activation_bytes,
        reserved_bytes=group.machine.behaviour.reserved_bytes.value,
        num_layers=work.num_layers,
        offload=way.offload,
        whole_gradients=strategy == "fsdp" and work.grad_accum_steps > 1,
    )
    more = {
        "ddp_fp16": max(size for size, _ in exchanged.buckets) / work.gradient_bytes * HALF_BYTES,
        "ddp_bf16": max(size for size, _ in exchanged.buckets) / work.gradient_bytes * HALF_BYTES,
        "ddp_powersgd": float(work.gradient_bytes * work.num_params),
        "local_sgd": float(work.gradient_bytes * work.num_params),
        "diloco": float((_OUTER_STATE_BYTES + OUTER_BYTES[options.outer_dtype]) * work.num_params),
    }.get(strategy, 0.0)
    return dataclasses.replace(
        kept,
        optimizer=0.0 if strategy == "param_server" else kept.optimizer,
        buckets=kept.buckets + more,
        fragmentation=kept.fragmentation + FRAGMENTATION_FRAC * more,
    )
