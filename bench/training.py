"""One training, through the launcher: what is started, from which checkpoint it goes on, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import CheckpointError, LaunchError
from bench.launch.hostfile import Hostfile
from bench.launch.launcher import LauncherName
from bench.launch.machine import Machine
from bench.launch.order import Task
from bench.launch.sweep import Progress, Sweep
from bench.live import judged
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.plan.training_file import TrainingFile
from bench.results.checkpoint import FOLDER_NAME, check_resumable, checkpoints, read_checkpoint
from bench.results.record import Record
from bench.results.training import Keeping, bits_per_byte, perplexity
from reports import units


@dataclass(frozen=True)
class Beginning:
    """What training starts from: the checkpoint, None for the beginning; and why nothing is left to train, if so."""

    checkpoint: Path | None
    over: str | None = None


def beginning(chosen: TrainingFile, folder: Path, resume: bool) -> Beginning:
    """Where to begin in a folder. Raises CheckpointError where a checkpoint would be lost, or can't be gone on from."""
    found = checkpoints(folder / FOLDER_NAME)
    if not resume:
        if found:
            step = read_checkpoint(found[-1]).step
            raise CheckpointError(
                f"{folder} has a checkpoint of step {step}",
                hint="add --resume to go on, or give another --output folder",
            )
        return Beginning(None)
    if not found:
        return Beginning(None)
    check_resumable(found[-1], chosen.cell)
    config = read_checkpoint(found[-1])
    target, loss = chosen.cell.target_loss, config.evaluations[-1].loss
    if chosen.cell.max_steps is not None and config.step >= chosen.cell.max_steps:
        return Beginning(found[-1], f"{config.step} of {chosen.cell.max_steps} steps (max_steps) were taken before")
    if target is not None and config.evaluations[-1].step == config.step and loss <= target:
        return Beginning(found[-1], f"the validation loss is {loss:.4f}, and target_loss {target:g}")
    return Beginning(found[-1])


def train(
    chosen: TrainingFile,
    start: Path | None,
    machine: Machine,
    launcher: LauncherName,
    folder: Path,
    hostfile: Hostfile | None,
    progress: Progress,
) -> Record:
    """Launch the ranks and wait for them. Raises LaunchError where they don't fit on this machine, Interrupted as a sweep."""
    settings = LaunchSettings(timeout_s=chosen.timeout_s)
    suite = Suite(chosen.name, "A training.", chosen.cell.seed, (PlannedCell(chosen.cell, settings),), aa_pair=False)
    sweep = Sweep(suite, machine, launcher, folder, hostfile)
    if sweep.skipped:
        raise LaunchError(f"world_size: {sweep.skipped[0][1]}")
    sweep.prepare_folder()
    sweep.clear_leftovers()
    keeping = Keeping(
        # Absolute: a launcher may start its ranks in another folder.
        folder=str(folder.resolve()),
        checkpoint_every=chosen.checkpoint_every,
        resume_from=None if start is None else str(start.resolve()),
        budget_s=None if chosen.budget_minutes is None else 60 * chosen.budget_minutes,
    )
    [record] = sweep.launch([Task(chosen.cell, settings, 0, keeping=keeping)], progress)
    return record


def outcome(record: Record, folder: Path) -> dict[str, Any]:
    """What a training came to, in SI units, for a program. `target_reached` is None where no target was given."""
    trained = record.training
    assert trained is not None
    last, target = trained.evaluations[-1], record.cell.target_loss
    kept = checkpoints(folder / FOLDER_NAME)
    return {
        "folder": str(folder),
        "checkpoint": str(kept[-1]) if kept else None,
        "stopped": trained.stopped,
        "target_reached": None if target is None else last.loss <= target,
        "steps": last.step,
        "tokens": last.tokens,
        "wall_s": last.wall_s,
        "evaluation_s": trained.evaluation_s,
        "checkpoint_s": trained.checkpoint_s,
        "loss": last.loss,
        "perplexity": perplexity(last.loss),
        "bits_per_byte": bits_per_byte(last.loss, trained.tokens_per_byte),
        "accuracy": last.accuracy,
        "entropy_floor_nats": record.corpus.entropy_floor_nats if record.corpus is not None else None,
        "replica_distance": None
        if record.work is None or record.work.replicas is None
        else record.work.replicas.largest,
    }


_WHY = {
    "target": "the target is reached",
    "max_steps": "max_steps are taken",
    "patience": "the validation loss falls no more (patience)",
    "budget": "the budget is spent",
    "diverged": "the loss is not finite any more",
}


def told(found: dict[str, Any]) -> str:
    """The same as `outcome`, in a sentence."""
    loss = ", ".join(
        [
            f"validation loss {found['loss']:.4f}",
            *judged(found["loss"], found["entropy_floor_nats"], None),
            *([] if found["bits_per_byte"] is None else [f"{found['bits_per_byte']:.3f} bits/byte"]),
        ]
    )
    return (
        f"{_WHY[found['stopped']]}: {loss} after {found['steps']:,} steps, {units.rate(found['tokens'])} tokens and "
        f"{units.seconds(found['wall_s'])} of training (and {units.seconds(found['evaluation_s'])} of evaluation)"
    )
