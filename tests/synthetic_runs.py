"""Whole runs with known noise, drift and an A/A pair, as `scalebench run` would have ordered their launches."""

from __future__ import annotations

import itertools
import random
from typing import Any

from bench.results.record import Record
from tests import synthetic

_numbers = itertools.count()


def run(
    records: list[Record],
    *,
    noise_frac: float = 0.01,
    drift_frac: float = 0.0,
    twin: bool = True,
    twin_frac: float = 0.0,
    slower: dict[str, float] | None = None,
    seed: int = 0,
) -> list[Record]:
    """The launches in a seeded order, each slower or faster by noise, and slower the later by up to `drift_frac`.

    `twin`: as many launches more of the first ok cell with several ranks, by `twin_frac` slower, as the second of an A/A pair.
    `slower`: by strategy, how many times slower than it is.
    """
    drawn = random.Random(seed)
    if twin:
        first = next(one.cell.id for one in records if one.outcome == "ok" and one.cell.world_size > 1)
        records = [*records, *(one.model_copy(update={"twin": True}) for one in records if one.cell.id == first)]
    ordered = drawn.sample(records, len(records))
    found = []
    for place, record in enumerate(ordered):
        factor = (1 + noise_frac * drawn.gauss(0, 1)) * (1 + drift_frac * place / max(1, len(ordered) - 1))
        factor *= (1 + twin_frac * record.twin) * (slower or {}).get(record.cell.strategy, 1.0)
        found.append(scaled(record, factor, place))
    return found


def scaled(record: Record, factor: float, sequence: int) -> Record:
    """The launch as if every step had taken `factor` as long, in that place of the order."""
    ranks = [
        rank.model_copy(update={"step_times_s": [factor * seconds for seconds in rank.step_times_s]})
        for rank in record.ranks
    ]
    return record.model_copy(
        update={
            "ranks": ranks,
            "sequence": sequence,
            "launch_id": f"run{next(_numbers):06d}",
            "started_at": f"2026-01-01T{sequence // 3600:02d}:{sequence // 60 % 60:02d}:{sequence % 60:02d}Z",
        }
    )


def quick(launches: int = 3, **changes: Any) -> list[Record]:
    """The suite `quick` with several launches, in which nothing but noise tells launches of one cell apart."""
    alone = synthetic.quick()
    return run([one for one in alone for _ in range(launches)], **changes)


def two_ranks(**changes: Any) -> list[Record]:
    """Five launches of ddp, zero0 and zero1 on two ranks, and an A/A pair."""
    cells = [
        record for record in synthetic.quick() if record.cell.world_size == 2 and record.cell.grad_accum_steps == 1
    ]
    kept = [record for record in cells if record.cell.strategy in ("ddp", "zero0", "zero1") and not record.cell.paced]
    return run([record for record in kept for _ in range(5)], **{"noise_frac": 0.005, **changes})
