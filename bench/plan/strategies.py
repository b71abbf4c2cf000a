"""Which ways of training there are: one line a strategy. A new ZeRO variant is one JSON file and one line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StrategySpec:
    """How one strategy is loaded and told what to do.

    `target` is "module:class", imported by the rank program alone. `deepspeed_config` names the file in ds_configs/ that
    the strategy starts from, `None` for a strategy that does not use DeepSpeed. `zero_stage` is the stage that this
    file must have.
    """

    target: str
    deepspeed_config: str | None = None
    zero_stage: int | None = None


_DEEPSPEED = "bench.worker.strategies.zero:Zero"

STRATEGIES: dict[str, StrategySpec] = {
    "ddp": StrategySpec("bench.worker.strategies.ddp:DDP"),
    "zero0": StrategySpec(_DEEPSPEED, "zero0.json", 0),
    "zero1": StrategySpec(_DEEPSPEED, "zero1.json", 1),
    "zero2": StrategySpec(_DEEPSPEED, "zero2.json", 2),
    "zero3": StrategySpec(_DEEPSPEED, "zero3.json", 3),
}
