"""The proof of the instrument: known disturbances, injected on this machine, and what the meter recovered of them."""

from __future__ import annotations

import random
from pathlib import Path

from rich.table import Table
from rich.text import Text

import models
from bench.analysis.gates import faults
from bench.analysis.proof import Finding, findings
from bench.errors import LaunchError
from bench.launch.launcher import LauncherName
from bench.launch.machine import Machine
from bench.launch.order import Task
from bench.launch.sweep import Progress, Sweep
from bench.plan.cell import Cell
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.results.metered import Injection
from bench.results.record import Record
from reports import units

FOLDER = Path("results") / "prove"
MODEL = "paced-nano"
STEPS = 6
SLOW_S = 0.2
OVERLAPPED_DELAY_S = 0.03
"""Shorter than the 40 ms that a block of the paced model sleeps on its way back, so that DDP can hide it."""
SERIAL_DELAY_S = 0.05


def plan(world_size: int, seed: int) -> list[Task]:
    """Two launches of a paced model: ddp, whose collectives overlap with the backward pass, and zero2, whose do not on CPU.

    The slow ranks are drawn from `seed`. Raises LaunchError for a single rank, which waits for nobody.
    """
    if world_size < 2:
        raise LaunchError(f"--world-size: found {world_size}, expected at least 2: a single rank waits for nobody")
    draw = random.Random(seed)
    disturbed = {
        "ddp": (
            _late(OVERLAPPED_DELAY_S),
            *(
                Injection(
                    name=f"slow rank in {where}",
                    kind="slow_rank",
                    seconds=SLOW_S,
                    rank=draw.randrange(world_size),
                    where=where,
                    # Once beside communication: a slow rank must not be taken for it.
                    arms=("full", "local") if where == "backward" else ("local",),
                )
                for where in ("forward", "backward", "input")
            ),
            Injection(
                name="one rank's payload withheld", kind="withhold", rank=draw.randrange(world_size), collective=1
            ),
        ),
        "zero2": (_late(SERIAL_DELAY_S),),
    }
    settings = LaunchSettings(timeout_s=300)
    cells = {
        strategy: Cell(
            model=MODEL,
            strategy=strategy,
            world_size=world_size,
            seq_len=int(models.PRESETS[MODEL][1]["reference_tokens"]),
            steps=STEPS,
            max_warmup_steps=6,
            seed=seed,
        )
        for strategy in disturbed
    }
    return [
        Task(cells[strategy], settings, number, "attribution", injections)
        for number, (strategy, injections) in enumerate(disturbed.items())
    ]


def _late(seconds: float) -> Injection:
    return Injection(name=f"each collective {1000 * seconds:g} ms late", kind="delay", seconds=seconds)


def prove(
    tasks: list[Task], machine: Machine, launcher: LauncherName, folder: Path, progress: Progress
) -> tuple[list[Finding], list[Record]]:
    """Make the launches and judge them. The records stay in `folder`; those of a launch that failed have no finding.

    Raises LaunchError where the ranks don't fit on this machine.
    """
    planned = tuple(PlannedCell(task.cell, task.settings) for task in tasks)
    suite = Suite(name="prove", description="The proof of the instrument.", seed=0, cells=planned, aa_pair=False)
    sweep = Sweep(suite, machine, launcher, folder)
    if sweep.skipped:
        raise LaunchError(f"--world-size: {sweep.skipped[0][1]}")
    sweep.prepare_folder()
    sweep.clear_leftovers()
    records = [_judged(record) for record in sweep.launch(tasks, progress)]
    return [finding for record in records if record.outcome == "ok" for finding in findings(record)], records


def _judged(record: Record) -> Record:
    """The record, invalid if its launch was not what its cell asks for: such a launch proves nothing."""
    reasons = faults(record) if record.outcome == "ok" else []
    return record.model_copy(update={"outcome": "invalid", "reason": "; ".join(reasons)}) if reasons else record


def table(found: list[Finding]) -> Table:
    """What was injected, and what came back, for a terminal."""

    def write(value: float | None, unit: str) -> str:
        if unit == "s":
            return units.seconds(value)
        return units.number(value) if unit == "" else f"{units.count(value)}{' B' if unit == 'bytes' else ''}"

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("injected", no_wrap=True)
    for title in ("amount", "expected", "recovered", "tolerance"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("verdict")
    for finding in found:
        cells = [
            finding.name,
            ("rank " if finding.injected_unit == "rank" else "") + write(finding.injected, finding.injected_unit),
            *(write(value, finding.unit) for value in (finding.expected, finding.recovered, finding.tolerance)),
            "recovered" if finding.ok else "MISSED",
        ]
        shown.add_row(*map(Text, cells), style="" if finding.ok else "red")
    return shown
