"""What the meter recovered of known disturbances: the proof of the instrument."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.arms import block_times, useful
from bench.results.metered import Arm, Injection, LedgerLine, Span
from bench.results.record import Record

DELAY_TOLERANCE_FRAC = 0.05
"""Of the injected total."""
LOAD_BALANCE_TOLERANCE = 0.02
MISTAKEN_TOLERANCE_FRAC = 0.1
"""Of a slow rank's seconds: as much may look like communication."""


@dataclass(frozen=True)
class Finding:
    """One thing injected, what must follow from it, and what the meter says. All in `unit`; `injected` is in `injected_unit`."""

    name: str
    injected: float
    injected_unit: str
    expected: float | None
    recovered: float | None
    tolerance: float
    unit: str

    @property
    def ok(self) -> bool:
        """False too where nothing was recovered."""
        if self.expected is None or self.recovered is None:
            return False
        return abs(self.recovered - self.expected) <= self.tolerance


def findings(record: Record) -> list[Finding]:
    """What one attribution launch recovered of each of its injections; the steps under none are what it is compared with."""
    found: list[Finding] = []
    for injection in record.attribution.injections if record.attribution is not None else []:
        if injection.kind == "delay":
            found.append(_delay(record, injection))
        elif injection.kind == "withhold":
            found.append(_withheld(record, injection))
        else:
            found += _slow_rank(record, injection)
    return found


def _typical_s(record: Record, arm: Arm, injection: str | None = None) -> float | None:
    """The median over an arm's steps of the slowest rank's seconds: one step held up by something else does not move it."""
    blocks = block_times(record, arm, injection)
    return float(np.median(np.concatenate(blocks, axis=1).max(axis=0))) if blocks else None


def _added_s(record: Record, arm: Arm, injection: str) -> float | None:
    """What the injection adds to a step of an arm; None unless that was measured."""
    disturbed_s, plain_s = _typical_s(record, arm, injection), _typical_s(record, arm)
    return None if disturbed_s is None or plain_s is None else disturbed_s - plain_s


def _delay(record: Record, injection: Injection) -> Finding:
    timelines = [rank.attribution.timeline for rank in record.ranks if rank.attribution is not None]
    collectives = [sum(span.kind == "collective" for span in timeline) for timeline in timelines]
    total_s = statistics.median(collectives) * injection.seconds
    return Finding(
        name=f"{record.cell.strategy}: {injection.name}",
        injected=total_s,
        injected_unit="s",
        expected=statistics.median(exposed_delay_s(timeline, injection.seconds) for timeline in timelines),
        recovered=_added_s(record, "full", injection.name),
        tolerance=DELAY_TOLERANCE_FRAC * total_s,
        unit="s",
    )


def exposed_delay_s(timeline: Sequence[Span], delay_s: float) -> float:
    """Seconds by which one step gets longer when each of its collectives completes `delay_s` late, by replaying its timeline.

    The collectives pass one line in order of their launch: one completes `delay_s` after its own time on the line, which
    begins when it is launched and the one before it has passed. The host goes on computing until it waits for one: in
    Python at `waited_s`, in C++ (DDP) at the end of the backward pass; whatever it then loses delays all that follows.
    Nothing else is assumed to change.
    """
    step = next(span for span in timeline if span.kind == "step")
    backward_ends = sorted(span.end_s for span in timeline if span.name == "backward")
    collectives = [span for span in timeline if span.kind == "collective"]
    waits = [
        span.waited_s
        if span.waited_s is not None
        else next((end_s for end_s in backward_ends if end_s >= span.start_s), step.end_s)
        for span in collectives
    ]
    # What the host does with the collectives, in its order: launch (0) and wait (1).
    events = sorted(
        [(span.start_s, 0, number) for number, span in enumerate(collectives)]
        + [
            (max(wait_s, span.start_s), 1, number)
            for number, (span, wait_s) in enumerate(zip(collectives, waits, strict=True))
        ]
    )
    late_s = 0.0
    passed_s = free_s = float("-inf")
    passed: dict[int, float] = {}
    for moment_s, kind, number in events:
        span = collectives[number]
        if kind == 0:
            own_s = span.end_s - max(span.start_s, free_s)
            free_s = max(free_s, span.end_s)
            passed_s = max(moment_s + late_s, passed_s) + max(own_s, 0.0) + delay_s
            passed[number] = passed_s
        else:
            resumed_s = max(moment_s, span.end_s)
            late_s = max(late_s, passed[number] - resumed_s)
    return late_s


def _slow_rank(record: Record, injection: Injection) -> list[Finding]:
    """A rank that sleeps: it must be named, load_balance must be what the sleep makes of the ranks' own seconds, and where the
    arm `full` was measured too, the sleep must not be taken for communication."""
    name = f"{record.cell.strategy}: {injection.name}"
    sleeps = injection.seconds * (record.cell.grad_accum_steps if injection.where != "input" else 1)
    own, slow = useful(record), useful(record, injection.name)
    assert own is not None and slow is not None, "every launch has the arm local, and so has every slow rank"
    expected = [float(mean) + (sleeps if rank == injection.rank else 0.0) for rank, mean in enumerate(own.by_rank)]
    rows = [
        Finding(
            name=f"{name}, load_balance",
            injected=sleeps,
            injected_unit="s",
            expected=statistics.fmean(expected) / max(expected),
            recovered=slow.load_balance,
            tolerance=LOAD_BALANCE_TOLERANCE,
            unit="",
        ),
        Finding(
            name=f"{name}, which rank",
            injected=float(injection.rank or 0),
            injected_unit="rank",
            expected=float(injection.rank or 0),
            recovered=None if slow.straggler is None else float(slow.straggler),
            tolerance=0.0,
            unit="rank",
        ),
    ]
    added_s, added_alone_s = _added_s(record, "full", injection.name), _added_s(record, "local", injection.name)
    if added_s is not None and added_alone_s is not None:
        rows.append(
            Finding(
                name=f"{name}, taken for communication",
                injected=sleeps,
                injected_unit="s",
                expected=0.0,
                recovered=added_s - added_alone_s,
                tolerance=MISTAKEN_TOLERANCE_FRAC * sleeps,
                unit="s",
            )
        )
    return rows


def step_bytes(ledger: Sequence[LedgerLine]) -> float:
    """Payload bytes of a step, the mean over the steps of a ledger."""
    steps = {step for line in ledger for step in line.steps}
    return sum(line.payload_bytes * line.count * len(line.steps) for line in ledger) / len(steps) if steps else 0.0


def _withheld(record: Record, injection: Injection) -> Finding:
    """One rank is left out of one all-reduce: its ledger, and no other, must lack just that payload."""
    lacking: dict[int, float] = {}
    for rank in record.ranks:
        assert rank.attribution is not None
        ledger = rank.attribution.injected_ledgers.get(injection.name, [])
        lacking[rank.rank] = step_bytes(rank.attribution.ledger) - step_bytes(ledger)
    reduced = [
        span.payload_bytes
        for span in (record.ranks[0].attribution.timeline if record.ranks[0].attribution is not None else [])
        if span.name == "all_reduce" and span.payload_bytes is not None
    ]
    expected = float(reduced[injection.collective or 0])
    others = [bytes_ for rank, bytes_ in lacking.items() if rank != injection.rank]
    return Finding(
        name=f"{record.cell.strategy}: {injection.name}",
        injected=expected,
        injected_unit="bytes",
        expected=expected,
        # What other ranks lack is a fault of the ledger, and shows as one.
        recovered=lacking[injection.rank or 0] + sum(map(abs, others)),
        tolerance=0.0,
        unit="bytes",
    )
