"""Records of attribution launches whose ledgers are what theory says, to be spoilt by tests."""

from __future__ import annotations

from typing import Any

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.results.metered import LedgerLine, Outline, RankAttribution
from bench.results.record import Record
from bench.theory.traffic import traffic
from tests import synthetic
from tests.theory.outlines import outline_of

SIZES = [4000, 1000, 16, 1000, 16, 1000, 16]


def metered(strategy: str = "zero2", *, outline: Outline | None = None, **fields: Any) -> Record:
    """An ok attribution launch of a small model, whose every rank called exactly what theory says in each of its steps."""
    cell = Cell(**{"model": "gpt-nano", "strategy": strategy, "world_size": 2, "steps": 3, **fields})
    outline = outline or outline_of(SIZES)
    config = resolve_deepspeed_config(cell, sum(SIZES)) if strategy != "ddp" else None
    steps = list(range(cell.steps))
    ledger = [
        LedgerLine(
            operation=line.operation,
            group_size=line.group_size,
            payload_bytes=line.payload_bytes,
            count=line.count,
            steps=steps,
        )
        for line in traffic(cell, outline, config)
    ]
    record = synthetic.launch(
        cell,
        kind="attribution",
        num_params=sum(SIZES),
        place=synthetic.environment(cell, versions={"deepspeed": "0.19.8"}),
        outline=outline,
        deepspeed_config=config,
    )
    return with_ledgers(record, [ledger] * cell.world_size)


def with_ledgers(record: Record, ledgers: list[list[LedgerLine]]) -> Record:
    """The record with these ledgers, one a rank."""
    ranks = [
        rank.model_copy(update={"attribution": RankAttribution(block_times_s=[], ledger=ledger)})
        for rank, ledger in zip(record.ranks, ledgers, strict=True)
    ]
    return record.model_copy(update={"ranks": ranks})


def ledgers_of(record: Record) -> list[list[LedgerLine]]:
    """The ledgers of a record's ranks, to be changed."""
    return [list(rank.attribution.ledger) for rank in record.ranks if rank.attribution is not None]
