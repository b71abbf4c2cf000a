"""Which launches a suite comes to, and in which order they are made."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.launch.machine import Machine
from bench.plan.cell import Cell
from bench.plan.suite import LaunchSettings, PlannedCell
from bench.results.metered import Injection
from bench.results.record import KINDS, LaunchKind
from bench.results.training import Keeping


@dataclass(frozen=True)
class Task:
    """One launch to be made: which cell, of which kind, its number in the suite's run order, what is disturbed in it,
    whether it belongs to the second of the A/A pair, and what it keeps beside its record."""

    cell: Cell
    settings: LaunchSettings
    sequence: int
    kind: LaunchKind = "timing"
    injections: tuple[Injection, ...] = ()
    twin: bool = False
    keeping: Keeping | None = None


def in_rounds(runnable: Sequence[PlannedCell], twin: PlannedCell | None, seed: int) -> list[Task]:
    """Rounds of all cells, and of the twin among them, each in an order of its own: drift of the machine hits all alike."""
    order = random.Random(seed)
    timing, attribution = KINDS
    wanted = [(planned, timing, planned.settings.launches, False) for planned in runnable]
    metered = [planned for planned in runnable if planned.cell.unmetered_because is None]
    wanted += [(planned, attribution, planned.settings.attribution_launches, False) for planned in metered]
    if twin is not None:
        wanted.append((twin, timing, twin.settings.launches, True))
    tasks: list[Task] = []
    for launch_round in range(max((number for _, _, number, _ in wanted), default=0)):
        due = [(planned, kind, second) for planned, kind, number, second in wanted if launch_round < number]
        order.shuffle(due)
        for planned, kind, second in due:
            tasks.append(Task(planned.cell, planned.settings, len(tasks), kind, twin=second))
    return tasks


def cell_of_the_pair(runnable: Sequence[PlannedCell], machine: Machine) -> PlannedCell | None:
    """The cell that is launched as if it were two, to see how far equal cells differ; None where nothing is compared.

    One whose model computes before one that sleeps, one with a core for each thread before one without, then the one with most
    ranks, then the first: noise grows with what a cell uses of the machine.
    """
    timed = [planned for planned in runnable if planned.settings.launches > 0]
    if len(timed) < 2:
        return None
    return min(timed, key=lambda p: (p.cell.paced, _oversubscribed(p.cell, machine), -p.cell.world_size))


def _oversubscribed(cell: Cell, machine: Machine) -> bool:
    """Whether the cell's ranks have more threads than there are cores."""
    if machine.device_type != "cpu" or cell.paced:
        return False
    return cell.world_size * (cell.threads_per_rank or 1) > len(os.sched_getaffinity(0))
