"""From a file for `scalebench train` to the one cell that it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import SuiteError, nearest
from bench.plan.cell import Cell
from bench.plan.suite import not_a_name, not_an_amount, read_cell
from bench.plan.yaml_source import YamlSource

SHIPPED = Path(__file__).parent / "trainings"
TRAINING_KEYS = frozenset({"name", "description", "checkpoint_every", "budget_minutes"})
DAY_S = 86_400.0


@dataclass(frozen=True)
class TrainingFile:
    """What is trained, how often a checkpoint is kept (steps; None: at the end alone), how long training may go on, and how
    long a launch may take that doesn't end by itself."""

    name: str
    cell: Cell
    checkpoint_every: int | None
    budget_minutes: float | None
    timeout_s: float


def shipped_trainings() -> list[str]:
    """Names of the trainings that come with scalebench."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_training(name_or_path: str) -> TrainingFile:
    """The training of that name (`markov`) or in that YAML file: the fields of one cell, and TRAINING_KEYS.

    Raises SuiteError, naming file, line, key and what is allowed, for anything else.
    """
    path = SHIPPED / f"{name_or_path}.yaml"
    if name_or_path not in shipped_trainings():
        path = Path(name_or_path)
        if not path.is_file():
            raise SuiteError(
                f"no training {name_or_path!r}: neither a file nor a shipped training",
                hint=nearest(name_or_path, shipped_trainings()),
            )
    source = YamlSource(path)
    planned, more = read_cell(source, TRAINING_KEYS)
    if planned.skip_reason is not None:
        raise SuiteError(f"{source.where(())}: {planned.skip_reason}")
    if not planned.cell.is_trained:
        raise SuiteError(
            f"{source.where(())}: max_steps: missing, training needs the most optimizer steps that it may take"
        )
    if planned.cell.num_servers:
        raise SuiteError(
            f"{source.where(('strategy',))}: strategy: found {planned.cell.strategy}, whose trainings keep no checkpoints",
            hint="choose another strategy, or train it in a suite: scalebench run, with max_steps and target_loss",
        )
    name = more.get("name", path.stem)
    if (why := not_a_name(name)) is not None:
        raise SuiteError(f"{source.where(('name',))}: name: {why}")
    if not isinstance(more.get("description", ""), str):
        _fail(source, "description", more["description"], "text")
    every = more.get("checkpoint_every")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        _fail(source, "checkpoint_every", every, "a whole number of steps from 1 on")
    budget = more.get("budget_minutes")
    if budget is not None and (why := not_an_amount(budget)) is not None:
        raise SuiteError(f"{source.where(('budget_minutes',))}: budget_minutes: {why}")
    asked = isinstance(source.content, dict) and "timeout_s" in source.content
    return TrainingFile(
        name=name,
        cell=planned.cell,
        checkpoint_every=every,
        budget_minutes=None if budget is None else float(budget),
        timeout_s=planned.settings.timeout_s if asked else DAY_S,
    )


def _fail(source: YamlSource, key: str, found: Any, expected: str) -> None:
    raise SuiteError(f"{source.where((key,))}: {key}: found {found!r}, expected {expected}")
