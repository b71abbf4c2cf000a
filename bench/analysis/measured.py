"""What two runs of a cell are compared by: small enough to be kept beside a benchmark's history, after the records are gone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from bench.analysis.environment import properties
from bench.plan.cell import Cell
from bench.results.record import Outcome, Record

HARDWARE = ("device type", "devices", "device memory, bytes", "interconnect", "CPU", "cores", "memory, bytes", "nodes")
SOFTWARE = ("threads per rank", "version of torch", "version of cuda", "version of nccl")

# How often a cell is measured is no other work.
_MEASURING = frozenset({"steps", "max_warmup_steps"})


class Measured(BaseModel):
    """One cell of one run, after the gates.

    `launch_step_times_s`: the median step of each ok timing launch, in the order in which they ran; `twin_step_times_s`: of the
    A/A twin's. `losses`: of the longest of them, from the first warm-up step on; `losses_repeat`: whether all launches have the
    same losses to the last bit (one launch alone is taken to repeat on a CPU, and not on other devices). `calls`: by collective,
    how often it is called and how many bytes it carries in a step of a rank; None without an attribution launch.
    `environment`: properties as in tables/environment.csv. `settings`: the leaves of the DeepSpeed file as it was used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    outcome: Outcome
    reason: str | None = None
    launch_step_times_s: list[float] = []
    twin_step_times_s: list[float] = []
    losses: list[float] = []
    losses_repeat: bool = False
    calls: dict[str, tuple[float, float]] | None = None
    environment: dict[str, str] = {}
    settings: dict[str, str] = {}

    @property
    def work(self) -> str:
        """Equal for cells of which every figure may be compared: all fields but how often the cell is measured."""
        return json.dumps(self.cell.model_dump(exclude=set(_MEASURING)), sort_keys=True)

    @property
    def hardware(self) -> dict[str, str]:
        """What of the machine decides speed and no installation changes. Memory to the GiB: kernels reserve unequal parts."""
        return _fingerprint(self.environment, HARDWARE)

    @property
    def fingerprint(self) -> dict[str, str]:
        """The hardware, and the software that decides speed beside the code that is measured."""
        return _fingerprint(self.environment, (*HARDWARE, *SOFTWARE))


def measured(records: Sequence[Record], launches: pd.DataFrame, traffic: pd.DataFrame) -> list[Measured]:
    """Every cell of a results folder that has a timing launch. `launches`: rows of the judged frame, one a record and in the
    records' order; `traffic`: rows of `traffic_table`."""
    calls: dict[str, dict[str, tuple[float, float]]] = {}
    for cell_id, operation, count, size in traffic[
        ["cell_id", "operation", "observed_count", "observed_bytes"]
    ].itertuples(index=False, name=None):
        calls.setdefault(cell_id, {})[operation] = (float(count), float(size))
    cells: dict[str, list[tuple[Record, dict[str, Any]]]] = {}
    rows = launches[["kind", "outcome", "reason", "step_time_s"]].to_dict("records")
    for record, row in zip(records, rows, strict=True):
        if record.kind == "timing":
            cells.setdefault(record.cell.id, []).append((record, {str(name): value for name, value in row.items()}))
    return [_measured(tried, calls.get(cell_id)) for cell_id, tried in cells.items()]


def _measured(tried: list[tuple[Record, dict[str, Any]]], calls: dict[str, tuple[float, float]] | None) -> Measured:
    ran = sorted(tried, key=lambda launch: (launch[0].started_at, launch[0].sequence or 0))
    ok = [(record, row) for record, row in ran if row["outcome"] == "ok"]
    own = [(record, row) for record, row in ok if not record.twin]
    shown, why = (own or [launch for launch in ran if not launch[0].twin] or ran)[0]
    losses = [record.mean_losses() for record, _ in ok]
    return Measured(
        cell=shown.cell,
        outcome=why["outcome"],
        reason=why["reason"] if isinstance(why["reason"], str) else None,
        launch_step_times_s=[row["step_time_s"] for _, row in own],
        twin_step_times_s=[row["step_time_s"] for record, row in ok if record.twin],
        losses=max(losses, key=len, default=[]),
        losses_repeat=_repeat(losses, shown),
        calls=calls,
        environment=dict(properties(shown)),
        settings=dict(_flat("", shown.deepspeed_config or {})),
    )


def _repeat(losses: list[list[float]], record: Record) -> bool:
    if len(losses) < 2:
        # Dealt by measured seconds, sequences are added up in another order each time.
        on_cpu = record.environment is not None and record.environment.device_type == "cpu"
        return on_cpu and not record.cell.dealt_by_measurement
    shared = min(map(len, losses))
    return all(one[:shared] == losses[0][:shared] for one in losses)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The leaves of a DeepSpeed file, under dotted names."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}" if name else key, part)
    else:
        yield name, json.dumps(value)


def _fingerprint(environment: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    found = {name: environment[name] for name in names if name in environment}
    for name in found.keys() & {"memory, bytes", "device memory, bytes"}:
        found[name] = f"{round(int(found[name]) / 2**30)} GiB"
    return found
