"""A machine file of one's own, from what was measured here: the fabric by a sweep of collectives, the compute by a launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.errors import LaunchError, ProjectionError
from bench.results.comm import CommRecord
from bench.results.record import Environment, Record
from bench.results.store import read_records
from bench.theory.fabric_fit import Point, fit_fabric, with_fabric
from bench.theory.flops import peak_flops_per_s
from bench.theory.machine import Machine, Positive, load_machine, machine_names
from bench.theory.workload import update_s
from bench.writing import write_text


def write_fitted(path: Path, sweep: CommRecord, base: str | None, timing: Path | None) -> Path:
    """Write the machine file; `project --machine PATH` reads it. Raises ProjectionError or MachineError where what was measured
    does not tell, LaunchError for a name that is no YAML file's."""
    if path.suffix not in (".yaml", ".yml"):
        raise LaunchError(f"--write-machine: found {str(path)!r}, expected a name that ends in .yaml")
    machine = fitted_machine(sweep, base, None if timing is None else read_records(timing), path.stem)
    write_text(path, f"# Made by scalebench comm.\n{_yaml(machine)}")
    return path


def fitted_machine(sweep: CommRecord, base: str | None, records: list[Record] | None, name: str) -> Machine:
    """The described machine `base` (by default that of the sweep's backend and device) with the constants that a sweep and, where
    there are `records`, a launch on one rank of them tell."""
    place = sweep.environment
    assert place is not None, "an ok sweep says where it ran"
    machine = _base(place, base)
    ranks, nodes = sweep.plan.world_size, place.num_nodes
    if place.backend == "gloo":
        node = machine.node.model_copy(
            update={"num_cores": place.num_cores, "num_devices": max(machine.node.num_devices, ranks // nodes)}
        )
        share = place.memory_bytes / node.num_devices
        memory = Positive(value=share, source=f"derived: the host's memory, shared by {node.num_devices} ranks")
        device = machine.device.model_copy(update={"memory_bytes": memory})
        machine = machine.model_copy(update={"node": node, "device": device})
    points = [
        Point(point.operation, point.in_place, point.size_bytes, float(np.median(point.repetition_times_s)))
        for point in sweep.points
    ]
    fit = fit_fabric(points, machine, ranks)
    source = (
        f"scalebench comm {sweep.launch_id}, {ranks} ranks on {nodes} host{'s' * (nodes > 1)}, {fit.num_points} points, "
        f"median residual {100 * fit.error_frac:.0f} %"
    )
    machine = with_fabric(machine, fit, ranks, nodes, source)
    if records is not None:
        machine = _with_compute(machine, records, place)
    described = f"As {machine.name}, with what was measured on {place.cpu if place.backend == 'gloo' else place.device_names[0]}"
    return machine.model_copy(update={"name": name, "description": described})


def _base(place: Environment, name: str | None) -> Machine:
    if name is not None or place.backend == "gloo":
        machine = load_machine(name or "cpu-gloo")
        if machine.node.backend != place.backend:
            raise ProjectionError(
                f"--machine: found {machine.name}, which talks over {machine.node.backend}, but the sweep over {place.backend}"
            )
        return machine
    device = place.device_names[0].removeprefix("NVIDIA ").removeprefix("Tesla ")
    fitting = [one for one in machine_names() if load_machine(one).device.name == device]
    if len(fitting) != 1:
        hint = f"described with that device: {', '.join(fitting)}" if fitting else "give a YAML file of your own"
        raise ProjectionError(f"--machine: missing, and the sweep ran on {device}", hint=hint)
    return load_machine(fitting[0])


def _with_compute(machine: Machine, records: list[Record], place: Environment) -> Machine:
    """Sustained FLOP/s by precision: of the largest step that one rank took, by the theory's own account of a step."""
    found: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.cell.tokens_per_step):
        alone = record.outcome == "ok" and record.kind == "timing" and record.cell.world_size == 1
        here = record.environment is not None and record.environment.device_type == place.device_type
        if alone and here and not record.cell.paced and record.cell.strategy == "ddp":
            found[record.cell.precision] = record
    if not found:
        raise ProjectionError(
            f"--timing: no ok timing launch of ddp on one rank of this kind of machine among {len(records)} records",
            hint="measure one: a suite with world_size: 1, strategy: ddp and a model that computes",
        )
    rates, parts = dict(machine.device.sustained_flops_per_s), dict(machine.device.sustained_frac)
    for precision, record in found.items():
        rate, source = _rate(machine, record)
        peak = peak_flops_per_s(machine.device.name, precision)
        if peak is None:
            rates[precision] = Positive(value=rate, source=source)
        else:
            parts[precision] = Positive(value=rate / peak, source=source)
    device = machine.device.model_copy(update={"sustained_flops_per_s": rates, "sustained_frac": parts})
    return machine.model_copy(update={"device": device})


def _rate(machine: Machine, record: Record) -> tuple[float, str]:
    """FLOP/s of the passes of one launch, and where that is from."""
    work, cell = record.work, record.cell
    assert work is not None
    step_s = float(np.median(record.slowest_step_times_s()))
    adam_s = update_s(machine, work.num_params)
    passes_s = step_s - adam_s
    if passes_s <= 0:
        raise ProjectionError(
            f"--timing: launch {record.launch_id} takes {step_s:.3g} s a step, the optimizer alone should take {adam_s:.3g} s",
            hint="measure a larger batch",
        )
    source = (
        f"fitted: launch {record.launch_id}, {cell.id}: {step_s:.4g} s a step, of which Adam {adam_s:.2g} s by theory"
    )
    return record.tokens_per_step() * work.flops_per_token / passes_s, source


def _yaml(machine: Machine) -> str:
    content: dict[str, Any] = machine.model_dump(exclude_none=True)
    content["device"] = {"name": machine.device.name, **content["device"]}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=130)
