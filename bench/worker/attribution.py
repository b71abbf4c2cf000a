"""The attribution of a step: the same training in three arms and under injections, in short interleaved blocks."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from bench.results.launch_file import Launch
from bench.results.metered import ARMS, Attribution, Block, Injection, LedgerLine, RankAttribution
from bench.worker.meter.disturb import injected
from bench.worker.meter.ledger import Ledger
from bench.worker.meter.line import Line
from bench.worker.meter.process_group import Meter
from bench.worker.meter.timeline import Timeline

if TYPE_CHECKING:
    from bench.worker.trainer import Trainer

NUM_DROPPED_STEPS = 1
BLOCK_STEPS = 4
"""Steps of a block that count; a block shorter than that would be mostly its dropped step."""


def schedule(steps: int, seed: int, injections: list[Injection], every: int = 1) -> tuple[Attribution, int]:
    """The blocks of a launch whose every arm gets at least `steps` kept steps, and how many of them a block has.

    Where ranks agree every so many steps only, blocks and what is dropped of them are whole periods.

    Rounds of all conditions, at least two, each in an order of its own: drift then hits every arm alike.
    """
    num_rounds = max(2, math.ceil(steps / max(BLOCK_STEPS, every)))
    conditions = [Block(arm=arm) for arm in ARMS]
    conditions += [Block(arm=arm, injection=injection.name) for injection in injections for arm in injection.arms]
    order = random.Random(seed)
    blocks: list[Block] = []
    for _ in range(num_rounds):
        order.shuffle(conditions)
        blocks += conditions
    dropped = max(NUM_DROPPED_STEPS, every)
    plan = Attribution(seed=seed, num_dropped_steps=dropped, blocks=blocks, injections=injections)
    return plan, math.ceil(steps / num_rounds / every) * every


def attribute(
    trainer: Trainer, launch: Launch, meter: Meter, ledger: list[LedgerLine]
) -> tuple[Attribution, RankAttribution]:
    """Measure the arms. Called after all losses and checks are taken, because `sync` and `local` let the replicas drift.

    `ledger` is that of the window.
    """
    timeline, barrier_s = _timeline(trainer, meter)
    plan, block_steps = schedule(trainer.cell.steps, launch.seed, launch.injections, trainer.cell.every_steps)
    dropped = plan.num_dropped_steps
    named = {injection.name: injection for injection in launch.injections}
    others = _groups_without(sorted({i.rank for i in launch.injections if i.kind == "withhold" and i.rank is not None}))
    first = len(trainer.results)
    block_times_s: list[list[float]] = []
    injected_ledgers: dict[str, Ledger] = {}
    for block in plan.blocks:
        injection = named[block.injection] if block.injection is not None else None
        changes_traffic = injection is not None and injection.kind == "withhold"
        meter.ledger = (
            injected_ledgers.setdefault(injection.name, Ledger()) if changes_traffic and injection else Ledger()
        )
        with injected(injection, meter, trainer, others):
            meter.arm = block.arm
            # Every block trains on the same batches: arms differ in what they communicate, and in nothing else.
            trainer.feed.again_from(first, now=len(trainer.results))
            times_s = trainer.timed_steps(dropped + block_steps)
            meter.arm = "full"
        block_times_s.append(times_s[dropped:])
    results = trainer.results[first:]
    fed = trainer.feed.fed[first + dropped : first + dropped + block_steps]
    return plan, RankAttribution(
        block_times_s=block_times_s,
        ledger=ledger,
        injected_ledgers={name: kept.lines() for name, kept in injected_ledgers.items()},
        timeline=timeline.spans(),
        barrier_s=barrier_s,
        block_tokens=[batch.num_tokens for batch in fed],
        block_costs=[batch.cost for batch in fed],
        block_fitted_costs=[batch.fitted_cost for batch in fed if batch.fitted_cost is not None],
        finite=all(math.isfinite(float(result.loss)) for result in results),
        num_skipped_steps=sum(result.skipped for result in results),
    )


def _timeline(trainer: Trainer, meter: Meter) -> tuple[Timeline, float]:
    """One step in `full`, stamped; and when this rank left the barrier before it. A step before it meets the line.

    Where ranks agree every H steps only, it is the last of a period, in which they do.
    """
    meter.line = Line(meter.device)
    for _ in range(max(1, trainer.cell.every_steps - 1)):
        trainer.step()
    timeline = meter.timeline = Timeline()
    if meter.device.type == "cuda":
        torch.cuda.synchronize(meter.device)
    dist.barrier(trainer.control)
    barrier_s = time.perf_counter()
    with timeline.watching(trainer.model):
        trainer.step()
        trainer.strategy.finish()
        if meter.device.type == "cuda":
            torch.cuda.synchronize(meter.device)
    timeline.add("step", "step", barrier_s)
    meter.timeline = None
    meter.line.close()
    meter.line = None
    return timeline, barrier_s


def _groups_without(ranks: list[int]) -> dict[int, dist.ProcessGroup | None]:
    """For each of `ranks` the group of all others, on them; None on the rank itself. Every rank calls this."""
    found: dict[int, dist.ProcessGroup | None] = {}
    for rank in ranks:
        members = [other for other in range(dist.get_world_size()) if other != rank]
        group = dist.new_group(members, backend=None)
        found[rank] = group.inner if rank != dist.get_rank() else None
    return found
