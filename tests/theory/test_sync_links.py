"""Ways to synchronise on shaped links and with a slow worker: what this repository's rows say, and two launches made anew."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.theory.slow_worker import predicted_share, slow_worker_rows
from bench.theory.sync_links import (
    CONTENDERS,
    EXCHANGE_BOUND,
    cell_of,
    crossing_rows,
    crossings_mbit_per_s,
    measured_crossing_mbit_per_s,
    table_rows,
)
from reports.sync_links import crossing, slow_worker, ways
from tests.sync_links import launch, shaped, step_s


def row_of(contender: str) -> pd.Series:
    rows = table_rows()
    [place] = rows.index[rows["contender"] == contender]
    return rows.loc[place]


def test_every_way_is_in_the_table() -> None:
    assert sorted(table_rows()["contender"]) == sorted(
        cell_of(EXCHANGE_BOUND, strategy, options).contender for strategy, options in CONTENDERS
    )


def test_theory_misses_no_way_by_much() -> None:
    """From one host's step, the rate and what a small call costs. Not known to it: what the host takes to begin each of the
    fifteen calls of PowerSGD, and that a parameter server's workers, which begin together, send together at first."""
    errors = table_rows().set_index("strategy")["error_frac"]
    assert errors.drop(["ddp_powersgd", "param_server"]).abs().max() < 0.05
    assert errors[["ddp_powersgd", "param_server"]].between(-0.20, 0.0).all()
    assert crossing_rows()["error_frac"].abs().max() < 0.05


def test_half_precision_halves_exposed_communication_and_bytes() -> None:
    plain, half = row_of("ddp"), row_of("ddp_fp16")
    assert half["exposed_median_s"] / plain["exposed_median_s"] == pytest.approx(0.5, rel=0.10)
    assert half["bytes_per_step_per_rank"] / plain["bytes_per_step_per_rank"] == 0.5


def test_averages_every_eighth_step_communicate_a_seventh_at_most() -> None:
    plain, averaged = row_of("ddp"), row_of("local_sgd (every_steps 8)")
    for name in ("exposed_median_s", "bytes_per_step_per_rank"):
        assert 0 < averaged[name] <= plain[name] / 7, name


def test_the_crossing_is_where_theory_says() -> None:
    measured, expected = crossings_mbit_per_s(crossing_rows())
    assert measured == pytest.approx(expected, rel=0.20)


def test_curves_that_never_cross_have_no_crossing() -> None:
    apart = crossing_rows().assign(step_time_s=lambda rows: rows["step_time_s"] + 9 * (rows["strategy"] == "ddp"))
    with pytest.raises(ValueError, match="cross 0 times"):
        measured_crossing_mbit_per_s(apart)


def test_with_a_slow_worker_nobody_waits_but_plain_ddp() -> None:
    rows = slow_worker_rows()
    slowed = rows[rows["slow_rank_frac"] > 0].set_index(["strategy", "partition"])
    assert len(slowed) == 3
    for key in (("param_server", "contiguous"), ("ddp", "dynamic")):
        assert 0.85 <= slowed.loc[key, "share"] <= 1.0, key
    plain = slowed.loc[("ddp", "contiguous")]
    assert plain["share"] == pytest.approx(plain["predicted_share"], rel=0.10)
    # Without any time beside the sleeps: eight workers at half speed, of seven and a half.
    assert predicted_share("ddp", "contiguous", 1.0, 0.96) == pytest.approx(8 / 2 / 7.5)


def test_all_three_are_drawn() -> None:
    rows = crossing_rows()
    for figure in (ways(table_rows()), crossing(rows, 90.0, 100.0), slow_worker(slow_worker_rows())):
        assert all(axis.lines or axis.patches for axis in figure.axes)


@pytest.mark.hosts
def test_today_half_precision_halves_what_ddp_adds(tmp_path: Path) -> None:
    """Two hosts, a step each way on links of 100 Mbit/s, less the same step on one host."""
    cells = {name: cell_of(EXCHANGE_BOUND, name, {}, 2) for name in ("ddp", "ddp_fp16")}
    alone_s = step_s(launch(cell_of(EXCHANGE_BOUND, "ddp", {}, 1), tmp_path))
    with shaped(2, 100.0) as lab:
        added_s = {name: step_s(launch(cell, tmp_path, lab)) - alone_s for name, cell in cells.items()}
    assert added_s["ddp_fp16"] / added_s["ddp"] == pytest.approx(0.5, rel=0.15)
