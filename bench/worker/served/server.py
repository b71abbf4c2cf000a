"""A server: a thread for each worker takes what it sends, applies it, and hands out weights and turns."""

from __future__ import annotations

import threading
from collections import Counter

import torch
from torch import Tensor

from bench.plan.cell import Cell
from bench.results.synchronisation import Lost
from bench.worker.served.messages import END, PULL, PUSH, Wire
from bench.worker.served.shard import Shard
from bench.worker.served.turns import Turns


class Server:
    """Serves `shard` to the workers, in windows: `begin`, then `finish`, which returns when every worker has ended or is gone.
    `num_updates`, `staleness` and `lead` are of the last window; of a training to a goal, whose windows lie between its
    evaluations, of all of them.

    The first server (`hands_out_turns`) says who may go on. In mode sync a worker that goes ends the launch (RuntimeError);
    at their own pace the others go on without it.
    """

    def __init__(self, cell: Cell, shard: Shard, wire: Wire, hands_out_turns: bool) -> None:
        self._cell = cell
        self._shard = shard
        self._wire = wire
        self._hands_out_turns = hands_out_turns
        self._workers = list(range(cell.num_workers))
        self._num_threads = torch.get_num_threads()
        self._changed = threading.Condition()
        self._round: dict[int, Tensor] = {}
        self._num_applied: Counter[int] = Counter()
        self._forget()
        self._broken: Exception | None = None
        self.lost: list[Lost] = []

    def begin(self, num_steps: int) -> None:
        staleness = int(self._cell.options["staleness"]) if self._cell.options["mode"] == "stale" else None
        self._turns = Turns(self._workers, num_steps, staleness)
        if not self._cell.is_trained:
            self._forget()
        self._serving = set(self._workers)
        self._threads = [
            threading.Thread(target=self._thread, args=(worker,), name=f"worker-{worker}", daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def _forget(self) -> None:
        self._first_version = self._shard.version
        self._staleness: Counter[int] = Counter()
        self._lead: Counter[int] = Counter()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join()
        self._lead.update(self._turns.lead)
        if self._broken is not None:
            raise RuntimeError(str(self._broken)) from self._broken
        if not self._workers:
            raise RuntimeError(f"every worker is gone: {'; '.join(lost.reason for lost in self.lost)}")

    @property
    def num_updates(self) -> int:
        return self._shard.version - self._first_version

    @property
    def staleness(self) -> dict[int, int]:
        return dict(sorted(self._staleness.items()))

    @property
    def lead(self) -> dict[int, int]:
        # Where all wait for each other, who asks first says nothing.
        return {ahead: number for ahead, number in sorted(self._lead.items()) if number} if self._cell.own_pace else {}

    def _thread(self, worker: int) -> None:
        # A setting of each thread's own.
        torch.set_num_threads(self._num_threads)
        try:
            self._serve(worker)
        except RuntimeError as error:
            with self._changed:
                self._gone(worker, error)
                self._changed.notify_all()

    def _serve(self, worker: int) -> None:
        sent = torch.empty_like(self._shard.weights.detach())
        while True:
            kind, version = self._wire.announced(worker)
            if kind == PUSH:
                self._wire.receive(sent, worker)
                goes_on = self._pushed(worker, sent, version)
                if self._hands_out_turns:
                    self._wire.announce(int(goes_on), self._shard.version, worker)
            elif kind == PULL:
                with self._changed:
                    weights, version = self._shard.weights.detach().clone(), self._shard.version
                self._wire.announce(PULL, version, worker)
                self._wire.send(weights, worker)
            elif kind == END:
                self._wire.send(self._ended(worker), worker)
                return
            else:
                raise RuntimeError(f"worker {worker} announced {kind}, expected one of {(PUSH, PULL, END)}")

    def _pushed(self, worker: int, sent: Tensor, version: int) -> bool:
        """Apply what the worker sent; whether it may take another step, once it may."""
        with self._changed:
            if self._cell.own_pace:
                staleness = self._shard.version - version
                self._shard.apply(sent, staleness)
                self._staleness[staleness] += 1
            else:
                self._in_round(worker, sent)
            self._num_applied[worker] += 1
            self._turns.taken(worker)
            self._changed.notify_all()
            while self._hands_out_turns:
                self._go_on_unless_broken()
                goes_on = self._turns.next(worker)
                if goes_on is not None:
                    return goes_on
                self._changed.wait()
            return False

    def _in_round(self, worker: int, sent: Tensor) -> None:
        """One update of all workers' messages, when the last of them is here."""
        version = self._shard.version
        self._round[worker] = sent
        if len(self._round) == self._cell.num_workers:
            self._shard.apply_mean([self._round[rank] for rank in sorted(self._round)])
            self._staleness[0] += 1
            self._round.clear()
        while self._shard.version == version:
            self._go_on_unless_broken()
            self._changed.wait()

    def _go_on_unless_broken(self) -> None:
        if self._broken is not None:
            raise RuntimeError(f"the launch is over: {self._broken}")

    def _ended(self, worker: int) -> Tensor:
        """When all have: how many messages of each worker that is gone were applied, -1 for the others."""
        with self._changed:
            self._serving.discard(worker)
            self._changed.notify_all()
            while self._serving:
                self._go_on_unless_broken()
                self._changed.wait()
            counts = torch.full((self._cell.num_workers,), -1)
            for lost in self.lost:
                counts[lost.rank] = lost.num_updates
            return counts

    def _gone(self, worker: int, error: Exception) -> None:
        self._serving.discard(worker)
        if not self._cell.own_pace:
            self._broken = self._broken or error
            return
        self._workers.remove(worker)
        self._turns.without(worker)
        self.lost.append(Lost(rank=worker, num_updates=self._num_applied[worker], reason=_in_short(error)))


def _in_short(error: Exception) -> str:
    """What gloo found, without where in its source, and without its advice."""
    found = str(error).splitlines()[0].removeprefix("[").partition("] ")
    return (found[2] or found[0]).partition(". This")[0][:300]
