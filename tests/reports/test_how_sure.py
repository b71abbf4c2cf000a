"""How sure a run is said to be: what the frame holds, and no more."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.analysis.certainty import certainty, with_outliers
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.results.frame import to_frame
from bench.results.record import Record
from reports.certainty import drift, sentences
from tests import synthetic, synthetic_runs


def frame_of(records: list[Record]) -> pd.DataFrame:
    launches = with_outliers(judge(to_frame(records)), records)
    return certainty(launches, scaling_table(launches), synthetic.measured_of(records))


def told(*records: Record) -> dict[str, str]:
    """The sentences by their first word."""
    return {line.partition(":")[0]: line for line in sentences(frame_of(list(records)))}


def rows(**quantities: Any) -> pd.DataFrame:
    """A frame as `certainty` makes it: by quantity its value, or a whole row."""
    found = [value if isinstance(value, dict) else {"value": value} for value in quantities.values()]
    columns = ["quantity", "value", "lo", "hi", "cell_id", "verdict"]
    return pd.DataFrame(
        [{"quantity": name, **row} for name, row in zip(quantities, found, strict=True)], columns=columns
    )


def test_one_launch_knows_little_and_says_how_to_know_more() -> None:
    text = told(*synthetic.quick())
    assert set(text) == {"Intervals", "A/A pair", "Drift", "Outliers"}
    assert "none is known, because each cell was measured by one launch" in text["Intervals"]
    assert "launches: 3 in the suite, or scalebench run SUITE --launches auto" in text["Intervals"]
    assert "none gave a figure" in text["A/A pair"] and "aa_pair: false" in text["A/A pair"]
    assert "not known, because no cell was launched more than once" in text["Drift"]
    assert "%" not in " ".join(text.values()).replace("95 %", "")


def test_several_launches() -> None:
    text = told(*synthetic_runs.quick(5, noise_frac=0.01, twin_frac=0.0, seed=3))
    assert "over 5 launches a cell" in text["Intervals"] and "at the widest (" in text["Intervals"]
    assert "not known" not in " ".join(text.values())
    assert "standard deviation of" in text["Noise between launches"]
    assert "none seen" in text["Drift"] and "of the launches of cells with at least four" in text["Outliers"]
    assert "none is dropped" in text["Outliers"]


def test_the_pair_has_its_ratio_and_interval() -> None:
    cell = synthetic.quick()[1].cell
    times = ((0.1, False), (0.102, False), (0.11, True), (0.114, True))
    records = [
        synthetic.launch(cell, step_time_s=time, twin=twin, sequence=place) for place, (time, twin) in enumerate(times)
    ]
    text = told(*records)["A/A pair"]
    # 0.112 over 0.101.
    assert f"{cell.id} and its twin" in text and "are 10.9 % apart (ratio of step times 0.90x, 95 % interval" in text
    assert "one pair in twenty" not in text
    apart = [record.model_copy(update={"sequence": 10 + place}) for place, record in enumerate(records)]
    tight = [synthetic_runs.scaled(record, 1.0, place) for place, record in enumerate([*records, *apart] * 3)]
    assert "leaves out 1: that happens to one pair in twenty by chance" in told(*tight)["A/A pair"]
    alone = told(records[0], records[2])["A/A pair"]
    assert "10.0 % apart" in alone and "one launch of either has no interval" in alone


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "words"),
    [
        (
            0.11,
            0.09,
            0.13,
            "drift",
            "a step became 11.0 % longer (99 % interval 9.0 to 13.0 %): figures of early and late",
        ),
        (-0.11, -0.13, -0.09, "drift", "a step became 11.0 % shorter (99 % interval 9.0 to 13.0 %)"),
        (0.01, -0.01, 0.03, "none", "none seen; from the first to the last launch a step changed by -1.0 to 3.0 %"),
    ],
)
def test_drift(value: float, low: float, high: float, verdict: str, words: str) -> None:
    frame = rows(launches_most=3, drift_frac={"value": value, "lo": low, "hi": high, "verdict": verdict})
    assert words in drift(frame)
    assert ("belong to different machines" in drift(frame)) == (verdict == "drift")


def test_drift_that_is_not_known_says_why() -> None:
    several = [synthetic.launch(step_time_s=time) for time in (0.1, 0.11)]
    assert "the records don't say in which order" in told(*several)["Drift"]
    assert "no cell was launched more than once" in drift(rows(launches_most=1))
    assert "no cell was launched more than once" in drift(rows())


def test_a_machine_that_drifted_is_found_out() -> None:
    text = told(*synthetic_runs.quick(6, noise_frac=0.005, drift_frac=0.2))["Drift"]
    assert "longer (99 % interval" in text and "different machines" in text


def test_few_launches_say_what_they_are_worth() -> None:
    text = told(*synthetic_runs.quick(2, noise_frac=0.001))
    assert "3.6 times as wide as one over three" in text["Intervals"]
    some = synthetic_runs.quick(2, noise_frac=0.001)
    text = told(*[one for one in some if one.sequence != some[0].sequence])
    assert "over 1 to 2 launches" in text["Intervals"] and "A cell of one launch has none" in text["Intervals"]


def test_nothing_measured() -> None:
    assert sentences(frame_of([synthetic.failure(synthetic.quick()[0].cell, "oom", "x")])) == [
        "Not known: no cell gave a figure."
    ]
