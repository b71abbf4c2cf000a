"""scalebench train: trains one cell to a goal, and keeps its checkpoints."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import LaunchError
from bench.verbs.hosts import HostfileOption
from bench.verbs.shared import DeviceOption, Json, LauncherOption, chosen_launcher, terminal


def train(
    file: Annotated[
        str, typer.Argument(help="A shipped training (markov, stdlib) or a YAML file: the fields of one cell.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder to keep it in. [default: results/train-NAME]")] = None,
    launcher: LauncherOption = "deepspeed",
    device: DeviceOption = "auto",
    hostfile: HostfileOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    log: Annotated[list[str] | None, typer.Option(help="Also log to tensorboard or mlflow (extras).")] = None,
    as_json: Json = False,
) -> None:
    """Train one cell to a validation loss or a budget, by any strategy, with checkpoints. Ctrl-C is safe; --resume goes on.

    Exits 0 if training ended as it should, 1 if it failed, diverged or missed its target_loss, 2 for bad input.
    """
    from bench import training
    from bench.launch.hostfile import read_hostfile
    from bench.launch.interrupt import Interrupted
    from bench.launch.machine import detect
    from bench.live import LiveTraining
    from bench.plan.training_file import load_training
    from bench.results.checkpoint import FOLDER_NAME, checkpoints
    from bench.results.progress_log import LOG_NAME, ProgressLog
    from bench.results.store import locked
    from bench.trackers import check_trackers, tracked

    started_by = chosen_launcher(launcher, device)
    chosen = load_training(file)
    check_trackers(log or [])
    hosts = read_hostfile(hostfile) if hostfile is not None else None
    if hosts is not None and not hosts.is_this_host:
        # Its checkpoints are of every rank, in one folder, which no launch brings together yet.
        raise LaunchError(
            f"--hostfile: found {', '.join(hosts.hosts)}, expected this host alone: training runs on one host",
            hint="give a hostfile of this host, or time the cell on several with `scalebench run --hostfile`",
        )
    folder = output or Path("results") / f"train-{chosen.name}"
    console = terminal(stderr=as_json)
    with locked(folder):
        start = training.beginning(chosen, folder, resume)
        if start.over is not None:
            console.print(f"nothing is left to train: {start.over}; {start.checkpoint}", markup=False, highlight=False)
            return
        machine = detect(device, hosts.num_slots if hosts is not None else None)
        words = "" if start.checkpoint is None else f", from {start.checkpoint.name}"
        console.print(
            f"{chosen.name}: {chosen.cell.id}{words}; {machine.description}; {folder}", markup=False, highlight=False
        )
        watched = ProgressLog(folder / LOG_NAME, from_end=True)
        try:
            with (
                tracked(log or [], folder, chosen.name, chosen.cell) as trackers,
                LiveTraining(console, watched, trackers) as live,
            ):
                record = training.train(chosen, start.checkpoint, machine, started_by, folder, hosts, live)
        except (Interrupted, KeyboardInterrupt) as stop:
            kept = checkpoints(folder / FOLDER_NAME)
            there = f"{kept[-1]} is kept" if kept else "there is no checkpoint yet"
            again = [argument for argument in sys.argv[1:] if argument != "--resume"]
            print(
                f"stopped ({stop or 'SIGINT'}): {there}; to go on: {shlex.join(['scalebench', *again, '--resume'])}",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    if record.outcome != "ok" or record.training is None:
        kept = checkpoints(folder / FOLDER_NAME)
        print(f"{record.outcome}: {record.reason}", *record.evidence, sep="\n  ", file=sys.stderr)
        print(f"the newest checkpoint: {kept[-1] if kept else 'none'}", file=sys.stderr)
        raise typer.Exit(1)
    found = training.outcome(record, folder)
    if as_json:
        print(json.dumps(found))
    else:
        console.print(training.told(found), markup=False, highlight=False)
        console.print(f"checkpoint: {found['checkpoint']}", markup=False, highlight=False)
    if found["stopped"] == "diverged" or found["target_reached"] is False:
        raise typer.Exit(1)
