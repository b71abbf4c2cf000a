"""How a sweep goes, for who watches: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.launch.order import Task
from bench.results.record import Record


def clock(seconds: float) -> str:
    """Seconds as "1:05", or "1:02:03" from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe(launch: Task | Record) -> str:
    """A launch of a cell in one short line."""
    cell = launch.cell
    return (
        f"{cell.model} {cell.strategy} {cell.scaling}, {cell.world_size} rank{'s' * (cell.world_size > 1)}, "
        f"accumulation {cell.grad_accum_steps}, {cell.precision}{', metered' if launch.kind == 'attribution' else ''}"
        f"{', A/A twin' if launch.twin else ''}"
    )


class SweepProgress:
    """Says which cell runs, how many launches are done, and how long the rest will take. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._ends_at_s: float | None = None
        self._why: str | None = None
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, left="")

    def __enter__(self) -> SweepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def adding(self, why: str) -> None:
        """The launches that start from now on are not planned, but added by need; `why` stands in the place of their number."""
        self._why = why

    def started(self, task: Task, index: int, total: int, eta_s: float | None) -> None:
        self._ends_at_s = None if eta_s is None else time.monotonic() + eta_s
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=index, description=escape(describe(task)))
            if self._why is not None:
                self._bar.update(self._task, left=escape(self._why))
        else:
            left = "" if eta_s is None else f", {clock(eta_s)} left"
            head = self._why or f"{index + 1}/{total}{left}"
            self._console.print(f"[{head}] {describe(task)}", markup=False, highlight=False)

    def tick(self) -> None:
        if self._bar is not None and self._ends_at_s is not None:
            self._bar.update(self._task, left=f"{clock(max(0.0, self._ends_at_s - time.monotonic()))} left")

    def plain_training(self, number: int) -> None:
        """All launches are through; their `number` different global batches are trained plainly."""
        self._ends_at_s = None
        text = f"plain training of {number} global batch{'es' * (number > 1)}, which losses are held to"
        if self._bar is not None:
            self._bar.update(self._task, description=text, left="")
        else:
            self._console.print(text, markup=False, highlight=False)

    def ended(self, record: Record, index: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=index + 1)
        if record.outcome != "ok":
            self._console.print(
                f"  {record.outcome}: {describe(record)}: {record.reason}",
                markup=False,
                highlight=False,
            )
