"""What a suite needs, beside what the hosts have: slots, precision, memory by theory, disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.analysis.memory import kept
from bench.doctor.finding import Finding, On
from bench.doctor.reading import Reading
from bench.doctor.words import gib, listed, plural
from bench.errors import ProjectionError, SuiteError
from bench.launch.hostfile import Hostfile
from bench.launch.machine import MIN_CPU_SLOTS, Machine
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.suite import Suite

_RESERVED_BYTES = 1e9
"""Device memory that no tensor can have: CUDA context, cuDNN and NCCL buffers. Assumed, as in bench/theory/machines."""
_PROCESS_BYTES = 450 * 2**20
"""Resident set of a rank on CPU whose model is next to nothing: 340 to 450 MiB in reports/example (paced-nano, gpt-nano)."""
_LAUNCH_BYTES, _RANK_BYTES, _STEP_BYTES = 20e3, 30e3, 200.0
"""Of a launch's folder: whatever it is, of each rank, and of each of its steps; above all of reports/example, logs included."""
_REPORT_BYTES = 10e6


@dataclass(frozen=True)
class _Need:
    """Bytes that a cell's ranks need on one device (GPU) or host (CPU), by theory."""

    cell: Cell
    needed_bytes: float


def judge(suite: Suite, readings: Sequence[Reading], hostfile: Hostfile | None, folder: Path) -> list[Finding]:
    """All of this topic. `readings`: of the hosts that would run it, so many as answered; at least one."""
    machine = _machine(readings, hostfile)
    sweep = Sweep(suite, machine, "deepspeed", folder, hostfile)
    cells = [planned.cell for planned in sweep.runnable]
    if not cells:
        return [_slots(sweep)]
    return [_slots(sweep), *_memory(cells, readings, machine, hostfile), _disk(sweep, readings[0])]


def _machine(readings: Sequence[Reading], hostfile: Hostfile | None) -> Machine:
    """What the launcher would see: GPUs where every host has them and torch can use them, else CPUs."""
    gpus = [gpu for reading in readings for gpu in reading.gpus.devices]
    usable = all(
        reading.gpus.devices and reading.software.torch is not None and reading.software.torch.sees_gpus
        for reading in readings
    )
    if usable:
        slots = hostfile.num_slots if hostfile is not None else len(gpus)
        return Machine("cuda", slots, tuple(gpu.name for gpu in gpus), min(gpu.capability for gpu in gpus))
    slots = hostfile.num_slots if hostfile is not None else max(MIN_CPU_SLOTS, readings[0].machine.usable_cores)
    return Machine("cpu", slots)


def _slots(sweep: Sweep) -> Finding:
    on, total = On("suite: cells", None), len(sweep.suite.cells)
    on_what = f"{sweep.suite.name} on {'GPUs' if sweep.machine.device_type == 'cuda' else 'CPU'}"
    if not sweep.skipped:
        return on.ok(f"{on_what}: all {total} cells can be run, launches planned: {len(sweep.tasks)}")
    reasons = Counter(reason for _, reason in sweep.skipped)
    words = listed([f"{number} x {reason}" for reason, number in reasons.most_common()], 3)
    said = f"{on_what}: {len(sweep.skipped)} of {total} cells can't be run: {words}"
    if not sweep.runnable:
        return on.problem(said, "choose another suite or precision, or more slots")
    return on.warning(said, "they are recorded as `skipped`, never run smaller")


def _memory(
    cells: Sequence[Cell], readings: Sequence[Reading], machine: Machine, hostfile: Hostfile | None
) -> list[Finding]:
    needs, unknown = [], set()
    for cell in cells:
        try:
            needs.append(_need(cell, machine, hostfile))
        except (SuiteError, ProjectionError):
            unknown.add(cell.model)
    found = [_fits(needs, reading, machine) for reading in readings] if needs else []
    if unknown:
        found.append(On("suite: memory", None).unchecked(f"the theory does not know {listed(sorted(unknown))}"))
    return found


def _need(cell: Cell, machine: Machine, hostfile: Hostfile | None) -> _Need:
    if machine.device_type == "cuda":
        return _Need(cell, kept(cell, "nccl", _RESERVED_BYTES).total_bytes)
    placement = hostfile.place(cell.world_size, cell.placement) if hostfile is not None else None
    ranks = cell.world_size if placement is None else placement.ranks_per_node
    return _Need(cell, ranks * (_PROCESS_BYTES + kept(cell, "gloo").total_bytes))


def _fits(needs: Sequence[_Need], reading: Reading, machine: Machine) -> Finding:
    on = On("suite: memory", reading.host)
    if machine.device_type == "cuda":
        has, whose = float(min(gpu.memory_bytes for gpu in reading.gpus.devices)), "a GPU has"
    elif reading.machine.available_bytes is not None:
        has, whose = (
            float(min(reading.machine.available_bytes, reading.machine.limit_bytes or float("inf"))),
            "the host has free",
        )
    else:
        return on.unchecked("how much memory is free can't be read")
    most = max(needs, key=lambda need: need.needed_bytes)
    said = f"{_named(most.cell)} needs {gib(most.needed_bytes)} by theory, {whose} {gib(has)}"
    beyond = [need for need in needs if need.needed_bytes > has]
    if not beyond:
        return on.ok(f"the largest, {said}")
    remedy = (
        "a smaller micro_batch_size, activation_checkpointing, or zero2 and zero3; such cells are recorded as `oom`"
    )
    if machine.device_type == "cpu":
        remedy = "leave these cells out: the kernel may end other programs before the ranks"
    models = Counter(need.cell.model for need in beyond)
    which = listed(f"{number} of {model}" for model, number in models.most_common())
    return on.warning(f"{len(beyond)} of {plural(len(needs), 'cell')} may not fit ({which}): {said}", remedy)


def _named(cell: Cell) -> str:
    checkpointed = ", checkpointed" if cell.activation_checkpointing else ""
    ranks = plural(cell.world_size, "rank")
    return f"{cell.model} {cell.strategy} of {ranks} (micro-batch {cell.micro_batch_size}{checkpointed})"


def _disk(sweep: Sweep, reading: Reading) -> Finding:
    on, disk = On("suite: disk", reading.host), reading.machine.disk
    if disk is None:
        return on.unchecked("the disk can't be read")
    needed = _REPORT_BYTES + sum(
        _LAUNCH_BYTES
        + task.cell.world_size * (_RANK_BYTES + _STEP_BYTES * (task.cell.steps + task.cell.max_warmup_steps))
        for task in sweep.tasks
    )
    said = f"about {gib(needed)} of records, {gib(disk.free_bytes)} free"
    return (
        on.problem(said, "make room, or give another folder: --output DIR") if needed > disk.free_bytes else on.ok(said)
    )
