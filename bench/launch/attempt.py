"""One launch from its start to its record, whatever happens to it on the way."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.launch.engine import Engine, HostLost
from bench.launch.outcome import End, num_oom_kills, settle
from bench.launch.process import LaunchProcess
from bench.launch.remote import is_this_host
from bench.launch.slurm import TIMED_OUT
from bench.results.launch_file import Launch, record_path, write_launch
from bench.results.record import Record


def attempt(launch: Launch, folder: Path, engine: Engine, tick: Callable[[], None]) -> Record:
    """Start a launch by an engine, wait for it and end it, on every host. One that is stopped in between leaves a whole record or
    nothing. `tick` is called about ten times a second."""
    launch = launch.model_copy(update={"command": engine.command(launch, folder)})
    write_launch(folder, launch)
    oom_kills = num_oom_kills()
    started = time.monotonic()
    process: LaunchProcess | None = None
    lost: str | None = None

    def look() -> None:
        tick()
        engine.check()

    try:
        environment = engine.environment(launch, folder)
        here = _ranks_here(launch)
        process = LaunchProcess(launch.command, environment, folder, launch.cell.world_size, here=here)
        engine.began(launch, folder)
        try:
            status = process.wait(engine.patience_s(launch), look)
        except HostLost as error:
            status, lost = 1, str(error)
        if launch.launcher == "slurm" and status == TIMED_OUT:
            status = None
        process.end()
        wall_s = time.monotonic() - started
        troubles = engine.ended(launch, folder, ok=record_path(folder).exists())
    except BaseException:
        if process is not None:
            process.end()
            engine.ended(launch, folder, ok=False)
        # A launch cut off in the middle measured nothing that can be used; one whose record is whole stays.
        if not record_path(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
        raise
    return settle(launch, folder, End(status, wall_s, process.ranks.first_gone, oom_kills, lost, troubles))


def _ranks_here(launch: Launch) -> list[int] | None:
    """The ranks of a launch that this host has; None where it has all."""
    if not launch.hosts or launch.launcher == "slurm":
        return None
    each = launch.cell.world_size // len(launch.hosts)
    here = [number for number, host in enumerate(launch.hosts) if is_this_host(host)]
    return [rank for number in here for rank in range(number * each, (number + 1) * each)]
