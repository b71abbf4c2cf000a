"""Which hosts there are, and which of their slots may take ranks: a DeepSpeed hostfile, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LaunchError, nearest
from bench.launch.placement import Placement, place
from bench.launch.remote import is_this_host
from bench.plan.cell import PlacementName

_HOST = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_LINE = re.compile(rf"^(?P<host>{_HOST})\s+slots=(?P<slots>[0-9]{{1,6}})$")
_NODE = re.compile(rf"^(?P<host>{_HOST})(?::(?P<slots>[0-9]{{1,6}}(?:,[0-9]{{1,6}})*))?$")
MAX_SLOTS = 1024


@dataclass(frozen=True)
class Hostfile:
    """Hosts in order, with the numbers of the slots that may be used on each."""

    path: Path
    slots: dict[str, tuple[int, ...]]

    @property
    def hosts(self) -> list[str]:
        return list(self.slots)

    @property
    def numbered(self) -> dict[str, list[int]]:
        """The same as JSON has it."""
        return {host: list(numbers) for host, numbers in self.slots.items()}

    @property
    def num_slots(self) -> int:
        return sum(len(numbers) for numbers in self.slots.values())

    @property
    def is_this_host(self) -> bool:
        """True if the file names one host and that is the one this runs on, so that nothing has to go through ssh."""
        return len(self.slots) == 1 and is_this_host(self.hosts[0])

    def place(self, world_size: int, placement: PlacementName = "pack") -> Placement | None:
        """The even placement of `world_size` ranks on the first hosts; None if there is none."""
        return place(self.slots, world_size, placement)

    def filtered(self, include: str | None, exclude: str | None) -> Hostfile:
        """What DeepSpeed's --include or --exclude leaves: `a@b:0,2` names all of a, and slots 0 and 2 of b.

        Raises LaunchError for both at once, for a host or slot that is not in the file, and where nothing is left.
        """
        if include is None and exclude is None:
            return self
        if include is not None and exclude is not None:
            raise LaunchError("--include and --exclude: found both, expected one of them")
        flag, text = ("--include", include) if include is not None else ("--exclude", exclude)
        named = self._named(flag, str(text))
        if include is not None:
            left = {host: named[host] for host in self.slots if host in named}
        else:
            left = {host: tuple(n for n in all_ if n not in named.get(host, ())) for host, all_ in self.slots.items()}
        left = {host: numbers for host, numbers in left.items() if numbers}
        if not left:
            raise LaunchError(f"{flag}: {text!r} leaves no slot of {self.path}")
        return Hostfile(self.path, left)

    def _named(self, flag: str, text: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, set[int]] = {}
        for part in text.split("@"):
            match = _NODE.match(part)
            if match is None:
                raise LaunchError(f"{flag}: found {part!r}, expected HOST or HOST:SLOT,SLOT (several joined by @)")
            host = match["host"]
            if host not in self.slots:
                raise LaunchError(f"{flag}: {host!r} is not in {self.path}", hint=nearest(host, self.slots))
            numbers = self.slots[host] if match["slots"] is None else [int(slot) for slot in match["slots"].split(",")]
            for number in numbers:
                if number not in self.slots[host]:
                    raise LaunchError(f"{flag}: {host} has no slot {number}, expected 0 to {len(self.slots[host]) - 1}")
            found.setdefault(host, set()).update(numbers)
        return {host: tuple(sorted(numbers)) for host, numbers in found.items()}


def read_hostfile(path: Path) -> Hostfile:
    """Read a hostfile: lines `name slots=N`, blank lines, `#` comments.

    Raises LaunchError for anything else, for a host that stands twice, and for a file that is not there: DeepSpeed's own launcher
    only warns then, and runs on this machine alone.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise LaunchError(
            f"cannot read hostfile {path}: {error}", hint="write lines like `worker-1 slots=8`"
        ) from error
    slots: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = _LINE.match(text)
        if match is None or not 1 <= int(match["slots"]) <= MAX_SLOTS:
            raise LaunchError(f"{path}:{number}: found {text!r}, expected `name slots=N` with N from 1 to {MAX_SLOTS}")
        if match["host"] in slots:
            raise LaunchError(f"{path}:{number}: the host {match['host']!r} stands twice")
        slots[match["host"]] = tuple(range(int(match["slots"])))
    if not slots:
        raise LaunchError(f"hostfile {path} names no host", hint="write lines like `worker-1 slots=8`")
    here = [host for host in slots if host in ("localhost", "127.0.0.1")]
    if here and len(slots) > 1:
        raise LaunchError(
            f"{path}: {here[0]} is another machine on every host, and so can't be one of {len(slots)}",
            hint="write its name or address on the network",
        )
    return Hostfile(path, slots)
