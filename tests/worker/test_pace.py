"""A rank that is slow gets less, as soon as it is known to be; nobody told the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.balance import balance_table
from bench.plan.cell import Cell
from bench.plan.workload import MEASURED_FROM_STEP
from tests import forked

pytestmark = [pytest.mark.slow, pytest.mark.alone]


# Under ZeRO-3 and FSDP2 ranks wait for each other's parameters in their forward passes.
@pytest.mark.parametrize(("strategy", "cost"), [("zero1", "flops"), ("zero3", "measured"), ("fsdp", "flops")])
def test_a_slow_rank_is_dealt_as_much_less_as_it_is_slower(strategy: str, cost: str, tmp_path: Path) -> None:
    cell = Cell(
        model="paced-nano",
        # A token sleeps 0.16 ms forward, and there is next to no arithmetic beside it.
        model_options={"num_layers": 2, "forward_s": 0.020, "backward_s": 0.0001, "hidden_size": 32, "vocab_size": 64},
        strategy=strategy,
        world_size=2,
        micro_batch_size=8,
        batching="padded",
        length_spread=0.8,
        partition="dynamic",
        partition_cost=cost,
        slow_rank_frac=0.5,
        steps=4,
        max_warmup_steps=12,
    )
    record = forked.train(cell, folder=tmp_path)
    costs = np.array([rank.costs for rank in record.ranks])
    # Three steps are dealt before anything is known: equally, as lengths allow.
    assert costs[1, :3].sum() / costs[0, :3].sum() == pytest.approx(1, abs=0.03)
    # 1 / 1.5, but for what each step costs beside its sleeps. Steps after these may be dealt by other costs.
    dealt = costs[:, 6:MEASURED_FROM_STEP]
    assert dealt[1].sum() / dealt[0].sum() == pytest.approx(1 / 1.5, rel=0.18)
    # All ranks knew the same: each batch was dealt whole.
    assert record.work is not None
    assert [sum(step) for step in zip(*(rank.tokens for rank in record.ranks), strict=True)] == record.work.batch_tokens
    [row] = balance_table([record], pd.DataFrame(columns=["cell_id"])).to_dict("records")
    assert row["partition_cost"] == cost
    if cost == "measured":
        assert record.fitted_cost is not None and record.work.num_warmup_steps == MEASURED_FROM_STEP
        assert [len(rank.fitted_costs) for rank in record.ranks] == [cell.steps] * 2
        assert row["fitted_per_token_s"] == record.fitted_cost.per_token_s
        assert row["fitted_per_pair_s"] == record.fitted_cost.per_pair_s
    else:
        assert record.fitted_cost is None and not any(rank.fitted_costs for rank in record.ranks)
