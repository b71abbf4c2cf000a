"""The efficiency tree is the arithmetic of measurement.md: factors that multiply to the whole."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.efficiency import COLUMNS, RANK_COLUMNS, efficiency_table
from bench.analysis.scaling import scaling_table
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from tests import synthetic
from tests.attributed import attributed


def cell(world_size: int, **fields: Any) -> Cell:
    return Cell(**{"model": "paced-nano", "strategy": "ddp", "steps": 6, "world_size": world_size, **fields})


def table(records: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    scaling = scaling_table(to_frame(records))
    return efficiency_table([record for record in records if record.kind == "attribution"], scaling)


def row(records: list[Record], world_size: int) -> Any:
    tree, _ = table(records)
    return tree[tree["world_size"] == world_size].iloc[0]


ALONE = [
    synthetic.launch(cell(1), step_times_s=[[0.40] * 6]),
    attributed(cell(1), [0.40], 0.40, 0.40),
]


def test_the_factors_of_a_known_step() -> None:
    """Ranks of 0.4 and 0.5 s; waiting adds 0.05 s, bytes 0.15 s; alone a rank takes 0.4 s."""
    records = [
        *ALONE,
        synthetic.launch(cell(2), step_times_s=[[0.70] * 6] * 2),
        attributed(cell(2), [0.40, 0.50], 0.55, 0.70),
    ]
    found = row(records, 2)
    assert found["load_balance"] == pytest.approx(0.45 / 0.50)
    assert found["serialization"] == pytest.approx(0.50 / 0.55)
    assert found["transfer"] == pytest.approx(0.55 / 0.70)
    assert found["communication_efficiency"] == pytest.approx(0.50 / 0.70)
    assert found["parallel_efficiency"] == pytest.approx(0.45 / 0.70)
    assert found["compute_scaling"] == pytest.approx(0.40 / 0.45)
    assert found["global_efficiency"] == pytest.approx(0.40 / 0.70)
    assert found["efficiency"] == pytest.approx(0.40 / 0.70)
    assert found["reconciliation_error"] == pytest.approx(0, abs=1e-12)
    assert bool(found["reconciled"]) is True
    assert [found[name] for name in ("useful_s", "slowest_useful_s", "sync_s", "full_s")] == pytest.approx(
        [0.45, 0.50, 0.55, 0.70]
    )
    assert found["imbalance_s"] == pytest.approx(0.05)
    assert found["wait_s"] == pytest.approx(0.05)
    assert found["transfer_s"] == pytest.approx(0.15)
    assert found["exposed_comm_s"] == pytest.approx(0.20)
    assert found["meter_overhead_frac"] == pytest.approx(0)
    assert found["straggler"] == 1


@given(
    useful=st.lists(st.floats(0.01, 10), min_size=2, max_size=8),
    wait_s=st.floats(0, 5),
    transfer_s=st.floats(0, 5),
    alone_s=st.floats(0.01, 10),
)
def test_factors_multiply_and_seconds_add_to_the_whole(
    useful: list[float], wait_s: float, transfer_s: float, alone_s: float
) -> None:
    sync_s = max(useful) + wait_s
    full_s = sync_s + transfer_s
    size = len(useful)
    found = row(
        [
            synthetic.launch(cell(1), step_times_s=[[alone_s] * 6]),
            attributed(cell(1), [alone_s], alone_s, alone_s),
            synthetic.launch(cell(size), step_times_s=[[full_s] * 6] * size),
            attributed(cell(size), useful, sync_s, full_s),
        ],
        size,
    )
    product = found["load_balance"] * found["serialization"] * found["transfer"] * found["compute_scaling"]
    assert product == pytest.approx(found["global_efficiency"])
    assert product == pytest.approx(alone_s / full_s)
    assert found["useful_s"] + found["imbalance_s"] + found["wait_s"] + found["transfer_s"] == pytest.approx(full_s)
    assert 0 < found["load_balance"] <= 1 + 1e-12


def test_strong_scaling_compares_seconds_a_token() -> None:
    """Two ranks do half the tokens each in half the seconds: compute scales perfectly."""
    alone, two = (cell(n, scaling="strong", micro_batch_size=4 // n) for n in (1, 2))
    records = [
        synthetic.launch(alone, step_times_s=[[0.8] * 6]),
        attributed(alone, [0.8], 0.8, 0.8),
        synthetic.launch(two, step_times_s=[[0.5] * 6] * 2),
        attributed(two, [0.4, 0.4], 0.4, 0.5),
    ]
    found = row(records, 2)
    assert found["compute_scaling"] == pytest.approx(1)
    assert found["global_efficiency"] == pytest.approx(0.8)
    assert found["efficiency"] == pytest.approx(0.8)


def test_a_product_that_leaves_the_measured_efficiency_is_not_reconciled() -> None:
    records = [
        *ALONE,
        synthetic.launch(cell(2), step_times_s=[[0.60] * 6] * 2),
        attributed(cell(2), [0.40, 0.40], 0.45, 0.50),
    ]
    found = row(records, 2)
    assert found["reconciliation_error"] == pytest.approx(0.8 / (0.4 / 0.6) - 1)
    assert bool(found["reconciled"]) is False
    assert found["meter_overhead_frac"] == pytest.approx(0.5 / 0.6 - 1)


def test_a_baseline_of_several_ranks_keeps_its_own_losses_out() -> None:
    """From two ranks on: the measured efficiency of four is against two, who lose a fifth themselves."""
    records = [
        synthetic.launch(cell(2), step_times_s=[[0.50] * 6] * 2),
        attributed(cell(2), [0.40, 0.40], 0.45, 0.50),
        synthetic.launch(cell(4), step_times_s=[[0.64] * 6] * 4),
        attributed(cell(4), [0.40] * 4, 0.45, 0.64),
    ]
    found = row(records, 4)
    assert found["baseline_world_size"] == 2
    assert found["efficiency"] == pytest.approx(0.50 / 0.64)
    assert found["global_efficiency"] == pytest.approx(0.40 / 0.64)
    assert found["reconciliation_error"] == pytest.approx(0, abs=1e-12)


def test_nothing_is_claimed_without_a_baseline_or_where_oversubscribed() -> None:
    tree, ranks = table([attributed(cell(2), [0.4, 0.4], 0.45, 0.5)])
    assert list(tree.columns) == COLUMNS and list(ranks.columns) == RANK_COLUMNS
    assert tree["load_balance"].notna().all()
    assert tree[["compute_scaling", "global_efficiency", "efficiency", "reconciled"]].isna().all(axis=None)
    crowded = [
        record.model_copy(
            update={"cell": (real := record.cell.model_copy(update={"model": "gpt-nano", "seq_len": 64}))}
            | {"environment": synthetic.environment(real, num_cores=1)}
        )
        for record in [
            *ALONE,
            synthetic.launch(cell(2), step_times_s=[[0.7] * 6] * 2),
            attributed(cell(2), [0.4, 0.5], 0.55, 0.7),
        ]
    ]
    tree, _ = table(crowded)
    assert tree[tree["world_size"] == 2][["global_efficiency", "efficiency", "reconciled"]].isna().all(axis=None)


def test_no_attribution_launch_is_an_empty_table() -> None:
    tree, ranks = table([synthetic.launch(cell(1))])
    assert tree.empty and ranks.empty
    assert list(tree.columns) == COLUMNS and list(ranks.columns) == RANK_COLUMNS


@pytest.mark.parametrize(
    ("useful", "jitter", "named"),
    [
        ([0.40, 0.40, 0.45, 0.40], [0.0, 0.001, -0.001], 2),
        ([0.40, 0.404, 0.40, 0.40], [0.0, 0.0, 0.0], None),  # a percent is no straggler
        ([0.40, 0.40, 0.45, 0.40], [0.1, -0.1, 0.0], None),  # five percent inside noise of twenty is none either
        ([0.40, 0.40, 0.55, 0.40], [0.02, -0.02, 0.0], 2),
        ([0.40], [0.0, 0.0, 0.0], None),
    ],
)
def test_a_straggler_is_named_beyond_noise_alone(useful: list[float], jitter: list[float], named: int | None) -> None:
    size = len(useful)
    tree, ranks = table([attributed(cell(size), useful, 0.6, 0.7, jitter_s=jitter)])
    straggler = tree["straggler"].iloc[0]
    assert (None if straggler is None or math.isnan(straggler) else straggler) == named
    assert list(ranks.loc[ranks["straggler"].astype(bool), "rank"]) == ([] if named is None else [named])
    assert list(ranks["useful_s"]) == pytest.approx([seconds + sum(jitter) / 3 for seconds in useful])
    assert list(ranks["wait_s"]) == pytest.approx([0.6 - seconds for seconds in useful])


def test_several_launches_are_averaged_and_a_straggler_needs_them_all() -> None:
    tree, ranks = table(
        [attributed(cell(2), [0.4, 0.5], 0.5, 0.6), attributed(cell(2), [0.4, 0.4], 0.5, 0.7)],
    )
    assert len(tree) == 1 and tree["launches"].iloc[0] == 2
    assert tree["full_s"].iloc[0] == pytest.approx(0.65)
    assert tree["load_balance"].iloc[0] == pytest.approx((0.45 + 0.4) / (0.5 + 0.4))
    assert tree["straggler"].isna().all()
    assert list(ranks["useful_s"]) == pytest.approx([0.4, 0.45])
