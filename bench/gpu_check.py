"""Does everything work on this machine's GPUs? Launches of DDP and ZeRO 0-3, the metered ones too, judged.

`make gpu-check` runs it.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.analysis.arms import arms
from bench.errors import LaunchError, ScalebenchError
from bench.launch.machine import Machine, detect
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.progress import SweepProgress
from bench.results.record import Record
from bench.theory.flops import mfu, peak_flops_per_s

LOSS_TOLERANCE = 2e-2
"""Relative distance between strategies' losses in half precision, whose sums run in another order."""

CLOCK_TOLERANCE = 0.05
"""CUDA events and the host's clock must give the same length of the window, but for its two edges."""

LONGEST = 1.2
"""A step without communication takes no longer than one with it, but for noise."""

TOO_LARGE = 16_384
"""Sequences of a micro-batch whose logits alone take 1.6 TB in half precision."""


@dataclass(frozen=True)
class Row:
    """One judged launch: what is wrong with it (nothing if it is as it should be)."""

    record: Record
    wrong: list[str]
    step_time_s: float | None = None
    clock_ratio: float | None = None
    mfu: float | None = None
    peak_memory_bytes: int | None = None


def cells(machine: Machine) -> list[Cell]:
    """What is launched: strategies of equal work, precisions that the GPUs have, checkpointing off and on; one that can't fit."""
    precisions = ["fp16"] + (["bf16"] if machine.capability is not None and machine.capability >= (8, 0) else [])
    base = {"model": "gpt2-small", "world_size": machine.num_slots, "micro_batch_size": 4, "steps": 10}
    wanted = [
        Cell.model_validate(
            {**base, "strategy": strategy, "precision": precision, "activation_checkpointing": checkpointing}
        )
        for precision in precisions
        for checkpointing in (False, True)
        for strategy, spec in STRATEGIES.items()
        if spec.equal_work and not spec.removed_in
    ]
    too_large = {**base, "strategy": "ddp", "precision": "fp16", "micro_batch_size": TOO_LARGE}
    return [*wanted, Cell.model_validate(too_large)]


def planned(machine: Machine) -> tuple[PlannedCell, ...]:
    """The cells with their launches: those in fp16 without checkpointing are metered too, over NCCL."""
    return tuple(
        PlannedCell(
            cell,
            LaunchSettings(
                timeout_s=300.0,
                attribution_launches=int(
                    cell.precision == "fp16"
                    and not cell.activation_checkpointing
                    and cell.micro_batch_size != TOO_LARGE
                ),
            ),
        )
        for cell in cells(machine)
    )


def judge(records: list[Record]) -> list[Row]:
    """Each launch with what is wrong with it: outcome, losses against DDP's, both clocks, MFU, checkpointing's memory, and of
    a metered one its arms and its ledger."""
    reference = {
        (record.cell.precision, record.cell.activation_checkpointing): record
        for record in records
        if record.cell.strategy == "ddp" and record.outcome == "ok" and record.kind == "timing"
    }
    rows = []
    for record in records:
        cell = record.cell
        if cell.micro_batch_size == TOO_LARGE:
            wrong = [] if record.outcome == "oom" else [f"outcome {record.outcome}, expected oom: {record.reason}"]
            rows.append(Row(record, wrong))
            continue
        if record.outcome != "ok" or record.work is None or record.environment is None:
            rows.append(Row(record, [f"outcome {record.outcome}: {record.reason}"]))
            continue
        wrong = []
        ddp = reference.get((cell.precision, cell.activation_checkpointing))
        losses = record.mean_losses()
        if not all(math.isfinite(loss) for loss in losses):
            wrong.append("a loss is not finite")
        elif ddp is None:
            wrong.append("no DDP launch to compare losses with")
        else:
            apart = max(abs(a / b - 1) for a, b in zip(losses, ddp.mean_losses(), strict=False))
            if not apart <= LOSS_TOLERANCE:
                wrong.append(f"losses leave DDP's by {apart:.1e}")
        if record.work.num_skipped_steps:
            wrong.append(f"{record.work.num_skipped_steps} optimizer steps skipped")
        ratio = sum(record.ranks[0].step_times_s) / record.ranks[0].phases.window_s
        if abs(ratio - 1) > CLOCK_TOLERANCE:
            wrong.append(f"CUDA events say {ratio:.3f} of the host's clock")
        step_time_s = statistics.median(record.slowest_step_times_s())
        peak = peak_flops_per_s(record.environment.device_names[0], cell.precision)
        fraction = mfu(record.work.flops_per_token, cell.tokens_per_step / step_time_s, cell.world_size, peak)
        if fraction is not None and not 0 < fraction < 1:
            wrong.append(f"MFU {fraction:.3f} can't be")
        wrong += _metered(record)
        memory = max(rank.peak_memory_bytes for rank in record.ranks)
        rows.append(Row(record, wrong, step_time_s, ratio, fraction, memory))
    return [_with_checkpointing(row, rows) for row in rows]


def _metered(record: Record) -> list[str]:
    """What is wrong with the arms and the ledger of an attribution launch; nothing for a timing launch."""
    if record.kind == "timing":
        return []
    found, wrong = arms(record), []
    if found is None:
        wrong.append("an arm of the meter is missing")
    elif not 0 < found.useful.slowest_s < LONGEST * found.full_s:
        wrong.append(f"a step without communication takes {found.useful.slowest_s:.4f} s, with it {found.full_s:.4f} s")
    if not all(rank.attribution is not None and rank.attribution.finite for rank in record.ranks):
        wrong.append("a loss in an arm of the meter is not finite")
    if record.cell.world_size > 1 and not all(rank.attribution and rank.attribution.ledger for rank in record.ranks):
        wrong.append("the ledger is empty")
    return wrong


def _with_checkpointing(row: Row, rows: list[Row]) -> Row:
    """The row, with an error added if activation checkpointing saved it no memory."""
    if row.peak_memory_bytes is None or not row.record.cell.activation_checkpointing:
        return row
    plain_cell = row.record.cell.model_copy(update={"activation_checkpointing": False})
    plain = next((other for other in rows if (other.record.cell, other.record.kind) == (plain_cell, "timing")), None)
    if plain is None or plain.peak_memory_bytes is None or row.peak_memory_bytes < plain.peak_memory_bytes:
        return row
    return Row(**{**vars(row), "wrong": [*row.wrong, "checkpointing saves no memory"]})


def table(rows: list[Row]) -> Table:
    """The judged launches, for a terminal."""
    shown = Table(title="GPU check")
    for heading in ("cell", "outcome", "step", "events/host", "MFU", "peak memory", "verdict"):
        shown.add_column(heading, justify="left" if heading in ("cell", "outcome", "verdict") else "right")
    for row in rows:
        cell = row.record.cell
        name = f"{cell.strategy} {cell.precision}" + (" checkpointed" if cell.activation_checkpointing else "")
        name += " (too large)" if cell.micro_batch_size == TOO_LARGE else ""
        name += " (metered)" if row.record.kind == "attribution" else ""
        shown.add_row(
            name,
            row.record.outcome,
            "–" if row.step_time_s is None else f"{row.step_time_s * 1e3:.1f} ms",
            "–" if row.clock_ratio is None else f"{row.clock_ratio:.3f}",
            "–" if row.mfu is None else f"{row.mfu:.1%}",
            "–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**30:.2f} GiB",
            "as it should be" if not row.wrong else "; ".join(row.wrong),
        )
    return shown


def main() -> None:
    """Exit 0 if every launch is as it should be or there is no GPU (and say which), 1 if one is not, 2 for an error."""
    try:
        machine = detect("cuda", None)
    except LaunchError as error:
        print(f"gpu-check: nothing checked: {error}")
        sys.exit(0)
    folder = Path(tempfile.mkdtemp(prefix="scalebench-gpu-check-"))
    wanted = planned(machine)
    sweep = Sweep(Suite("gpu-check", "", 0, wanted, aa_pair=False), machine, "deepspeed", folder)
    console = Console(soft_wrap=True)
    try:
        sweep.prepare_folder()
        with SweepProgress(console) as progress:
            records = sweep.run(progress)
    except ScalebenchError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    order = {planned_cell.cell.id: index for index, planned_cell in enumerate(wanted)}
    rows = judge(sorted(records, key=lambda record: (order[record.cell.id], record.kind != "timing")))
    console.print(table(rows))
    console.print(f"{machine.description}; records: {folder}", markup=False, highlight=False)
    sys.exit(1 if any(row.wrong for row in rows) else 0)


if __name__ == "__main__":
    main()
