"""How a training goes, for who watches, and for trackers of experiments: read from the log that its first rank writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.launch.order import Task
from bench.progress import clock
from bench.results.progress_log import ProgressLog
from bench.results.record import Record
from bench.results.training import bits_per_byte, perplexity
from bench.trackers import Tracker
from reports import units


class LiveTraining:
    """A bar with the newest loss on a terminal, a line for each evaluation everywhere. A context manager."""

    def __init__(self, console: Console, log: ProgressLog, trackers: Sequence[Tracker] = ()) -> None:
        self._console, self._log, self._trackers = console, log, trackers
        self._started: dict[str, Any] = {}
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=console, transient=True)
            self._task = self._bar.add_task("starting the ranks", total=None)

    def __enter__(self) -> LiveTraining:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, task: Task, index: int, total: int, eta_s: float | None) -> None:
        """The ranks are being started."""

    def tick(self) -> None:
        for line in self._log.new():
            self._show(line)

    def plain_training(self, number: int) -> None:
        """Nothing is trained plainly beside it."""

    def ended(self, record: Record, index: int, total: int) -> None:
        self.tick()

    def _show(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
        if kind == "start":
            self._started = line
            if self._bar is not None:
                self._bar.update(self._task, total=line["max_steps"], completed=line["step"])
            if not line["resumable"]:
                self._print("this strategy can't be resumed: its checkpoints hold the model alone")
        elif kind == "train":
            if self._bar is not None:
                words = f"loss {line['loss']:.4f}, {units.rate(line['tokens'] / line['wall_s'])} tokens/s"
                self._bar.update(self._task, completed=line["step"], description=words)
            self._track(line["step"], {"loss/train": line["loss"], "tokens": line["tokens"], "wall_s": line["wall_s"]})
        elif kind == "evaluation":
            self._print(evaluation_words(line, self._started))
            self._track(line["step"], {"loss/validation": line["loss"], "accuracy/validation": line["accuracy"]})

    def _track(self, step: int, figures: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, figures)

    def _print(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False)


def evaluation_words(line: dict[str, Any], started: dict[str, Any]) -> str:
    """An evaluation in one line. `line`: fields of `Evaluation`; `started`: the log's first line."""
    train = "" if line["train_loss"] is None else f"loss {line['train_loss']:.4f}, "
    words = (
        f"step {line['step']:>6,} of {started['max_steps']:,}  {clock(line['wall_s']):>6}  {units.rate(line['tokens']):>6} tokens"
        f"  {train}validation {line['loss']:.4f}"
    )
    return ", ".join([words, *judged(line["loss"], started["entropy_floor_nats"], started["tokens_per_byte"])]) + (
        f", accuracy {units.fraction(line['accuracy'])}"
    )


def judged(loss: float, floor: float | None, tokens_per_byte: float | None) -> list[str]:
    """What a loss in nats comes to, in words: its distance to the least possible one where that is known, else perplexity, and
    bits per byte of a text."""
    if floor:
        return [f"{units.fraction(loss / floor - 1)} above the floor of {floor:.4f}"]
    bits = bits_per_byte(loss, tokens_per_byte)
    return [f"perplexity {units.significant(perplexity(loss))}", *([] if bits is None else [f"{bits:.3f} bits/byte"])]
