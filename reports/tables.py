"""Tables for people: each function takes numbers in SI units and returns text, one column heading a column."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import units
from reports.columns import Column, interval, table, with_intervals, without_empty, without_unknown_intervals

CELL: list[Column] = [
    ("model", "model", units.text),
    ("contender", "strategy", units.text),
    ("scaling", "scaling", units.text),
    ("setting", "setting", units.text),
    ("world_size", "ranks", units.count),
    ("grad_accum_steps", "accum", units.count),
]
"""What tells one cell from another, in every table of cells."""
_SPEED: list[Column] = [
    ("step_time_s", "step time", units.seconds),
    ("tokens_per_s", "tokens/s", units.rate),
]


def _names(value: str) -> str:
    """A list of names; none is known to be none, which is not the en dash of the unknown."""
    return value or "none"


def _series_and_size(baseline: str | float | None) -> str:
    """A baseline without what stands in the row's other columns."""
    return baseline.partition(",")[0] if isinstance(baseline, str) else units.UNKNOWN


def marks(row: Any) -> str:
    """What must be known beside a row's figures: how it ended if not well, and what its figures don't stand for."""
    words = [] if row.outcome == "ok" else [str(row.outcome)]
    if row.launches != row.launches_tried and row.outcome == "ok":
        words.append(f"{row.launches} of {row.launches_tried} launches ok")
    words += [] if row.equal_work else ["other work"]
    words += [
        name for name in ("oversubscribed", "paced") if not units.is_unknown(value := getattr(row, name)) and value
    ]
    return ", ".join(words) or "ok"


def _marked(scaling: pd.DataFrame) -> pd.DataFrame:
    return scaling.assign(marks=[marks(row) for row in scaling.itertuples()])


def headline(scaling: pd.DataFrame) -> pd.DataFrame:
    """What `scalebench run` and `report` print: a row a cell, few enough columns for a terminal."""
    columns: list[Column] = [
        *(column for column in CELL),
        _SPEED[0],
        ("within", "95 %", units.text),
        _SPEED[1],
        ("efficiency", "efficiency", units.fraction),
        ("peak_memory_bytes", "peak memory", units.memory),
        ("marks", "outcome", units.text),
    ]
    ends = scaling[["step_time_s", "step_time_s_lo", "step_time_s_hi"]].itertuples(index=False, name=None)
    marked = _marked(scaling).assign(within=[units.either_way(*found) for found in ends])
    return without_unknown_intervals(without_empty(table(marked, columns), "setting"))


def speed(scaling: pd.DataFrame) -> pd.DataFrame:
    """Every cell with its step time, speed, speed-up and efficiency, and their 95 % intervals where one is known."""
    columns: list[Column] = [
        *CELL,
        ("marks", "outcome", units.text),
        ("step_time_s", "step time", units.seconds),
        interval("step_time_s", "step time"),
        ("tokens_per_s", "tokens/s", units.rate),
        interval("tokens_per_s", "tokens/s"),
        ("speedup", "speed-up", units.ratio),
        interval("speedup", "speed-up"),
        ("efficiency", "efficiency", units.fraction),
        interval("efficiency", "efficiency"),
        ("baseline", "baseline", _series_and_size),
        ("mfu", "MFU", units.fraction),
        ("tokens_per_s_per_rank", "tokens/s a rank", units.rate),
        ("micro_batch_size", "micro-batch", units.count),
        ("global_batch_size", "global batch", units.count),
        ("precision", "precision", units.text),
        ("launches", "launches", units.count),
        ("launch_spread_frac", "spread", units.fraction),
        ("final_loss", "final loss", units.number),
    ]
    shown = table(_marked(with_intervals(scaling)), columns)
    return without_unknown_intervals(without_empty(shown, "setting", "MFU", "spread"))


def fastest(ranking: pd.DataFrame, aa_spread_frac: float | None) -> pd.DataFrame:
    """The fastest measured strategy of each group, who can't be told from it, and how far it is ahead of the next, with its 99 %
    interval and the spread of the A/A pair."""
    columns: list[Column] = [
        *(column for column in CELL if column[0] != "contender"),
        ("fastest", "fastest measured", units.text),
        ("step_time_s", "step time", units.seconds),
        ("runner_up", "next", units.text),
        ("ahead_frac", "ahead by", units.fraction),
        ("ahead_between", "ahead by, 99 %", units.text),
        ("spread", "A/A spread", units.fraction),
        ("unresolved", "not resolved", _names),
        ("slower", "slower", _names),
        ("tokens_per_s", "tokens/s", units.rate),
        ("slowest_ratio", "fastest / slowest", units.ratio),
        ("slowest_ratio_between", "fastest / slowest, 99 %", units.text),
    ]
    ahead = ranking[["lead", "lead_lo", "lead_hi"]].astype(float) - 1
    shown = with_intervals(ranking).assign(
        ahead_frac=ahead["lead"],
        ahead_between=[units.fraction_between(*ends) for ends in zip(ahead["lead_lo"], ahead["lead_hi"], strict=True)],
        spread=float("nan") if aa_spread_frac is None else aa_spread_frac,
    )
    return without_unknown_intervals(without_empty(table(shown, columns), "setting", "A/A spread"))


def accumulation(scaling: pd.DataFrame) -> pd.DataFrame:
    """What accumulation bought: the cells that were measured at more than one accumulation."""
    columns: list[Column] = [
        *CELL,
        ("micro_batch_size", "micro-batch", units.count),
        *_SPEED,
        ("accumulation_gain", "tokens/s against the least accumulation", units.ratio),
        interval("accumulation_gain", "gain"),
        ("marks", "outcome", units.text),
    ]
    shown = table(_marked(with_intervals(scaling[scaling["accumulation_gain"].notna()])), columns)
    return without_unknown_intervals(without_empty(shown, "setting"))


def memory(scaling: pd.DataFrame) -> pd.DataFrame:
    """Peak memory of the fullest rank, and what it held before the model was built."""
    columns: list[Column] = [
        *CELL,
        ("micro_batch_size", "micro-batch", units.count),
        ("peak_memory_bytes", "peak memory", units.memory),
        ("base_memory_bytes", "before the model", units.memory),
        ("marks", "outcome", units.text),
    ]
    return without_empty(table(_marked(scaling), columns), "setting")


def efficiency(efficiency: pd.DataFrame) -> pd.DataFrame:
    """The factors of each cell's efficiency, what they multiply to, and the seconds of its step by part."""
    columns: list[Column] = [
        *CELL,
        ("marks", "notes", units.text),
        ("load_balance", "load balance", units.fraction),
        ("serialization", "serialization", units.fraction),
        ("transfer", "transfer", units.fraction),
        ("communication_efficiency", "communication", units.fraction),
        ("parallel_efficiency", "parallel", units.fraction),
        ("compute_scaling", "compute scaling", units.fraction),
        ("global_efficiency", "global", units.fraction),
        interval("global_efficiency", "global"),
        ("efficiency", "measured efficiency", units.fraction),
        interval("efficiency", "measured"),
        ("baseline_world_size", "against ranks", units.count),
        ("reconciliation_error", "apart by", units.fraction),
        ("useful_s", "useful", units.seconds),
        ("imbalance_s", "imbalance", units.seconds),
        ("wait_s", "waiting", units.seconds),
        ("transfer_s", "moving bytes", units.seconds),
        ("exposed_comm_s", "exposed", units.seconds),
        interval("exposed_comm_s", "exposed"),
        ("full_s", "metered step", units.seconds),
        ("step_time_s", "step time", units.seconds),
        ("meter_overhead_frac", "meter's cost", units.fraction),
        ("straggler", "straggler", units.count),
        ("launches", "launches", units.count),
    ]
    marked = with_intervals(efficiency).assign(
        marks=[
            ", ".join(
                word
                for word, says in (
                    ("not reconciled", row["reconciled"] is False),
                    ("oversubscribed", row["oversubscribed"] is True),
                    ("paced", row["paced"] is True),
                )
                if says
            )
            for row in efficiency.to_dict("records")
        ]
    )
    return without_unknown_intervals(without_empty(table(marked, columns), "setting", "notes", "straggler"))


def ranks(ranks: pd.DataFrame) -> pd.DataFrame:
    """Useful and waiting seconds of each rank, and which is the straggler."""
    columns: list[Column] = [
        *CELL,
        ("rank", "rank", units.count),
        ("hostname", "host", units.text),
        ("useful_s", "useful", units.seconds),
        ("wait_s", "waiting", units.seconds),
        ("slow", "note", units.text),
    ]
    marked = ranks.assign(slow=ranks["straggler"].map({True: "straggler", False: ""}))
    return without_empty(table(marked, columns), "setting", "note")


def balance(balance: pd.DataFrame) -> pd.DataFrame:
    """How evenly ranks were loaded, reckoned and measured, and what the steps took."""
    columns: list[Column] = [
        ("model", "model", units.text),
        ("strategy", "strategy", units.text),
        ("data", "sequences", units.text),
        ("slow_rank_frac", "slow rank", units.fraction),
        ("world_size", "ranks", units.count),
        ("grad_accum_steps", "accum", units.count),
        ("partition", "partition", units.text),
        ("partition_cost", "cost by", units.text),
        ("predicted_load_balance", "load balance, reckoned", units.fraction),
        ("load_balance", "load balance", units.fraction),
        ("step_time_s", "step time", units.seconds),
        ("predicted_step_time_s", "slowest rank sleeps", units.seconds),
        ("best_step_time_s", "at best", units.seconds),
        ("fitted_per_token_s", "a token, fitted", units.seconds),
        ("fitted_per_pair_s", "a pair, fitted", units.seconds),
        ("fitted_error_s", "fit off by", units.seconds),
        ("padding_frac", "padding", units.fraction),
        ("input_frac", "waiting for input", units.fraction),
    ]
    shown = balance.sort_values(["model", "slow_rank_frac", "data", "world_size"], kind="stable")
    optional = ("load balance", "slowest rank sleeps", "at best", "a token, fitted", "a pair, fitted", "fit off by")
    return without_empty(table(shown, columns), *optional)


def phases(phases: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each launch by phase, and what was spent outside the measured window."""
    columns: list[Column] = [
        *(column for column in CELL if column[0] not in ("contender", "setting")),
        ("start_s", "start", units.seconds),
        ("import_s", "import", units.seconds),
        ("build_s", "build", units.seconds),
        ("warmup_s", "warm-up", units.seconds),
        ("num_warmup_steps", "warm-up steps", units.count),
        ("window_s", "window", units.seconds),
        ("checks_s", "checks", units.seconds),
        ("rest_s", "rest", units.seconds),
        ("outside_s", "total outside", units.seconds),
        ("outside_frac", "outside", units.fraction),
        ("kind", "kind", units.text),
    ]
    columns.insert(1, ("strategy", "strategy", units.text))
    return table(phases, columns)


def traffic(traffic: pd.DataFrame) -> pd.DataFrame:
    """Collectives of one optimizer step of one rank, observed and by theory, to the byte."""
    words = {True: "equal", False: "not equal"}
    columns: list[Column] = [
        *CELL,
        ("operation", "operation", units.text),
        ("observed_count", "calls", units.exact),
        ("theory_count", "calls, theory", units.exact),
        ("observed_bytes", "bytes", units.exact),
        ("theory_bytes", "bytes, theory", units.exact),
        ("agrees", "ledger and theory", lambda agrees: units.UNKNOWN if units.is_unknown(agrees) else words[agrees]),
        ("observed_factor", "factor of P", units.number),
        ("theory_factor", "factor, theory", units.number),
        ("unknown_because", "why there is no theory", units.text),
    ]
    return without_empty(table(traffic, columns), "setting", "why there is no theory")


def environment(environment: pd.DataFrame) -> pd.DataFrame:
    """What the launches ran on; a property that should be one for all of them and is not says so."""
    shown = environment.assign(
        value=[
            units.memory(float(value)) if str(name).endswith(", bytes") else value
            for name, value in zip(environment["property"], environment["value"], strict=True)
        ],
        property=environment["property"].str.removesuffix(", bytes"),
        note=environment["differs"].map({True: "differs between launches", False: "the same for all that know it"}),
    )
    columns: list[Column] = [
        ("property", "property", units.text),
        ("value", "value", units.text),
        ("launches", "launches", units.count),
        ("note", "note", units.text),
    ]
    text = table(shown, columns)
    return text if bool(environment["differs"].any()) else text.drop(columns="note")
