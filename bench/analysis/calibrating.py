"""From records to what a calibration is fitted to: workloads, and the figures of their launches."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.analysis.arms import arms
from bench.plan.cell import Cell
from bench.results.record import Record
from bench.theory.measured_work import MeasuredWork, Observation

# What sets workloads apart: everything that a rank's own seconds depend on, but strategy and accumulation.
_WORK = ("model", "seq_len", "micro_batch_size", "precision", "profile", "activation_checkpointing")


def works(records: list[Record], scaling: pd.DataFrame) -> list[MeasuredWork]:
    """The workloads of a results folder, in the order of `scaling`, rows of `scaling_table`.

    `records`: launches that passed the gates. Weak cells alone, whose ranks all do the same whatever their number; not those of
    an A/A twin, with a DeepSpeed file of their own, across hosts, or on more threads than cores, which wait for a core.
    """
    order = {cell_id: place for place, cell_id in enumerate(scaling["cell_id"])}
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: order.get(record.cell.id, len(order))):
        cell, place = record.cell, record.environment
        if not cell.equal_work or cell.num_servers:
            continue
        if cell.scaling != "weak" or record.twin or cell.deepspeed_config is not None:
            continue
        if record.work is None or place is None or place.num_nodes > 1 or _crowded(record):
            continue
        found.setdefault(f"{_key(cell)}|{place.device_type}|{place.device_names[:1]}", []).append(record)
    return [_work(launches) for launches in found.values()]


def _crowded(record: Record) -> bool:
    """Whether ranks that compute wait for a core; as `bench.results.frame` has it, of metered launches too."""
    place = record.environment
    if place is None or place.device_type != "cpu" or record.cell.paced:
        return False
    return record.cell.world_size * max(rank.threads for rank in record.ranks) > place.num_cores


def _key(cell: Cell) -> str:
    return json.dumps([cell.model_options, *(getattr(cell, name) for name in _WORK)], sort_keys=True)


def _work(launches: list[Record]) -> MeasuredWork:
    first = launches[0]
    assert first.work is not None and first.environment is not None
    place = first.environment
    return MeasuredWork(
        cell=first.cell,
        num_params=first.work.num_params,
        device_type=place.device_type,
        device_name=place.device_names[0] if place.device_names else None,
        backend=place.backend,
        num_cores=place.num_cores if place.backend == "gloo" else None,
        observations=tuple(seen for launch in launches for seen in _observations(launch)),
        outlines={launch.cell.strategy: launch.outline for launch in launches if launch.outline is not None},
    )


def _observations(record: Record) -> Iterator[Observation]:
    """A timing launch's median step; a metered launch's own seconds of the slowest rank, and what communication adds to them."""
    cell = record.cell
    series = (cell.strategy, cell.grad_accum_steps)
    if record.kind == "timing":
        step_s = float(np.median(record.slowest_step_times_s()))
        yield Observation(series, cell.world_size, "step", step_s, step_s, record.launch_id, cell.id)
        return
    seen = arms(record)
    if seen is None:
        return
    own_s = seen.useful.slowest_s
    yield Observation(series, cell.world_size, "own", own_s, own_s, record.launch_id, cell.id)
    if cell.world_size > 1:
        yield Observation(
            series, cell.world_size, "exposed", seen.exposed_comm_s, seen.full_s, record.launch_id, cell.id
        )
