"""The charts of where time goes draw what the efficiency table says: no more, no text over another, no zero for unknown."""

from __future__ import annotations

import itertools
from functools import cache

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from reports import efficiency, losses, seconds, tables
from reports.style import look, styles
from tests import synthetic_efficiency as known

FACTORS = ["load_balance", "serialization", "transfer", "compute_scaling"]
PARTS = ["useful_s", "imbalance_s", "wait_s", "transfer_s"]
Frames = tuple[pd.DataFrame, pd.DataFrame]


def only_nano(frames: Frames) -> Frames:
    return frames[0][frames[0]["model"] == "gpt-nano"], frames[1][frames[1]["model"] == "gpt-nano"]


CASES = {
    "five strategies": only_nano(known.sweep()),
    "one strategy": known.sweep(models=("gpt-nano",), strategies=("zero2",)),
    "one world size": known.sweep(models=("gpt-nano",), sizes=(4,)),
    "two world sizes": known.sweep(models=("gpt-nano",), sizes=(1, 2)),
    "straggler and a costly meter": known.sweep(models=("gpt-nano",), slow=0.6, meter_s=0.02),
    "many ranks": known.sweep(models=("gpt-nano",), strategies=("ddp", "zero3"), sizes=(1, 8, 64), slow=0.3),
    "noisy": known.noisy(),
    "intervals": only_nano(known.sweep(sure=0.06, launches=3)),
    "wide intervals": known.sweep(
        models=("gpt-nano",), strategies=("ddp", "zero3"), sizes=(1, 2, 8), sure=0.6, launches=2
    ),
}


@cache
def drawn(case: str) -> dict[str, Figure]:
    frame, ranks = CASES[case]
    looks = styles(frame["contender"])
    figures = {
        "waterfall": efficiency.waterfall(frame, looks),
        "step parts": seconds.step_parts(frame, looks),
        "ranks": seconds.ranks(ranks, looks),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def panel(figure: Figure, title: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_title().startswith(title))


def bars(axis: Axes) -> list[Rectangle]:
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def texts_of(axis: Axes) -> list[Text]:
    """All texts of a panel; ticks beyond its limits are not drawn."""
    found = [*axis.texts, axis.title, axis.xaxis.label, axis.yaxis.label]
    for along, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        ticks = zip(along.get_majorticklocs(), along.get_majorticklabels(), strict=True)
        found += [label for place, label in ticks if min(limits) <= place <= max(limits)]
    return found


@pytest.mark.parametrize("case", CASES)
def test_no_text_hides_another_or_leaves_the_figure(case: str) -> None:
    for name, figure in drawn(case).items():
        with look():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            renderer = canvas.get_renderer()
            legend = [text for box in figure.legends for text in box.get_texts()]
            labels = [text for axis in figure.axes if axis.axison for text in texts_of(axis)]
            shown = [text for text in [*figure.texts, *legend, *labels] if text.get_text().strip()]
            # Half a pixel, because boxes are rounded to pixels.
            boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-0.5)) for text in shown]
        assert len(boxes) > 5
        for text, box in boxes:
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{name}: {text!r} is cut off"
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{name}: {text!r} is cut off"
        for (one, first), (other, second) in itertools.combinations(boxes, 2):
            assert not first.overlaps(second), f"{name}: {one!r} and {other!r} overlap"


def test_the_factors_of_a_staircase_multiply_to_its_last_step() -> None:
    frame, _ = CASES["five strategies"]
    figure = drawn("five strategies")["waterfall"]
    for contender, cells in frame.groupby("contender"):
        found = bars(panel(figure, str(contender)))
        assert len(found) == 5 * len(cells)
        for place, (_, row) in enumerate(cells.sort_values("world_size").iterrows()):
            *steps, whole = found[5 * place : 5 * place + 5]
            assert steps[0].get_y() == 1
            ends = [step.get_y() + step.get_height() for step in steps]
            starts = [step.get_y() for step in steps]
            assert starts[1:] == ends[:-1]
            assert [end / start for start, end in zip(starts, ends, strict=True)] == pytest.approx(
                [row[f] for f in FACTORS]
            )
            assert (whole.get_y(), whole.get_height()) == pytest.approx((0, row["global_efficiency"]))
            assert ends[-1] == pytest.approx(row["global_efficiency"])


def test_every_factor_is_labelled() -> None:
    axis = panel(drawn("one strategy")["waterfall"], "zero2")
    rows = CASES["one strategy"][0].to_dict("records")
    expected = [
        label for row in rows for label in [*(f"×{row[f]:.2f}" for f in FACTORS), f"={row['global_efficiency']:.2f}"]
    ]
    assert [text.get_text() for text in axis.texts] == expected


def measured_lines(axis: Axes) -> list[float]:
    return [float(line.get_ydata()[0]) for line in axis.lines if to_hex(str(line.get_color())) == "#000000"]  # type: ignore[index]


def test_the_measured_efficiency_is_marked_and_disagreement_flagged() -> None:
    frame, _ = CASES["five strategies"]
    figure = drawn("five strategies")["waterfall"]
    for contender, cells in frame.groupby("contender"):
        axis = panel(figure, str(contender))
        assert measured_lines(axis) == pytest.approx(cells["efficiency"].tolist())
        labels = [label.get_text() for label in axis.get_xticklabels()]
        assert labels[:3] == ["1 rank", "2 ranks", "4 ranks"]
        assert labels[3] == ("8 ranks\nnot reconciled" if contender == "zero3" else "8 ranks")


def test_without_a_baseline_the_staircase_ends_at_the_parallel_efficiency() -> None:
    frame, _ = CASES["one world size"]
    figure = drawn("one world size")["waterfall"]
    for contender, cells in frame.groupby("contender"):
        axis = panel(figure, str(contender))
        assert len(bars(axis)) == 4
        assert bars(axis)[-1].get_height() == pytest.approx(cells["parallel_efficiency"].iloc[0])
        assert measured_lines(axis) == []
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "parallel efficiency" in words and "measured directly" not in words


def test_what_is_unknown_is_a_dash_and_no_bar() -> None:
    figure = drawn("noisy")["waterfall"]
    axis = panel(figure, "zero2")
    # One rank: four factors and the whole. Four ranks: three factors, the rest is unknown.
    assert len(bars(axis)) == 5 + 3
    assert [text.get_text() for text in axis.texts][-2:] == ["–", "–"]
    assert len(measured_lines(axis)) == 1
    assert axis.get_xticklabels()[2].get_text() == "4 ranks\noversubscribed"


@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_a_step_add_up_to_it(case: str) -> None:
    frame, _ = CASES[case]
    axis = drawn(case)["step parts"].axes[0]
    scale = {"time, ms": 1e-3, "time, s": 1.0}[axis.get_xlabel()]
    found = bars(axis)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(found) == len(PARTS) * len(frame) == len(PARTS) * len(labels)
    for row in frame.to_dict("records"):
        place = labels.index(
            f"{row['contender']}, {'1 rank' if row['world_size'] == 1 else str(row['world_size']) + ' ranks'}"
        )
        own = found[place :: len(frame)]
        assert [bar.get_width() * scale for bar in own] == pytest.approx([row[part] for part in PARTS])
        ends = [bar.get_x() + bar.get_width() for bar in own]
        assert [bar.get_x() for bar in own] == pytest.approx([0, *ends[:-1]])
        assert ends[-1] * scale == pytest.approx(row["full_s"])
        marker = axis.lines[0].get_xdata()[place]  # type: ignore[index]
        assert float(marker) * scale == pytest.approx(row["step_time_s"])


def test_a_part_below_zero_is_hatched_and_not_filled() -> None:
    figure = drawn("noisy")["step parts"]
    for bar in bars(figure.axes[0]):
        below = bar.get_width() < 0
        assert (to_hex(bar.get_facecolor()) == "#ffffff") == below and bool(bar.get_hatch()) == below
    assert "below zero" in [text.get_text() for text in figure.legends[0].get_texts()]
    plain = drawn("five strategies")["step parts"]
    assert "below zero" not in [text.get_text() for text in plain.legends[0].get_texts()]


def test_a_step_without_timing_launches_has_no_marker() -> None:
    frame, _ = known.frames(known.cell([0.1, 0.1], 0.01, 0.01, step_time_s=None, meter_overhead_frac=None))
    figure = seconds.step_parts(frame, styles(frame["contender"]))
    assert figure is not None
    assert pd.isna(figure.axes[0].lines[0].get_xdata()).all()
    assert "timing launches" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_costly_meter_is_named_on_the_chart() -> None:
    def notes(case: str) -> str:
        return " ".join(text.get_text() for text in drawn(case)["step parts"].texts)

    assert "The meter itself costs up to 25.0 % of a step (" in notes("straggler and a costly meter")
    assert "meter" not in notes("five strategies")


def test_each_rank_has_its_seconds_and_the_straggler_is_named() -> None:
    _, ranks = CASES["straggler and a costly meter"]
    figure = drawn("straggler and a costly meter")["ranks"]
    for contender in known.STRATEGIES:
        axis = panel(figure, contender)
        own = ranks[(ranks["contender"] == contender) & (ranks["world_size"] == 8)]
        useful, wait = bars(axis)[:8], bars(axis)[8:]
        assert [bar.get_height() / 1e3 for bar in useful] == pytest.approx(own["useful_s"].tolist())
        assert [bar.get_height() / 1e3 for bar in wait] == pytest.approx(own["wait_s"].tolist())
        colors = [to_hex(bar.get_facecolor()) for bar in useful]
        assert len(set(colors[:7])) == 1 and colors[7] not in colors[:7]
        assert [text.get_text() for text in axis.texts] == ["rank 7"]
    calm = drawn("five strategies")["ranks"]
    assert not [text for axis in calm.axes for text in axis.texts]


def test_no_rows_give_no_chart() -> None:
    frame, ranks = known.sweep(sizes=(1,))
    looks = styles(frame["contender"])
    assert seconds.ranks(ranks, looks) is None
    assert efficiency.waterfall(frame.iloc[:0], looks) is None
    assert seconds.step_parts(frame.iloc[:0], looks) is None


@pytest.mark.parametrize("case", ["noisy", "one strategy"])
def test_nothing_changes_its_input(case: str) -> None:
    before = [frame.copy(deep=True) for frame in CASES[case]]
    drawn.__wrapped__(case)
    tables.efficiency(CASES[case][0])
    tables.ranks(CASES[case][1])
    losses.paragraphs(CASES[case][0])
    for frame, copy in zip(CASES[case], before, strict=True):
        pd.testing.assert_frame_equal(frame, copy)
