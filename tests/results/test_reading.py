"""A record is read fast where its file is as it was written, and with the same result or error where it is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.store import read_record, record_text, write_record
from tests import synthetic

CELL = Cell(model="gpt-nano", strategy="zero2", world_size=2, seq_len=64, steps=5, model_options={"num_layers": 2})


@pytest.mark.parametrize("loss", [7.25, 1e-300, math.inf, math.nan])
def test_both_ways_of_reading_agree(tmp_path: Path, loss: float) -> None:
    record = synthetic.launch(
        CELL, losses=[8.0, loss], deepspeed_config={"zero": {"stage": 2, "bucket": 5e8}, "x": None}
    )
    write_record(tmp_path / "written.json", record)
    # The same content in another layout is no edit, but is not the same bytes either.
    other = tmp_path / "layout.json"
    other.write_text(json.dumps(json.loads(record_text(record)), indent=1))
    written = read_record(tmp_path / "written.json")
    assert record_text(written) == record_text(read_record(other)) == record_text(record)
    assert written.cell.id == record.cell.id


@pytest.mark.parametrize("edit", [('"zero2"', '"zero1"'), ('"schema_version": 1', '"schema_version": 2'), ("}}", "}")])
def test_an_edit_anywhere_is_an_error_that_names_the_file(tmp_path: Path, edit: tuple[str, str]) -> None:
    path = tmp_path / "record.json"
    path.write_text(record_text(synthetic.launch(CELL)).replace(*edit))
    with pytest.raises(RecordError, match=r"record\.json"):
        read_record(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_file_is_an_error_that_names_the_file(tmp_path: Path, share: float) -> None:
    path = tmp_path / "record.json"
    text = record_text(synthetic.launch(CELL))
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(RecordError, match=r"record\.json is not a whole JSON file"):
        read_record(path)


def test_text_that_is_no_text_survives(tmp_path: Path) -> None:
    record = synthetic.failure(CELL, "crashed", "lone \ud800 surrogate", ["\x00 and \u2028"])
    write_record(tmp_path / "record.json", record)
    assert read_record(tmp_path / "record.json") == record


def test_ranks_of_unequal_length_and_lost_ranks_are_counted() -> None:
    frame = to_frame([synthetic.launch(CELL, step_times_s=[[0.1] * 5, [0.2] * 3]), synthetic.launch(CELL, num_ranks=1)])
    assert frame["num_timed_steps"].tolist() == [3, 5]
    assert frame["num_ranks"].tolist() == [2, 1]
    assert frame["step_time_s"].tolist() == pytest.approx([0.2, 0.1])
