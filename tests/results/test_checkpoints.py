"""Which checkpoints there are, which of them a training may go on from, and the log that it tells its progress by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import training
from bench.errors import CheckpointError
from bench.plan.cell import Cell
from bench.plan.training_file import TrainingFile
from bench.results.checkpoint import (
    CONFIG_NAME,
    FOLDER_NAME,
    CheckpointConfig,
    check_resumable,
    checkpoint_path,
    checkpoints,
    find_checkpoint,
    read_checkpoint,
)
from bench.results.corpus import Corpus
from bench.results.progress_log import ProgressLog
from bench.results.training import Evaluation

CELL = Cell(model="gpt-nano", strategy="ddp", world_size=2, max_steps=100, target_loss=2.0)


def put(folder: Path, step: int, cell: Cell = CELL, loss: float = 3.0, **changes: Any) -> Path:
    path = checkpoint_path(folder / FOLDER_NAME, step)
    path.mkdir(parents=True)
    evaluation = Evaluation(step=step, tokens=1, wall_s=1.0, train_loss=None, loss=loss, accuracy=0.1)
    fields = {"tokens_per_byte": None, "tokenizer_sha256": None, "resumable": True, **changes}
    config = CheckpointConfig(
        cell=cell, step=step, tokens=1, wall_s=1.0, evaluations=[evaluation], corpus=Corpus(name="markov"), **fields
    )
    (path / CONFIG_NAME).write_text(config.model_dump_json())
    return path


def asked(**changes: Any) -> TrainingFile:
    return TrainingFile("mine", CELL.model_copy(update=changes), None, None, 60.0)


def test_only_whole_ones_count_and_the_newest_is_found(tmp_path: Path) -> None:
    older, newer = put(tmp_path, 99), put(tmp_path, 100)
    checkpoint_path(tmp_path / FOLDER_NAME, 101).mkdir()
    put(tmp_path, 102).rename(tmp_path / FOLDER_NAME / ".step_00000102.writing")
    assert checkpoints(tmp_path / FOLDER_NAME) == [older, newer]
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / FOLDER_NAME) == find_checkpoint(newer) == newer
    with pytest.raises(CheckpointError, match="is no checkpoint, and has none in it"):
        find_checkpoint(tmp_path / "elsewhere")
    (newer / CONFIG_NAME).write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(CheckpointError, match=r"step_00000100/config\.json is not what this scalebench writes"):
        read_checkpoint(newer)


def test_a_training_begins_where_it_may(tmp_path: Path) -> None:
    assert training.beginning(asked(), tmp_path, resume=True) == training.Beginning(None)
    path = put(tmp_path, 50)
    with pytest.raises(CheckpointError, match="has a checkpoint of step 50; add --resume"):
        training.beginning(asked(), tmp_path, resume=False)
    assert training.beginning(asked(max_steps=200, patience=3), tmp_path, resume=True) == training.Beginning(path)
    over = training.beginning(asked(max_steps=50), tmp_path, resume=True).over
    assert over == "50 of 50 steps (max_steps) were taken before"
    there = training.beginning(asked(target_loss=3.5), tmp_path, resume=True).over
    assert there == "the validation loss is 3.0000, and target_loss 3.5"


def test_another_cell_or_strategy_cannot_go_on(tmp_path: Path) -> None:
    path = put(tmp_path, 50)
    with pytest.raises(CheckpointError, match=r"world_size: found 4, but .*step_00000050 was trained with 2"):
        check_resumable(path, CELL.model_copy(update={"world_size": 4}))
    other = put(tmp_path, 60, resumable=False)
    with pytest.raises(CheckpointError, match=r"ddp can't be resumed: .*step_00000060 holds the model alone"):
        check_resumable(other, CELL)


def test_a_log_is_read_as_it_grows_whole_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    log = ProgressLog(path)
    assert log.new() == []
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 1}\n{"kind": "tr')
        file.flush()
        assert log.new() == [{"kind": "train", "step": 1}]
        assert log.new() == []
        file.write('ain", "step": 2}\n')
    assert log.new() == [{"kind": "train", "step": 2}]
    assert ProgressLog(path, from_end=True).new() == []
