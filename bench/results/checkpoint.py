"""Where checkpoints are kept and what is known of one without loading it: FOLDER/checkpoints/step_N/, only ever whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bench.errors import CheckpointError
from bench.plan.cell import Cell
from bench.plan.goal import GOAL_FIELDS
from bench.results.corpus import Corpus
from bench.results.schema import Schema
from bench.results.training import Evaluation

FOLDER_NAME = "checkpoints"
CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME, STATE_NAME = "config.json", "model.safetensors", "tokenizer.json", "state"
NUM_KEPT = 2
_STEP = re.compile(r"step_(\d+)")


class CheckpointConfig(Schema):
    """What a checkpoint is of: the cell, which has the model's preset, sizes and seed, where training was, and what it had come
    to; `nats_since` and `tokens_since` are sums of the training loss since the last evaluation. With `resumable`, the folder
    `state` beside it has what every rank needs to go on exactly. A text's tokenizer is beside it too, as `tokenizer_sha256`
    says."""

    schema_version: Literal[1] = 1
    cell: Cell
    step: int
    tokens: int
    wall_s: float
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    evaluations: list[Evaluation]
    nats_since: float = 0.0
    tokens_since: float = 0.0
    corpus: Corpus
    tokens_per_byte: float | None
    tokenizer_sha256: str | None
    resumable: bool


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of that step among those in `folder`."""
    return folder / f"step_{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first: what is being written, or taken away, has another name."""
    found = [path for path in folder.glob("step_*") if _STEP.fullmatch(path.name) and (path / CONFIG_NAME).is_file()]
    return sorted(found, key=lambda path: int(path.name.partition("_")[2]))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means by a path: itself, or the newest of a training's folder. Raises CheckpointError."""
    if (path / CONFIG_NAME).is_file():
        return path
    for folder in (path / FOLDER_NAME, path):
        if found := checkpoints(folder):
            return found[-1]
    raise CheckpointError(
        f"{path} is no checkpoint, and has none in it",
        hint="give the folder that `scalebench train` wrote, or one of its checkpoints/step_N",
    )


def read_checkpoint(path: Path) -> CheckpointConfig:
    """What is known of a checkpoint. Raises CheckpointError, naming the file, if it can't be read or is of another version."""
    file = path / CONFIG_NAME
    try:
        return CheckpointConfig.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = str(error) if first is None else f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
        raise CheckpointError(
            f"{file} is not what this scalebench writes: {why}", hint="train anew, or take an older checkpoint"
        ) from error


def check_resumable(path: Path, cell: Cell) -> None:
    """Raise CheckpointError unless training of `cell` can go on from the checkpoint: one of the same cell, but for its goal."""
    found = read_checkpoint(path)
    if not found.resumable:
        raise CheckpointError(
            f"{found.cell.strategy} can't be resumed: {path} holds the model alone",
            hint="train anew into another --output folder",
        )
    there, here = (one.model_dump(exclude=set(GOAL_FIELDS)) for one in (found.cell, cell))
    for name in here:
        if here[name] != there[name]:
            raise CheckpointError(
                f"{name}: found {here[name]!r}, but {path} was trained with {there[name]!r}",
                hint=f"only {', '.join(GOAL_FIELDS)} may change when training goes on",
            )
