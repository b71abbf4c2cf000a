"""By what a launch is started, kept an eye on and ended. One for this host alone is here; others are for several hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from bench.launch.launcher import LauncherName, launch_environment, local_command
from bench.launch.machine import Machine
from bench.launch.preflight import Unusable
from bench.results.launch_file import LAUNCH_NAME, Started

_Launch = TypeVar("_Launch", bound=Started, contravariant=True)


class HostLost(Exception):
    """A host dropped out in the middle of a launch; says which and how."""


class Engine(Protocol[_Launch]):
    """What a sweep does with a launch, whatever the hosts."""

    def open(self) -> None:
        """The sweep begins, perhaps again."""
        ...

    def unusable(self, launch: _Launch) -> Unusable | None:
        """Why the launch can't be started; None if it can."""
        ...

    def command(self, launch: _Launch, folder: Path) -> list[str]:
        """The command that starts all of it, as a record keeps it."""
        ...

    def environment(self, launch: _Launch, folder: Path) -> dict[str, str]: ...

    def began(self, launch: _Launch, folder: Path) -> None:
        """The command was started here."""
        ...

    def check(self) -> None:
        """Called about ten times a second while the launch runs. Raises HostLost."""
        ...

    def patience_s(self, launch: _Launch) -> float:
        """Seconds after which a launch that has not ended is ended."""
        ...

    def ended(self, launch: _Launch, folder: Path, ok: bool) -> dict[str, str]:
        """End the launch on all other hosts and fetch what they have of it. What went wrong with a host, by its name."""
        ...

    def leftover(self, launch: _Launch, folder: Path) -> dict[str, str]:
        """End on other hosts what a killed sweep left running of a launch. What went wrong with a host, by its name."""
        ...

    def close(self) -> None:
        """The sweep is through, or was stopped."""
        ...


class ThisHost:
    """Launches on this host alone, by its launcher."""

    def __init__(self, launcher: LauncherName, machine: Machine) -> None:
        self._launcher = launcher
        self._machine = machine

    def open(self) -> None:
        pass

    def unusable(self, launch: Started) -> Unusable | None:
        return None

    def command(self, launch: Started, folder: Path) -> list[str]:
        return local_command(self._launcher, launch.ranks, folder / LAUNCH_NAME, launch.port or 0, launch.module)

    def environment(self, launch: Started, folder: Path) -> dict[str, str]:
        return launch_environment(self._machine, launch.ranks, launch.launch_id)

    def began(self, launch: Started, folder: Path) -> None:
        pass

    def check(self) -> None:
        pass

    def patience_s(self, launch: Started) -> float:
        return launch.timeout_s

    def ended(self, launch: Started, folder: Path, ok: bool) -> dict[str, str]:
        return {}

    def leftover(self, launch: Started, folder: Path) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass
