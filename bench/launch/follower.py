"""The run of a host that is not the first, without ssh: it does its part of the launches that the head decides on."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import LaunchError, UnreachableError
from bench.launch.ended import Ended, end_here, forget_here
from bench.launch.interrupt import stop_on_signal
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.presence import presence
from bench.launch.process import LaunchProcess, end_processes
from bench.launch.several import HOSTS_NAME, Several, hosts_text, no_ssh_command
from bench.launch.wire import TICK_S, Bye, Channel, End, Forget, Gone, Greeting, Left, Refusal, Start, Status, Tick
from bench.results.launch_file import LAUNCH_NAME, Launch
from bench.results.store import write_atomically

HEAD_S = 60.0
"""How long a follower waits for the head to be there."""
_LAUNCH_ID = re.compile(r"^[0-9a-f]{12}$")


@dataclass
class Follower:
    """Host number `node_rank` of `hosts`, in the results folder `folder` of its own."""

    how: Several
    machine: Machine
    hosts: dict[str, list[int]]
    suite: str
    folder: Path
    node_rank: int
    port: int
    say: Callable[[str], None]
    _process: LaunchProcess | None = field(init=False, default=None)
    _launch: Launch | None = field(init=False, default=None)
    _last: tuple[Launch, Path] | None = field(init=False, default=None)

    def follow(self) -> None:
        """Until the head says that it is through. No process of a launch is left then.

        Raises UnreachableError where there is no head, or none any more, LaunchError where it has no use for this host, and
        Interrupted when the user stops it.
        """
        head = self.how.master_addr or next(iter(self.hosts))
        with stop_on_signal():
            # A follower that was killed may have left its ranks at it.
            end_processes(*(path.name for path in self.folder.glob("*/*") if _LAUNCH_ID.match(path.name)))
            channel = self._call(head)
            try:
                told = {host: list(slots) for host, slots in self.hosts.items()}
                mine = presence(head, self.port)
                channel.send(Greeting(node_rank=self.node_rank, hosts=told, suite=self.suite, presence=mine))
                self.say(f"following {head}:{self.port} as host {self.node_rank} of {len(self.hosts)}")
                self._obey(channel)
            except Gone as error:
                raise UnreachableError(
                    f"the first host, {head}, is gone: {error}", hint="start its run again, then this one: it goes on"
                ) from error
            finally:
                self._end()
                channel.close()

    def _call(self, head: str) -> Channel:
        until = time.monotonic() + HEAD_S
        while True:
            try:
                return Channel(socket.create_connection((head, self.port), timeout=5))
            except OSError as error:
                if time.monotonic() > until:
                    raise UnreachableError(
                        f"no run answers at {head}:{self.port} within {HEAD_S:g} s ({error.strerror or error})",
                        hint="start the first host's run with --no-ssh --node-rank 0, and open that port there",
                    ) from error
                time.sleep(0.5)

    def _obey(self, channel: Channel) -> None:
        ticked_s = 0.0
        while True:
            if time.monotonic() - ticked_s > TICK_S:
                channel.send(Tick())
                ticked_s = time.monotonic()
            self._report(channel)
            message = channel.receive(0.1)
            if isinstance(message, Refusal):
                raise LaunchError(f"the first host has no use for this one: {message.reason}")
            if isinstance(message, Start):
                self._end()
                self._start(message)
            elif isinstance(message, End):
                channel.send(Left(launch_id=message.launch_id, ended=self._end() or Ended(shared=True)))
            elif (
                isinstance(message, Forget) and self._last is not None and self._last[0].launch_id == message.launch_id
            ):
                forget_here(self._last[1])
            elif isinstance(message, Bye):
                self.say("the first host is through")
                return

    def _report(self, channel: Channel) -> None:
        """Tell the head, once, that this host's part has ended."""
        if self._process is None or self._launch is None or (status := self._process.poll()) is None:
            return
        channel.send(Status(launch_id=self._launch.launch_id, status=status))
        self._launch = None

    def _start(self, told: Start) -> None:
        """Start this host's part, by a command of its own making. Raises Gone for a launch that is none of this run's."""
        launch = told.launch
        names = list(launch.hosts)
        known = list(self.hosts)
        if (
            not _LAUNCH_ID.match(launch.launch_id)
            or launch.suite != self.suite
            or self.node_rank >= len(names)
            or names != known[: len(names)]
            or any(not set(slots) <= set(self.hosts[host]) for host, slots in launch.hosts.items())
        ):
            raise Gone("it wants a launch that is none of this suite and these hosts")
        folder = self.folder.resolve() / launch.cell.id / launch.launch_id
        self._last = (launch, folder)
        if not (folder / LAUNCH_NAME).exists():
            write_atomically(folder / HOSTS_NAME, hosts_text(launch))
        command = no_ssh_command(self.how, launch, folder, told.master, self.node_rank)
        environment = launch_environment(self.machine, launch.cell, launch.launch_id)
        log = f"launcher_{self.node_rank}.log"
        self._process = LaunchProcess(command, environment, folder, launch.cell.world_size, log)
        self._launch = launch
        self.say(f"started {launch.cell.id} ({launch.launch_id})")

    def _end(self) -> Ended | None:
        """End this host's part of the last launch; what it left, None if there was none."""
        process, self._process, self._launch = self._process, None, None
        if self._last is None:
            return None
        if process is not None:
            process.end()
        launch, folder = self._last
        left = None
        with contextlib.suppress(OSError):
            left = end_here(launch.launch_id, folder, launch.port)
        return left
