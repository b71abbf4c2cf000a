"""A record is whole and unedited, or an error that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench.errors import LaunchError, RecordError
from bench.plan.cell import Cell
from bench.results.record import Record
from bench.results.store import (
    check_manifest,
    locked,
    rank_path,
    read_record,
    read_records,
    write_atomically,
    write_record,
)
from tests import synthetic


def record() -> Record:
    return Record(
        launch_id="abc",
        cell=Cell(model="gpt-nano", strategy="ddp", world_size=1),
        started_at="2026-01-01T00:00:00+00:00",
        launcher="deepspeed",
        outcome="crashed",
        reason="rank 0 said <b>no</b>",
        wall_s=0.1 + 0.2,
    )


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "cell" / "launch" / "record.json"
    write_record(path, record())
    assert read_record(path) == record()
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_every_truncation_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record())
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=str(path)):
            read_record(path)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda e: e["record"].update(wall_s=0.2), "changed after it was written"),
        (lambda e: e["record"].update(outcome="ok"), "changed after it was written"),
        (lambda e: e.update(schema_version=2), "schema version 2, expected 1"),
        (lambda e: e.pop("schema_version"), "schema version None"),
        (lambda e: e.pop("record"), "changed after it was written"),
    ],
)
def test_an_edit_is_found_out(tmp_path: Path, found: object, words: str) -> None:
    path = tmp_path / "record.json"
    write_record(path, record())
    envelope = json.loads(path.read_text())
    found(envelope)  # type: ignore[operator]
    path.write_text(json.dumps(envelope))
    with pytest.raises(RecordError, match=words) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_another_last_byte_is_found_out(tmp_path: Path) -> None:
    """The one character after the text that the SHA-256 is of."""
    path = tmp_path / "record.json"
    write_record(path, record())
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RecordError, match="is not a whole JSON file"):
        read_record(path)


def test_a_launch_whose_files_are_not_its_own_is_invalid(tmp_path: Path) -> None:
    """With real launches in tests/worker/test_broken_runs.py."""
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=2, seq_len=64)
    launches = [synthetic.launch(cell) for _ in range(5)]
    synthetic.write_fast(tmp_path, launches)
    folders = [tmp_path / cell.id / launch.launch_id for launch in launches]
    rank_path(folders[1], 0).unlink()
    rank_path(folders[2], 1).write_bytes(rank_path(folders[2], 1).read_bytes()[:-9])
    rank_path(folders[3], 1).write_bytes(rank_path(folders[3], 0).read_bytes())
    folders[4].rename(folders[4].with_name("elsewhere"))
    found = {record.launch_id: record for record in read_records(tmp_path)}
    assert found[launches[0].launch_id].outcome == "ok"
    for launch, words in zip(
        launches[1:],
        [
            "the file of rank 0 is missing (rank_0.json)",
            "the file of rank 1 was changed",
            "rank_1.json is not what rank 1 measured",
            f"a record of another run: of launch {launches[4].launch_id} of {cell.id}, found as that of launch elsewhere",
        ],
        strict=True,
    ):
        assert found[launch.launch_id].outcome == "invalid"
        assert words in str(found[launch.launch_id].reason)


def test_a_folder_of_another_version_or_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record"):
        read_records(tmp_path)
    with pytest.raises(RecordError, match="is not a folder"):
        read_records(tmp_path / "absent")
    (tmp_path / "suite.json").write_text('{"schema_version": 7}')
    with pytest.raises(RecordError, match="schema version 7"):
        check_manifest(tmp_path)
    (tmp_path / "suite.json").write_text("{")
    with pytest.raises(RecordError, match=r"suite\.json"):
        check_manifest(tmp_path)


def test_a_folder_takes_one_writer(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LaunchError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):  # free again
        pass


def test_a_full_disk_is_said_and_the_old_file_stays(full_disk: Path) -> None:
    path = full_disk / "record.json"
    write_record(path, record())
    with pytest.raises(RecordError, match="no space left"):
        write_atomically(path, "x" * 200_000)
    assert read_record(path) == record()
    assert [entry.name for entry in full_disk.iterdir()] == ["record.json"]
