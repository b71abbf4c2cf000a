"""What was measured faster than the described machine can be: the description is wrong, or the measurement is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import ProjectionError
from bench.results.record import Record
from bench.theory.floor import bus_bytes_per_s, bus_limit_bytes_per_s, floors
from bench.theory.machine import Machine, load_machine
from bench.theory.traffic import ring_volume_bytes
from bench.theory.zero_settings import UnknownTraffic

COLUMNS = [
    *(
        "kind",
        "model",
        "strategy",
        "world_size",
        "grad_accum_steps",
        "cell_id",
        "launch_id",
        "measured",
        "limit",
        "unit",
    ),
    *("because", "source"),
]
STEP, BUS = "step below the floor", "bus bandwidth above the link"

# Beyond the last digits of clocks and data sheets.
TOLERANCE = 0.05
# Smaller messages are latency, and their durations a few reads of a clock.
_LEAST_BYTES = 2**20


def alarms(records: list[Record], machine: str | None) -> pd.DataFrame:
    """Launches that beat the machine's description by more than TOLERANCE: one row a launch and reason, columns COLUMNS.

    `records`: launches that passed the gates; those of another backend than the machine's are passed over, and without a machine
    nothing is an alarm. A step (median of the slowest rank) is held to each of `bench.theory.floor.floors`; what its ranks
    sent is known of metered launches alone. A collective of MiBs is held to the links on CPUs alone: on GPUs the host's
    clock at its end is not the device's. An alarm makes no launch invalid: it doesn't say which of the two is wrong. Raises
    MachineError for an unknown machine.
    """
    if machine is None:
        return pd.DataFrame(columns=COLUMNS)
    described = load_machine(machine)
    rows = [row for record in records if _ran_on(record, described) for row in _of_launch(record, described)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _ran_on(record: Record, machine: Machine) -> bool:
    place = record.environment
    return (
        record.work is not None and place is not None and place.backend == machine.node.backend and place.num_nodes == 1
    )


def _of_launch(record: Record, machine: Machine) -> Iterator[dict[str, Any]]:
    cell, work = record.cell, record.work
    assert work is not None
    common = {
        **cell.model_dump(include={"model", "strategy", "world_size", "grad_accum_steps"}),
        "cell_id": cell.id,
        "launch_id": record.launch_id,
    }
    step_s = float(np.median(record.slowest_step_times_s()))
    try:
        for floor in floors(cell, work.num_params, work.flops_per_token, _volume_bytes(record), machine):
            if step_s < floor.seconds * (1 - TOLERANCE):
                found = {"kind": STEP, "measured": step_s, "limit": floor.seconds, "unit": "s"}
                yield {**common, **found, "because": floor.because, "source": floor.source}
        fastest = _fastest_bus(record)
        limit = bus_limit_bytes_per_s(cell.world_size, machine)
    except ProjectionError:
        return  # more ranks than a node of this machine has
    if fastest is not None and limit is not None and fastest > limit * (1 + TOLERANCE):
        found = {"kind": BUS, "measured": fastest, "limit": limit, "unit": "bytes/s"}
        yield {**common, **found, "because": "the fastest collective of a step", "source": machine.name}


def _volume_bytes(record: Record) -> float | None:
    """What rank 0 sent in the first step of the window, round a ring; None where nobody counted it."""
    metered = record.ranks[0].attribution
    if metered is None:
        return None
    try:
        return ring_volume_bytes(line for line in metered.ledger if 0 in line.steps)
    except UnknownTraffic:
        return None


def _fastest_bus(record: Record) -> float | None:
    """The largest bus bandwidth of any large collective of the step that was noted: from when the last rank has come, before
    which no array is whole, until the last is done. None where none was noted."""
    if record.environment is None or record.environment.device_type != "cpu" or record.cell.world_size == 1:
        return None
    timelines = [rank.attribution.timeline for rank in record.ranks if rank.attribution is not None]
    calls = [[span for span in timeline if span.kind == "collective"] for timeline in timelines]
    found = []
    for spans in zip(*calls, strict=False):
        if spans[0].payload_bytes is None or spans[0].payload_bytes < _LEAST_BYTES:
            continue
        seconds = max(span.end_s for span in spans) - max(span.start_s for span in spans)
        try:
            found.append(bus_bytes_per_s(spans[0].name, spans[0].payload_bytes, len(record.ranks), max(seconds, 1e-9)))
        except UnknownTraffic:
            continue
    return max(found, default=None)
