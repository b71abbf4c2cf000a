"""A launch of the A/A pair's second is a row of the frame, and no part of its cell's own figures."""

from __future__ import annotations

import pandas as pd

from bench.analysis.scaling import scaling_table
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from tests import synthetic


def test_twins_have_no_part_in_a_cells_own_figures() -> None:
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=2, steps=5)
    own = [synthetic.launch(cell, step_time_s=0.1), synthetic.launch(cell, step_time_s=0.12)]
    twins = [synthetic.launch(cell, step_time_s=step_time_s, twin=True) for step_time_s in (0.3, 0.4)]
    launches = to_frame([*own, *twins])
    assert launches["twin"].tolist() == [False, False, True, True]
    table = scaling_table(launches)
    pd.testing.assert_frame_equal(table, scaling_table(to_frame(own)))
    assert table.loc[0, "launches_tried"] == 2
