"""The chart and the table of a comparison: a row a cell, what is known and no more."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.analysis.comparison import Rule, aa_spread_frac, compare
from bench.results.record import Record
from reports import comparison
from reports.forest import forest
from tests import synthetic, synthetic_runs


def compared(base: list[Record], new: list[Record]) -> pd.DataFrame:
    return compare(synthetic.measured_of(base), synthetic.measured_of(new), Rule())


def drawn(cells: pd.DataFrame, spread: float | None = None) -> Any:
    figure = forest(cells, base="a", new="b", confidence=0.99, least_effect_frac=0.03, aa_spread_frac=spread)
    assert figure is not None
    return figure


def test_the_forest_has_a_row_a_cell_and_its_word() -> None:
    base, new = synthetic_runs.two_ranks(seed=1), synthetic_runs.two_ranks(seed=2, slower={"zero1": 1.1})
    cells = compared(base, [record for record in new if record.cell.strategy != "zero0"])
    spread = aa_spread_frac(synthetic.measured_of([*base]))
    figure = drawn(cells, spread)
    axis = figure.axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "gpt-nano" and len(labels) == 4
    words = {round(text.get_position()[1]): text.get_text() for text in axis.texts}
    for row in cells.to_dict("records"):
        place = labels.index(f"{row['strategy']}, 2 ranks, accumulation 1")
        assert words[place].endswith(row["verdict"]) and words[place].startswith("missing") == (
            row["strategy"] == "zero0"
        )
        points = [line for line in axis.lines if list(line.get_ydata()) == [place] and line.get_marker() in "<>o"]
        bars = [ends for found in axis.collections for ends in found.get_segments() if ends[0][1] == place]
        if row["verdict"] == "missing":
            assert not points and not bars
        else:
            assert [point.get_xdata()[0] for point in points] == [pytest.approx(row["ratio"])]
            assert bars[0][:, 0].tolist() == pytest.approx([row["ratio_lo"], row["ratio_hi"]])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "slower" in legend and f"A/A spread {100 * spread:.1f} %" in legend  # type: ignore[operator]
    low, high = axis.get_xlim()
    assert low * high == pytest.approx(1.0) and high > cells["ratio_hi"].max()
    assert "A/A" not in " ".join(text.get_text() for text in drawn(cells).legends[0].get_texts())


def test_a_wide_interval_does_not_widen_the_forest_unseen() -> None:
    base, new = (
        [synthetic_runs.scaled(synthetic.quick()[1], one, 0) for one in pair] for pair in ((1, 1.4), (1, 1.01))
    )
    cells = compared(base, new)
    assert cells["ratio_hi"].iloc[0] > 4
    figure = drawn(cells)
    assert figure.axes[0].get_xlim()[1] < 2
    assert "An arrow: the interval goes on beyond the axis." in " ".join(text.get_text() for text in figure.texts)


def test_strange_names_stay_text() -> None:
    strange = "hf:$x$[bold]</text>"
    records = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"model": strange})})
        for record in synthetic_runs.two_ranks(seed=1)
    ]
    cells = compared(records, records)
    assert comparison.rows(cells)["model"].tolist() == [strange] * 3
    assert drawn(cells).axes[0].get_yticklabels()[0].get_text() == strange


def test_cells_that_look_alike_are_told_apart() -> None:
    first = synthetic_runs.two_ranks(seed=1)
    other = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"seed": 1})})
        for record in synthetic_runs.two_ranks(seed=2)
        if not record.twin
    ]
    cells = compared([*first, *other], [*first, *other])
    shown = comparison.rows(cells)
    assert shown["cell"].nunique() == len(cells) == 6
    labels = [label.get_text() for label in drawn(cells).axes[0].get_yticklabels()]
    assert len(set(labels)) == 7
