"""What a launch is told, and the small files that its ranks leave beside the record."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import RecordError
from bench.plan.cell import Cell
from bench.results.metered import Injection
from bench.results.record import Record
from bench.results.store import RECORD_NAME, write_atomically
from bench.results.training import Keeping

LAUNCH_NAME = "launch.json"
_Started = TypeVar("_Started", bound="Started")


class Ranks(Protocol):
    """What is launched, as far as a launcher is concerned: a cell, or a sweep of collectives."""

    @property
    def world_size(self) -> int: ...

    @property
    def threads_per_rank(self) -> int | None: ...

    @property
    def may_be_lost(self) -> frozenset[int]: ...


class Started(BaseModel):
    """One start of all ranks, whatever they do. `module` is their program. `hosts` are those of a launch that takes more than
    this host, in the order of their ranks, with the slots of each; `port` is where its ranks meet."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    module: ClassVar[str]

    launch_id: str
    started_at: str
    launcher: str
    command: list[str] = []
    hostname: str | None = None
    timeout_s: float = 1800.0
    hosts: dict[str, list[int]] = {}
    port: int | None = None

    @property
    def ranks(self) -> Ranks:
        """How many there are, and of how many threads."""
        raise NotImplementedError

    def told(self, folder: Path) -> str:
        """The launch and its folder as one word for a command line, which no shell can take for anything else: base64url of JSON.

        For ranks on other hosts, where the launch file may not be. Without the launch's own command, which has this text in it.
        """
        launch = self.model_copy(update={"command": []}).model_dump(mode="json", exclude_defaults=True)
        return base64.urlsafe_b64encode(json.dumps({"launch": launch, "folder": str(folder)}).encode("utf-8")).decode(
            "ascii"
        )

    @classmethod
    def read_told(cls: type[_Started], text: str) -> tuple[_Started, Path]:
        """Raises RecordError if the text is not one that `told` made."""
        try:
            content = json.loads(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True))
            return cls.model_validate(content["launch"]), Path(content["folder"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise RecordError("--launch-text: found what is no launch", hint="scalebench writes it") from error


class Launch(Started):
    """One start of all ranks for one cell, as every rank reads it.

    `started_monotonic_s` is the launcher's start on this host's monotonic clock (the same for all its processes), `hostname`
    and `affinity` its host and the cores that it may use, and so its ranks there. `seed` and `injections` are for attribution
    launches: what the order of arms is drawn from, and what is disturbed on purpose. `keeping` is for launches of `scalebench
    train`.
    """

    module: ClassVar[str] = "bench.worker.train"

    kind: Literal["timing", "attribution"] = "timing"
    cell: Cell
    suite: str | None = None
    sequence: int | None = None
    twin: bool = False
    started_monotonic_s: float | None = None
    affinity: list[int] | None = None
    seed: int = 0
    injections: list[Injection] = []
    keeping: Keeping | None = None

    @property
    def ranks(self) -> Cell:
        return self.cell

    def record(self, **found: Any) -> Record:
        """The record of this launch: what it was told, beside what was found."""
        told = {name: getattr(self, name) for name in Launch.model_fields.keys() & Record.model_fields.keys()}
        return Record(**told, **found)


FailedOutcome = Literal["oom", "crashed", "invalid", "unreachable"]


class Failure(BaseModel):
    """Why a rank ended before its time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    hostname: str
    outcome: FailedOutcome
    message: str


def record_path(folder: Path) -> Path:
    return folder / RECORD_NAME


def log_path(folder: Path, rank: int) -> Path:
    """Where one rank's output goes: a file each, because the launcher's pipe mixes them in the middle of lines."""
    return folder / "logs" / f"rank_{rank}.log"


def process_path(folder: Path, rank: int) -> Path:
    """Where a rank writes its host and process id at its start, so that it can be watched."""
    return folder / f"rank_{rank}.pid"


def failure_path(folder: Path, rank: int) -> Path:
    return folder / f"failure_{rank}.json"


def write_launch(folder: Path, launch: Launch) -> Path:
    path = folder / LAUNCH_NAME
    write_atomically(path, launch.model_dump_json(indent=1))
    return path


def read_launch(path: Path) -> Launch:
    """Raises RecordError if the file is not one that `write_launch` wrote."""
    try:
        return Launch.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RecordError(f"{path} is not a launch file: {error}") from error


def read_failures(folder: Path) -> list[Failure]:
    """The failures that ranks wrote, by rank. A rank that was killed wrote none."""
    failures = []
    for path in folder.glob("failure_*.json"):
        try:
            failures.append(Failure.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError) as error:
            raise RecordError(f"{path} is not a failure file: {error}") from error
    return sorted(failures, key=lambda failure: failure.rank)
