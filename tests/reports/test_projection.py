"""Projected figures in charts and on the page: dashed, named, and only where they are predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from bench.examine import Findings, examine
from bench.publish import publish
from reports import charts, predicted
from reports.style import styles
from tests.command_line import Scalebench

EXAMPLE = Path(__file__).parents[2] / "reports" / "example" / "instrument"


@pytest.fixture(scope="module")
def example() -> Findings:
    return examine(EXAMPLE)


def dashed(axis: Axes, strategy: str) -> list[Line2D]:
    color = styles([strategy])[strategy].color
    return [line for line in axis.lines if line.get_linestyle() == "--" and to_hex(str(line.get_color())) == color]


DRAWN = [(charts.throughput, ("tokens_per_s", "step_time_s")), (charts.scaling, ("speedup", "efficiency"))]


@pytest.mark.parametrize(("draw", "figures"), DRAWN)
def test_a_dashed_line_stands_where_the_table_says(example: Findings, draw: object, figures: tuple[str, str]) -> None:
    assert callable(draw)
    looks = styles(example.scaling["contender"])
    figure = draw(example.scaling, looks, None, example.projected)
    rows = example.projected[(example.projected["contender"] == "zero3") & (example.projected["world_size"] >= 2)]
    for axis, name in zip(figure.axes, figures, strict=True):
        [line] = dashed(axis, "zero3")
        shown = pd.Series(line.get_ydata(), dtype=float)
        # From the largest size that was fitted to, in the axis's own unit.
        assert (shown / shown.iloc[0]).tolist() == pytest.approx((rows[name] / rows[name].iloc[0]).tolist())
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts.count("projected") == 1
    assert any("Projected from 1, 2 ranks; its band: nine of ten." in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("draw", [charts.throughput, charts.scaling])
def test_without_projections_a_chart_is_as_it_was(example: Findings, draw: object) -> None:
    assert callable(draw)
    looks = styles(example.scaling["contender"])
    fitted = example.projected[example.projected["in_fit"]]
    for none in (None, example.projected.iloc[:0], fitted):
        figure = draw(example.scaling, looks, None, none)
        assert not any(dashed(axis, "zero3") for axis in figure.axes)
        assert "projected" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_charts_leave_projections_alone(example: Findings) -> None:
    before = example.projected.copy(deep=True)
    for draw in (charts.throughput, charts.scaling):
        draw(example.scaling, styles(example.scaling["contender"]), None, example.projected)
    pd.testing.assert_frame_equal(example.projected, before)


def test_the_page_says_how_far_off_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "instrument"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("report"))
    findings = examine(folder)
    page = publish(findings).read_text(encoding="utf-8")
    assert 'id="projected"' in page and "fitted to launches of 1, 2 ranks, the rest as cpu-gloo is described" in page
    assert "Of 8 cells of other sizes 8 are inside their interval" in page
    table = pd.read_csv(folder / "report/tables/projected.csv")
    assert len(table) == 16 and table["inside"].all()
    chart = (folder / "report/charts/speed-paced-nano-weak.svg").read_text()
    assert "Projected from 1, 2 ranks; its band: nine of ten." in " ".join(chart.split())


def test_figures_for_people(example: Findings) -> None:
    shown = predicted.steps(example.projected)
    assert {"predicted", "predicted, 90 %", "measured", "error", "measured is inside", "fitted to it"} <= set(shown)
    assert shown["fitted to it"].tolist() == ["yes", "yes", "no", "no"] * 4


def test_a_machine_of_another_kind_is_one_line(scalebench: Scalebench, tmp_path: Path) -> None:
    done = scalebench("report", EXAMPLE, "--machine", "dgx-a100")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "talks over nccl, but the launches over gloo" in done.stderr
