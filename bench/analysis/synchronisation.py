"""What each way of synchronising buys in time, and what it costs in consistency and loss: one row a cell."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from bench.plan.cell import EQUAL_WORK, Cell
from bench.results.record import Record
from bench.results.synchronisation import Synchronisation
from bench.theory.sent import sent_bytes_per_step

SYNCHRONISATION_COLUMNS = [
    *("model", "contender", "world_size", "num_workers", "step_time_s", "tokens_per_s", "bytes_per_step_per_rank"),
    *("exposed_comm_s", "replica_distance_largest", "replica_distance_mean", "staleness_mean", "staleness_max"),
    *("num_updates", "final_loss", "equal_work", "strategy", "every_steps", "slow_rank_frac", "bytes_source"),
    *(
        "num_tokens",
        "common_tokens",
        "common_s",
        "common_updates",
        "common_loss",
        "peak_memory_bytes",
        "paced",
        "launches",
    ),
    *("task", "cell_id"),
]
_FLOATS = SYNCHRONISATION_COLUMNS[4:13]
LOSS_COURSE_COLUMNS = [
    *("model", "contender", "world_size", "num_workers", "slow_rank_frac", "step", "tokens", "time_s", "loss"),
    *("task", "cell_id"),
]

LOSS_STEPS = 5
"""A step's loss is of one batch: the mean of so many is compared."""

_TASK = tuple(name for name in EQUAL_WORK if name != "global_batch_size")


def synchronisation_table(
    records: Sequence[Record], scaling: pd.DataFrame, efficiency: pd.DataFrame, traffic: pd.DataFrame
) -> pd.DataFrame:
    """One row a cell with a believed timing launch (SYNCHRONISATION_COLUMNS), if any cell synchronises otherwise than at every
    step, or through a server; else none.

    `records`: launches that passed the gates; `scaling`, `efficiency`, `traffic`: rows of those tables.
    bytes_per_step_per_rank: what a rank sends in a mean optimizer step, collectives round a ring, the mean over all ranks;
    from the meter's ledger where there is one, else the closed form (`bytes_source`). exposed_comm_s is known from
    attribution launches alone. replica_distance_*: relative L2 from the first worker's weights at the window's end, where
    replicas are averaged just before it; 0 where they were equal. staleness_*: of updates in the window. num_updates and
    num_tokens: of the window.

    Cells of one `task` train the same model on the same data. common_tokens is what the one that trained on least had seen at
    its end, warm-up included; common_loss the mean loss of the LOSS_STEPS steps before that many tokens, common_s the
    seconds for them at the window's speed, common_updates the optimizer steps. Medians over launches.
    """
    timing = _timing(records)
    if not timing:
        return pd.DataFrame(columns=SYNCHRONISATION_COLUMNS)
    exposed = dict(zip(efficiency["cell_id"], efficiency["exposed_comm_s"], strict=True))
    ledger = traffic.groupby("cell_id")["observed_volume_bytes"].agg(lambda volume: volume.sum(skipna=False)).to_dict()
    known = {str(row["cell_id"]): row for row in scaling.to_dict("records")}
    least: dict[str, float] = {}
    for launches in timing.values():
        trained = min(_trained_tokens(record) for record in launches)
        task = _task(launches[0].cell)
        least[task] = min(trained, least.get(task, trained))
    rows = [
        {
            **_row(timing[cell_id], known[cell_id], least[_task(timing[cell_id][0].cell)]),
            **_bytes(timing[cell_id][0], ledger.get(cell_id)),
            "exposed_comm_s": exposed.get(cell_id),
        }
        for cell_id in known
        if cell_id in timing
    ]
    table = pd.DataFrame(rows, columns=SYNCHRONISATION_COLUMNS)
    return table.astype(dict.fromkeys(_FLOATS, float))


def loss_courses(records: Sequence[Record], scaling: pd.DataFrame) -> pd.DataFrame:
    """One row a training step of every cell of `synchronisation_table` (LOSS_COURSE_COLUMNS): its loss, and when.

    step counts from 1, warm-up included; tokens are those of all workers until then; time_s the seconds for so many steps at the
    window's speed; loss the mean of the last LOSS_STEPS steps, of fewer at the beginning, median over launches.
    """
    known = dict(zip(scaling["cell_id"], scaling["step_time_s"], strict=True))
    found = []
    for cell_id, launches in _timing(records).items():
        if cell_id not in known:
            continue
        cell = launches[0].cell
        losses = pd.DataFrame([record.mean_losses() for record in launches]).T.dropna()
        course = losses.rolling(LOSS_STEPS, min_periods=1).mean().median(axis="columns")
        steps = course.index + 1
        rows = pd.DataFrame(
            {
                "step": steps,
                "tokens": steps * launches[0].tokens_per_step(),
                "time_s": steps * known[cell_id],
                "loss": course,
            }
        )
        rows = rows.assign(**cell.model_dump(include={"model", "world_size", "slow_rank_frac"}))
        found.append(
            rows.assign(contender=cell.contender, num_workers=cell.num_workers, task=_task(cell), cell_id=cell_id)
        )
    if not found:
        return pd.DataFrame(columns=LOSS_COURSE_COLUMNS)
    return pd.concat(found, ignore_index=True)[LOSS_COURSE_COLUMNS]


def _timing(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Timing launches by cell; none at all where every cell synchronises at every step and without a server."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "timing" and not record.twin and record.work is not None:
            found.setdefault(record.cell.id, []).append(record)
    cells = [launches[0].cell for launches in found.values()]
    return {} if all(cell.equal_work and not cell.num_servers for cell in cells) else found


def _task(cell: Cell) -> str:
    """Equal for cells that train the same model on the same data, in batches of whatever size."""
    return json.dumps({name: cell.work[name] for name in _TASK}, sort_keys=True)


def _trained_tokens(record: Record) -> float:
    """By all workers, warm-up included."""
    assert record.work is not None
    return record.tokens_per_step() * (record.work.num_warmup_steps + record.work.num_steps)


def _row(launches: list[Record], known: dict[Any, Any], common_tokens: float) -> dict[str, Any]:
    first = launches[0]
    cell = first.cell
    kept = [record.synchronisation for record in launches if record.synchronisation is not None]
    steps = max(1, round(common_tokens / first.tokens_per_step()))
    updates_per_step = cell.num_workers if cell.own_pace else 1
    losses = [statistics.fmean(record.mean_losses()[max(0, steps - LOSS_STEPS) : steps]) for record in launches]
    return {
        **cell.model_dump(include={"model", "world_size", "strategy", "slow_rank_frac"}),
        "contender": cell.contender,
        "num_workers": cell.num_workers,
        "equal_work": cell.equal_work,
        "every_steps": cell.every_steps,
        **{name: known[name] for name in ("step_time_s", "tokens_per_s", "final_loss", "peak_memory_bytes", "paced")},
        "launches": len(launches),
        "replica_distance_largest": _median(kept, lambda one: _distance(one, "largest")),
        "replica_distance_mean": _median(kept, lambda one: _distance(one, "mean")),
        "staleness_mean": _median(kept, _mean_staleness),
        "staleness_max": _median(kept, lambda one: max(one.staleness, default=None)),
        "num_updates": _median(kept, lambda one: one.num_updates),
        "num_tokens": _median(kept, lambda one: one.num_tokens),
        "common_tokens": common_tokens,
        "common_s": known["step_time_s"] * steps,
        "common_updates": steps * updates_per_step,
        "common_loss": statistics.median(losses),
        "task": _task(cell),
        "cell_id": cell.id,
    }


def _median(kept: list[Synchronisation], of: Callable[[Synchronisation], float | None]) -> float | None:
    values = [value for one in kept if (value := of(one)) is not None]
    return statistics.median(values) if values else None


def _distance(kept: Synchronisation, which: str) -> float:
    return float(getattr(kept.samples[-1], which)) if kept.samples else 0.0


def _mean_staleness(kept: Synchronisation) -> float | None:
    number = sum(kept.staleness.values())
    return sum(age * count for age, count in kept.staleness.items()) / number if number else None


def _bytes(record: Record, observed: float | None) -> dict[str, Any]:
    if observed is not None and not pd.isna(observed):
        return {"bytes_per_step_per_rank": observed, "bytes_source": "ledger"}
    assert record.work is not None
    num_nodes = record.environment.num_nodes if record.environment is not None else None
    found = sent_bytes_per_step(record.cell, record.work.num_params, num_nodes=num_nodes)
    return {"bytes_per_step_per_rank": found, "bytes_source": None if found is None else "closed form"}
