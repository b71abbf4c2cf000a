"""A sweep of collectives on one rank: sizes that double, every operation at each, every result compared, every rank's seconds."""

from __future__ import annotations

import datetime
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from bench.results.comm import CommLaunch, CommLeftOut, CommPlan, CommPoint, CommRank, Operation, write_comm
from bench.results.comm_sizes import fitting_bytes, num_elements
from bench.results.launch_file import record_path
from bench.worker.collectives import NUM_BUFFERS, VARIANTS, Collective
from bench.worker.device import device_of_rank
from bench.worker.meeting import Meeting, meet
from bench.worker.meter.clock import step_clock
from bench.worker.meter.environment import environment

NUM_WARMUPS = 2
MIN_REPETITIONS, MAX_REPETITIONS = 7, 60
POINT_S, BUDGET_PARTS = 0.25, 240
"""What one operation at one size may take, filling and comparing included, beyond the fewest repetitions; and into how many
such parts a budget is divided, where that is less."""
SETTLE_S = 0.5
"""How long all operations are run at the smallest size before anything is timed: threads, pages and clocks settle."""
MEMORY_FRAC = 0.5
"""Of the memory that is free, what the arrays of all ranks of a host may take together."""


class _Corrupted(Exception):
    """A collective delivered wrong values; the same on every rank."""


def sweep(launch: CommLaunch, folder: Path) -> None:
    """This rank's part of a sweep; rank 0 writes the record."""
    device = device_of_rank()
    torch.set_num_threads(launch.plan.threads_per_rank)
    timeout = datetime.timedelta(seconds=launch.timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    met: Meeting | None = None
    if len(launch.hosts) > 1:
        met = meet(timeout)
        dist.init_process_group(backend, store=met.store, rank=met.rank, world_size=met.world_size, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)
    # Barriers and gathered seconds never share the measured process group.
    control = dist.new_group(backend="gloo", timeout=timeout)
    # All are connected once more: nobody is taken for dead who lets the meeting go.
    del met
    here = CommRank(rank=dist.get_rank(), hostname=socket.gethostname(), device=str(device))
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, here, group=control)
    local = sum(rank.hostname == here.hostname for rank in ranks)
    found = _Sweep(launch.plan, device, control)
    reason = None
    try:
        found.measure(_memory_bytes(device, local))
    except _Corrupted as error:
        reason = str(error)
    if here.rank == 0:
        record = launch.record(
            outcome="ok" if reason is None else "invalid",
            reason=reason,
            limit=found.limit,
            environment=environment(device, num_nodes=len({rank.hostname for rank in ranks})),
            ranks=ranks,
            points=found.points,
            left_out=list(found.left_out.values()),
        )
        write_comm(record_path(folder), record)
    dist.barrier(control)
    dist.destroy_process_group()


def _memory_bytes(device: torch.device, num_local_ranks: int) -> int:
    """What one rank's arrays may take: its GPU's free memory, or its share of the host's, and of its control group's."""
    if device.type == "cuda":
        return int(MEMORY_FRAC * torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        most, used = "max", 0  # no control group of version 2: what the host has is all there is
    free = free if most == "max" else min(free, int(most) - used)
    return int(MEMORY_FRAC * free / num_local_ranks)


class _Sweep:
    """Points so far, what the backend refused, and why it ended where it did. All ranks come to the same."""

    def __init__(self, plan: CommPlan, device: torch.device, control: dist.ProcessGroup) -> None:
        self.plan, self.device, self.control = plan, device, control
        self.points: list[CommPoint] = []
        self.left_out: dict[tuple[str, bool], CommLeftOut] = {}
        self.limit = ""
        self._point_s = min(POINT_S, plan.budget_s / BUDGET_PARTS)
        self._wanted = [(operation, in_place) for operation, in_place in VARIANTS if operation in plan.operations]

    def measure(self, memory_bytes: int) -> None:
        """Sizes in rounds of all operations: drift of the machine hits all alike. Raises _Corrupted."""
        memory_bytes = min(self._gathered(memory_bytes))
        size_bytes = self.plan.min_bytes
        if size_bytes * NUM_BUFFERS > memory_bytes:
            raise MemoryError(f"{NUM_BUFFERS} arrays of {size_bytes} B do not fit into the {memory_bytes} B of a rank")
        started_s = time.monotonic()
        while max(self._gathered(time.monotonic() - started_s)) < SETTLE_S:
            self._round(size_bytes)
        # Timed, compared, and let go.
        self.points.clear()
        started_s = time.monotonic()
        while True:
            round_s = time.monotonic()
            self._round(size_bytes)
            # Rank 0's clock decides for all.
            spent_s, last_s = self._gathered((time.monotonic() - started_s, time.monotonic() - round_s))[0]
            if self._ends_here(2 * size_bytes, memory_bytes, spent_s + 2 * last_s):
                return
            size_bytes *= 2

    def _round(self, size_bytes: int) -> None:
        for operation, in_place in self._wanted:
            if (operation, in_place) not in self.left_out:
                self._point(operation, in_place, size_bytes)

    def _ends_here(self, next_bytes: int, memory_bytes: int, expected_s: float) -> bool:
        if self.plan.max_bytes is not None and next_bytes > self.plan.max_bytes:
            self.limit = "as asked"
        elif next_bytes * NUM_BUFFERS > memory_bytes:
            self.limit = f"memory: a rank may use {memory_bytes / 2**30:.2g} GiB for {NUM_BUFFERS} arrays"
        elif self.plan.max_bytes is None and expected_s > self.plan.budget_s:
            self.limit = f"time: the next size would pass {self.plan.budget_s:g} s in all"
        return bool(self.limit)

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self.control)
        return values

    def _point(self, operation: Operation, in_place: bool, asked_bytes: int) -> None:
        """One operation at one size, by all ranks together."""
        ranks = dist.get_world_size()
        size_bytes = fitting_bytes(operation, asked_bytes, ranks)
        collective = Collective(operation, in_place, size_bytes, self.device)
        faults: list[str] = []

        def repeat(number: int) -> list[float]:
            return [self._repetition(collective, index, faults) for index in range(number)]

        refused = None
        begun_s = time.monotonic()
        try:
            repeat(NUM_WARMUPS)
        except (RuntimeError, NotImplementedError) as error:
            refused = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        told = self._gathered((refused, (time.monotonic() - begun_s) / NUM_WARMUPS))
        if asked_bytes == self.plan.min_bytes and all(reason is not None for reason, _ in told):
            # All ranks at once, at the first size: the backend has no such operation.
            self.left_out[operation, in_place] = CommLeftOut(operation=operation, in_place=in_place, reason=told[0][0])
            return
        if refused is not None:
            raise RuntimeError(f"{operation} of {size_bytes} B: {refused}")
        slowest_s = max(seconds for _, seconds in told)
        number = min(MAX_REPETITIONS, max(MIN_REPETITIONS, math.ceil(self._point_s / slowest_s)))
        times_s = repeat(number)
        gathered = self._gathered((times_s, faults))
        for rank, (_, wrong) in enumerate(gathered):
            if wrong:
                where = "in place" if in_place else "out of place"
                raise _Corrupted(f"{operation} ({where}) of {size_bytes} B is corrupted on rank {rank}: {wrong[0]}")
        self.points.append(
            CommPoint(
                operation=operation,
                in_place=in_place,
                size_bytes=size_bytes,
                num_elements=num_elements(operation, size_bytes, ranks),
                num_warmups=NUM_WARMUPS,
                num_checked=(NUM_WARMUPS + number) * ranks,
                times_s=[seconds for seconds, _ in gathered],
            )
        )

    def _repetition(self, collective: Collective, index: int, faults: list[str]) -> float:
        """Seconds of one collective on this rank, begun by all together, its values compared afterwards."""
        collective.fill(index)
        seconds = timed(collective.run, self.device, self.control)
        if (fault := collective.fault(index)) is not None:
            faults.append(f"{fault} (repetition {index})")
        return seconds


def timed(run: Callable[[], None], device: torch.device, control: dist.ProcessGroup) -> float:
    """Seconds of `run` between two marks: of the host where it returns when it is done, of the stream on CUDA."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier(control)
    clock = step_clock(device)
    clock.mark()
    run()
    clock.mark()
    [seconds] = clock.step_times_s()
    return seconds
