"""Records with known arithmetic, as launches would have written them: the truth that analysis and reports are held to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from bench.analysis.measured import Measured, measured
from bench.analysis.traffic import traffic_table
from bench.analysis.validity import judge
from bench.plan.cell import Cell
from bench.plan.suite import load_suite
from bench.results.frame import to_frame
from bench.results.record import Environment, Outcome, Phases, RankRecord, Record, Replicas, Work
from bench.results.store import RECORD_NAME, rank_path, record_text, sealed_text, write_record

V100 = "Tesla V100-SXM2-32GB"
_launch_numbers = itertools.count()


def environment(cell: Cell, **changes: Any) -> Environment:
    """An eight-core machine without GPUs, unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "device_type": "cpu",
        "device_names": [],
        "device_memory_bytes": None,
        "driver": None,
        "cpu": "Synthetic CPU @ 2.0 GHz",
        "num_cores": 8,
        "memory_bytes": 16 * 2**30,
        "platform": "Linux-6.1",
        "versions": {"torch": "2.7.1", "deepspeed": "0.18.0", "python": "3.11.7"},
        "git_commit": "0123456789abcdef",
        "variables": {"OMP_NUM_THREADS": "1"},
        "backend": "gloo",
        "num_nodes": 1,
    }
    return Environment(**{**fields, **changes})


def eight_v100s(cell: Cell) -> Environment:
    return environment(
        cell,
        device_type="cuda",
        device_names=[V100] * cell.world_size,
        device_memory_bytes=32 * 2**30,
        driver="535.104",
        num_cores=80,
        backend="nccl",
    )


def losses_of(cell: Cell, num_losses: int) -> list[float]:
    """Losses that depend on nothing but the work: equal for every strategy of equal global batch."""
    return [8.3 - 0.01 * step - 0.001 * cell.global_batch_size for step in range(num_losses)]


def launch(
    cell: Cell | None = None,
    *,
    step_time_s: float = 0.1,
    step_times_s: list[list[float]] | None = None,
    losses: list[float] | None = None,
    peak_memory_bytes: int = 2**30,
    base_memory_bytes: int = 2**28,
    num_skipped_steps: int = 0,
    replica_distance: float | None = 0.0,
    num_ranks: int | None = None,
    num_steps: int | None = None,
    flops_per_token: float = 3.0e7,
    num_params: int = 4_000_000,
    place: Environment | None = None,
    **changes: Any,
) -> Record:
    """An ok launch of `cell`. The slowest rank's median step is `step_time_s`: rank 0 takes it, the others 1 % less."""
    cell = cell or Cell(model="gpt-nano", strategy="ddp", world_size=1, steps=5)
    ranks = cell.world_size if num_ranks is None else num_ranks
    steps = cell.steps if num_steps is None else num_steps
    # An odd step out at the end: a median does not see it, a mean would.
    times = step_times_s or [
        [step_time_s * (0.99 if rank else 1.0)] * (steps - 1) + [step_time_s * 1.5] for rank in range(ranks)
    ]
    losses = losses_of(cell, 6 + steps) if losses is None else losses
    window_s = sum(times[0]) if times else 0.0
    place = place or environment(cell)
    phases = Phases(start_s=1.0, import_s=2.0, build_s=0.5, warmup_s=0.75, window_s=window_s, checks_s=0.25)
    fields: dict[str, Any] = {
        "launch_id": f"{next(_launch_numbers):06d}",
        "suite": "synthetic",
        "cell": cell,
        "started_at": "2026-01-01T00:00:00Z",
        "launcher": "deepspeed",
        "outcome": "ok",
        "wall_s": window_s + 5.0,
        "work": Work(
            num_params=num_params,
            flops_per_token=flops_per_token,
            tokens_per_step=cell.tokens_per_step,
            num_warmup_steps=6,
            warmup_settled=True,
            num_steps=steps,
            num_skipped_steps=num_skipped_steps,
            replicas=None
            if replica_distance is None
            else Replicas(largest=replica_distance, mean=replica_distance, num_params=num_params),
        ),
        "environment": place,
        "ranks": [
            RankRecord(
                rank=rank,
                local_rank=rank,
                hostname="localhost",
                pid=1000 + rank,
                device=f"cuda:{rank}" if place.device_type == "cuda" else "cpu",
                threads=1,
                affinity=[],
                step_times_s=times[rank],
                losses=losses,
                peak_memory_bytes=peak_memory_bytes,
                base_memory_bytes=base_memory_bytes,
                phases=phases,
            )
            for rank in range(ranks)
        ],
    }
    return Record(**{**fields, **changes})


def failure(cell: Cell, outcome: Outcome, reason: str, evidence: list[str] | None = None) -> Record:
    """A launch of `cell` that measured nothing."""
    return Record(
        launch_id=f"{next(_launch_numbers):06d}",
        suite="synthetic",
        cell=cell,
        started_at="2026-01-01T00:00:00Z",
        launcher="deepspeed",
        outcome=outcome,
        reason=reason,
        evidence=evidence or [],
        wall_s=None if outcome == "skipped" else 12.0,
    )


_SLOWER = {"ddp": 1.0, "zero0": 1.03, "zero1": 1.08, "zero2": 1.17, "zero3": 1.45}


def quick(launches: int = 1) -> list[Record]:
    """The shipped suite `quick`: zero3 crashes once, and 8 paced ranks run out of time."""
    records: list[Record] = []
    for planned in load_suite("quick").cells:
        cell = planned.cell
        for number in range(launches):
            if (cell.strategy, cell.grad_accum_steps) == ("zero3", 4):
                records.append(
                    failure(cell, "crashed", "rank 1 ended with exit code 1", ["Traceback", "KeyError: 'x'"])
                )
            elif (cell.strategy, cell.world_size, cell.paced) == ("zero2", 8, True):
                records.append(failure(cell, "timeout", "did not end within 180 s"))
            else:
                work_s = (0.36 if cell.paced else 0.06) * cell.grad_accum_steps
                shared_s = 0.02 * _SLOWER[cell.strategy] ** 2 * (cell.world_size - 1)
                records.append(
                    launch(cell, step_time_s=(work_s * _SLOWER[cell.strategy] ** 0.5 + shared_s) * (1 + 0.01 * number))
                )
    return records


def reference(launches: int = 1, steps: int | None = None) -> list[Record]:
    """The shipped suite `v100-8`: the times follow a plain model of compute plus ring all-reduce; large cells run out."""
    params = {"gpt2-small": 124e6, "gpt2-medium": 355e6, "gpt2-large": 774e6, "gpt2-xl": 1558e6}
    sharded = {"ddp": 0.0, "zero0": 0.0, "zero1": 12.0, "zero2": 14.0, "zero3": 16.0}
    records: list[Record] = []
    for planned in load_suite("v100-8").cells:
        cell = planned.cell if steps is None else planned.cell.model_copy(update={"steps": steps})
        size = params[cell.model]
        share = 1 - 1 / cell.world_size
        state = size * (16 - sharded[cell.strategy] * share)
        memory = int(state + cell.micro_batch_size * cell.seq_len * size**0.5 * 40)
        for number in range(launches):
            if planned.skip_reason:
                records.append(failure(cell, "skipped", planned.skip_reason))
            elif memory > 31 * 2**30:
                records.append(
                    failure(cell, "oom", "CUDA out of memory", ["torch.OutOfMemoryError: CUDA out of memory"])
                )
            else:
                compute_s = 8 * size * cell.tokens_per_step / cell.world_size / 50e12
                traffic_s = (3.0 if cell.strategy == "zero3" else 2.0) * 2 * size * share / 60e9
                step_time_s = compute_s * _SLOWER[cell.strategy] ** 0.3 + traffic_s * _SLOWER[cell.strategy]
                records.append(
                    launch(
                        cell,
                        step_time_s=step_time_s * (1 + 0.01 * number),
                        peak_memory_bytes=memory,
                        base_memory_bytes=0,
                        flops_per_token=6 * size,
                        num_params=int(size),
                        place=eight_v100s(cell),
                    )
                )
    return records


def measured_of(records: list[Record]) -> list[Measured]:
    """What other runs are compared with, of these launches."""
    return measured(records, judge(to_frame(records)), traffic_table(records))


def write(folder: Path, records: list[Record]) -> Path:
    """Store the records under `folder`, as the launcher does; the folder."""
    for record in records:
        write_record(folder / record.cell.id / record.launch_id / RECORD_NAME, record)
    return folder


def write_fast(folder: Path, records: list[Record]) -> Path:
    """The files of real launches, those of ranks too, without fsync: for a benchmark that reads a thousand launches and is
    not about writing."""
    for record in records:
        path = folder / record.cell.id / record.launch_id / RECORD_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [sealed_text("rank", rank) for rank in record.ranks]
        for rank, (text, _) in enumerate(parts):
            rank_path(path.parent, rank).write_text(text)
        path.write_text(record_text(record.model_copy(update={"rank_sha256": [digest for _, digest in parts]})))
    return folder
