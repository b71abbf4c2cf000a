"""One step of every rank as a trace that Perfetto and chrome://tracing open."""

from __future__ import annotations

from typing import Any

from bench.results.metered import Span
from bench.results.record import RankRecord, Record


def chrome_trace(record: Record) -> dict[str, Any] | None:
    """The timeline of an attribution launch in Chrome's trace event format; None where no step was noted.

    A process a rank. Its first track holds the step and what it computed, the others its collectives, from launch to
    completion; those that overlap lie on tracks of their own. Times are in microseconds from the first rank's start.
    The ranks of rank 0's host share its clock; another host's are laid so that they leave the barrier before the step when
    rank 0 does, which is right to a network's latency.

    Source: "Trace Event Format" (the Catapult project), events of phase X and M.
    """
    traced = [rank for rank in record.ranks if rank.attribution is not None and rank.attribution.timeline]
    if not traced:
        return None
    shifts_s = {rank.rank: _shift_s(rank, traced[0]) for rank in traced}
    origin_s = min(span.start_s + shifts_s[rank.rank] for rank in traced for span in _spans(rank))
    events: list[dict[str, Any]] = []
    for rank in traced:
        events += _named(rank)
        free_s: list[float] = []
        for span in _spans(rank):
            track = 0
            if span.kind == "collective":
                track = 1 + _place(free_s, span)
            events.append(
                {
                    "ph": "X",
                    "pid": rank.rank,
                    "tid": track,
                    "name": span.name,
                    "cat": span.kind,
                    "ts": 1e6 * (span.start_s + shifts_s[rank.rank] - origin_s),
                    "dur": 1e6 * (span.end_s - span.start_s),
                    "args": {} if span.payload_bytes is None else {"payload_bytes": span.payload_bytes},
                }
            )
    return {
        "displayTimeUnit": "ms",
        "otherData": {"cell": record.cell.id, "launch": record.launch_id, "arm": "full"},
        "traceEvents": events,
    }


def _spans(rank: RankRecord) -> list[Span]:
    """In the order of their starts, the longer first: a viewer nests what lies inside another."""
    spans = rank.attribution.timeline if rank.attribution is not None else []
    return sorted(spans, key=lambda span: (span.start_s, -span.end_s))


def _shift_s(rank: RankRecord, first: RankRecord) -> float:
    here, there = rank.attribution, first.attribution
    if (
        rank.hostname == first.hostname
        or here is None
        or there is None
        or here.barrier_s is None
        or there.barrier_s is None
    ):
        return 0.0
    return there.barrier_s - here.barrier_s


def _place(free_s: list[float], span: Span) -> int:
    """The first track that is free when the span starts; `free_s` holds when each is, and is brought up to date."""
    for track, moment_s in enumerate(free_s):
        if moment_s <= span.start_s:
            free_s[track] = span.end_s
            return track
    free_s.append(span.end_s)
    return len(free_s) - 1


def _named(rank: RankRecord) -> list[dict[str, Any]]:
    """The names of a rank's process and of its first two tracks."""
    names = [("process_name", 0, f"rank {rank.rank} ({rank.hostname}, {rank.device})")]
    names += [("thread_name", 0, "step and compute"), ("thread_name", 1, "collectives")]
    named: list[dict[str, Any]] = [
        {"ph": "M", "pid": rank.rank, "tid": track, "name": kind, "args": {"name": text}} for kind, track, text in names
    ]
    return [
        *named,
        {"ph": "M", "pid": rank.rank, "tid": 0, "name": "process_sort_index", "args": {"sort_index": rank.rank}},
    ]
