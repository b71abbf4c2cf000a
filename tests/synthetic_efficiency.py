"""Rows of the efficiency table and of its ranks, with known arithmetic: what charts, tables and words are held to."""

from __future__ import annotations

from typing import Any

import pandas as pd

STRATEGIES = ("ddp", "zero0", "zero1", "zero2", "zero3")
# What has an interval in charts.
_SURE = ("parallel_efficiency", "global_efficiency", "efficiency", "exposed_comm_s")
# Seconds that waiting and transfer cost at two ranks.
_WAIT = {"ddp": 0.004, "zero0": 0.006, "zero1": 0.009, "zero2": 0.014, "zero3": 0.03}
_TRANSFER = {"ddp": 0.008, "zero0": 0.012, "zero1": 0.016, "zero2": 0.02, "zero3": 0.05}


def cell(
    useful_s: list[float],
    wait_s: float,
    transfer_s: float,
    *,
    base_useful_s: float | None = 0.1,
    baseline_world_size: int = 1,
    measured: float | None = None,
    meter_s: float = 0.0,
    straggler: int | None = None,
    sure: float | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One cell whose rank r computes for useful_s[r] in every step: its efficiency row and its ranks' rows.

    `base_useful_s` is the baseline's useful time for the same work, None where there is no baseline; `measured` the
    efficiency by timing launches, by default what the tree says; `meter_s` what the meter adds to a step; `sure` the half width
    of every interval as a fraction, None where there is none.
    """
    size = len(useful_s)
    mean_s, slowest_s = sum(useful_s) / size, max(useful_s)
    sync_s = slowest_s + wait_s
    full_s = sync_s + transfer_s
    parallel = mean_s / full_s
    scaled = None if base_useful_s is None else base_useful_s / mean_s
    whole = None if scaled is None else parallel * scaled
    direct = whole if measured is None else measured
    error = None if whole is None or direct is None else abs(whole / direct - 1)
    row: dict[str, Any] = {
        "model": "gpt-nano",
        "contender": "ddp",
        "scaling": "weak",
        "setting": "",
        "keeps": "accumulation 1",
        "world_size": size,
        "grad_accum_steps": 1,
        "micro_batch_size": 4,
        "global_batch_size": 4 * size,
        "precision": "fp32",
        "launches": 1,
        "load_balance": mean_s / slowest_s,
        "serialization": slowest_s / sync_s,
        "transfer": sync_s / full_s,
        "communication_efficiency": slowest_s / full_s,
        "parallel_efficiency": parallel,
        "compute_scaling": scaled,
        "global_efficiency": whole,
        "measured_efficiency": direct,
        "efficiency": direct,
        "reconciliation_error": error,
        "reconciliation_tolerance": None if error is None else 0.03,
        "reconciled": None if error is None else error <= 0.03,
        "baseline_world_size": None if base_useful_s is None else float(baseline_world_size),
        "useful_s": mean_s,
        "slowest_useful_s": slowest_s,
        "sync_s": sync_s,
        "full_s": full_s,
        "imbalance_s": slowest_s - mean_s,
        "wait_s": wait_s,
        "transfer_s": transfer_s,
        "exposed_comm_s": wait_s + transfer_s,
        "step_time_s": full_s - meter_s,
        "meter_overhead_frac": full_s / (full_s - meter_s) - 1,
        "straggler": straggler,
        "oversubscribed": False,
        "paced": False,
        **changes,
    }
    for name in _SURE:
        ends = (None, None) if sure is None or row[name] is None else (row[name] * (1 - sure), row[name] * (1 + sure))
        row[f"{name}_lo"], row[f"{name}_hi"] = ends
    row["strategy"] = row["contender"].partition(" ")[0]
    row.setdefault("cell_id", f"{row['model']}_{row['contender']}_w{size}_g{row['grad_accum_steps']}_{row['scaling']}")
    ranks = [
        {
            **row,
            "rank": rank,
            "hostname": f"node{rank // 8}",
            "useful_s": own_s,
            "wait_s": sync_s - own_s,
            "straggler": rank == straggler,
        }
        for rank, own_s in enumerate(useful_s)
    ]
    return row, ranks


def frames(*cells: tuple[dict[str, Any], list[dict[str, Any]]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The efficiency frame and the ranks frame of these cells."""
    columns = ["model", "contender", "strategy", "scaling", "setting", "keeps", "world_size", "grad_accum_steps"]
    ranks = pd.DataFrame([rank for _, own in cells for rank in own])
    return (
        pd.DataFrame([row for row, _ in cells]),
        ranks[[*columns, "cell_id", "rank", "hostname", "useful_s", "wait_s", "straggler"]],
    )


def useful_of(size: int, mean_s: float, slow: float = 0.0, slow_rank: int = 0) -> list[float]:
    """Seconds of each rank: a little uneven, one of them slower by `slow` of the mean."""
    own = [mean_s * (1 + 0.01 * ((7 * rank) % 5 - 2) * (size > 1)) for rank in range(size)]
    own[slow_rank] += slow * mean_s
    return own


def sweep(
    models: tuple[str, ...] = ("gpt-nano", "gpt2-small"),
    strategies: tuple[str, ...] = STRATEGIES,
    sizes: tuple[int, ...] = (1, 2, 4, 8),
    slow: float = 0.0,
    **changes: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A plausible sweep: losses grow with the ranks, and the last rank is slower by `slow` where there are several."""
    cells = []
    for number, model in enumerate(models):
        for strategy in strategies:
            for size in sizes:
                factor = (1 + 2 * number) * (size - 1) ** 0.6
                own = useful_of(size, 0.1 * (1 + 0.02 * (size - 1)), slow if size > 1 else 0.0, size - 1)
                wait_s = _WAIT[strategy] * factor if size > 1 else -0.0004
                transfer_s = _TRANSFER[strategy] * factor if size > 1 else 0.0003
                fields: dict[str, Any] = {
                    "model": model,
                    "contender": strategy,
                    "straggler": size - 1 if slow and size > 1 else None,
                    "meter_s": 0.001,
                    "base_useful_s": 0.1 if len(sizes) > 1 else None,
                    **changes,
                }
                # What the last strategy's largest cell is measured to be, its tree does not explain.
                if (strategy, size) == (strategies[-1], max(sizes)) and len(sizes) > 1:
                    fields["measured"] = 0.6
                cells.append(cell(own, wait_s, transfer_s, **fields))
    return frames(*cells)


def noisy() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Factors above 1, parts below zero, a cell without baseline; names that a chart must not read as a formula."""
    name = "zero2 (my_$x$_config.json)"
    return frames(
        cell([0.1], -0.001, 0.0004),
        cell([0.1, 0.098], -0.006, 0.02, base_useful_s=0.115),
        cell([0.1], 0.001, 0.0004, contender=name),
        cell(
            useful_of(4, 0.12, 0.5),
            0.02,
            -0.012,
            contender=name,
            base_useful_s=None,
            oversubscribed=True,
            straggler=0,
        ),
    )
