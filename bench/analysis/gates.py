"""What one launch really did, held against what its cell asked for: the gates that look into a single record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.results.record import OptimizerSettings, RankRecord, Record, Witnessed
from bench.theory.flops import mfu, peak_flops_per_s

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

OUTER = "OuterSGD"
"""The class of DiLoCo's outer optimizer, whose settings are the strategy's own."""

PACED_TOLERANCE = 0.02
"""On CUDA the end of a step is where the device was, which may be a little behind the host that slept."""


def faults(record: Record) -> list[str]:
    """Why an ok launch may not be believed, one reason a gate, each with what was found and what was expected.

    What a record doesn't know (older ones hold less) no gate is applied to.
    """
    return [why for gate in GATES if (why := gate(record)) is not None]


def _rank_of_another_launch(record: Record) -> str | None:
    for rank in record.ranks:
        if rank.launch_id not in (None, record.launch_id):
            return f"rank {rank.rank} is of launch {rank.launch_id}, expected {record.launch_id}"
    return None


def _tokens_differ(record: Record) -> str | None:
    """What went into the model is what the rank was dealt; that of all ranks together, the global batch."""
    cell = record.cell
    equal = cell.tokens_per_step // cell.num_workers
    for rank, seen in _witnessed(record):
        asked = [equal] * len(seen.tokens) if cell.equal_lengths else rank.tokens
        for step, (tokens, expected) in enumerate(zip(seen.tokens, asked, strict=False)):
            if tokens != expected:
                return f"rank {rank.rank} trained on {tokens} tokens in warm-up step {step}, expected {expected}"
    return None


def _batch_incomplete(record: Record) -> str | None:
    """Where sequences are unequal: the ranks' tokens add up to the global batch's, in every step."""
    if record.work is None or record.cell.equal_lengths:
        return None
    by_step = zip(*(rank.tokens for rank in record.workers), strict=False)
    dealt = [sum(tokens) for tokens in by_step]
    for step, expected in enumerate(record.work.batch_tokens):
        found = dealt[step] if step < len(dealt) else None
        if found != expected:
            number = "an unknown number of" if found is None else found
            return f"ranks were dealt {number} tokens in step {step}, expected {expected}, those of the global batch"
    return None


def _updates_differ(record: Record) -> str | None:
    """One update a step, but none where the loss scaler skipped it. With a tuned optimizer that is not torch's nothing was
    seen. Where servers update, `_server_updates_differ` counts."""
    if record.cell.num_servers:
        return None
    for rank, seen in _witnessed(record):
        if record.cell.profile == "tuned" and not seen.optimizers:
            continue
        for step, (num_updates, skipped) in enumerate(zip(seen.num_updates, seen.skipped, strict=True)):
            if num_updates != 1 and not skipped:
                return (
                    f"rank {rank.rank} updated its parameters {num_updates} times in warm-up step {step}, expected once"
                )
    return None


def _server_updates_differ(record: Record) -> str | None:
    """Servers update once a step of all workers, or once a step of each where these go at their own pace. Of a training the
    window is all of it."""
    cell, kept = record.cell, record.synchronisation
    if not cell.num_servers or kept is None:
        return None
    num_steps = cell.steps if record.training is None else record.training.num_steps
    expected = num_steps * (cell.num_workers if cell.own_pace else 1)
    if kept.num_updates != expected:
        return f"servers updated the parameters {kept.num_updates} times in the window, expected {expected}"
    if cell.options["mode"] == "stale" and (furthest := max(kept.lead, default=0)) > int(cell.options["staleness"]):
        return f"a worker began a step {furthest} ahead of the slowest, expected at most {cell.options['staleness']}"
    return None


def _precision_differs(record: Record) -> str | None:
    expected = DTYPES[record.cell.precision]
    for rank, seen in _witnessed(record):
        if seen.parameter_dtypes != [expected]:
            return f"parameters of rank {rank.rank} are {', '.join(seen.parameter_dtypes)}, expected {expected}"
    return None


def _optimizer_differs(record: Record) -> str | None:
    """Class and settings under `matched`; under `tuned` those that the cell settles, learning rate and weight decay."""
    cell = record.cell
    expected: dict[str, Any] = {"learning_rate": cell.learning_rate, "weight_decay": cell.weight_decay}
    spec = STRATEGIES[cell.strategy]
    if cell.profile == "matched" and not spec.own_optimizer:
        expected |= {"name": cell.optimizer_class, **cell.optimizer_settings}
    for rank, seen in _witnessed(record):
        for optimizer in seen.optimizers:
            if optimizer.name == OUTER:
                continue
            found = (
                optimizer.model_copy(update={"name": cell.optimizer_class}) if _in_host(cell, optimizer) else optimizer
            )
            wrong = [name for name, value in expected.items() if getattr(found, name) not in (None, value)]
            if wrong:
                wanted = ", ".join(f"{name} {expected[name]}" for name in wrong)
                return f"optimizer of rank {rank.rank} is {optimizer}, expected {wanted}"
    return None


def _in_host(cell: Cell, optimizer: OptimizerSettings) -> bool:
    """Whether it is DeepSpeed's Adam for the host, of the same arithmetic, in an offloading strategy."""
    offloads = STRATEGIES[cell.strategy].offload != "none" and cell.optimizer in ("adam", "adamw")
    return offloads and optimizer.name == "DeepSpeedCPUAdam"


def _learning_rate_differs(record: Record) -> str | None:
    """Where it follows a schedule: step by step."""
    cell = record.cell
    if not cell.changes_learning_rate:
        return None
    for rank, seen in _witnessed(record):
        for step, found in enumerate(seen.learning_rates):
            expected = cell.learning_rate_at(step)
            if found is not None and not math.isclose(found, expected, rel_tol=1e-9):
                return f"learning rate of rank {rank.rank} in warm-up step {step} is {found:g}, expected {expected:g}"
    return None


def _gradient_not_finite(record: Record) -> str | None:
    for rank, seen in _witnessed(record):
        for step, (norm, skipped) in enumerate(zip(seen.grad_norms, seen.skipped, strict=True)):
            if norm is not None and not skipped and not math.isfinite(norm):
                return f"gradient norm of rank {rank.rank} in warm-up step {step} is {norm:g}, expected a finite one"
    return None


def _skipped_without_scaler(record: Record) -> str | None:
    """DeepSpeed skips a step whose gradients are not finite in every precision; only fp16 does so in the ordinary way."""
    for rank, seen in _witnessed(record):
        if record.cell.precision != "fp16" and any(seen.skipped):
            number = sum(seen.skipped)
            return f"rank {rank.rank} skipped {number} optimizer steps in warm-up, expected none in {record.cell.precision}"
    return None


def _threads_differ(record: Record) -> str | None:
    """On CPU a cell that does not say gets one thread a rank; on CUDA it leaves them to torch."""
    for rank in record.ranks:
        asked = record.cell.threads_per_rank or (1 if rank.device == "cpu" else None)
        if asked is not None and rank.threads != asked:
            return f"rank {rank.rank} ran with {rank.threads} threads, expected {asked}"
    return None


def _affinity_differs(record: Record) -> str | None:
    """Ranks on the launching host may use the cores that the launching process could; of other hosts nobody knows."""
    if record.affinity is None:
        return None
    for rank in record.ranks:
        if rank.hostname == record.hostname and rank.affinity != record.affinity:
            return f"rank {rank.rank} may use cores {_cores(rank.affinity)}, expected {_cores(record.affinity)}"
    return None


def _cores(numbers: list[int]) -> str:
    return ",".join(map(str, numbers)) or "none"


def _arms_not_finite(record: Record) -> str | None:
    for rank in record.ranks:
        if rank.attribution is not None and not rank.attribution.finite:
            return f"a loss of rank {rank.rank} is not finite in the arms, expected plausible values in all of them"
    return None


def _arms_skipped(record: Record) -> str | None:
    for rank in record.ranks:
        if rank.attribution is not None and rank.attribution.num_skipped_steps:
            return f"rank {rank.rank} skipped {rank.attribution.num_skipped_steps} optimizer steps in the arms, expected none"
    return None


def _impossible_time(record: Record) -> str | None:
    """Step times are positive, and a paced model's not shorter than it sleeps."""
    cell = record.cell
    for rank in record.ranks:
        slower = 1 + cell.slow_rank_frac if rank.rank == cell.num_workers - 1 else 1.0
        tokens = rank.tokens[record.first_step(rank) :]
        for step, step_time_s in enumerate(rank.step_times_s):
            equal = cell.tokens_per_step / cell.num_workers if cell.equal_lengths else 0.0
            num_tokens = tokens[step] if step < len(tokens) else equal
            paced_s = (cell.paced_token_s or 0.0) * slower * num_tokens
            floor_s = paced_s * (1 - PACED_TOLERANCE)
            if not (0 < step_time_s < math.inf and step_time_s >= floor_s):
                expected = f"at least the {paced_s:.4g} s that the model sleeps" if paced_s else "a positive time"
                return f"impossible: step {step} of rank {rank.rank} took {step_time_s:.4g} s, expected {expected}"
    return None


def _impossible_loss(record: Record) -> str | None:
    """A cross entropy is not negative."""
    for rank in record.ranks:
        for step, loss in enumerate(rank.losses):
            if loss < 0:
                return f"impossible: loss of rank {rank.rank} in step {step} is {loss:g}, expected at least 0"
    return None


def _impossible_utilisation(record: Record) -> str | None:
    """No device does more than its peak."""
    cell, work, environment = record.cell, record.work, record.environment
    if work is None or environment is None or not environment.device_names or cell.paced:
        return None
    # Ranks of unequal length, and times that are none, have gates of their own.
    times_s = record.slowest_step_times_s()
    if not times_s or not statistics.median(times_s) > 0:
        return None
    device = environment.device_names[0]
    tokens_per_s = record.tokens_per_step() / statistics.median(times_s)
    fraction = mfu(work.flops_per_token, tokens_per_s, cell.world_size, peak_flops_per_s(device, cell.precision))
    if fraction is None or fraction <= 1:
        return None
    return f"impossible: MFU {fraction:.2f} of {device} in {cell.precision}, at most 1"


def _witnessed(record: Record) -> Iterator[tuple[RankRecord, Witnessed]]:
    return ((rank, rank.witnessed) for rank in record.ranks if rank.witnessed is not None)


GATES: tuple[Callable[[Record], str | None], ...] = (
    _rank_of_another_launch,
    _tokens_differ,
    _batch_incomplete,
    _updates_differ,
    _server_updates_differ,
    _precision_differs,
    _optimizer_differs,
    _learning_rate_differs,
    _gradient_not_finite,
    _skipped_without_scaler,
    _threads_differ,
    _affinity_differs,
    _arms_not_finite,
    _arms_skipped,
    _impossible_time,
    _impossible_loss,
    _impossible_utilisation,
)
