"""Intervals and the A/A spread are drawn where they are known, as the table has them, and nowhere else."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETRIGHT, CARETUP

from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.results.frame import to_frame
from bench.results.record import Record
from reports import bars, charts, efficiency, seconds
from reports.style import styles
from tests import synthetic, synthetic_runs
from tests import synthetic_efficiency as known

ARROWS = {CARETUP, CARETDOWN, CARETRIGHT}


def cells_of(records: list[Record]) -> pd.DataFrame:
    table = scaling_table(judge(to_frame(records)))
    return table[table["model"] == "gpt-nano"]


@pytest.fixture(scope="module")
def three() -> pd.DataFrame:
    return cells_of(synthetic_runs.quick(3))


@pytest.fixture(scope="module")
def one() -> pd.DataFrame:
    return cells_of(synthetic.quick())


def drawn(chart: Any, cells: pd.DataFrame, *arguments: Any) -> Figure:
    figure = chart(cells, styles(cells["contender"]), *arguments)
    assert isinstance(figure, Figure)
    return figure


def segments(axis: Axes, along: int = 1) -> list[tuple[str, float, float]]:
    """Colour and both ends of every error bar, upright ones by default."""
    return sorted(
        (to_hex(collection.get_color()[0]), float(ends[0][along]), float(ends[1][along]))
        for collection in axis.collections
        if isinstance(collection, LineCollection)
        for ends in collection.get_segments()
    )


def bands(figure: Figure) -> list[PolyCollection]:
    return [found for axis in figure.axes for found in axis.collections if isinstance(found, PolyCollection)]


def arrows(figure: Figure) -> int:
    return sum(len(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_marker() in ARROWS)  # type: ignore[arg-type]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("chart", "panel", "name", "divisor"),
    [
        (charts.throughput, 0, "tokens_per_s", 1e3),
        (charts.throughput, 2, "step_time_s", 1e-3),
        (charts.scaling, 0, "speedup", 1.0),
        (charts.scaling, 1, "efficiency", 1.0),
    ],
)
def test_error_bars_end_where_the_table_says(
    three: pd.DataFrame, chart: Any, panel: int, name: str, divisor: float
) -> None:
    axis = drawn(chart, three).axes[panel]
    cells = three[(three["keeps"] == "accumulation 1") & three[f"{name}_lo"].notna()]
    # A cell against itself has no width.
    cells = cells[cells[f"{name}_hi"] > cells[f"{name}_lo"]]
    looks = styles(three["contender"])
    expected = sorted(
        (looks[row["contender"]].color, row[f"{name}_lo"] / divisor, row[f"{name}_hi"] / divisor)
        for row in cells.to_dict("records")
    )
    found = segments(axis)
    assert [color for color, *_ in found] == [color for color, *_ in expected] and len(found) >= 5
    assert [ends for _, *ends in found] == [pytest.approx(ends) for _, *ends in expected]


@pytest.mark.parametrize("chart", [charts.throughput, charts.scaling, charts.accumulation])
def test_one_launch_has_no_error_bar_and_no_pair_no_band(one: pd.DataFrame, chart: Any) -> None:
    figure = drawn(chart, one)
    assert not any(segments(axis) for axis in figure.axes) and not bands(figure)
    assert "no interval is known" in words(figure) and "95 %" not in words(figure)
    assert not [name for name in legend(figure) if "A/A" in name]


def test_only_cells_with_several_launches_have_a_bar(one: pd.DataFrame) -> None:
    records = synthetic_runs.quick(3)
    alone = {record.cell.id for record in records if record.cell.strategy != "zero1"}
    kept = [record for record in records if record.cell.id not in alone]
    kept += [next(record for record in records if record.cell.id == cell_id) for cell_id in sorted(alone)]
    figure = drawn(charts.throughput, cells_of(kept))
    assert {color for axis in figure.axes for color, *_ in segments(axis)} == {styles(["zero1"])["zero1"].color}
    assert "95 % intervals over 2 to 3 launches; none of one launch" in words(figure)


def test_memory_has_no_interval_and_says_nothing_of_one(three: pd.DataFrame) -> None:
    assert "interval" not in words(drawn(bars.memory, three))


def test_the_number_of_launches_is_said(three: pd.DataFrame) -> None:
    assert "Bars: 95 % intervals over 3 launches." in words(drawn(charts.throughput, three))


def test_an_interval_beyond_the_axis_is_an_arrow_and_not_the_axis() -> None:
    base = [record for record in synthetic.quick() if record.cell.model == "gpt-nano" and record.outcome == "ok"]
    records = [
        synthetic_runs.scaled(record, factor, 0)
        for record in base
        for factor in ((1, 2) if record.cell.strategy == "zero3" else (1, 1.01))
    ]
    cells = cells_of(records)
    assert cells["step_time_s_hi"].max() > 10 * cells["step_time_s"].max()
    for chart in (charts.throughput, charts.scaling):
        figure = drawn(chart, cells)
        assert arrows(figure) > 0
        assert "An arrow: the interval goes on beyond the axis." in words(figure)
    tops = [drawn(charts.throughput, cells).axes[panel].get_ylim()[1] for panel in (0, 3)]
    assert tops[0] == pytest.approx(1.08 * 1.4 * cells["tokens_per_s"].max() / 1e3)
    assert tops[1] < 1.6 * cells["step_time_s"].max() / 1e-3
    figure = drawn(charts.throughput, cells[cells["contender"] != "zero3"])
    assert arrows(figure) == 0 and "arrow" not in words(figure)


@pytest.mark.parametrize("chart", [charts.throughput, charts.accumulation])
def test_the_band_spans_the_spread_of_the_pair(three: pd.DataFrame, chart: Any) -> None:
    figure = drawn(chart, three, 0.25)
    assert "A/A spread 25.0 %" in legend(figure)
    ddp = next(line for line in figure.axes[0].lines if to_hex(str(line.get_color())) == styles(["ddp"])["ddp"].color)
    band = figure.axes[0].collections[0]
    assert isinstance(band, PolyCollection)
    heights = [y for _, y in band.get_paths()[0].vertices]  # type: ignore[union-attr]
    values = list(ddp.get_ydata())
    assert (min(heights), max(heights)) == pytest.approx((min(values) / 1.25, max(values) * 1.25))  # type: ignore[type-var, operator]


def test_a_lone_point_has_a_band_too(three: pd.DataFrame) -> None:
    figure = drawn(charts.throughput, three, 0.1)
    lone = [found for found in figure.axes[1].collections if isinstance(found, PolyCollection)]
    assert len(lone) == 4
    assert all(found.get_paths()[0].get_extents().width > 0 for found in lone)


def test_the_band_of_efficiency_is_around_the_ideal(three: pd.DataFrame) -> None:
    figure = drawn(charts.scaling, three, 0.1)
    [band] = bands(figure)
    assert band.axes is figure.axes[1]
    extents = band.get_paths()[0].get_extents()
    assert (extents.y0, extents.y1) == pytest.approx((1 / 1.1, 1.1))


def test_the_staircase_has_both_intervals_and_the_step_that_of_its_communication() -> None:
    frame, _ = known.sweep(
        models=("gpt-nano",), strategies=("zero2",), sizes=(1, 4), sure=0.05, launches=3, measured=0.7
    )
    figure = drawn(efficiency.waterfall, frame)
    assert "over 3 attribution launches" in words(figure) and "over timing launches" in words(figure)
    expected = frame[["global_efficiency_lo", "efficiency_lo"]].to_numpy().ravel()
    assert sorted(low for _, low, _ in segments(figure.axes[0])) == pytest.approx(sorted(expected))
    figure = drawn(seconds.step_parts, frame)
    last = frame.iloc[-1]
    ends = [(last["slowest_useful_s"] + last[f"exposed_comm_s_{end}"]) / 1e-3 for end in ("lo", "hi")]
    assert [tuple(found) for _, *found in segments(figure.axes[0], along=0)][-1] == pytest.approx(tuple(ends))
    assert "95 % intervals of exposed communication" in words(figure)


def test_what_was_measured_against_several_ranks_has_no_interval_of_its_own() -> None:
    cells = [known.cell([0.1] * n, 0.01, 0.02, baseline_world_size=2, sure=0.05, launches=3) for n in (2, 4)]
    figure = drawn(efficiency.waterfall, known.frames(*cells)[0])
    assert len(segments(figure.axes[0])) == 2 and "timing launches" not in words(figure)


def test_one_attribution_launch_has_no_error_bar() -> None:
    frame, _ = known.sweep(models=("gpt-nano",), sizes=(1, 2))
    for chart in (efficiency.waterfall, seconds.step_parts):
        figure = drawn(chart, frame)
        assert not any(segments(axis, along) for axis in figure.axes for along in (0, 1))
        assert "One attribution launch a cell: no interval is known." in words(figure)
