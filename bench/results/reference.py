"""The losses of plain training: what every strategy is held to, one file for all cells of equal work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from bench.plan.cell import Cell
from bench.results.record import OptimizerSettings
from bench.results.schema import Schema
from bench.results.store import read_sealed, sealed_text, write_atomically

FOLDER_NAME = "reference"
CELLS_NAME = "cells.json"


class Reference(Schema):
    """What plain training of a cell's global batches came to, in one process: `losses`, the mean over the global batch
    of each of the first optimizer steps; or why there are none. `skipped` numbers the steps that the fp16 loss scaler
    skipped. `tokens` are those of each step's global batch, `corpus_sha256` is of the text they are from. `cell` is the
    one of its kind whose micro-batches were taken.
    """

    schema_version: Literal[1] = 1
    cell: Cell
    outcome: Literal["ok", "oom", "timeout", "crashed"]
    reason: str | None = None
    losses: list[float] = Field(default_factory=list)
    skipped: list[int] = Field(default_factory=list)
    tokens: list[int] = Field(default_factory=list)
    corpus_sha256: str | None = None
    optimizer: OptimizerSettings | None = None
    device: str | None = None
    torch: str | None = None
    wall_s: float | None = None


def reference_path(folder: Path, cell: Cell) -> Path:
    """Where a results folder keeps the reference of all cells that do the same work as `cell`."""
    # What is not asked for is left out, as of the cell's id: references older than the fields keep their names.
    work = {name: value for name, value in cell.work.items() if name not in ("data", "training", "masks") or value}
    digest = hashlib.sha256(json.dumps(work, sort_keys=True).encode("utf-8")).hexdigest()[:12]
    return folder / FOLDER_NAME / f"{digest}.json"


def write_reference(folder: Path, reference: Reference) -> None:
    write_atomically(reference_path(folder, reference.cell), sealed_text("reference", reference)[0])


def read_reference(path: Path) -> Reference:
    """Raises RecordError, naming the file, unless it is a whole, unedited reference."""
    return read_sealed(path, "reference", Reference, "remove it, and run the suite again to make it anew")


def reference_paths(folder: Path) -> list[Path]:
    """Paths of all references of a results folder, in a stable order."""
    return sorted(path for path in (folder / FOLDER_NAME).glob("*.json") if path.name != CELLS_NAME)


def read_references(folder: Path) -> list[Reference]:
    """All references of a results folder; none where no suite was measured in it. Raises RecordError as `read_reference`."""
    return [read_reference(path) for path in reference_paths(folder)]
