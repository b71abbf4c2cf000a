"""Launches on several hosts without ssh: this, the first host's run, decides, and the runs on the other hosts follow."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import LaunchError
from bench.launch.ended import Ended
from bench.launch.engine import HostLost
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.preflight import Unusable, master_address
from bench.launch.presence import presence
from bench.launch.several import HOSTS_NAME, Several, hosts_text, no_ssh_command
from bench.launch.wire import (
    TICK_S,
    Bye,
    Channel,
    End,
    Forget,
    Gone,
    Greeting,
    Left,
    Message,
    Refusal,
    Start,
    Status,
    Tick,
)
from bench.results.launch_file import Launch
from bench.results.store import write_atomically

FIRST_CALL_S = 45.0
"""In which every follower must have called, from the start of the run on."""
CALL_AGAIN_S = 5.0
"""How long a launch waits for one that was there before, or never."""
LEFT_S = 40.0
LINGER_S = 20.0


@dataclass
class _Follower:
    """A run on another host. `gone` says why it is not there any more."""

    host: str
    channel: Channel
    messages: queue.Queue[Message] = field(default_factory=queue.Queue)
    gone: str | None = None


class Head:
    """The engine of the first host's run."""

    def __init__(
        self,
        how: Several,
        machine: Machine,
        hosts: dict[str, list[int]],
        suite: str,
        port: int,
        warn: Callable[[str], None],
    ) -> None:
        self._how = how
        self._machine = machine
        self._hosts = hosts
        self._suite = suite
        self._port = port
        self._warn = warn
        self._followers: dict[str, _Follower] = {}
        self._refused: dict[str, str] = {}
        self._listener: socket.socket | None = None
        self._opened_s = 0.0
        self._closed = threading.Event()
        self._bad: tuple[str, int, float] | None = None
        self._running: Launch | None = None

    def open(self) -> None:
        """Listen for followers from now on. Raises LaunchError where the port is taken."""
        if self._listener is not None:
            return
        try:
            self._listener = socket.create_server(("", self._port), backlog=64)
        except OSError as error:
            raise LaunchError(
                f"--control-port {self._port}: {error.strerror or error}", hint="give all hosts another --control-port"
            ) from error
        self._opened_s = time.monotonic()
        for work in (self._accept, self._tick):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._hear, args=(Channel(connection),), daemon=True).start()

    def _hear(self, channel: Channel) -> None:
        """All that one follower says, from its greeting on."""
        follower: _Follower | None = None
        try:
            greeting = channel.receive(10)
            if not isinstance(greeting, Greeting):
                raise Gone("what calls is no follower")
            if (reason := self._refusal(greeting)) is not None:
                self._refused[list(self._hosts)[min(greeting.node_rank, len(self._hosts) - 1)]] = reason
                channel.send(Refusal(reason=reason))
                raise Gone(reason)
            host = list(self._hosts)[greeting.node_rank]
            follower = _Follower(host, channel)
            self._followers[host] = follower
            self._refused.pop(host, None)
            while not self._closed.is_set():
                message = channel.receive(1)
                if message is not None and not isinstance(message, Tick):
                    follower.messages.put(message)
        except Gone as error:
            if follower is not None:
                follower.gone = str(error)
        finally:
            channel.close()

    def _refusal(self, greeting: Greeting) -> str | None:
        """Why a follower can't be used."""
        here = presence("127.0.0.1", self._port)
        there = greeting.presence
        who = f"--node-rank {greeting.node_rank} ({there.hostname})"
        if greeting.hosts != self._hosts or greeting.node_rank >= len(self._hosts):
            return f"{who} has another hostfile, --include or --exclude than the first host"
        if greeting.suite != self._suite:
            return f"{who} runs the suite {greeting.suite}, the first host {self._suite}"
        host = list(self._hosts)[greeting.node_rank]
        if host in self._followers and self._followers[host].gone is None:
            return f"{who} is there twice"
        if there.version != here.version:
            return f"{who} has scalebench {there.version}, the first host {here.version}; install the same on all hosts"
        if there.missing:
            return f"{who} lacks {', '.join(there.missing)}; install scalebench there as here (make setup)"
        if there.commit != here.commit:
            self._warn(
                f"warning: {host} has another state of the code: {there.commit or 'unknown'}, not {here.commit or 'unknown'}"
            )
        return None

    def _tick(self) -> None:
        while not self._closed.wait(TICK_S):
            for follower in list(self._followers.values()):
                if follower.gone is None:
                    with contextlib.suppress(Gone):  # the hearing thread says so too
                        follower.channel.send(Tick())

    def unusable(self, launch: Launch) -> Unusable | None:
        self.open()
        master = master_address(next(iter(launch.hosts)), self._how.master_addr)
        if isinstance(master, Unusable):
            return master
        until = max(self._opened_s + FIRST_CALL_S, time.monotonic() + CALL_AGAIN_S)
        while absent := [host for host in list(launch.hosts)[1:] if not self._there(host)]:
            if time.monotonic() > until or all(host in self._refused for host in absent):
                return Unusable("unreachable", "; ".join(self._why_absent(host) for host in absent))
            time.sleep(0.1)
        return None

    def _there(self, host: str) -> bool:
        return host in self._followers and self._followers[host].gone is None

    def _why_absent(self, host: str) -> str:
        if host in self._refused:
            return f"{host}: {self._refused[host]}"
        number = list(self._hosts).index(host)
        if host in self._followers:
            return f"{host} is gone ({self._followers[host].gone}); give it the same command with --node-rank {number} again"
        return (
            f"{host} did not call at port {self._port} within {FIRST_CALL_S:g} s; "
            f"give it the same command with --node-rank {number}, and open that port here"
        )

    def command(self, launch: Launch, folder: Path) -> list[str]:
        return no_ssh_command(self._how, launch, folder, self._master(launch), 0)

    def _master(self, launch: Launch) -> str:
        first = next(iter(launch.hosts))
        master = master_address(first, self._how.master_addr)
        return first if isinstance(master, Unusable) else master

    def environment(self, launch: Launch, folder: Path) -> dict[str, str]:
        write_atomically(folder / HOSTS_NAME, hosts_text(launch))
        return launch_environment(self._machine, launch.cell, launch.launch_id)

    def began(self, launch: Launch, folder: Path) -> None:
        self._running, self._bad = launch, None
        for follower in self._of(launch):
            while not follower.messages.empty():
                follower.messages.get_nowait()  # of an earlier launch
            with contextlib.suppress(Gone):  # `check` says so
                follower.channel.send(Start(launch=launch, master=self._master(launch)))

    def _of(self, launch: Launch) -> list[_Follower]:
        return [self._followers[host] for host in list(launch.hosts)[1:] if host in self._followers]

    def check(self) -> None:
        if self._running is None:
            return
        for follower in self._of(self._running):
            if follower.gone is not None:
                raise HostLost(f"{follower.host} dropped out: {follower.gone}")
            with contextlib.suppress(queue.Empty):
                message = follower.messages.get_nowait()
                if not isinstance(message, Status) or message.launch_id != self._running.launch_id:
                    continue
                if message.status != 0 and self._bad is None:
                    self._bad = (follower.host, message.status, time.monotonic())
        if self._bad is not None and time.monotonic() - self._bad[2] > LINGER_S:
            raise HostLost(f"the command on {self._bad[0]} ended with exit status {self._bad[1]}")

    def patience_s(self, launch: Launch) -> float:
        return launch.timeout_s

    def ended(self, launch: Launch, folder: Path, ok: bool) -> dict[str, str]:
        self._running = None
        wrong: dict[str, str] = {}
        followers = self._of(launch)
        for follower in followers:
            with contextlib.suppress(Gone):
                follower.channel.send(End(launch_id=launch.launch_id))
        until = time.monotonic() + LEFT_S
        for follower in followers:
            left = self._left(follower, launch.launch_id, until)
            if left is None:
                wrong[follower.host] = f"{follower.host} dropped out: {follower.gone or 'it does not answer'}"
                continue
            try:
                left.keep(folder)
            except ValueError as error:
                wrong[follower.host] = f"{follower.host} handed over what can't be read ({error})"
                continue
            if not left.shared:
                with contextlib.suppress(Gone):
                    follower.channel.send(Forget(launch_id=launch.launch_id))
        return wrong

    def _left(self, follower: _Follower, launch_id: str, until_s: float) -> Ended | None:
        while time.monotonic() < until_s:
            try:
                message = follower.messages.get(timeout=0.1)
            except queue.Empty:
                if follower.gone is not None:
                    return None
                continue
            if isinstance(message, Left) and message.launch_id == launch_id:
                return message.ended
        return None

    def leftover(self, launch: Launch, folder: Path) -> dict[str, str]:
        return {}  # followers whose head was killed have ended theirs

    def close(self) -> None:
        for follower in self._followers.values():
            if follower.gone is None:
                with contextlib.suppress(Gone):
                    follower.channel.send(Bye())
        self._closed.set()
        if self._listener is not None:
            self._listener.close()
