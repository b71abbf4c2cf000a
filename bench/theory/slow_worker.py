"""One of eight workers half as fast: what of the sum of their speeds each way to synchronise uses, by theory and measured.

measured/slow_worker.csv was written by tests/sync_links.py on one host, whose workers sleep instead of computing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.plan.cell import Cell
from bench.results.record import Record
from bench.theory.paced_links import MEASURED

WORKERS = 8
SLOW_FRAC = 1.0
"""The last worker takes so much longer for everything: twice as long."""

_MODEL: dict[str, Any] = {
    "model": "paced-nano",
    "model_options": {"num_layers": 4, "hidden_size": 64, "forward_s": 0.080, "backward_s": 0.160},
    "seq_len": 256,
    "steps": 10,
}
# Sequences of unequal length, so that a worker's part can be as small as it has to be.
_DEALT: dict[str, Any] = {"batching": "padded", "length_spread": 0.5, "micro_batch_size": 4}


def alone() -> Cell:
    """One worker, not slow."""
    return Cell(**_MODEL, strategy="ddp", world_size=1, max_warmup_steps=4)


def cells() -> list[Cell]:
    """Each way with all workers alike, and with one slow."""
    found = []
    for slow_frac in (0.0, SLOW_FRAC):
        common = {**_MODEL, "slow_rank_frac": slow_frac}
        found += [
            Cell(**common, strategy="ddp", world_size=WORKERS, max_warmup_steps=4),
            # Ten steps are what the partition measures speeds by.
            Cell(**common, **_DEALT, strategy="ddp", partition="dynamic", world_size=WORKERS, max_warmup_steps=14),
            Cell(
                **common,
                strategy="param_server",
                strategy_options={"mode": "async"},
                world_size=WORKERS + 1,
                max_warmup_steps=4,
            ),
        ]
    return found


def tokens_per_s(record: Record) -> float:
    """Tokens that all workers trained on in the window over its seconds."""
    times_s = record.slowest_step_times_s()
    assert record.work is not None
    if record.cell.equal_lengths:
        return record.cell.tokens_per_step * len(times_s) / sum(times_s)
    tokens = record.work.batch_tokens[record.work.num_warmup_steps :]
    return sum(tokens) / sum(times_s)


def sum_of_speeds_tokens_per_s(slow_frac: float) -> float:
    """What the workers' sleeps alone would let them train on together: nothing can be faster."""
    token_s = alone().paced_token_s
    assert token_s is not None
    return (WORKERS - 1 + 1 / (1 + slow_frac)) / token_s


def predicted_share(strategy: str, partition: str, slow_frac: float, step_time_1_s: float) -> float:
    """Of the sum of speeds. What a step takes on one host besides its sleeps is added to each step; exchanges through the
    loop-back device take no time.

    In step, all wait for the slowest. Dealt by speed, all sleep equally long. At their own pace, each worker adds what it can.
    """
    sleep_s = alone().paced_step_s
    assert sleep_s is not None
    extra_s = step_time_1_s - sleep_s
    speeds = WORKERS - 1 + 1 / (1 + slow_frac)
    if strategy == "param_server":
        steps_per_s = (WORKERS - 1) / (sleep_s + extra_s) + 1 / (sleep_s * (1 + slow_frac) + extra_s)
        return steps_per_s * sleep_s / speeds
    slowest_s = sleep_s * (WORKERS / speeds if partition == "dynamic" else 1 + slow_frac)
    return WORKERS * sleep_s / (slowest_s + extra_s) / speeds


@cache
def slow_worker_rows(path: Path = MEASURED / "slow_worker.csv") -> pd.DataFrame:
    """A row a way: strategy, partition, slow_rank_frac, tokens_per_s, share (of the sum of speeds), predicted_share."""
    rows = pd.read_csv(path)
    [step_time_1_s] = rows.loc[rows["num_workers"] == 1, "step_time_s"]
    several = rows[rows["num_workers"] > 1].copy()
    lines = several.to_dict("records")
    several["share"] = [line["tokens_per_s"] / sum_of_speeds_tokens_per_s(line["slow_rank_frac"]) for line in lines]
    several["predicted_share"] = [
        predicted_share(line["strategy"], line["partition"], line["slow_rank_frac"], step_time_1_s) for line in lines
    ]
    return several.reset_index(drop=True)
