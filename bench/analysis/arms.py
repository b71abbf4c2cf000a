"""What one attribution launch measured in its arms: each rank's own seconds, waiting, transfer, and who is slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.results.metered import Arm
from bench.results.record import Record

# A straggler is slower than the median of the others by this fraction of it, and by this many standard errors.
STRAGGLER_FRAC = 0.03
STRAGGLER_ERRORS = 4.0

Seconds = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Useful:
    """The arm `local` of one launch: what each rank does by itself.

    `by_rank` (mean seconds of a step), `median_by_rank` and `error_by_rank` (the standard error of that median) have an entry
    a rank. `slowest_s` is the mean over steps of the slowest rank's seconds; `error_frac` the standard error of all of them
    over their mean.
    """

    by_rank: Seconds
    median_by_rank: Seconds
    error_by_rank: Seconds
    slowest_s: float
    error_frac: float

    @property
    def mean_s(self) -> float:
        """Mean over ranks."""
        return float(self.by_rank.mean())

    @property
    def load_balance(self) -> float:
        """sum_k mean_r U / sum_k max_r U."""
        return self.mean_s / self.slowest_s

    @property
    def straggler(self) -> int | None:
        """The rank that is slower than the others beyond noise, if there is one.

        Its typical useful seconds exceed those of the others by STRAGGLER_FRAC of them and by STRAGGLER_ERRORS of their
        standard error. Medians throughout: one step held up by something else makes no straggler, and hides none.
        """
        rank = int(self.median_by_rank.argmax())
        others = np.delete(self.median_by_rank, rank)
        if not others.size:
            return None
        median = float(np.median(others))
        # The noise of any rank may hit the slowest.
        error = float(np.median(self.error_by_rank))
        behind = float(self.median_by_rank[rank]) - median
        return rank if behind > max(STRAGGLER_FRAC * median, STRAGGLER_ERRORS * error) else None


@dataclass(frozen=True)
class Arms:
    """Seconds of a step by arm, of one launch under one injection or none: `sync_s` and `full_s` are the slowest rank's mean,
    `full_median_s` the median of the slowest rank's seconds, `error_frac` the standard error of `full_s` over it."""

    useful: Useful
    sync_s: float
    full_s: float
    full_median_s: float
    error_frac: float

    @property
    def exposed_comm_s(self) -> float:
        return self.full_s - self.useful.slowest_s


def block_times(record: Record, arm: Arm, injection: str | None = None) -> list[Seconds]:
    """Seconds of the kept steps of each block of an arm: arrays of shape (world_size, steps). Empty where there is none.

    Where ranks agree every H steps only, an entry a period, its mean step: within a period nobody waits for another.
    """
    if record.attribution is None:
        return []
    found = []
    every = record.cell.every_steps
    for number, block in enumerate(record.attribution.blocks):
        if (block.arm, block.injection) == (arm, injection):
            times = np.array(
                [rank.attribution.block_times_s[number] for rank in record.ranks if rank.attribution is not None]
            )
            found.append(times if every == 1 else times.reshape(len(times), -1, every).mean(axis=2))
    return found


def useful(record: Record, injection: str | None = None) -> Useful | None:
    """The arm `local` of an attribution launch; None unless it was measured under that injection."""
    blocks = block_times(record, "local", injection)
    if not blocks:
        return None
    local = np.concatenate(blocks, axis=1)
    median = np.median(local, axis=1)
    deviation = np.median(np.abs(local - median[:, None]), axis=1)
    return Useful(
        by_rank=local.mean(axis=1),
        median_by_rank=median,
        # 1.4826: from the median deviation to the standard one, 1.2533: from the mean's error to the median's (normal).
        error_by_rank=1.4826 * 1.2533 * deviation / local.shape[1] ** 0.5,
        slowest_s=float(local.max(axis=0).mean()),
        error_frac=_error_frac(blocks),
    )


def arms(record: Record, injection: str | None = None) -> Arms | None:
    """The arms of an attribution launch; None unless all three were measured under that injection."""
    local = useful(record, injection)
    full, sync = block_times(record, "full", injection), block_times(record, "sync", injection)
    if local is None or not sync or not full:
        return None
    return Arms(
        useful=local,
        sync_s=_slowest_mean(sync),
        full_s=_slowest_mean(full),
        full_median_s=float(np.median(np.concatenate(full, axis=1).max(axis=0))),
        error_frac=_error_frac(full),
    )


def _slowest_mean(blocks: list[Seconds]) -> float:
    """The slowest rank's mean step."""
    return float(np.concatenate(blocks, axis=1).mean(axis=1).max())


def _error_frac(blocks: list[Seconds]) -> float:
    """Standard error of the mean over blocks, relative. Blocks, because the steps of one are not independent."""
    means = np.array([block.mean() for block in blocks])
    return float(means.std(ddof=1) / means.size**0.5 / means.mean()) if means.size > 1 else float("nan")
