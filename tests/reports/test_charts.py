"""Charts show what the table holds, leave it alone, and keep one look for one strategy."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bench.analysis.phases import phases
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.results.frame import to_frame
from reports import bars, charts
from reports.style import styles
from tests import synthetic

OF_CELLS = [charts.throughput, charts.scaling, charts.accumulation, charts.utilisation, bars.memory]


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    table = scaling_table(judge(to_frame(synthetic.reference(steps=5))))
    return table[(table["model"] == "gpt2-large") & (table["scaling"] == "weak")]


@pytest.mark.parametrize("draw", OF_CELLS)
def test_a_chart_leaves_its_input_alone(draw: object, reference: pd.DataFrame) -> None:
    assert callable(draw)
    before = reference.copy(deep=True)
    assert draw(reference, styles(reference["contender"])) is not None
    pd.testing.assert_frame_equal(reference, before)


def test_the_phases_chart_leaves_its_input_alone() -> None:
    frame = phases(to_frame(synthetic.quick()))
    frame = frame[frame["model"] == "gpt-nano"]
    before = frame.copy(deep=True)
    assert bars.outside(frame) is not None
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("draw", OF_CELLS)
def test_cells_without_figures_give_no_chart(draw: object, reference: pd.DataFrame) -> None:
    assert callable(draw)
    failed = [synthetic.failure(planned, "oom", "x") for planned in (synthetic.quick()[0].cell,)]
    cells = scaling_table(judge(to_frame(failed)))
    assert draw(cells, styles(cells["contender"])) is None
    assert draw(reference.iloc[:0], {}) is None


def test_ticks_are_exactly_what_was_measured(reference: pd.DataFrame) -> None:
    figure = charts.throughput(reference, styles(reference["contender"]))
    assert figure is not None
    assert all(axis.get_xticks().tolist() == [1, 2, 4, 8] for axis in figure.axes)
    assert all(axis.get_ylim()[0] == 0 for axis in figure.axes)


def test_memory_bars_start_at_zero_and_have_the_height_of_the_table(reference: pd.DataFrame) -> None:
    figure = bars.memory(reference, styles(reference["contender"]))
    assert figure is not None
    heights = sorted(bar.get_height() for axis in figure.axes for bar in axis.patches)
    assert heights == pytest.approx(sorted(reference["peak_memory_bytes"].dropna() / 2**30))
    assert all(axis.get_ylim()[0] == 0 for axis in figure.axes)


def test_a_point_is_drawn_where_the_table_says(reference: pd.DataFrame) -> None:
    figure = charts.scaling(reference, styles(reference["contender"]))
    assert figure is not None
    kept = list(dict.fromkeys(reference["keeps"]))
    cells = reference[(reference["keeps"] == kept[-1]) & (reference["contender"] == "zero3")].sort_values("world_size")
    axis = figure.axes[len(kept) - 1]
    color = styles(["zero3"])["zero3"].color
    line = next(line for line in axis.lines if to_hex(str(line.get_color())) == color)
    assert list(line.get_xdata()) == cells["world_size"].tolist()
    assert list(line.get_ydata()) == pytest.approx(cells["speedup"].tolist())


def test_a_strategy_has_one_look_whoever_else_is_there() -> None:
    alone, many = styles(["zero2"]), styles(["zero3", "ddp", "zero2", "new-one", "another (my.json)"])
    assert alone["zero2"] == many["zero2"]
    assert len({(style.color, style.marker) for style in many.values()}) == 5


def test_notes_say_what_must_be_known() -> None:
    table = scaling_table(judge(to_frame(synthetic.quick())))
    paced = table[(table["model"] == "paced-nano") & (table["outcome"] == "ok")]
    assert "no interval is known" in charts.notes(paced)
    assert "Paced" in charts.notes(paced)


def test_a_cell_that_ran_out_of_memory_is_named_in_the_memory_chart() -> None:
    fits, too_large = synthetic.quick()[0].cell, synthetic.quick()[1].cell
    records = [synthetic.launch(fits), synthetic.failure(too_large, "oom", "CUDA out of memory")]
    cells = scaling_table(judge(to_frame(records)))
    figure = bars.memory(cells, styles(cells["contender"]))
    assert figure is not None
    assert [text.get_text() for axis in figure.axes for text in axis.texts].count("oom") == 1


def test_a_strategy_with_settings_keeps_its_look_where_it_is_alone() -> None:
    plain = styles(["ddp", "local_sgd"])
    assert styles(["ddp", "local_sgd (every_steps 8)"])["local_sgd (every_steps 8)"] == plain["local_sgd"]
    several = styles(["local_sgd", "local_sgd (every_steps 2)", "local_sgd (every_steps 8)"])
    assert several["local_sgd"] == plain["local_sgd"] and len(set(several.values())) == 3
