"""How fast each cell is, and how well it scales: one row a cell, against a baseline that is named beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.analysis.statistics import Estimate, mean
from bench.theory.flops import mfu, peak_flops_per_s

SURE = [
    *("step_time_s", "tokens_per_s", "tokens_per_s_per_rank", "speedup", "efficiency", "accumulation_gain", "mfu"),
]
"""Figures with a 95 % interval beside them, in the columns NAME_lo and NAME_hi."""

COLUMNS = [
    *("model", "strategy", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "global_batch_size"),
    *("precision", "outcome", "launches", "step_time_s", "tokens_per_s", "speedup", "efficiency", "baseline"),
    *("peak_memory_bytes", "oversubscribed", "paced", "launches_tried", "launch_spread_frac", "tokens_per_s_per_rank"),
    *("mfu", "accumulation_gain", "reason", "contender", "setting", "keeps", "cell_id", "model_options", "seq_len"),
    "profile",
    *("activation_checkpointing", "deepspeed_config", "corpus", "learning_rate", "weight_decay", "seed", "steps"),
    *("threads_per_rank", "num_nodes", "device_type", "device_name", "num_params", "flops_per_token"),
    *("base_memory_bytes", "replica_distance", "first_loss", "final_loss", "wall_s", "window_s", "outside_s"),
    *("baseline_world_size", "baseline_cell_id", "data", "partition", "slow_rank_frac", "padding_frac", "input_frac"),
    *("placement", "training", "num_workers", "equal_work", "drifting", "partition_cost"),
    *(f"{name}_{end}" for name in SURE for end in ("lo", "hi")),
]

_TEXT = [
    *(
        "baseline",
        "baseline_cell_id",
        "reason",
        "setting",
        "contender",
        "deepspeed_config",
        "device_type",
        "device_name",
    ),
    "oversubscribed",
]
_FLOATS = [
    *("step_time_s", "tokens_per_s", "speedup", "efficiency", "peak_memory_bytes", "launch_spread_frac", "num_params"),
    *("tokens_per_s_per_rank", "mfu", "accumulation_gain", "flops_per_token", "base_memory_bytes", "replica_distance"),
    *("first_loss", "final_loss", "wall_s", "window_s", "outside_s", "baseline_world_size", "threads_per_rank"),
    *(f"{name}_{end}" for name in SURE for end in ("lo", "hi")),
]

# Worst first: what a cell without any ok launch is said to have come to.
_SEVERITY = ["oom", "invalid", "crashed", "timeout", "unreachable", "skipped"]

# What cells have in common besides the axes of every figure (strategy, world size, accumulation, batch).
_SETTINGS = {
    "model_options": "{}",
    "seq_len": "seq_len {}",
    "precision": "{}",
    "profile": "profile {}",
    "corpus": "corpus {}",
    "data": "{}",
    "partition": "partition {}",
    "partition_cost": "costs {}",
    "slow_rank_frac": "slow rank {}",
    "activation_checkpointing": "activation checkpointing {}",
    "learning_rate": "learning rate {}",
    "weight_decay": "weight decay {}",
    "training": "{}",
    "seed": "seed {}",
    "threads": "threads per rank {}",
    "placement": "placement {}",
}
_SERIES = ["model", "contender", "scaling", *_SETTINGS]
_MEANS = ["wall_s", "window_s", "outside_s"]
_WORST = ["peak_memory_bytes", "base_memory_bytes", "replica_distance"]


def scaling_table(launches: pd.DataFrame) -> pd.DataFrame:
    """Speed, speed-up, efficiency and memory of each cell: one row a cell, columns COLUMNS, timing launches only.

    `launches`: rows of `to_frame`, judged; those of an A/A twin are left out. step_time_s is the mean over the cell's ok
    launches of each launch's median step; tokens_per_s = tokens_per_step / step_time_s; launch_spread_frac = slowest / fastest
    launch - 1, unknown for one launch. The figures named in SURE have 95 % intervals over launches; one launch has none, and
    a ratio has none unless both sides have.

    speedup = tokens_per_s / the baseline's; efficiency = speedup / (world_size / the baseline's world_size).

    A series is all cells that differ in nothing but world size (and in what follows from it, and in how many steps were
    measured, which is no other work); its baseline is its smallest ok world size, and a series with one ok world size has
    none. A weak series keeps grad_accum_steps and micro_batch_size. A strong series keeps the global batch and
    grad_accum_steps, so that ranks share out the micro-batch; a cell with no such partner at another world size joins the
    cells of equal global batch and micro-batch, where ranks share out the accumulation; `keeps` says which. Neither
    speedup nor efficiency is given where the row or its baseline is oversubscribed: such ranks wait for a core, not for
    each other. Against its own baseline a cell without `equal_work` has both all the same: how many more tokens it trains on,
    and not how far it gets.

    mfu = flops_per_token x tokens_per_s / (world_size x peak of the device at that precision), unknown without a peak
    and for paced models, which do not compute. What is unknown is missing.
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for launch in launches[(launches["kind"] == "timing") & ~launches["twin"].astype(bool)].to_dict("records"):
        cells.setdefault(launch["cell_id"], []).append({str(name): value for name, value in launch.items()})
    table = pd.DataFrame([_cell(tried) for tried in cells.values()], columns=[*COLUMNS, "threads", "estimate"])
    table = table.astype({**dict.fromkeys(_TEXT, object), **dict.fromkeys(_FLOATS, float)})
    if table.empty:
        return table[COLUMNS]
    table = _in_order(table)
    table["setting"] = _settings(table)
    table["series"], table["keeps"] = _series(table)
    _against_baseline(table)
    table["kin"] = _keys(table, [*_SERIES, "world_size", "global_batch_size"]).where(
        table["scaling"] == "strong", _keys(table, [*_SERIES, "world_size", "micro_batch_size"])
    )
    _against_least_accumulation(table)
    _own_intervals(table)
    return table[COLUMNS]


def _cell(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """One row for all launches of a cell."""
    ok = [launch for launch in tried if launch["outcome"] == "ok"]
    shown = ok or sorted(tried, key=lambda launch: _SEVERITY.index(launch["outcome"]))
    row = dict(shown[0])
    row.update(
        launches=len(ok),
        launches_tried=len(tried),
        # On GPUs the launcher, not the user, sets the threads, and some set them by world size: not a setting there.
        threads=row["threads_per_rank"] if row["device_type"] == "cpu" else None,
        **{name: _known(shown, name, statistics.fmean) for name in _MEANS},
    )
    if not ok:
        row.update(dict.fromkeys((*_WORST, "estimate", "step_time_s", "oversubscribed", "first_loss", "final_loss")))
        return row
    times = [launch["step_time_s"] for launch in ok]
    step_time = mean(times)
    row.update(
        reason=None,
        estimate=step_time,
        step_time_s=step_time.value,
        tokens_per_s=row["tokens_per_step"] / step_time.value,
        launch_spread_frac=max(times) / min(times) - 1 if len(times) > 1 else None,
        oversubscribed=any(launch["oversubscribed"] for launch in ok),
        final_loss=statistics.median(launch["final_loss"] for launch in ok),
        **{name: _known(ok, name, max) for name in _WORST},
    )
    row["tokens_per_s_per_rank"] = row["tokens_per_s"] / row["world_size"]
    row["mfu"] = _mfu(row)
    return row


def _known(rows: list[dict[str, Any]], name: str, reduce: Callable[[list[float]], float]) -> float | None:
    """The values that are known, reduced to one; None where none is."""
    values = [row[name] for row in rows if not pd.isna(row[name])]
    return reduce(values) if values else None


def _mfu(row: dict[str, Any]) -> float | None:
    """Model FLOPs utilisation; None where no peak is known, and for ranks that sleep or wait for a core."""
    if row["paced"] or row["oversubscribed"] or not isinstance(row["device_name"], str):
        return None
    peak = peak_flops_per_s(row["device_name"], row["precision"])
    return mfu(row["flops_per_token"], row["tokens_per_s"], row["world_size"], peak)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Small models before large, paced ones last, then by name, scaling, accumulation, strategy and world size."""
    # A model that never ran has no known size and comes last.
    size = table.groupby("model")["num_params"].transform("max").fillna(float("inf"))
    order = ["model", "scaling", "grad_accum_steps", "contender", "world_size"]
    return table.assign(size=size).sort_values(["paced", "size", *order], kind="stable", ignore_index=True)


def _settings(table: pd.DataFrame) -> pd.Series[str]:
    """What sets a row apart from the other rows of its model and scaling, in words; empty where all settings are equal.

    Rows of unequal settings are neither compared nor drawn in one figure. Skipped cells do not count as a variation: their
    batch is not the one that was asked for.
    """
    words: list[list[str]] = [[] for _ in range(len(table))]
    batch = {"weak": ("micro_batch_size", "micro-batch {}"), "strong": ("global_batch_size", "global batch {}")}
    for (_, scaling), group in table.groupby(["model", "scaling"], sort=False):
        name, text = batch[str(scaling)]
        for column, phrase in {**_SETTINGS, name: text}.items():
            asked = group.loc[group["outcome"] != "skipped", column]
            if asked.dropna().nunique() > 1 or (column == "model_options" and asked.nunique(dropna=False) > 1):
                for position, value in group[column].items():
                    if pd.notna(value) and value != "":
                        words[int(str(position))].append(phrase.format(value))
    return pd.Series([", ".join(parts) for parts in words], index=table.index, dtype=object)


def _keys(table: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    """One text a row, equal for rows that are equal in these columns, a missing value included."""
    values = table[columns].astype(object).itertuples(index=False, name=None)
    return pd.Series(["|".join(map(repr, row)) for row in values], index=table.index, dtype=object)


def _series(table: pd.DataFrame) -> tuple[pd.Series[str], pd.Series[str]]:
    """The series of each row, and what it keeps in words; see `scaling_table` for what a strong series keeps."""
    weak = _keys(table, [*_SERIES, "grad_accum_steps", "micro_batch_size"])
    by_accumulation = _keys(table, [*_SERIES, "global_batch_size", "grad_accum_steps"])
    by_micro_batch = "micro-batch " + _keys(table, [*_SERIES, "global_batch_size", "micro_batch_size"])
    partners = [table.groupby(key)["world_size"].transform("nunique") for key in (by_accumulation, by_micro_batch)]
    keeps_micro_batch = (table["scaling"] == "strong") & (partners[0] == 1) & (partners[1] > 1)
    series = by_accumulation.where(table["scaling"] == "strong", weak).where(~keeps_micro_batch, by_micro_batch)
    keeps = "accumulation " + table["grad_accum_steps"].astype(str)
    return series, keeps.where(~keeps_micro_batch, "micro-batch " + table["micro_batch_size"].astype(str))


def _base(table: pd.DataFrame, by: str, axis: str) -> pd.DataFrame:
    """What each ok row is compared with: the ok row of its group at the least value of `axis`, in the row's own place.

    Of several cells at that value it is the fastest, which is the hardest to beat. Rows of a group with one value of
    `axis` have nothing to be compared with and are left out.
    """
    ok = table[table["outcome"] == "ok"].sort_values([axis, "tokens_per_s"], ascending=[True, False], kind="stable")
    groups = ok.groupby(by, sort=False)
    names = [
        "contender",
        "scaling",
        "world_size",
        "grad_accum_steps",
        "tokens_per_s",
        "oversubscribed",
        "cell_id",
        "estimate",
    ]
    return groups[names].transform("first")[groups[axis].transform("nunique") > 1]


def _against_baseline(table: pd.DataFrame) -> None:
    """baseline, speedup and efficiency, each row's against the smallest world size of its series."""
    base = _base(table, "series", "world_size")
    rows = table.loc[base.index]
    table.loc[base.index, "baseline"] = [
        f"{name} at world_size {size}, {kind}, accumulation {accumulation}"
        for name, kind, size, accumulation in base.iloc[:, :4].itertuples(index=False, name=None)
    ]
    table.loc[base.index, "baseline_world_size"] = base["world_size"].astype(float)
    table.loc[base.index, "baseline_cell_id"] = base["cell_id"]
    fair = ~(rows["oversubscribed"].astype(bool) | base["oversubscribed"].astype(bool))
    _ratios(table, "speedup", rows[fair], base[fair], 1.0)
    _ratios(table, "efficiency", rows[fair], base[fair], (rows["world_size"] / base["world_size"])[fair])


def _against_least_accumulation(table: pd.DataFrame) -> None:
    """accumulation_gain: tokens_per_s over that of the same cell at the least accumulation measured."""
    base = _base(table, "kin", "grad_accum_steps")
    _ratios(table, "accumulation_gain", table.loc[base.index], base, 1.0)


def _ratios(
    table: pd.DataFrame, name: str, rows: pd.DataFrame, base: pd.DataFrame, over: pd.Series[float] | float
) -> None:
    """Set a column to tokens_per_s of the rows over the base's, divided by `over`, and its interval.

    A cell against itself is 1 by definition, however noisy.
    """
    ratios = rows["tokens_per_s"] / base["tokens_per_s"] / over
    table.loc[ratios.index, name] = ratios
    itself = rows["cell_id"] == base["cell_id"]
    # Seconds, so that the base's stand above.
    sure = [
        replace(Estimate(ratio, 0.0, 1.0) if same else before / mine, value=ratio)
        for ratio, same, mine, before in zip(ratios, itself, rows["estimate"], base["estimate"], strict=True)
    ]
    _set_intervals(table, name, ratios.index, sure)


def _own_intervals(table: pd.DataFrame) -> None:
    """The intervals of a cell's own figures: of its step time, and of what is exactly proportional to one over it."""
    for name in ("step_time_s", "tokens_per_s", "tokens_per_s_per_rank", "mfu"):
        known = table[table[name].notna()]
        sure = [replace(found, value=value) for found, value in zip(known["estimate"], known[name], strict=True)]
        _set_intervals(table, name, known.index, sure)


def _set_intervals(table: pd.DataFrame, name: str, index: pd.Index[Any], sure: list[Estimate]) -> None:
    bounds = [found.interval() or (None, None) for found in sure]
    for place, end in enumerate(("lo", "hi")):
        table.loc[index, f"{name}_{end}"] = pd.Series([bound[place] for bound in bounds], index=index, dtype=float)
