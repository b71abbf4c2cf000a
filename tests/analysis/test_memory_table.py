"""Memory by theory beside the measured peak: closed forms by hand, and a reason wherever there is no figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.memory import COLUMNS, memory_table
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.examine import examine
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import synthetic

NANO = Cell(model="gpt-nano", strategy="ddp", world_size=2, micro_batch_size=4, seq_len=64, steps=3)
PARAMS = 4 * (12 * 256**2 + 13 * 256) + (4096 + 256) * 256 + 2 * 256
ACTIVATIONS = 4 * 64 * (4 * (16 * 256 * 4 + 4 * (4 + 4)) + 2 * 256 * 4 + 12 * 4096)


def table(*records: Record) -> pd.DataFrame:
    found = list(records)
    return memory_table(found, scaling_table(judge(to_frame(found))))


def test_a_plain_model_in_float32_by_hand() -> None:
    """4 bytes of parameter, 4 of gradient and 8 of Adam each, the activations of models/gpt.py, and what was there before."""
    [row] = table(synthetic.launch(NANO, base_memory_bytes=2**28, peak_memory_bytes=2**29)).to_dict("records")
    assert row["predicted_bytes"] == 2**28 + 16 * PARAMS + ACTIVATIONS
    assert row["error_frac"] == pytest.approx(row["predicted_bytes"] / 2**29 - 1)
    assert not row["claimed"] and row["unknown_because"] is None


@pytest.mark.parametrize(("strategy", "per_param"), [("ddp", 16), ("zero1", 4 + 12 / 8), ("zero2", 2 + 14 / 8)])
def test_half_precision_on_gpus_is_a_claim(strategy: str, per_param: float) -> None:
    cell = NANO.model_copy(update={"strategy": strategy, "precision": "fp16", "world_size": 8})
    record = synthetic.launch(cell, base_memory_bytes=0, place=synthetic.eight_v100s(cell))
    [row] = table(record).to_dict("records")
    states = row["parameter_bytes"] + row["gradient_bytes"] + row["optimizer_bytes"]
    assert states == pytest.approx(per_param * PARAMS)
    # Two buckets of an eighth of the model each, of halves.
    assert row["bucket_bytes"] == pytest.approx(0 if strategy == "ddp" else PARAMS / 2, rel=1e-6)
    assert row["predicted_bytes"] == states + row["bucket_bytes"] + row["activation_bytes"]
    assert row["claimed"]


def test_a_cells_own_sizes_count() -> None:
    cell = NANO.model_copy(update={"model_options": {"num_layers": 2}})
    [row] = table(synthetic.launch(cell)).to_dict("records")
    assert row["parameter_bytes"] == 4 * (PARAMS - 2 * (12 * 256**2 + 13 * 256))


def test_what_the_theory_does_not_cover_says_why(tmp_path: Path) -> None:
    other = NANO.model_copy(update={"model": "hf:gpt2"})
    own = NANO.model_copy(update={"strategy": "zero2", "deepspeed_config": str(tmp_path / "mine.json")})
    dead = NANO.model_copy(update={"world_size": 4})
    found = table(synthetic.launch(other), synthetic.launch(own), synthetic.failure(dead, "crashed", "no room"))
    assert found.columns.tolist() == COLUMNS
    assert found["predicted_bytes"].isna().all()
    words = " ".join(found["unknown_because"])
    for reason in ("activations of hf:gpt2", "own DeepSpeed file", "no launch of this cell lived"):
        assert reason in words


def test_a_cell_that_ran_out_keeps_its_prediction_and_a_skipped_one_has_no_row() -> None:
    place = synthetic.eight_v100s(NANO)
    oom = synthetic.failure(NANO, "oom", "CUDA out of memory").model_copy(update={"environment": place})
    skipped = synthetic.failure(NANO.model_copy(update={"world_size": 4}), "skipped", "4 ranks, 2 devices")
    [row] = table(oom, skipped).to_dict("records")
    assert row["predicted_bytes"] == 16 * PARAMS + ACTIVATIONS and row["outcome"] == "oom"
    assert pd.isna(row["measured_bytes"]) and pd.isna(row["error_frac"])


def test_a_resident_set_is_above_what_tensors_need() -> None:
    """The committed runs on CPUs: what the theory counts is there, and libraries on top; nothing is claimed."""
    memory = examine(Path(__file__).parents[2] / "reports" / "example" / "quick").memory
    assert len(memory) == 23 and not memory["claimed"].any()
    assert memory["error_frac"].between(-0.6, 0.0).all()
