"""A launch from its start to its end on every host."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.launch.engine import Engine, HostLost
from bench.launch.outcome import End, num_oom_kills
from bench.launch.process import LaunchProcess
from bench.results.launch_file import Started, record_path

_Launch = TypeVar("_Launch", bound=Started)


def until_it_ends(launch: _Launch, folder: Path, engine: Engine[_Launch], tick: Callable[[], None]) -> End:
    """Start a launch, wait for it and end it, on every host. One that is stopped in between leaves no part of a record."""
    oom_kills = num_oom_kills()
    started = time.monotonic()
    process: LaunchProcess | None = None
    lost: str | None = None

    def look() -> None:
        tick()
        engine.check()

    try:
        process = LaunchProcess(launch.command, engine.environment(launch, folder), folder, launch.ranks.world_size)
        engine.began(launch, folder)
        try:
            status = process.wait(launch.timeout_s, look)
        except HostLost as error:
            status, lost = 1, str(error)
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
    process.end()
    wall_s = time.monotonic() - started
    troubles = engine.ended(launch, folder, ok=record_path(folder).exists())
    return End(status, wall_s, process.ranks.first_gone, oom_kills, lost, troubles)
