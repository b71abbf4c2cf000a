"""One started launch: watched until it ends, and ended with every process that belongs to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.errors import LaunchError
from bench.launch.launcher import MARK
from bench.results.launch_file import process_path, read_failures, record_path

POLL_S = 0.1
GRACE_S = 15.0
"""How long the other ranks may go on after one has failed, to say what they saw, before they are ended."""


class RankWatch:
    """Which ranks of this host ended first, and by which signal: what the launcher does not tell, once it has ended the others.

    `first_gone` has the signal by rank, 0 for a rank that was not killed, None where its parent was quicker to ask than we.
    """

    def __init__(self, folder: Path, world_size: int) -> None:
        self._folder = folder
        self._world_size = world_size
        self._unseen = set(range(world_size))
        self._descriptors: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self.first_gone: dict[int, int | None] = {}
        self.all_gone = False

    def look(self) -> None:
        """Note ranks that started and the first that ended. Costs microseconds: file descriptors of processes."""
        for rank in list(self._unseen):
            path = process_path(self._folder, rank)
            if path.exists():
                self._unseen.discard(rank)
                host, _, pid = path.read_text().partition(" ")
                with contextlib.suppress(ProcessLookupError):
                    if host == socket.gethostname():
                        self._descriptors[os.pidfd_open(int(pid))] = rank
                        self._pids[rank] = int(pid)
        if self._descriptors:
            ended, _, _ = select.select(list(self._descriptors), [], [], 0)
            self.all_gone = len(ended) == self._world_size
            if not self.first_gone:
                gone = sorted(self._descriptors[descriptor] for descriptor in ended)
                self.first_gone = {rank: _signal(self._pids[rank]) for rank in gone}

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _signal(pid: int) -> int | None:
    """The signal that ended a process which its parent has not asked for yet; None once it has.

    Linux: proc(5), stat, field 52, the exit status as waitpid gives it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[49]) & 0x7F if fields[0] == "Z" else None


class LaunchProcess:
    """The launcher and all that it started, in a session of their own, so that Ctrl-C reaches this program alone.

    `may_be_lost`: ranks whose failure does not end the launch.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        folder: Path,
        world_size: int,
        may_be_lost: frozenset[int] = frozenset(),
    ) -> None:
        self.ranks = RankWatch(folder, world_size)
        self._may_be_lost = may_be_lost
        self._folder = folder
        self._launch_id = environment[MARK]
        self.log = folder / "logs" / "launcher.log"
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(
                f"cannot start {command[0]}: {error.strerror or error}",
                hint="is it installed, and is there space left?",
            ) from error

    def wait(self, timeout_s: float, tick: Callable[[], None]) -> int | None:
        """Wait for the launch to end by itself; its exit status, or None if the time ran out first.

        Returns 0 as soon as the record is whole and every rank has ended: the deepspeed launcher would look for that once a
        second, and then take its own two processes apart, two seconds in all. Also returns (after a grace) when a
        rank has left a failure and the launcher does not end its peers.
        `tick` is called about ten times a second.
        """
        deadline = time.monotonic() + timeout_s
        failed_at: float | None = None
        while True:
            self.ranks.look()
            status = self._process.poll()
            if status is not None:
                return status
            if self.ranks.all_gone and record_path(self._folder).exists():
                return 0
            now = time.monotonic()
            if now >= deadline:
                return None
            if failed_at is None and self._has_failed():
                failed_at = now
            if failed_at is not None and now - failed_at > GRACE_S:
                return 1 if read_failures(self._folder) else None
            tick()
            time.sleep(POLL_S)

    def _has_failed(self) -> bool:
        """Whether a rank left a failure that the others don't survive."""
        if not self._may_be_lost:
            return next(self._folder.glob("failure_*.json"), None) is not None
        return any(failure.rank not in self._may_be_lost for failure in read_failures(self._folder))

    def end(self) -> None:
        """End every process of the launch, children and those whose parents are gone too."""
        end_processes(self._launch_id)
        self._process.wait()
        self.ranks.close()


def end_processes(launch_id: str) -> None:
    """End every process of this host that carries the launch's id, whoever its parent is now. Raises LaunchError if one
    can't be ended within ten seconds."""
    deadline = time.monotonic() + 10
    while processes := list(_members(launch_id)):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        # Not psutil.wait_procs: it waits for zombies too, which nobody may be there to reap.
        time.sleep(0.02)
        if time.monotonic() > deadline:
            raise LaunchError(f"cannot end processes {[process.pid for process in processes]} of launch {launch_id}")


def _members(launch_id: str) -> Iterator[psutil.Process]:
    mine = os.getpid()
    for process in psutil.process_iter():
        try:
            alive = process.pid != mine and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == launch_id:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone in between, or another user's and so not ours


def last_lines(path: Path, num_lines: int = 12) -> list[str]:
    """The last lines of a log that say something, shortened; empty if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65_536))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip()[:500] for line in text.splitlines() if line.strip()][-num_lines:]
