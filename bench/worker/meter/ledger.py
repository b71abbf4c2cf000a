"""What was communicated: operation, group size, bytes and count of every collective, by optimizer step."""

from __future__ import annotations

from collections import Counter

from bench.results.metered import LedgerLine

_Call = tuple[str, int, int]


class Ledger:
    """Counts the collectives of each optimizer step. Numbers only: a kept Work or tensor would keep its memory alive."""

    def __init__(self) -> None:
        self._steps: list[Counter[_Call]] = []
        self._open = False

    def begin_step(self) -> None:
        """What is counted from here on belongs to the next step."""
        self._steps.append(Counter())
        self._open = True

    def close(self) -> list[LedgerLine]:
        """What comes now belongs to no step, and is not counted. Returns `lines()`."""
        self._open = False
        return self.lines()

    def count(self, operation: str, group_size: int, payload_bytes: int) -> None:
        """One collective was called. `payload_bytes` is the full array, as in `LedgerLine`."""
        if self._open:
            self._steps[-1][operation, group_size, payload_bytes] += 1

    def lines(self) -> list[LedgerLine]:
        """The calls of all steps; equal counts of equal calls in several steps are one line."""
        steps: dict[tuple[_Call, int], list[int]] = {}
        for number, calls in enumerate(self._steps):
            for call, count in calls.items():
                steps.setdefault((call, count), []).append(number)
        return [
            LedgerLine(operation=call[0], group_size=call[1], payload_bytes=call[2], count=count, steps=where)
            for (call, count), where in sorted(steps.items())
        ]
