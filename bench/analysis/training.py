"""How soon each way of training comes to a loss: in seconds, and in tokens."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import pandas as pd

from bench.results.record import Record
from bench.results.training import Evaluation

TIME_TO_LOSS_COLUMNS = [
    *("model", "contender", "scaling", "setting", "world_size", "grad_accum_steps", "micro_batch_size"),
    *("global_batch_size", "target_loss", "launches", "launches_reached", "seconds_to_target", "tokens_to_target"),
    *("steps_to_target", "final_loss", "least_loss", "final_accuracy", "wall_s", "tokens", "steps", "evaluation_s"),
    *("stopped", "replica_distance", "entropy_floor_nats", "oversubscribed", "paced", "cell_id", "num_workers"),
]
CURVE_COLUMNS = [
    *("model", "contender", "scaling", "setting", "world_size", "cell_id", "launch_id"),
    *("step", "tokens", "wall_s", "train_loss", "loss", "accuracy", "target_loss", "entropy_floor_nats", "num_workers"),
]
_OF_SCALING = ("setting", "oversubscribed")


def time_to_loss(records: list[Record], scaling: pd.DataFrame) -> pd.DataFrame:
    """One row a cell that was trained to a goal (TIME_TO_LOSS_COLUMNS), in the order of `scaling`, rows of `scaling_table`.

    `records`: launches that passed the gates. seconds_to_target (of training, on the slowest rank), tokens_to_target and
    steps_to_target are those of the first evaluation whose validation loss was at most target_loss, means over launches;
    missing where a launch did not reach it, or there was no target. final_loss, least_loss, final_accuracy (validation split),
    wall_s, tokens, steps and evaluation_s are of the whole course, means over launches; replica_distance is the largest, of
    replicas that drift as they were before they were last made equal. num_workers is world_size without servers.
    """
    cells = _by_cell(records)
    known = {row["cell_id"]: row for row in scaling.to_dict("records")}
    order = {cell_id: place for place, cell_id in enumerate(known)}
    ordered = sorted(cells, key=lambda cell_id: order.get(cell_id, len(order)))
    rows = [_row(cells[cell_id], known.get(cell_id, {})) for cell_id in ordered]
    return pd.DataFrame(rows, columns=TIME_TO_LOSS_COLUMNS)


def curves(records: list[Record], scaling: pd.DataFrame) -> pd.DataFrame:
    """Every evaluation of these launches (CURVE_COLUMNS): loss against steps, tokens and seconds."""
    known = {row["cell_id"]: row for row in scaling.to_dict("records")}
    rows = [
        {**_named(record, known.get(record.cell.id, {})), "launch_id": record.launch_id, **evaluation.model_dump()}
        for launches in _by_cell(records).values()
        for record in launches
        if record.training is not None
        for evaluation in record.training.evaluations
    ]
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def reached(evaluations: Iterable[Evaluation], target_loss: float | None) -> Evaluation | None:
    """The first evaluation at which the target was met; None if none did, or there is no target."""
    if target_loss is None:
        return None
    return next((evaluation for evaluation in evaluations if evaluation.loss <= target_loss), None)


def _by_cell(records: list[Record]) -> dict[str, list[Record]]:
    cells: dict[str, list[Record]] = {}
    for record in records:
        if record.training is not None:
            cells.setdefault(record.cell.id, []).append(record)
    return cells


def _named(record: Record, known: dict[Any, Any]) -> dict[str, Any]:
    cell = record.cell
    return {
        **cell.model_dump(
            include={"model", "scaling", "world_size", "grad_accum_steps", "micro_batch_size", "target_loss"}
        ),
        **{name: known.get(name) for name in _OF_SCALING},
        "contender": cell.contender,
        "global_batch_size": cell.global_batch_size,
        "num_workers": cell.num_workers,
        "entropy_floor_nats": record.corpus.entropy_floor_nats if record.corpus is not None else None,
        "paced": cell.paced,
        "cell_id": cell.id,
    }


def _row(launches: list[Record], known: dict[Any, Any]) -> dict[str, Any]:
    courses = [record.training for record in launches if record.training is not None]
    last = [course.evaluations[-1] for course in courses]
    met = [found for c in courses if (found := reached(c.evaluations, launches[0].cell.target_loss)) is not None]
    distances = [distance for r in launches if (distance := _replica_distance(r)) is not None]
    row = {
        **_named(launches[0], known),
        "launches": len(launches),
        "launches_reached": len(met),
        "final_loss": statistics.fmean(evaluation.loss for evaluation in last),
        "least_loss": statistics.fmean(min(e.loss for e in course.evaluations) for course in courses),
        "final_accuracy": statistics.fmean(evaluation.accuracy for evaluation in last),
        "wall_s": statistics.fmean(evaluation.wall_s for evaluation in last),
        "tokens": statistics.fmean(evaluation.tokens for evaluation in last),
        "steps": statistics.fmean(evaluation.step for evaluation in last),
        "evaluation_s": statistics.fmean(course.evaluation_s for course in courses),
        "stopped": ", ".join(sorted({course.stopped for course in courses})),
        "replica_distance": max(distances, default=None),
    }
    if len(met) == len(launches):
        row["seconds_to_target"] = statistics.fmean(evaluation.wall_s for evaluation in met)
        row["tokens_to_target"] = statistics.fmean(evaluation.tokens for evaluation in met)
        row["steps_to_target"] = statistics.fmean(evaluation.step for evaluation in met)
    return row


def _replica_distance(record: Record) -> float | None:
    if record.synchronisation is not None and record.synchronisation.samples:
        return record.synchronisation.samples[-1].largest
    return record.work.replicas.largest if record.work is not None and record.work.replicas is not None else None
