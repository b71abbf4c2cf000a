"""Which hosts there are, and how many ranks each takes: a DeepSpeed hostfile, checked."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LaunchError

_LINE = re.compile(r"^(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)\s+slots=(?P<slots>[0-9]+)$")


@dataclass(frozen=True)
class Hostfile:
    """Hosts in order, with their slots."""

    path: Path
    slots: dict[str, int]

    @property
    def num_slots(self) -> int:
        return sum(self.slots.values())

    @property
    def is_this_host(self) -> bool:
        """True if the file names one host and that is the one this runs on, so that nothing has to go through ssh."""
        if len(self.slots) != 1:
            return False
        host = next(iter(self.slots))
        return host in ("localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn())

    def placement(self, world_size: int) -> tuple[int, int] | None:
        """(nodes, ranks on each) that hold `world_size` ranks on as few hosts as can be; None if none does.

        Every node takes equally many, because DeepSpeed's launcher mixes up local ranks otherwise.
        """
        sizes = list(self.slots.values())
        for num_nodes in range(1, len(sizes) + 1):
            if world_size % num_nodes == 0 and all(world_size // num_nodes <= size for size in sizes[:num_nodes]):
                return num_nodes, world_size // num_nodes
        return None


def read_hostfile(path: Path) -> Hostfile:
    """Read a hostfile: lines `name slots=N`, blank lines, `#` comments.

    Raises LaunchError for anything else, and for a file that is not there: DeepSpeed's own launcher only warns then,
    and runs on this machine alone.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(
            f"cannot read hostfile {path}: {error}", hint="write lines like `worker-1 slots=8`"
        ) from error
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        match = _LINE.match(text)
        if match is None or int(match["slots"]) < 1:
            raise LaunchError(f"{path}:{number}: found {text!r}, expected `name slots=N` with N from 1 on")
        if match["host"] in slots:
            raise LaunchError(f"{path}:{number}: the host {match['host']!r} stands twice")
        slots[match["host"]] = int(match["slots"])
    if not slots:
        raise LaunchError(f"hostfile {path} names no host", hint="write lines like `worker-1 slots=8`")
    return Hostfile(path, slots)
