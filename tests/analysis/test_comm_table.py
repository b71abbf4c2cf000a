"""Sweeps of collectives as tables: medians over repetitions of the slowest rank, intervals, notes, and fits."""

from __future__ import annotations

import numpy as np
import pytest

from bench.analysis.comm import COLUMNS, GLOO_REDUCE_SCATTER, comm_table, fit_table, median_interval
from bench.results.comm import CommLeftOut
from bench.theory.bus_bandwidth import bus_factor
from tests.synthetic_comm import VARIANTS, sweep


def seconds(operation: str, size_bytes: int) -> float:
    return 1e-4 + size_bytes / {"broadcast": 4e9}.get(operation, 1e9)


def test_a_point_is_the_median_of_the_slowest_rank() -> None:
    record = sweep(seconds, world_size=4, noise=0.0)
    table = comm_table(record)
    assert list(table.columns) == list(COLUMNS) and len(table) == 15 * len(VARIANTS)
    for row in table.to_dict("records"):
        assert row["time_s"] == pytest.approx(seconds(row["operation"], row["size_bytes"]))
        assert row["algbw_bytes_per_s"] == pytest.approx(row["size_bytes"] / row["time_s"])
        assert row["busbw_bytes_per_s"] / row["algbw_bytes_per_s"] == pytest.approx(bus_factor(row["operation"], 4))
        assert row["num_repetitions"] == 9 and row["checked"]
    noted = table[table["note"] == GLOO_REDUCE_SCATTER]
    assert set(noted["operation"]) == {"reduce_scatter"} and len(noted) == 30
    on_gpus = comm_table(sweep(seconds, backend="nccl", device_type="cuda"))
    assert (on_gpus["note"] == "").all()


def test_a_result_that_nobody_compared_is_not_called_checked() -> None:
    record = sweep(seconds, octaves=1)
    hasty = record.points[0].model_copy(update={"num_checked": record.points[0].num_checked - 1})
    table = comm_table(record.model_copy(update={"points": [hasty, *record.points[1:]]}))
    assert (~table["checked"].astype(bool)).sum() == 1


def test_an_operation_that_was_refused_has_a_row_with_the_reason() -> None:
    record = sweep(seconds, octaves=1)
    left = CommLeftOut(operation="all_to_all", in_place=False, reason="RuntimeError: no such thing")
    points = [point for point in record.points if point.operation != "all_to_all"]
    table = comm_table(record.model_copy(update={"points": points, "left_out": [left]}))
    [row] = table[table["operation"] == "all_to_all"].to_dict("records")
    assert row["note"] == "not supported here: RuntimeError: no such thing" and np.isnan(row["time_s"])
    assert "all_to_all" not in set(fit_table(table, 2)["operation"])


def test_the_interval_of_a_median_covers_it() -> None:
    """Order statistics: at least 95 %, whatever the distribution."""
    draw = np.random.default_rng(1)
    for number in (7, 12, 60):
        inside = 0
        for _ in range(1000):
            low, high = median_interval(draw.exponential(size=number).tolist())
            assert low is not None and high is not None
            inside += low <= np.log(2) <= high
        assert inside / 1000 >= 0.935, (number, inside)
    assert median_interval([1.0] * 5) == (None, None)


def test_fits_recover_what_was_planted() -> None:
    found = fit_table(comm_table(sweep(seconds, world_size=2, octaves=18, noise=0.05)), 2).set_index("operation")
    assert len(found) == len(VARIANTS)
    for operation, rate in (("all_reduce", 1e9), ("broadcast", 4e9)):
        row = found.loc[operation]
        assert row["latency_s"] == pytest.approx(1e-4, rel=0.1)
        assert row["bandwidth_bytes_per_s"] == pytest.approx(rate, rel=0.1)
        assert row["bandwidth_bytes_per_s_lo"] < row["bandwidth_bytes_per_s"] < row["bandwidth_bytes_per_s_hi"]
        assert row["busbw_bytes_per_s"] == pytest.approx(row["bandwidth_bytes_per_s"] * bus_factor(operation, 2))
        assert 0 < row["fit_error_frac"] < 0.1
