"""How evenly the ranks are loaded where their sequences are unequal: what was reckoned, beside what was measured."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.arms import useful
from bench.results.frame import input_frac, padding_frac
from bench.results.record import Record

BALANCE_COLUMNS = [
    *("model", "strategy", "partition", "partition_cost", "data", "slow_rank_frac", "scaling", "world_size"),
    *("grad_accum_steps", "micro_batch_size", "predicted_load_balance", "load_balance", "step_time_s"),
    *("predicted_step_time_s", "best_step_time_s", "fitted_per_token_s", "fitted_per_pair_s", "fitted_error_s"),
    *("padding_frac", "input_frac", "paced", "launches", "cell_id"),
]


def balance_table(records: list[Record], scaling: pd.DataFrame) -> pd.DataFrame:
    """One row a cell whose ranks have unequal sequences, or one of which is slow (BALANCE_COLUMNS), in the order of `scaling`.

    `records`: launches that passed the gates. `scaling`: rows of `scaling_table`, which give step_time_s. padding_frac and
    input_frac (of the rank that waited longest for its batches) are those of the windows, means over launches.

    With C[r,k] what the sequences of rank r in step k were reckoned to cost, on a slow rank that much more:
    predicted_load_balance = sum_k mean_r C / sum_k max_r C. load_balance is the same of the seconds that were measured in the
    arm `local`, on the same batches; without an attribution launch it is missing, and the prediction is for the window.
    Where sequences were dealt by measured costs, C in it is by these, a L + b L^2 for a sequence of L tokens: a is
    fitted_per_token_s, b fitted_per_pair_s, seconds of a forward pass, means over launches; half of the passes that they were
    fitted to are off by less than fitted_error_s, the largest over launches.
    Of paced models, whose cost is in seconds: predicted_step_time_s = median_k max_r C in the window, and best_step_time_s =
    median_k sum_r C / sum_r (1 / slowness of r), where nobody waits. Real arithmetic and communication come on top.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        if record.cell.own_pace:
            continue  # what a step costs is not what it waits for
        if (not record.cell.equal_lengths or record.cell.slow_rank_frac) and all(rank.costs for rank in record.workers):
            cells.setdefault(record.cell.id, []).append(record)
    known = {row["cell_id"]: row for row in scaling.to_dict("records")}
    order = {cell_id: place for place, cell_id in enumerate(known)}
    rows = [
        _row(cells[cell_id], known.get(cell_id, {}))
        for cell_id in sorted(cells, key=lambda c: order.get(c, len(order)))
    ]
    return pd.DataFrame(rows, columns=BALANCE_COLUMNS)


def _row(launches: list[Record], known: dict[Any, Any]) -> dict[str, Any]:
    cell = launches[0].cell
    metered = [record for record in launches if record.attribution is not None]
    measured = [found.load_balance for record in metered if (found := useful(record)) is not None]
    blocks = [costs for record in metered if (costs := _block_costs(record)) is not None]
    windows = [_window_costs(record) for record in launches]
    dealt_by = [
        _window_fitted_costs(record) if record.fitted_cost is not None else _window_costs(record) for record in launches
    ]
    fitted = [record.fitted_cost for record in launches if record.fitted_cost is not None]
    slowness = _slowness(launches[0])[:, 0]
    row: dict[str, Any] = {
        **cell.model_dump(include={*BALANCE_COLUMNS}),
        "data": cell.data,
        "paced": cell.paced,
        "cell_id": cell.id,
        "launches": len(launches),
        "predicted_load_balance": statistics.fmean(_balance(costs) for costs in blocks or dealt_by),
        "load_balance": statistics.fmean(measured) if measured else None,
        "step_time_s": known.get("step_time_s"),
        "fitted_per_token_s": _mean([cost.per_token_s for cost in fitted]),
        "fitted_per_pair_s": _mean([cost.per_pair_s for cost in fitted]),
        "fitted_error_s": max((cost.error_s for cost in fitted), default=None),
        "padding_frac": _mean([padding_frac(record) for record in launches]),
        "input_frac": _mean([input_frac(record) for record in launches]),
    }
    if cell.paced:
        row["predicted_step_time_s"] = statistics.fmean(float(np.median(costs.max(axis=0))) for costs in windows)
        best = [(costs / slowness[:, None]).sum(axis=0) / (1 / slowness).sum() for costs in windows]
        row["best_step_time_s"] = statistics.fmean(float(np.median(one)) for one in best)
    return row


Costs = np.ndarray[Any, np.dtype[np.float64]]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _balance(costs: Costs) -> float:
    return float(costs.mean(axis=0).sum() / costs.max(axis=0).sum())


def _slowness(record: Record) -> Costs:
    """How much longer each rank takes for the same, (world_size, 1)."""
    slowness = np.ones((len(record.workers), 1))
    slowness[-1] += record.cell.slow_rank_frac
    return slowness


def _window_costs(record: Record) -> Costs:
    """(world_size, steps) of the window."""
    first = record.work.num_warmup_steps if record.work is not None else 0
    return np.array([rank.costs[first:] for rank in record.workers]) * _slowness(record)


def _window_fitted_costs(record: Record) -> Costs:
    """(world_size, steps) of the window by the measured cost, from the first step that was dealt by it."""
    assert record.fitted_cost is not None
    first = record.work.num_warmup_steps if record.work is not None else 0
    skipped = max(0, first - record.fitted_cost.from_step)
    return np.array([rank.fitted_costs[skipped:] for rank in record.workers]) * _slowness(record)


def _block_costs(record: Record) -> Costs | None:
    """(world_size, steps) of the batches that every block of an attribution launch trains on, by what they were dealt by."""
    arms = [rank.attribution for rank in record.ranks if rank.attribution is not None]
    found = [arm.block_fitted_costs or arm.block_costs for arm in arms]
    return np.array(found) * _slowness(record) if found and all(found) else None
