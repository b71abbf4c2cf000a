"""How sure a run is, from launches whose noise, drift and outliers are planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.analysis.certainty import COLUMNS, certainty, with_outliers
from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import synthetic


def cell(world_size: int = 1) -> Cell:
    return Cell(model="gpt-nano", strategy="ddp", seq_len=64, steps=5, world_size=world_size)


def found(records: list[Record]) -> dict[str, dict[str, Any]]:
    launches = with_outliers(judge(to_frame(records)), records)
    table = certainty(launches, scaling_table(launches), synthetic.measured_of(records))
    assert table.columns.tolist() == COLUMNS
    return {row["quantity"]: row for row in table.to_dict("records")}


def ran(order: int, size: int, step_time_s: float, **changes: Any) -> Record:
    """The launch that ran in that place."""
    started = f"2026-01-01T{order // 60:02d}:{order % 60:02d}:00Z"
    return synthetic.launch(cell(size), step_time_s=step_time_s, started_at=started, sequence=order, **changes)


def test_one_launch_a_cell_tells_nothing_of_noise_and_drift() -> None:
    rows = found([ran(0, 1, 0.1), ran(1, 2, 0.2)])
    assert {"widest_interval_frac", "aa_spread_frac", "noise_frac", "drift_frac"}.isdisjoint(rows)
    assert (rows["launches_least"]["value"], rows["launches_most"]["value"]) == (1, 1)


def test_the_widest_interval_is_named() -> None:
    times = {1: (0.19, 0.2, 0.21), 2: (0.199, 0.2, 0.201)}
    rows = found([ran(3 * size + k, size, t) for size, three in times.items() for k, t in enumerate(three)])
    # 0.2 (exp(0.12421) - exp(-0.12421)) over 0.2, as in test_scaling.
    assert rows["widest_interval_frac"]["value"] == pytest.approx(0.2491, rel=1e-3)
    assert rows["widest_interval_frac"]["cell_id"] == cell(1).id


def test_the_pair_and_how_sure_its_spread_is() -> None:
    times = [0.1, 0.101, 0.099]
    equal = found([ran(k, 1, t, twin=k % 2 == 1) for k, t in enumerate([t for t in times for _ in range(2)])])
    assert equal["aa_spread_frac"]["value"] == pytest.approx(0.0)
    assert equal["aa_ratio"]["verdict"] == "none"
    apart = found([ran(k, 1, t * (1.2 if k > 2 else 1), twin=k > 2) for k, t in enumerate(times * 2)])
    assert apart["aa_spread_frac"]["value"] == pytest.approx(0.2)
    assert apart["aa_ratio"]["verdict"] == "apart" and apart["aa_ratio"]["hi"] < 1
    once = found([ran(0, 1, 0.1), ran(1, 1, 0.11, twin=True)])
    assert once["aa_spread_frac"]["value"] == pytest.approx(0.1)
    assert pd.isna(once["aa_ratio"]["lo"]) and pd.isna(once["aa_ratio"]["verdict"])


def planted(drift_frac: float, seed: int) -> list[Record]:
    """Eight cells in five rounds of random order, 1 % noise, on a machine that becomes slower."""
    random = np.random.default_rng(seed)
    records: list[Record] = []
    for _ in range(5):
        for size in random.permutation(8) + 1:
            slower = (1 + drift_frac * len(records) / 39) * float(np.exp(random.normal(0, 0.01)))
            records.append(ran(len(records), int(size), 0.1 * float(size) * slower))
    return records


def test_drift_is_found_with_its_size_and_noise_is_none() -> None:
    drifting = [found(planted(0.06, seed))["drift_frac"] for seed in range(12)]
    assert all(row["verdict"] == "drift" for row in drifting)
    assert np.mean([row["value"] for row in drifting]) == pytest.approx(0.06, abs=0.004)
    assert sum(row["lo"] < 0.06 < row["hi"] for row in drifting) >= 11
    steady = [found(planted(0.0, seed)) for seed in range(12)]
    assert sum(rows["drift_frac"]["verdict"] == "drift" for rows in steady) <= 1
    assert np.mean([rows["noise_frac"]["value"] for rows in steady]) == pytest.approx(0.01, rel=0.1)


def test_drift_is_unknown_where_the_order_is() -> None:
    assert "drift_frac" not in found(
        [synthetic.launch(cell(n), step_time_s=0.1 + 0.001 * k) for n in (1, 2) for k in range(3)]
    )


def test_outliers_are_counted_and_kept() -> None:
    steps = [0.1, 0.101, 0.102, 0.103, 0.104, 0.105, 0.106, 0.107, 0.108, 0.5]
    asked = Cell(model="gpt-nano", strategy="ddp", seq_len=64, steps=10, world_size=1)
    records = [synthetic.launch(asked, step_times_s=[steps])]
    launches = with_outliers(judge(to_frame(records)), records)
    assert launches[["num_mild_outliers", "num_severe_outliers"]].to_numpy().tolist() == [[0, 1]]
    assert launches["step_time_max_s"].tolist() == [0.5]
    rows = found(records)
    assert (rows["num_timed_steps"]["value"], rows["severe_outliers"]["value"]) == (10, 1)


def test_a_launch_that_is_an_outlier_is_counted() -> None:
    rows = found([ran(k, 1, t) for k, t in enumerate((0.1, 0.101, 0.102, 0.103, 0.2))])
    assert (rows["launch_mild_outliers"]["value"], rows["launch_severe_outliers"]["value"]) == (0, 1)


def test_without_a_figure_nothing_is_known() -> None:
    assert found([synthetic.failure(cell(), "oom", "x")]) == {}
