"""The measured loop of one rank: warm-up by rule, a clean window, checks, and the record."""

from __future__ import annotations

import datetime
import gc
import importlib
import math
import os
import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.results.launch_file import Launch, record_path
from bench.results.record import Phases, RankRecord, Record, Work
from bench.results.store import write_rank, write_record
from bench.results.synchronisation import ReplicaSample, Synchronisation
from bench.worker.attribution import attribute
from bench.worker.data.micro_batch import MicroBatch
from bench.worker.device import device_of_rank
from bench.worker.feed import Feed, flops_per_token
from bench.worker.finite import Guard
from bench.worker.goal import Course
from bench.worker.guard import may_be_missed
from bench.worker.masks import draw_masks_of
from bench.worker.meeting import Meeting, meet
from bench.worker.meter.clock import step_clock
from bench.worker.meter.environment import environment
from bench.worker.meter.ledger import Ledger
from bench.worker.meter.memory import MemoryPeak
from bench.worker.meter.outline import OutlineWatch
from bench.worker.meter.process_group import BACKEND, Meter, register
from bench.worker.meter.witness import Witness
from bench.worker.started import on_several_hosts
from bench.worker.strategies.base import StepLoss, Strategy

WARMUP_BLOCK_STEPS = 3
WARMUP_TOLERANCE = 0.05


@dataclass(frozen=True)
class Interval:
    """Seconds before the measuring code was there: from the launcher's start to the program's (None where unknown),
    and importing."""

    start_s: float | None
    import_s: float


class Trainer:
    """One rank's training: a strategy, its batches, and what each optimizer step came to."""

    def __init__(
        self, cell: Cell, device: torch.device, control: dist.ProcessGroup, meter: Meter | None = None
    ) -> None:
        module, _, name = STRATEGIES[cell.strategy].target.partition(":")
        self.cell = cell
        self.device = device
        self.control = control
        self.meter = meter
        self.strategy: Strategy = getattr(importlib.import_module(module), name)()
        # After the strategy's imports: DeepSpeed's own 100 MiB are not the model's.
        self.memory = MemoryPeak(device)
        self.model: Any = self.strategy.prepare(cell, device)
        if cell.paced:
            self.model.skips_padding = not cell.equal_lengths
            if cell.slow_rank_frac and dist.get_rank() == cell.num_workers - 1:
                self.model.slow_down(cell.slow_rank_frac)
        self.feed = Feed(cell, self.model, device, control)
        self.results: list[StepLoss] = []
        self.first_step = 0
        """Where training began: at the beginning, or where it was resumed."""
        self.guard: Guard | None = None
        """Ends training at the first step that is not finite, at the cost of waiting for each."""
        self.samples: list[ReplicaSample] = []
        self.num_lost = 0
        # An attribute, so that a disturbance can be put in its place.
        self.input_pipeline = self._micro_batches

    def step(self) -> None:
        """One optimizer step on the next global batch."""
        if self.meter is not None:
            self.meter.begin_step()
        asked_s = time.perf_counter()
        step = self.first_step + len(self.results)
        micro_batches = self.input_pipeline(step)
        self.feed.waited_since(asked_s)
        draw_masks_of(self.cell, step, dist.get_rank())
        self.results.append(self.strategy.step(micro_batches))
        self.feed.end_step()
        if self.guard is not None:
            self.guard.check(step, self.results[-1])

    def _micro_batches(self, step: int) -> list[MicroBatch]:
        return self.feed.micro_batches(step)

    def timed_steps(self, num_steps: int, drain: bool = True) -> list[float]:
        """Seconds of each of `num_steps` optimizer steps, begun together by all ranks, and drained at the end, unless training
        goes on."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        dist.barrier(self.control)
        if self.cell.own_pace:
            may_be_missed()
        self.strategy.begin(num_steps)
        clock = step_clock(self.device)
        clock.mark()
        num_done = 0
        while self.strategy.goes_on(num_done):
            self.step()
            num_done += 1
            if drain and not self.strategy.goes_on(num_done):
                self.strategy.finish()
            clock.mark()
        if not num_done:
            self.strategy.finish()
        self._go_on_without_the_lost()
        return clock.step_times_s()

    def _go_on_without_the_lost(self) -> None:
        """Where workers may be lost: what follows is the others' business."""
        lost = {lost.rank for lost in self.strategy.lost}
        if len(lost) == self.num_lost:
            return
        self.num_lost = len(lost)
        staying = [rank for rank in range(self.cell.world_size) if rank not in lost]
        self.control = dist.new_group(staying, backend="gloo", use_local_synchronization=True)
        self.strategy.regroup(self.control)

    def warm_up(self) -> tuple[int, bool]:
        """Train until the step time has settled: the medians of the last two blocks, of the slowest rank's seconds,
        agree within 5 %, and the loss scaler skipped no step of the last block.

        Returns the number of steps and whether it settled within the cell's `max_warmup_steps`. All ranks agree. Blocks are of
        whole periods where ranks agree every H steps only.
        """
        every = self.cell.every_steps
        most = self.cell.max_warmup_steps // every * every
        medians: list[float] = []
        num_steps = 0
        while num_steps < most:
            block = min(-(-WARMUP_BLOCK_STEPS // every) * every, most - num_steps)
            taken = len(self.results)
            times_s = self._of_steps(self.timed_steps(block), block)
            dist.all_reduce(times_s, op=dist.ReduceOp.MAX, group=self.control)
            self.sample()
            medians.append(statistics.median(times_s.tolist()))
            num_steps += block
            skipped = any(result.skipped for result in self.results[taken:])
            ready = len(medians) > 1 and not skipped and num_steps >= self.cell.least_warmup_steps
            if ready and abs(medians[-1] / medians[-2] - 1) <= WARMUP_TOLERANCE:
                return num_steps, True
        return num_steps, False

    def _of_steps(self, times_s: list[float], num_steps: int) -> torch.Tensor:
        """This rank's seconds of each of so many steps: none of a server, the mean of all where a rank goes at its own pace."""
        if len(times_s) == num_steps and not self.cell.own_pace:
            return torch.tensor(times_s, dtype=torch.float64)
        return torch.full((num_steps,), sum(times_s) / num_steps, dtype=torch.float64)

    def sample(self) -> None:
        """Note how far apart the replicas are, where they drift. A collective, outside what is measured."""
        if not self.cell.drifting:
            return
        found = self.strategy.drift()
        if found is not None:
            self.samples.append(ReplicaSample(step=len(self.results), largest=found.largest, mean=found.mean))


def measure(launch: Launch, folder: Path | None, output: Path, before: Interval) -> None:
    """Run this rank's part of a launch. Rank 0 gathers every rank's raw figures and writes the record.

    `folder` is the launch's own; None for a launch by hand, whose folder is made under `output`.
    """
    entered_s = time.monotonic()
    cell = launch.cell
    device = device_of_rank()
    torch.set_num_threads(cell.threads_per_rank or (1 if device.type == "cpu" else torch.get_num_threads()))
    if launch.kind == "attribution" and cell.unmetered_because is not None:
        raise ValueError(cell.unmetered_because)
    meter = Meter(device) if launch.kind == "attribution" else None
    met = _join(launch, device, meter)
    # Control traffic never shares the measured process group.
    control = dist.new_group(backend="gloo")
    del met
    trainer = Trainer(cell, device, control, meter)
    built_s = time.monotonic()
    watch = OutlineWatch(trainer.model) if meter is not None else None
    witness = Witness(trainer.model, trainer.results)
    course = Course(trainer, launch.keeping) if cell.is_trained else None
    if course is not None:
        course.begin()
    with witness.watching():
        num_warmup_steps, settled = trainer.warm_up() if course is None else course.first_steps()
    num_own_warmup_steps = len(trainer.results) if cell.own_pace else num_warmup_steps
    witnessed = witness.witnessed()
    # Python's collector would stop one rank at a time, at moments of its own; the window is short enough to do without.
    gc.collect()
    if course is None:
        gc.disable()
    if meter is not None:
        meter.ledger = Ledger()
    warm_s = time.monotonic()
    step_times_s = trainer.timed_steps(cell.steps) if course is None else course.finish()
    measured_s = time.monotonic()
    ledger = meter.ledger.close() if meter is not None else []
    peak_bytes = trainer.memory.peak_bytes()
    losses = [float(result.loss) for result in trainer.results]
    fed = trainer.feed.told(len(losses), num_own_warmup_steps)
    trainer.sample()
    replicas = trainer.strategy.replica_distance()
    skipped = sum(result.skipped for result in trainer.results[num_own_warmup_steps:])
    plan, arms = attribute(trainer, launch, meter, ledger) if meter is not None else (None, None)
    gc.enable()
    control = trainer.control
    first = dist.get_global_rank(control, 0)
    if folder is None:
        # By hand, each rank has drawn an id of its own.
        told = [launch.launch_id]
        dist.broadcast_object_list(told, src=first, group=control)
        launch = launch.model_copy(update={"launch_id": told[0]})
        folder = output / cell.id / launch.launch_id
    here = RankRecord(
        launch_id=launch.launch_id,
        rank=dist.get_rank(),
        role="worker" if dist.get_rank() < cell.num_workers else "server",
        local_rank=int(os.environ["LOCAL_RANK"]),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        device=str(device),
        threads=torch.get_num_threads(),
        affinity=sorted(os.sched_getaffinity(0)),
        num_warmup_steps=num_own_warmup_steps if cell.own_pace else None,
        step_times_s=step_times_s,
        losses=losses,
        **fed,
        peak_memory_bytes=peak_bytes,
        base_memory_bytes=trainer.memory.base_bytes,
        phases=Phases(
            start_s=before.start_s,
            import_s=before.import_s,
            build_s=built_s - entered_s,
            warmup_s=warm_s - built_s,
            window_s=measured_s - warm_s,
            checks_s=time.monotonic() - measured_s,
        ),
        witnessed=witnessed,
        attribution=arms,
    )
    # Each rank's own file first: nothing that was measured is lost if rank 0 ends before its record is whole.
    digest = write_rank(folder, here)
    gathered: list[Any] = [None] * dist.get_world_size(control)
    dist.all_gather_object(gathered, (here.model_dump(), digest, trainer.strategy.synchronised()), group=control)
    if dist.get_rank() == first:
        ranks = [RankRecord(**entry) for entry, _, _ in gathered]
        digests = {rank.rank: sha256 for rank, (_, sha256, _) in zip(ranks, gathered, strict=True)}
        work = Work(
            num_params=trainer.model.num_params(),
            flops_per_token=flops_per_token(trainer.model, cell, ranks),
            tokens_per_step=sum(
                rank.witnessed.tokens[-1] for rank in ranks if rank.witnessed and rank.witnessed.tokens
            ),
            batch_tokens=trainer.feed.batch_tokens(len(losses), trainer.first_step),
            num_warmup_steps=num_warmup_steps,
            warmup_settled=settled,
            num_steps=cell.steps if cell.own_pace else len(step_times_s),
            num_skipped_steps=skipped,
            replicas=replicas,
        )
        # Of several servers the first counts; where none knows more, every step is an update.
        known = next((fields for _, _, fields in gathered if fields), {"num_updates": len(step_times_s)})
        kept = Synchronisation(
            num_tokens=sum(sum(rank.tokens[rank.num_warmup_steps or num_warmup_steps :]) for rank in ranks),
            samples=trainer.samples,
            **known,
        )
        record = launch.record(
            outcome="ok",
            work=work,
            environment=environment(device, num_nodes=len(launch.hosts) or len({rank.hostname for rank in ranks})),
            deepspeed_config=trainer.strategy.deepspeed_config,
            attribution=plan,
            outline=watch.outline() if watch is not None else None,
            corpus=trainer.feed.corpus,
            training=course.trained() if course is not None else None,
            synchronisation=kept,
            ranks=ranks,
            rank_sha256=[digests.get(rank, "") for rank in range(cell.world_size)],
        )
        path = record_path(folder)
        write_record(path, record)
        _say(record, path)
    # Nobody leaves before the record is safe; leaving without destroying aborts in one run of five.
    dist.barrier(control)
    dist.destroy_process_group()


def _join(launch: Launch, device: torch.device, meter: Meter | None) -> Meeting | None:
    timeout = datetime.timedelta(seconds=launch.timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if meter is not None:
        register(meter)
        backend = BACKEND
    if on_several_hosts():
        met = meet(timeout)
        dist.init_process_group(backend, store=met.store, rank=met.rank, world_size=met.world_size, timeout=timeout)
        return met
    if device.type == "cuda" or "MASTER_PORT" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
        os.environ["MASTER_PORT"] = str(store.port)
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    return None


def _say(record: Record, path: Path) -> None:
    # A training may end before ranks that agree seldom have taken a whole period together.
    median_s = statistics.median(record.slowest_step_times_s() or [math.nan])
    loss = record.mean_losses()[-1]
    finite = "" if math.isfinite(loss) else " (not finite)"
    print(
        f"{record.cell.id}: {median_s:.4f} s a step, {record.tokens_per_step() / median_s:,.0f} tokens/s, "
        f"loss {loss:.4f}{finite}; record: {path}",
        flush=True,
    )
