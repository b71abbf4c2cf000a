"""The launch of a sweep of collectives: its ranks, started and watched as a cell's are, and what became of them."""

from __future__ import annotations

import datetime
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.errors import LaunchError
from bench.launch.hostfile import Hostfile
from bench.launch.interrupt import stop_on_signal
from bench.launch.launcher import LauncherName, free_port, launch_command, launch_environment
from bench.launch.machine import Machine
from bench.launch.outcome import End, diagnose, num_oom_kills
from bench.launch.process import LaunchProcess
from bench.results.comm import CommLaunch, CommPlan, CommRecord, read_comm, write_comm, write_comm_launch
from bench.results.launch_file import LAUNCH_NAME, record_path

MODULE = "bench.worker.comm"
FOLDER_NAME = "launches"
START_S = 120.0
"""What a launch may take beyond its sweep: starting its ranks, on the first time compiling what DeepSpeed needs."""
_LATE = 3.0


def run_comm(
    plan: CommPlan,
    machine: Machine,
    launcher: LauncherName,
    output: Path,
    hostfile: Hostfile | None = None,
    tick: Callable[[], None] = lambda: None,
) -> CommRecord:
    """Make one sweep; its record stays in OUTPUT/launches/ID. Raises LaunchError where its ranks have no place here, and
    Interrupted when the user stops it: then nothing stays."""
    if plan.world_size > machine.num_slots:
        raise LaunchError(
            f"--world-size: found {plan.world_size}, there are {machine.num_slots} slots ({machine.description})"
        )
    launch_id = uuid.uuid4().hex[:12]
    # Absolute: a launcher may start its ranks in another folder.
    folder = output.resolve() / FOLDER_NAME / launch_id
    command = launch_command(launcher, plan, folder / LAUNCH_NAME, free_port(), hostfile, MODULE)
    launch = CommLaunch(
        launch_id=launch_id,
        plan=plan,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        launcher=launcher,
        command=command,
        hostname=socket.gethostname(),
        timeout_s=START_S + _LATE * plan.budget_s,
    )
    write_comm_launch(folder / LAUNCH_NAME, launch)
    oom_kills = num_oom_kills()
    started = time.monotonic()
    process: LaunchProcess | None = None
    with stop_on_signal():
        try:
            environment = launch_environment(machine, plan, launch_id)
            process = LaunchProcess(command, environment, folder, plan.world_size)
            status = process.wait(launch.timeout_s, tick)
        except BaseException:
            if process is not None:
                process.end()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        process.end()
    wall_s = time.monotonic() - started
    path = record_path(folder)
    if path.exists():
        record = read_comm(path).model_copy(update={"wall_s": wall_s})
    else:
        end = End(status, wall_s, process.ranks.first_gone, oom_kills)
        outcome, reason, evidence = diagnose(plan.world_size, launch.timeout_s, folder, end)
        record = launch.record(outcome=outcome, reason=reason, evidence=evidence, wall_s=wall_s)
    write_comm(path, record)
    return record
