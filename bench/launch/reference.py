"""Plain training, which every strategy's losses are held to: which references a folder lacks, and the process that makes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.launch.interrupt import stop_on_signal
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.outcome import num_oom_kills, sign_of_memory
from bench.launch.process import LaunchProcess, end_processes, last_lines
from bench.launch.sweep import Progress
from bench.plan.cell import Cell
from bench.results.reference import (
    CELLS_NAME,
    FOLDER_NAME,
    Reference,
    read_reference,
    reference_path,
    reference_paths,
    write_reference,
)
from bench.results.store import read_launch_record, record_paths, write_atomically

MODULE = "bench.worker.reference"
TIMEOUT_S = 300.0
"""In which at least one more reference must be there; a slow one gives up by itself long before."""


def one_of_each(cells: list[Cell]) -> list[Cell]:
    """One cell for each set of cells that do equal work: the one that needs least memory. Smallest global batch first."""
    found: dict[str, Cell] = {}
    for cell in sorted(cells, key=lambda cell: (cell.micro_batch_size, not cell.activation_checkpointing, cell.id)):
        found.setdefault(json.dumps(cell.work, sort_keys=True), cell)
    return sorted(found.values(), key=lambda cell: (cell.tokens_per_step, cell.id))


def reference_command(folder: Path) -> list[str]:
    """The command that makes the references that a results folder lists."""
    return [sys.executable, "-m", MODULE, str(folder)]


def forget_failed_references(folder: Path) -> None:
    """Take the references that could not be made out of a results folder, to try again."""
    for path in reference_paths(folder):
        if read_reference(path).outcome != "ok":
            path.unlink()


def make_references(folder: Path, machine: Machine, progress: Progress) -> None:
    """Train plainly, for a few steps, the global batches of all ok launches of a folder that has no reference for them yet.

    All in one process, and in another one after each that ended the process: out of memory is a result here as elsewhere, and
    the other references are made all the same. Raises Interrupted when the user stops it: those that are made stay.
    """
    folder = folder.resolve()
    records = (read_launch_record(path) for path in record_paths(folder))
    cells = one_of_each([record.cell for record in records if record.outcome == "ok"])
    with stop_on_signal():
        # A run that was killed may have left its own at it.
        end_processes(_mark(folder))
        while missing := [cell for cell in cells if not reference_path(folder, cell).exists()]:
            progress.plain_training(len(missing))
            _make(folder, missing, machine, progress)


def _mark(folder: Path) -> str:
    return f"references of {folder}"


def _make(folder: Path, cells: list[Cell], machine: Machine, progress: Progress) -> None:
    """One process, until it ends or hangs."""
    listed = folder / FOLDER_NAME / CELLS_NAME
    write_atomically(listed, json.dumps([cell.model_dump(mode="json") for cell in cells]))
    environment = launch_environment(machine, cells[0], _mark(folder))
    oom_kills = num_oom_kills()
    process = LaunchProcess(reference_command(folder), environment, listed.parent, 0)
    status, before = None, -1
    try:
        while status is None and (made := sum(reference_path(folder, cell).exists() for cell in cells)) > before:
            status, before = process.wait(TIMEOUT_S, progress.tick), made
    finally:
        process.end()
        listed.unlink()
    # The first that is not there is the one at which the process ended.
    if (failed := next((cell for cell in cells if not reference_path(folder, cell).exists()), None)) is not None:
        write_reference(folder, _failure(failed, status, last_lines(process.log), oom_kills))


def _failure(cell: Cell, status: int | None, lines: list[str], oom_kills_before: int) -> Reference:
    if status is None:
        return Reference(cell=cell, outcome="timeout", reason=f"still running after {TIMEOUT_S:g} s, ended")
    sign = sign_of_memory(lines, oom_kills_before)
    reason = f"the process ended with exit status {status}: {sign or (lines[-1] if lines else 'it said nothing')}"
    return Reference(cell=cell, outcome="crashed" if sign is None else "oom", reason=reason)
