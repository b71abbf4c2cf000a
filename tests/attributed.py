"""Attribution launches with known arithmetic: the truth that the efficiency tree is held to."""

from __future__ import annotations

from typing import Any

from bench.plan.cell import Cell
from bench.results.metered import ARMS, Arm, Attribution, Block, Injection, LedgerLine, RankAttribution, Span
from bench.results.record import Record
from tests import synthetic

ROUNDS, BLOCK_STEPS = 2, 3


def attributed(
    cell: Cell,
    useful_s: list[float],
    sync_s: float,
    full_s: float,
    *,
    jitter_s: list[float] | None = None,
    under: dict[str, dict[Arm, list[float]]] | None = None,
    injections: list[Injection] | None = None,
    ledger: list[LedgerLine] | None = None,
    timelines: list[list[Span]] | None = None,
    **changes: Any,
) -> Record:
    """An ok attribution launch of `cell`: each rank's seconds in `local`, all ranks' in the other arms.

    `jitter_s` is added to the three steps of each block in turn. `under` gives each rank's seconds by injection and arm.
    """
    jitter = jitter_s or [0.0] * BLOCK_STEPS
    plain: dict[Arm, list[float]] = {
        "full": [full_s] * cell.world_size,
        "sync": [sync_s] * cell.world_size,
        "local": useful_s,
    }
    seconds = {(arm, None): plain[arm] for arm in ARMS} | {
        (arm, name): values for name, by_arm in (under or {}).items() for arm, values in by_arm.items()
    }
    blocks = [Block(arm=arm, injection=injection) for arm, injection in seconds] * ROUNDS
    record = synthetic.launch(cell, kind="attribution", step_time_s=full_s, **changes)
    ranks = [
        rank.model_copy(
            update={
                "attribution": RankAttribution(
                    block_times_s=[
                        [seconds[block.arm, block.injection][rank.rank] + extra for extra in jitter] for block in blocks
                    ],
                    ledger=ledger or [],
                    timeline=timelines[rank.rank] if timelines else [],
                )
            }
        )
        for rank in record.ranks
    ]
    plan = Attribution(seed=0, num_dropped_steps=1, blocks=blocks, injections=injections or [])
    return record.model_copy(update={"ranks": ranks, "attribution": plan})
