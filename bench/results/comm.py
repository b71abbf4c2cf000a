"""The versioned file of one sweep of collectives: what was asked, and what each rank measured. Raw figures only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from bench.errors import RecordError
from bench.results.launch_file import Started
from bench.results.record import Environment, Outcome
from bench.results.schema import Schema
from bench.results.store import read_sealed, sealed_text, write_atomically

COMM_VERSION: Literal[1] = 1
"""Of the file: another number means fields that this program does not know."""

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
MIN_BYTES, MAX_BYTES = 1024, 2**40
"""Sizes that may be asked for."""


class CommPlan(Schema):
    """What is measured: `operations` at sizes from `min_bytes` on, doubling up to `max_bytes` (None: as far as memory and
    `budget_s`, the seconds of all of it, go), among `world_size` ranks of `threads_per_rank` threads."""

    world_size: Annotated[int, Field(ge=2)]
    operations: tuple[Operation, ...] = OPERATIONS
    min_bytes: Annotated[int, Field(ge=MIN_BYTES, le=MAX_BYTES)] = MIN_BYTES
    max_bytes: Annotated[int, Field(ge=MIN_BYTES, le=MAX_BYTES)] | None = None
    budget_s: Annotated[float, Field(gt=0)] = 60.0
    threads_per_rank: int = 1

    @model_validator(mode="after")
    def _sizes_in_order(self) -> CommPlan:
        if self.max_bytes is not None and self.max_bytes < self.min_bytes:
            raise ValueError(f"max_bytes {self.max_bytes} is below min_bytes {self.min_bytes}")
        return self

    @property
    def may_be_lost(self) -> frozenset[int]:
        """Ranks whose end does not end the sweep: none."""
        return frozenset()


class CommLaunch(Started):
    """One start of all ranks for a sweep, as every rank reads it."""

    module: ClassVar[str] = "bench.worker.comm"

    plan: CommPlan

    @property
    def ranks(self) -> CommPlan:
        return self.plan

    def record(self, **found: Any) -> CommRecord:
        """The record of this sweep: what it was told, beside what was found."""
        told = {name: getattr(self, name) for name in CommLaunch.model_fields.keys() & CommRecord.model_fields.keys()}
        return CommRecord(**told, **found)


class CommRank(Schema):
    """Where a rank ran."""

    rank: int
    hostname: str
    device: str


class CommPoint(Schema):
    """One operation at one size. `times_s`: by rank, then repetition; the repetition takes what its slowest rank takes.

    `size_bytes` and `num_elements` are those of nccl-tests (bench.results.comm_sizes). `num_checked`: results that were
    compared with what they must be, every element of them: all ranks, all repetitions, warm-up included.
    """

    operation: Operation
    in_place: bool
    size_bytes: int
    num_elements: int
    num_warmups: int
    num_checked: int
    times_s: list[list[float]]

    @property
    def repetition_times_s(self) -> list[float]:
        """Seconds of each repetition: the slowest rank's."""
        return [max(times_s) for times_s in zip(*self.times_s, strict=True)]


class CommLeftOut(Schema):
    """An operation that the backend refused, in its own words."""

    operation: Operation
    in_place: bool
    reason: str


class CommRecord(Schema):
    """All that one sweep measured, or why it measured nothing. `limit` says what ended the sizes. Outcome `invalid`: a
    collective delivered wrong values, which `reason` names; `points` are then those before it."""

    schema_version: Literal[1] = COMM_VERSION
    launch_id: str
    plan: CommPlan
    started_at: str
    launcher: str
    command: list[str] = Field(default_factory=list)
    hostname: str | None = None
    outcome: Outcome
    reason: str | None = None
    evidence: list[str] = Field(default_factory=list)
    wall_s: float | None = None
    limit: str | None = None
    environment: Environment | None = None
    ranks: list[CommRank] = Field(default_factory=list)
    points: list[CommPoint] = Field(default_factory=list)
    left_out: list[CommLeftOut] = Field(default_factory=list)


def write_comm_launch(path: Path, launch: CommLaunch) -> None:
    write_atomically(path, launch.model_dump_json(indent=1))


def read_comm_launch(path: Path) -> CommLaunch:
    """Raises RecordError if the file is not one that `write_comm_launch` wrote."""
    try:
        return CommLaunch.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RecordError(f"{path} is not the launch file of a sweep of collectives: {error}") from error


def write_comm(path: Path, record: CommRecord) -> None:
    """Write one sweep whole or not at all, with the SHA-256 of its content."""
    write_atomically(path, sealed_text("comm", record, COMM_VERSION)[0])


def read_comm(path: Path) -> CommRecord:
    """Raises RecordError, naming the file, for anything but a whole, unedited sweep of this version."""
    return read_sealed(path, "comm", CommRecord, "measure anew: scalebench comm", COMM_VERSION)
