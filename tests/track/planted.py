"""Results folders with a known difference between them, and the command typed in this process."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench.cli import main
from bench.plan.cell import Cell
from bench.results.record import Record
from tests import synthetic

CELLS = [
    Cell(model=model, strategy=strategy, world_size=world_size, seq_len=64, steps=5)
    for model, strategies in (("gpt-nano", ("ddp", "zero2")), ("paced-nano", ("ddp",)))
    for strategy in strategies
    for world_size in (1, 2)
]
DDP = CELLS[1].id
"""Of two ranks."""

LAUNCHES = 4
NOISE_FRAC = 0.003


def records(
    seed: int,
    cells: Iterable[Cell] = CELLS,
    slower: Mapping[str, float] | None = None,
    losses_off_by: float = 0.0,
    change: Callable[[Record], Record] = lambda record: record,
) -> list[Record]:
    """Four launches of each cell, whose step times differ by `NOISE_FRAC`, otherwise for each seed. `slower` has factors by cell
    id, `change` is made to every record."""
    draw = random.Random(seed)
    return [
        change(
            synthetic.launch(
                cell,
                step_time_s=0.1 * cell.world_size * (slower or {}).get(cell.id, 1.0) * (1 + draw.gauss(0, NOISE_FRAC)),
                losses=[loss + losses_off_by for loss in synthetic.losses_of(cell, 6 + cell.steps)],
                suite="planted",
                started_at=f"2026-01-01T00:{number:02}:00Z",
            )
        )
        for number in range(LAUNCHES)
        for cell in cells
    ]


def elsewhere(name: str, value: object) -> Callable[[Record], Record]:
    """Changes one fact of a record's environment."""

    def changed(record: Record) -> Record:
        assert record.environment is not None
        return record.model_copy(update={"environment": record.environment.model_copy(update={name: value})})

    return changed


@dataclass(frozen=True)
class Typed:
    code: int
    stdout: str
    stderr: str


def typed(*arguments: str | Path) -> Typed:
    """What `scalebench ARGUMENTS` does, in this process, which has imported everything already."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["scalebench", *map(str, arguments)]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Typed(code, stdout.getvalue(), stderr.getvalue())


@dataclass(frozen=True)
class Story:
    """The history of one suite: first, unchanged, one cell slower, and the slow one accepted."""

    folders: dict[str, Path]
    storage: Path
    done: dict[str, Typed]

    @property
    def files(self) -> list[Path]:
        return sorted(self.storage.rglob("*.json"))

    def stored(self, number: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.files[number].read_text())
        return content
