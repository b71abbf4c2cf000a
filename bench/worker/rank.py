"""One rank's part of a launch, from joining the others to the record."""

from __future__ import annotations

import datetime
import gc
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

from bench.results.launch_file import Launch, record_path
from bench.results.record import Phases, RankRecord, Record, Work
from bench.results.store import write_rank, write_record
from bench.results.synchronisation import Synchronisation
from bench.worker.attribution import attribute
from bench.worker.device import device_of_rank
from bench.worker.feed import flops_per_token
from bench.worker.goal import Course
from bench.worker.meeting import Meeting, meet
from bench.worker.meter.environment import environment
from bench.worker.meter.ledger import Ledger
from bench.worker.meter.outline import OutlineWatch
from bench.worker.meter.process_group import BACKEND, Meter, register
from bench.worker.meter.witness import Witness
from bench.worker.started import on_several_hosts
from bench.worker.trainer import Trainer


@dataclass(frozen=True)
class Interval:
    """Seconds before the measuring code was there: from the launcher's start to the program's (None where unknown),
    and importing."""

    start_s: float | None
    import_s: float


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
    # A training has no warm-up, whatever the pace.
    num_own_warmup_steps = len(trainer.results) if cell.own_pace and course is None else num_warmup_steps
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
    if course is None:
        trainer.sample()
    replicas = trainer.strategy.replica_distance()
    skipped = sum(result.skipped for result in trainer.results[num_own_warmup_steps:])
    plan, arms = attribute(trainer, launch, meter, ledger) if meter is not None else (None, None)
    gc.enable()
    trained = course.trained() if course is not None else None
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
            num_steps=(cell.steps if trained is None else trained.num_steps) if cell.own_pace else len(step_times_s),
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
            training=trained,
            synchronisation=kept,
            fitted_cost=trainer.feed.fitted_cost,
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
