"""The chart and the table of traffic show what is in the rows."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.analysis.traffic import traffic_table
from reports import tables
from reports.traffic import traffic
from tests.analysis.metered import ledgers_of, metered, with_ledgers


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return traffic_table(
        [metered(s, world_size=n, grad_accum_steps=g) for s in ("ddp", "zero3") for n in (1, 2, 4) for g in (1, 4)]
    )


def test_bars_have_the_length_of_the_table(rows: pd.DataFrame) -> None:
    before = rows.copy(deep=True)
    figure = traffic(rows)
    assert figure is not None
    pd.testing.assert_frame_equal(rows, before)
    assert [axis.get_title() for axis in figure.axes] == ["accumulation 1", "accumulation 4"]
    divisor = 2**10  # KiB, by the largest
    drawn = sorted(bar.get_width() * divisor for axis in figure.axes for bar in axis.patches)
    sent = rows[rows["world_size"] > 1]
    assert drawn == pytest.approx(sorted([*sent["observed_volume_bytes"], *sent["theory_volume_bytes"]]))


def test_each_cell_carries_its_factor(rows: pd.DataFrame) -> None:
    figure = traffic(rows)
    assert figure is not None
    written = sorted(text.get_text() for axis in figure.axes for text in axis.texts)
    factors = rows[rows["world_size"] > 1].groupby("cell_id")["observed_factor"].first()
    assert written == sorted(f"{factor:.2f} P" for factor in factors)
    assert written.count("2.00 P") == 4


def test_what_differs_and_what_is_unknown_is_said() -> None:
    doubled = metered("ddp")
    ledgers = [[line.model_copy(update={"count": 2 * line.count}) for line in ledger] for ledger in ledgers_of(doubled)]
    unknown = metered("zero0").model_copy(update={"outline": None})
    rows = traffic_table([with_ledgers(doubled, ledgers), unknown])
    figure = traffic(rows)
    assert figure is not None
    words = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert words == {"4.00 P, theory 2.00 P", "2.00 P, no theory"}
    table = tables.traffic(rows)
    assert table["ledger and theory"].tolist() == ["not equal", "–"]
    assert "older" in table["why there is no theory"].iloc[1]
    assert table["bytes"].tolist() == ["56,384", "28,192"]


def test_one_rank_sends_nothing_and_gives_no_chart() -> None:
    assert traffic(traffic_table([metered("ddp", world_size=1)])) is None
    assert traffic(traffic_table([])) is None
