"""What can be wrong with a rank program: each function breaks it in one way, or in several that don't hide each other."""

from __future__ import annotations

import os
import time
from types import ModuleType, SimpleNamespace
from typing import Any

RANK = int(os.environ.get("RANK", "0"))


def skips_a_micro_batch(rank: ModuleType, launch: dict[str, Any]) -> None:
    from bench.worker.strategies.ddp import DDP

    step = DDP.step
    DDP.step = lambda self, micro_batches: step(self, micro_batches[:-1])


def other_data_on_rank_1(rank: ModuleType, launch: dict[str, Any]) -> None:
    micro_batches = rank.Trainer._micro_batches
    rank.Trainer._micro_batches = lambda self, step: micro_batches(self, step + 1000 * RANK)


def not_a_number(rank: ModuleType, launch: dict[str, Any]) -> None:
    """From the third step on, one element of one gradient of rank 1 is NaN when it comes to the optimizer."""
    from bench.worker.strategies.optimizer import MasterOptimizer

    step, calls = MasterOptimizer.step, []

    def broken(self: Any) -> bool:
        calls.append(None)
        if RANK == 1 and len(calls) > 2:
            self.optimizer.param_groups[0]["params"][0].grad[0, 0] = float("nan")
        return bool(step(self))

    MasterOptimizer.step = broken


def gradients_that_deepspeed_skips(rank: ModuleType, launch: dict[str, Any]) -> None:
    """In the second step of warm-up and in the last of the window, rank 1 has a gradient that is not finite."""
    prepare = rank.Trainer.__init__

    def broken(self: Any, cell: Any, *others: Any) -> None:
        prepare(self, cell, *others)

        def spoil(gradient: Any) -> Any:
            step = len(self.results)
            return gradient * float("nan") if RANK == 1 and step in (1, cell.max_warmup_steps + 1) else gradient

        next(self.model.parameters()).register_hook(spoil)

    rank.Trainer.__init__ = broken


def another_optimizer(rank: ModuleType, launch: dict[str, Any]) -> None:
    """Rank 1 has twice the learning rate, and every rank updates twice a step."""
    from bench.worker.strategies.optimizer import MasterOptimizer

    prepare, step = MasterOptimizer.__init__, MasterOptimizer.step

    def prepare_broken(self: Any, *arguments: Any) -> None:
        prepare(self, *arguments)
        if RANK == 1:
            self.optimizer.param_groups[0]["lr"] *= 2

    def step_twice(self: Any) -> bool:
        self.optimizer.step()
        return bool(step(self))

    MasterOptimizer.__init__, MasterOptimizer.step = prepare_broken, step_twice


def half_precision_of_one_rank(rank: ModuleType, launch: dict[str, Any]) -> None:
    """The model is in bfloat16, and what rank 1 measured does not get into the record."""
    import torch
    import torch.distributed as dist

    from bench.worker.strategies import ddp

    build, gather = ddp.build_cells_model, dist.all_gather_object

    def forgetful(gathered: list[Any], *others: Any, **named: Any) -> None:
        gather(gathered, *others, **named)
        if isinstance(gathered[-1], tuple):
            gathered.pop()

    ddp.build_cells_model = lambda cell, device: build(cell, device).to(torch.bfloat16)
    dist.all_gather_object = forgetful


def elsewhere(rank: ModuleType, launch: dict[str, Any]) -> None:
    """Two threads on rank 0; on rank 1 one core alone, a window cut short, and the launch file of another run."""
    import torch

    prepare, measure, timed_steps = rank.Trainer.__init__, rank.measure, rank.Trainer.timed_steps

    def crowded(self: Any, *arguments: Any) -> None:
        prepare(self, *arguments)
        if RANK == 0:
            torch.set_num_threads(2)

    def misled(told: Any, *others: Any) -> None:
        measure(told.model_copy(update={"launch_id": "0123456789ab"}), *others)

    def cut_short(self: Any, num_steps: int) -> Any:
        times_s = timed_steps(self, num_steps)
        return times_s[:-1] if num_steps == self.cell.steps else times_s

    rank.Trainer.__init__ = crowded
    if RANK == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        rank.measure, rank.Trainer.timed_steps = misled, cut_short


def sleeps_half_as_long(rank: ModuleType, launch: dict[str, Any]) -> None:
    from models import paced

    paced.time = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 2))


def ends_before_its_record(rank: ModuleType, launch: dict[str, Any]) -> None:
    """Rank 0 is gone when it has gathered what all ranks measured."""
    rank.write_record = lambda *_: os._exit(1)


def arms_without_sense(rank: ModuleType, launch: dict[str, Any]) -> None:
    """Once communication is taken away, collectives leave NaN in their output."""
    from bench.worker.meter import process_group

    carry = process_group.MeteringGroup.carry

    def senseless(self: Any, method: str, arguments: Any, named: Any) -> Any:
        work = carry(self, method, arguments, named)
        if self.meter.arm == "local":
            for output in process_group.OPERATIONS[method].outputs(arguments):
                output.fill_(float("nan"))
        return work

    process_group.MeteringGroup.carry = senseless


def no_meter(rank: ModuleType, launch: dict[str, Any]) -> None:
    """Nothing of the meter can be made: a launch that needs it can't go on."""
    from bench.worker.meter import disturb, process_group, timeline

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this launch carries a meter")

    for made in (process_group.MeteringGroup, process_group.Meter, timeline.Timeline, disturb.Line):
        made.__init__ = refuse


def the_second_layer_sleeps_longer(rank: ModuleType, launch: dict[str, Any]) -> None:
    """What a commit does that makes one layer slower: 20 % more sleep in it, and nothing else changed."""
    prepare = rank.Trainer.__init__

    def slowed(self: Any, *arguments: Any) -> None:
        prepare(self, *arguments)
        for block in list(self.model.blocks)[1:2]:
            block.forward_s_per_token *= 1.2
            block.backward_s_per_token *= 1.2

    rank.Trainer.__init__ = slowed
