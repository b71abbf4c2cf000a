"""The next batch is made while the present one is trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_Batch = TypeVar("_Batch")


class Prefetch(Generic[_Batch]):
    """Calls `make(step)` one step ahead, on a thread of its own. An error in it is raised where the batch is asked for."""

    def __init__(self, make: Callable[[int], _Batch]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: tuple[int, Future[_Batch]] | None = None

    def get(self, step: int) -> _Batch:
        """The batch of that step; that of the next one is begun. A step out of turn is made at once."""
        ahead, self._ahead = self._ahead, None
        made = (
            ahead[1].result()
            if ahead is not None and ahead[0] == step
            else self._pool.submit(self._make, step).result()
        )
        self._ahead = (step + 1, self._pool.submit(self._make, step + 1))
        return made
