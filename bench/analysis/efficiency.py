"""Where each step's time goes: lost efficiency as factors that multiply back to the whole, from the arms of the meter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.arms import Arms, arms
from bench.analysis.statistics import Estimate, around, interval_of_difference, mean
from bench.plan.cell import Cell
from bench.results.record import Record

_CELL = [
    *("model", "contender", "strategy", "scaling", "setting", "keeps", "world_size", "grad_accum_steps"),
    *("micro_batch_size", "global_batch_size", "precision"),
]
FACTORS = [
    *("load_balance", "serialization", "transfer", "communication_efficiency", "parallel_efficiency"),
    *("compute_scaling", "global_efficiency", "measured_efficiency", "efficiency"),
]
# Seconds of one arm less those of another: may be below zero.
_DIFFERENCES = ["imbalance_s", "wait_s", "transfer_s", "exposed_comm_s"]
COLUMNS = [
    *(*_CELL, "launches", *FACTORS, "reconciliation_error", "reconciliation_tolerance", "reconciled"),
    *("baseline_world_size", "useful_s", "slowest_useful_s", "sync_s", "full_s", "imbalance_s", "wait_s", "transfer_s"),
    *("exposed_comm_s", "step_time_s", "meter_overhead_frac", "straggler", "oversubscribed", "paced", "cell_id"),
    *(f"{name}_{end}" for name in (*FACTORS, *_DIFFERENCES) if name != "measured_efficiency" for end in ("lo", "hi")),
]
RANK_COLUMNS = [
    *(*_CELL, "launches", "oversubscribed", "paced", "cell_id", "rank", "hostname", "useful_s", "wait_s", "straggler"),
]

# The product and the directly measured efficiency come from different launches, whose difference is not known from few of
# them: below this they are not told apart.
LEAST_TOLERANCE = 0.03


def efficiency_table(records: list[Record], scaling: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The efficiency tree of each cell (COLUMNS), and the seconds of each of its ranks (RANK_COLUMNS).

    `records`: attribution launches that passed the gates; others are passed over. `scaling`: rows of `scaling_table`,
    which give each cell's directly measured efficiency, its baseline and its step time without the meter.

    With U[r,k] the seconds of rank r in step k of the arm `local`, and T_sync, T_full the slowest rank's mean step:
    load_balance = sum_k mean_r U / sum_k max_r U; serialization = mean_k max_r U / T_sync; transfer = T_sync / T_full;
    communication_efficiency = serialization x transfer; parallel_efficiency = load_balance x communication_efficiency;
    compute_scaling = useful seconds per token and rank at the baseline over the same here; global_efficiency =
    parallel_efficiency x compute_scaling. Several launches of a cell: the mean of their seconds.

    measured_efficiency is what global_efficiency is held to: efficiency, which the timing launches measure, and where the
    baseline has several ranks, whose own losses are not in it, that times the baseline's parallel_efficiency.
    reconciliation_error = |global_efficiency / measured_efficiency - 1|; `reconciled` compares it with the tolerance: two
    joint standard errors, at least LEAST_TOLERANCE. meter_overhead_frac = median step of the metered arm `full` /
    step_time_s - 1. NAME_lo and NAME_hi are 95 % intervals over attribution launches (over timing launches for `efficiency`);
    one launch has none. What is unknown is missing.

    Source: the multiplicative model of POP (Performance Optimisation and Productivity), measured here by ablation.
    """
    measured: dict[str, list[tuple[Record, Arms]]] = {}
    for record in records:
        found = arms(record)
        if found is not None:
            measured.setdefault(record.cell.id, []).append((record, found))
    known = {
        str(row["cell_id"]): {str(name): value for name, value in row.items()} for row in scaling.to_dict("records")
    }
    rows = {cell_id: _row(launches, known.get(cell_id)) for cell_id, launches in measured.items()}
    for row in rows.values():
        _against_baseline(row, rows.get(str(row["baseline_cell_id"])))
    order = {cell_id: place for place, cell_id in enumerate(scaling["cell_id"])}
    ordered = sorted(rows, key=lambda cell_id: order.get(cell_id, len(order)))
    table = pd.DataFrame([rows[cell_id] for cell_id in ordered], columns=COLUMNS)
    ranks = [entry for cell_id in ordered for entry in _rank_rows(rows[cell_id], measured[cell_id])]
    return table, pd.DataFrame(ranks, columns=RANK_COLUMNS)


def _row(launches: list[tuple[Record, Arms]], known: dict[str, Any] | None) -> dict[str, Any]:
    """What the launches of one cell say by themselves, beside what is known of the cell from its timing launches."""
    cell = launches[0][0].cell
    useful_s, slowest_s, sync_s, full_s, full_median_s = np.mean(
        [(a.useful.mean_s, a.useful.slowest_s, a.sync_s, a.full_s, a.full_median_s) for _, a in launches], axis=0
    ).tolist()
    stragglers = {found.useful.straggler for _, found in launches}
    row: dict[str, Any] = {
        **cell.model_dump(include={*_CELL}),
        "contender": cell.contender,
        # A cell without timing launches has no other words for what sets it apart.
        "setting": _dealt(cell) if cell.data else "",
        "keeps": f"accumulation {cell.grad_accum_steps}",
        "global_batch_size": cell.global_batch_size,
        "paced": cell.paced,
        "cell_id": cell.id,
        **{
            name: (known or {}).get(name)
            for name in (
                *("oversubscribed", "step_time_s", "efficiency", "efficiency_lo", "efficiency_hi", "baseline_cell_id"),
            )
        },
        "launches": len(launches),
        **_parts(useful_s, slowest_s, sync_s, full_s),
        # A rank that only one of several launches names is not named.
        "straggler": stragglers.pop() if len(stragglers) == 1 else None,
        "error_frac": _joint([found.error_frac for _, found in launches]) / len(launches),
        "useful_error_frac": _joint([found.useful.error_frac for _, found in launches]) / len(launches),
        "tokens_per_rank": float(np.mean([_tokens_per_rank(record) for record, _ in launches])),
    }
    each = [_parts(a.useful.mean_s, a.useful.slowest_s, a.sync_s, a.full_s) for _, a in launches]
    for name in FACTORS[:5]:
        _set_interval(row, name, around(row[name], [one[name] for one in each]).interval())
    for name in _DIFFERENCES:
        _set_interval(row, name, interval_of_difference([one[name] for one in each]))
    row["parallel_efficiencies"] = [one["parallel_efficiency"] for one in each]
    row["useful"], row["full"] = (mean([one[name] for one in each]) for name in ("useful_s", "full_s"))
    if known is not None:
        row.update({name: known[name] for name in ("contender", "setting", "keeps", "baseline_world_size")})
        row["meter_overhead_frac"] = full_median_s / row["step_time_s"] - 1
    return row


def _tokens_per_rank(record: Record) -> float:
    """Tokens of a step over ranks, those of the blocks that were measured."""
    tokens = [rank.attribution.block_tokens for rank in record.ranks if rank.attribution is not None]
    if all(tokens):
        return float(np.mean(tokens))
    return record.cell.tokens_per_step / record.cell.world_size


def _parts(useful_s: float, slowest_s: float, sync_s: float, full_s: float) -> dict[str, float]:
    """The seconds of a step, and the factors that need no baseline."""
    return {
        "useful_s": useful_s,
        "slowest_useful_s": slowest_s,
        "sync_s": sync_s,
        "full_s": full_s,
        "imbalance_s": slowest_s - useful_s,
        "wait_s": sync_s - slowest_s,
        "transfer_s": full_s - sync_s,
        "exposed_comm_s": full_s - slowest_s,
        "load_balance": useful_s / slowest_s,
        "serialization": slowest_s / sync_s,
        "transfer": sync_s / full_s,
        "communication_efficiency": slowest_s / full_s,
        "parallel_efficiency": useful_s / full_s,
    }


def _set_interval(row: dict[str, Any], name: str, interval: tuple[float, float] | None) -> None:
    row[f"{name}_lo"], row[f"{name}_hi"] = interval or (None, None)


def _joint(errors: list[float]) -> float:
    """Independent errors together; those that nobody knows are left out."""
    return float(np.sqrt(np.nansum(np.square(errors))))


def _against_baseline(row: dict[str, Any], base: dict[str, Any] | None) -> None:
    """compute_scaling, global_efficiency and whether they agree with the measured efficiency."""
    if base is None or row["oversubscribed"] or base["oversubscribed"]:
        return
    per_token_s, base_per_token_s = (which["useful_s"] / which["tokens_per_rank"] for which in (row, base))
    row["compute_scaling"] = base_per_token_s / per_token_s
    row["global_efficiency"] = row["parallel_efficiency"] * row["compute_scaling"]
    # The seconds of both cells decide these two; of what is multiplied, the useful seconds here cancel.
    for name, seconds in (("compute_scaling", "useful"), ("global_efficiency", "full")):
        if row is base:
            exact = name == "compute_scaling"
            found = Estimate(1.0, 0.0, 1.0) if exact else around(row[name], row["parallel_efficiencies"])
        else:
            found = base["useful"] / row[seconds]
        _set_interval(row, name, replace(found, value=row[name]).interval())
    if pd.isna(row["efficiency"]):
        return
    own_losses = base["parallel_efficiency"] if row["baseline_world_size"] > 1 else 1.0
    row["measured_efficiency"] = row["efficiency"] * own_losses
    row["reconciliation_error"] = abs(row["global_efficiency"] / row["measured_efficiency"] - 1)
    joint = 2 * _joint([row["error_frac"], base["error_frac"], base["useful_error_frac"]])
    row["reconciliation_tolerance"] = max(LEAST_TOLERANCE, joint)
    row["reconciled"] = bool(row["reconciliation_error"] <= row["reconciliation_tolerance"])


def _rank_rows(row: dict[str, Any], launches: list[tuple[Record, Arms]]) -> list[dict[str, Any]]:
    useful = np.mean([found.useful.by_rank for _, found in launches], axis=0)
    return [
        {
            **row,
            "rank": rank.rank,
            "hostname": rank.hostname,
            "useful_s": float(useful_s),
            "wait_s": row["sync_s"] - float(useful_s),
            "straggler": rank.rank == row["straggler"],
        }
        for rank, useful_s in zip(launches[0][0].ranks, useful, strict=True)
    ]


def _dealt(cell: Cell) -> str:
    """What the ranks train on, and how it is dealt to them."""
    return ", ".join([cell.data, cell.partition, *(["costs measured"] if cell.partition_cost == "measured" else [])])
