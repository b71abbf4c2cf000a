"""Which ways to synchronise a cell can be measured with: whole periods, servers beside workers, whole nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import SuiteError

if TYPE_CHECKING:
    from bench.plan.cell import Cell

_DIVISORS = frozenset({"ranks_per_node", "hpz_partition_size", "shard_size"})
"""Options that are the size of equal groups of ranks; 0 leaves it to the launch."""


def check_synchronisation(cell: Cell) -> None:
    """Raise SuiteError, naming the key, where the cell's way to synchronise and its sizes don't fit."""
    if not cell.is_trained:
        _check_window(cell)
    elif cell.max_steps is not None and cell.max_steps < cell.every_steps:
        raise SuiteError(f"max_steps: found {cell.max_steps}, expected at least every_steps, {cell.every_steps}")
    if cell.num_workers < 1:
        raise SuiteError(
            f"world_size: found {cell.world_size}, expected more than num_servers, {cell.num_servers}: the last ranks are "
            "servers, and train nothing",
        )
    if cell.num_servers:
        _check_served(cell)
    for name in _DIVISORS & cell.options.keys():
        size = int(cell.options[name])
        if size and cell.world_size % size:
            raise SuiteError(
                f"strategy_options.{name}: found {size}, expected a divisor of world_size, {cell.world_size}"
            )


def _check_window(cell: Cell) -> None:
    """Of a cell that is timed: its window has whole periods, and begins when the strategy does what it is there for."""
    every = cell.every_steps
    if cell.steps % every:
        raise SuiteError(
            f"steps: found {cell.steps}, expected a multiple of every_steps, {every}: a window of whole periods",
            hint=f"write steps: {-(-cell.steps // every) * every}",
        )
    if cell.max_warmup_steps < every:
        raise SuiteError(
            f"max_warmup_steps: found {cell.max_warmup_steps}, expected at least every_steps, {every}",
            hint=f"write max_warmup_steps: {2 * every}",
        )
    if cell.max_warmup_steps < cell.least_warmup_steps:
        raise SuiteError(
            f"max_warmup_steps: found {cell.max_warmup_steps}, expected at least {cell.least_warmup_steps}, the steps before "
            f"{'costs are measured' if cell.partition_cost == 'measured' else f'{cell.strategy} compresses'}",
            hint=f"write max_warmup_steps: {2 * cell.least_warmup_steps}",
        )


def _check_served(cell: Cell) -> None:
    if cell.precision == "fp16":
        raise SuiteError(
            f"precision: {cell.strategy} has no loss scaler that workers and servers share", hint="choose fp32 or bf16"
        )
    if cell.partition == "dynamic":
        raise SuiteError(
            f"partition: dynamic deals by speeds that ranks tell each other at every step, which those of {cell.strategy} don't",
            hint="choose another partition",
        )
    if cell.partition_cost == "measured":
        raise SuiteError(
            f"partition_cost: measured is of seconds that all ranks tell each other, which those of {cell.strategy} don't",
            hint="take the key out",
        )
    if "staleness" in cell.strategy_options and cell.options["mode"] != "stale":
        raise SuiteError(
            f"strategy_options.staleness: mode {cell.options['mode']} has no use for it, expected mode stale",
            hint="take the key out, or write `mode: stale`",
        )
    if cell.options["aggregate"] == "weights" and cell.options["stale_scale"] != "none":
        raise SuiteError("strategy_options.stale_scale: weights are not scaled, expected none with aggregate weights")
    if cell.own_pace and cell.batching != "fixed":
        raise SuiteError(
            f"batching: workers of {cell.strategy} {cell.options['mode']} train on unequal numbers of batches, expected fixed"
        )
