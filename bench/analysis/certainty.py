"""How sure a whole run is: its launches and intervals, the A/A pair, drift of the machine, outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.analysis.comparison import spread_of_pair
from bench.analysis.measured import Measured
from bench.analysis.statistics import Estimate, Noise, drift, mean, outliers
from bench.results.record import Record

COLUMNS = ["quantity", "value", "lo", "hi", "cell_id", "verdict"]
OUTLIER_COLUMNS = ["num_mild_outliers", "num_severe_outliers"]

# One run in a hundred that did not drift is said to have.
DRIFT_CONFIDENCE = 0.99


def with_outliers(launches: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The launches, one a record, with the number of mild and of severe outliers among each one's step times.

    Outliers by Tukey's fences, of the slowest rank's seconds in the window. Missing where no step was timed.
    """
    counted = [outliers(_step_times_s(record)) if record.outcome == "ok" else (None, None) for record in records]
    return launches.assign(**dict(zip(OUTLIER_COLUMNS, zip(*counted, strict=True), strict=True)) if counted else {})


def _step_times_s(record: Record) -> list[float]:
    # Ranks of unequal length belong to no valid launch, which the gates say.
    return record.slowest_step_times_s()


def certainty(launches: pd.DataFrame, scaling: pd.DataFrame, measured: Sequence[Measured]) -> pd.DataFrame:
    """What can be said of a run's figures as a whole: one row a quantity, columns COLUMNS; only what is known has a row.

    `launches`: judged, with outliers; `scaling`: rows of `scaling_table`. The quantities, fractions unless they count:

    - launches_least, launches_most: ok timing launches of a cell that has any;
    - widest_interval_frac, median_interval_frac: the 95 % intervals of step time, their whole width over the value;
    - aa_spread_frac: the larger over the smaller step time of a cell and its twin, minus 1. value, lo and hi of aa_ratio are
      their ratio with its 95 % interval; verdict "apart" where that leaves out 1, which one pair in twenty does by chance;
    - noise_frac: the typical standard deviation between launches of a cell, over their mean;
    - drift_frac: how much slower (above 0) the machine became from the first to the last launch, with its 99 % interval;
      verdict "drift" where that leaves out 0;
    - mild_outliers, severe_outliers: of num_timed_steps steps, and launch_mild_outliers, launch_severe_outliers of the
      launches of cells with at least four; all of them are in the figures.
    """
    rows: list[dict[str, Any]] = []

    def add(quantity: str, value: float, **more: Any) -> None:
        rows.append({"quantity": quantity, "value": value, **more})

    ok = scaling[scaling["outcome"] == "ok"]
    if ok.empty:
        return pd.DataFrame(columns=COLUMNS)
    add("launches_least", ok["launches"].min())
    add("launches_most", ok["launches"].max())
    widths = ((ok["step_time_s_hi"] - ok["step_time_s_lo"]) / ok["step_time_s"]).dropna()
    if len(widths):
        widest = widths.sort_values().index[-1:]
        add("widest_interval_frac", widths.max(), cell_id=ok.loc[widest, "cell_id"].iloc[0])
        add("median_interval_frac", widths.median())
    for one in measured:
        if (spread := spread_of_pair(one)) is not None:
            add("aa_spread_frac", spread, cell_id=one.cell.id)
            ratio = mean(one.launch_step_times_s) / mean(one.twin_step_times_s)
            add("aa_ratio", ratio.value, cell_id=one.cell.id, **_sure(ratio, 0.95, "apart"))
    if (noise := Noise.of(_samples(measured))) is not None:
        add("noise_frac", noise.variance**0.5)
    trend = _drift(launches)
    if trend is not None:
        found = _sure(trend, DRIFT_CONFIDENCE, "drift")
        add("drift_frac", trend.value - 1, lo=found["lo"] - 1, hi=found["hi"] - 1, verdict=found["verdict"])
    timed = launches[(launches["kind"] == "timing") & (launches["outcome"] == "ok")]
    add("num_timed_steps", timed["num_timed_steps"].sum())
    for kind, name in zip(("mild", "severe"), OUTLIER_COLUMNS, strict=True):
        add(f"{kind}_outliers", timed[name].sum())
    if several := [sample for sample in _samples(measured) if len(sample) >= 4]:
        counts = [outliers(sample) for sample in several]
        for place, kind in enumerate(("mild", "severe")):
            add(f"launch_{kind}_outliers", sum(count[place] for count in counts))
    return pd.DataFrame(rows, columns=COLUMNS)


def _samples(measured: Sequence[Measured]) -> list[list[float]]:
    return [times for one in measured for times in (one.launch_step_times_s, one.twin_step_times_s) if times]


def _sure(ratio: Estimate, confidence: float, apart: str) -> dict[str, Any]:
    """Interval of a ratio, and whether it leaves out 1."""
    interval = ratio.interval(confidence)
    if interval is None:
        return {"lo": None, "hi": None, "verdict": None}
    low, high = interval
    return {"lo": low, "hi": high, "verdict": "none" if low <= 1 <= high else apart}


def _drift(launches: pd.DataFrame) -> Estimate | None:
    """The machine's drift over all ok timing launches, twins with their cells, in the order in which they ran; None where
    that is not known."""
    ok = launches[(launches["kind"] == "timing") & (launches["outcome"] == "ok")]
    order = ["started_at", "sequence"]
    if ok.duplicated(order).any():
        return None
    ran = ok.sort_values(order)
    return drift(ran["cell_id"].tolist(), ran["step_time_s"].tolist())
