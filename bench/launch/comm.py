"""The launch of a sweep of collectives: its ranks, started and watched as a cell's are, and what became of them."""

from __future__ import annotations

import datetime
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.errors import LaunchError
from bench.launch.attempt import until_it_ends
from bench.launch.engine import Engine
from bench.launch.interrupt import stop_on_signal
from bench.launch.launcher import LauncherName, free_port
from bench.launch.machine import Machine
from bench.launch.outcome import diagnose
from bench.launch.placement import Placement
from bench.results.comm import CommLaunch, CommPlan, CommRecord, read_comm, write_comm, write_comm_launch
from bench.results.launch_file import LAUNCH_NAME, record_path

FOLDER_NAME = "launches"
START_S = 120.0
"""What a launch may take beyond its sweep: starting its ranks, on the first time compiling what DeepSpeed needs."""
_LATE = 3.0


def run_comm(
    plan: CommPlan,
    machine: Machine,
    launcher: LauncherName,
    engine: Engine[CommLaunch],
    output: Path,
    placement: Placement | None = None,
    tick: Callable[[], None] = lambda: None,
) -> CommRecord:
    """Make one sweep by `engine`, on the hosts of `placement` (None: this one); its record stays in OUTPUT/launches/ID.

    Raises LaunchError where its ranks have no place, and Interrupted when the user stops it: then nothing stays.
    """
    if plan.world_size > machine.num_slots:
        raise LaunchError(
            f"--world-size: found {plan.world_size}, there are {machine.num_slots} slots ({machine.description})"
        )
    launch_id = uuid.uuid4().hex[:12]
    # Absolute: a launcher may start its ranks in another folder.
    folder = output.resolve() / FOLDER_NAME / launch_id
    launch = CommLaunch(
        launch_id=launch_id,
        plan=plan,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        launcher=launcher,
        hostname=socket.gethostname(),
        timeout_s=START_S + _LATE * plan.budget_s,
        hosts={} if placement is None else {host: list(slots) for host, slots in placement.slots.items()},
        port=free_port(),
    )
    with stop_on_signal():
        engine.open()
        try:
            record = _run(launch, folder, engine, tick)
        finally:
            engine.close()
    write_comm(record_path(folder), record)
    return record


def _run(launch: CommLaunch, folder: Path, engine: Engine[CommLaunch], tick: Callable[[], None]) -> CommRecord:
    if (unusable := engine.unusable(launch)) is not None:
        return launch.record(outcome=unusable.outcome, reason=unusable.reason)
    launch = launch.model_copy(update={"command": engine.command(launch, folder)})
    write_comm_launch(folder / LAUNCH_NAME, launch)
    end = until_it_ends(launch, folder, engine, tick)
    path = record_path(folder)
    if path.exists():
        # Ranks on other hosts are not told the command, which has in it what they are told.
        return read_comm(path).model_copy(update={"wall_s": end.wall_s, "command": launch.command})
    outcome, reason, evidence = diagnose(launch, folder, end)
    return launch.record(outcome=outcome, reason=reason, evidence=evidence, wall_s=end.wall_s)
