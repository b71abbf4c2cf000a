"""The file of a sweep: whole, unedited and of this version, or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.results.comm import CommPlan, read_comm, write_comm
from tests.synthetic_comm import sweep


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_comm(path, sweep(lambda operation, size: 1e-4 + size / 1e9, octaves=2))
    return path


def test_a_sweep_comes_back_as_it_was_written(path: Path) -> None:
    assert read_comm(path) == sweep(lambda operation, size: 1e-4 + size / 1e9, octaves=2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"schema_version": 1', '"schema_version": 2', "has schema version 2, expected 1"),
        ('"num_repetitions', '"num_repetitions', "not a whole JSON file"),
        ('"size_bytes":1024', '"size_bytes":1025', "was changed after it was written"),
    ],
)
def test_any_other_file_is_named(path: Path, old: str, new: str, words: str) -> None:
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if old != new else text[:-100])
    with pytest.raises(RecordError, match=words) as raised:
        read_comm(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_record_of_training_is_no_sweep(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"schema_version": 1, "sha256": "0", "record": {}}))
    with pytest.raises(RecordError, match=r"other\.json"):
        read_comm(path)


def test_plans_that_cannot_be_are_refused() -> None:
    for fields in (
        {"world_size": 1},
        {"world_size": 2, "min_bytes": 2048, "max_bytes": 1024},
        {"world_size": 2, "budget_s": 0},
    ):
        with pytest.raises(ValueError, match=r"world_size|max_bytes|budget_s"):
            CommPlan.model_validate(fields)
