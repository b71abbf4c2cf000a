"""Projected beside measured: what is held out, by which machine, and that nothing else of a run changes by it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.calibrating import works
from bench.analysis.projected import COLUMNS, projected_table
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.analysis.verdict import ranking
from bench.errors import MachineError, ProjectionError
from bench.examine import examine
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import synthetic
from tests.attributed import attributed

EXAMPLE = Path(__file__).parents[2] / "reports" / "example" / "instrument"
NANO = Cell(model="gpt-nano", strategy="ddp", world_size=1, micro_batch_size=4, seq_len=64, steps=5)


def projected(records: list[Record], machine: str | None = None) -> pd.DataFrame:
    scaling = scaling_table(judge(to_frame(records)))
    return projected_table(works(records, scaling), scaling, machine)


def swept(*sizes: int, gpus: bool = False, **changes: object) -> list[Record]:
    found = []
    for size in sizes:
        cell = NANO.model_copy(update={"world_size": size, **changes})
        place = synthetic.eight_v100s(cell) if gpus else synthetic.environment(cell)
        found.append(synthetic.launch(cell, step_time_s=0.1 + 0.004 * (size - 1), place=place))
    return found


def test_the_two_smallest_sizes_are_fitted_to_and_the_others_foreseen() -> None:
    found = projected(swept(1, 2, 4, 8))
    assert found.columns.tolist() == COLUMNS
    assert found["in_fit"].tolist() == [True, True, False, False] and set(found["fitted_to"]) == {"1, 2"}
    held_out = found[~found["in_fit"]]
    assert (held_out["step_time_s_lo"] < held_out["step_time_s"]).all()
    assert (held_out["efficiency_hi"] <= 1.0).all()
    assert held_out["error_frac"].tolist() == pytest.approx(
        (held_out["step_time_s"] / held_out["measured_step_time_s"] - 1).tolist()
    )
    assert (found["tokens_per_s"] * found["step_time_s"]).tolist() == pytest.approx([256, 512, 1024, 2048])
    assert found["speedup"].tolist() == pytest.approx((found["efficiency"] * found["world_size"]).tolist())


def test_nothing_is_foreseen_where_nothing_was_held_out() -> None:
    assert projected(swept(1, 2)).empty and projected(swept(4, 8, 2)).empty
    assert projected([synthetic.failure(NANO, "crashed", "x")]).empty
    strong = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"scaling": "strong"})})
        for record in swept(1, 2, 4)
    ]
    assert projected(strong).empty


def test_gpus_need_a_machine_and_are_then_foreseen_from_one_rank() -> None:
    records = swept(1, 2, 4, 8, gpus=True, precision="fp16")
    assert projected(records).empty
    found = projected(records, "dgx1-v100-32gb")
    assert found["in_fit"].tolist() == [True, False, False, False]
    assert set(found["machine"]) == {"dgx1-v100-32gb"} and set(found["fitted_to"]) == {"1"}
    assert found["step_time_s"].iloc[0] == pytest.approx(0.1)
    with pytest.raises(ProjectionError, match="talks over gloo, but the launches over nccl"):
        projected(records, "cpu-gloo")
    with pytest.raises(MachineError, match="--machine: found 'dgx1'"):
        projected(records, "dgx1")


def test_crowded_twin_and_foreign_cells_are_not_fitted_to() -> None:
    """More threads than cores, the second of an A/A pair, several hosts: none tells how a rank is among ranks."""
    records = swept(1, 2, 4)
    crowded = synthetic.environment(NANO, num_cores=2)
    spoilt = [
        records[2].model_copy(update={"environment": crowded}),
        records[2].model_copy(update={"twin": True}),
        records[2].model_copy(update={"environment": synthetic.environment(NANO, num_nodes=2)}),
    ]
    for one in spoilt:
        assert projected([*records[:2], one]).empty


def test_more_ranks_than_the_machine_has_devices_for_have_no_row() -> None:
    found = projected(
        [
            synthetic.launch(cell, step_time_s=0.1 + 0.004 * size, place=synthetic.environment(cell, num_cores=16))
            for size in (1, 2, 4, 16)
            for cell in [NANO.model_copy(update={"world_size": size})]
        ]
    )
    assert found["world_size"].tolist() == [1, 2, 4]


def test_metered_launches_are_fitted_to_as_well() -> None:
    one = synthetic.launch(NANO, step_time_s=0.1)
    two = NANO.model_copy(update={"world_size": 2})
    metered = attributed(two, [0.1, 0.099], 0.103, 0.110)
    scaling = scaling_table(judge(to_frame([one, metered])))
    [work] = works([one, metered], scaling)
    assert [(seen.part, seen.world_size) for seen in work.observations] == [("step", 1), ("own", 2), ("exposed", 2)]
    assert work.observations[2].seconds == pytest.approx(0.01) and work.observations[2].whole_s == pytest.approx(0.11)


def test_no_projection_is_ever_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder with and without projections comes to the same ranking, cell by cell."""
    whole = examine(EXAMPLE)
    assert len(whole.projected) == len(whole.scaling) == 16
    monkeypatch.setattr("bench.examine.projected_table", lambda *_: pd.DataFrame(columns=COLUMNS))
    without = examine(EXAMPLE)
    pd.testing.assert_frame_equal(whole.scaling, without.scaling)
    pd.testing.assert_frame_equal(ranking(whole.scaling, whole.measured), ranking(without.scaling, without.measured))


def test_what_this_repository_measured_is_inside_the_bands() -> None:
    """Eight cells of four and eight ranks, foreseen from one and two; too fast at eight, where two cores carry all ranks."""
    held_out = examine(EXAMPLE).projected.query("~in_fit")
    assert len(held_out) == 8 and held_out["inside"].all()
    assert held_out["error_frac"].between(-0.2, 0.0).all()
    assert held_out.loc[held_out["world_size"] == 4, "error_frac"].abs().max() < 0.08
