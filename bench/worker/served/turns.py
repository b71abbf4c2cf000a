"""Who may take another step: all together, each as it likes, or nobody too far ahead."""

from __future__ import annotations

from collections import Counter


class Turns:
    """The steps of one window. `total` are handed out, the first of each worker unasked.

    `staleness`: how many steps a worker may be ahead of the slowest when it begins one; None is unbounded. `lead` counts
    the steps that were begun by how far ahead their worker was. Not locked: the server's lock is held around each call.
    """

    def __init__(self, workers: list[int], num_steps: int, staleness: int | None) -> None:
        self._total = num_steps * len(workers)
        self._given = min(self._total, len(workers))
        self._staleness = staleness
        self._taken = dict.fromkeys(workers, 0)
        self.lead: Counter[int] = Counter({0: self._given})

    def taken(self, worker: int) -> None:
        """The worker has taken a step."""
        self._taken[worker] += 1

    def next(self, worker: int) -> bool | None:
        """True if the worker may take another step, which counts as begun; False if there is none left; None if it must wait."""
        if self._given >= self._total:
            return False
        ahead = self._taken[worker] - min(self._taken.values())
        if self._staleness is not None and ahead > self._staleness:
            return None
        self._given += 1
        self.lead[ahead] += 1
        return True

    def without(self, worker: int) -> None:
        """The worker is gone, and the step that it had begun goes to another."""
        self._given -= 1
        del self._taken[worker]
