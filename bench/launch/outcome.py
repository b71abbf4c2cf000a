"""What became of a launch: its record, or a typed outcome with the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.launch.process import last_lines
from bench.results.launch_file import Launch, Started, log_path, read_failures, record_path
from bench.results.record import Outcome, Record
from bench.results.store import read_record

OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")


def num_oom_kills() -> int:
    """How often the kernel killed a process of this control group for memory so far; 0 where it does not say."""
    try:
        lines = OOM_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def sign_of_memory(lines: list[str], oom_kills_before: int) -> str | None:
    """What says that a process without last words ran out of memory: the kernel, or the last lines of its log."""
    if num_oom_kills() > oom_kills_before:
        return "the kernel ran out of memory for this control group"
    if any("bad_alloc" in line for line in lines):
        return "memory could not be allocated (std::bad_alloc)"
    return None


_LOST = (
    *("connection closed by peer", "connection reset by peer", "socket closed", "connection was likely closed"),
    "broken pipe",
)
"""What gloo and torch's store say where the other end is gone."""


_WAITED = ("timed out waiting", "application timeout")
"""What gloo says where the other end is there and silent: no sooner than the launch's own time is up."""


@dataclass(frozen=True)
class End:
    """How a launch ended, as seen from outside: the launcher's exit status (None after a time-out), seconds, the ranks
    that were gone first with the signal that ended each (see RankWatch), and how many processes the kernel had killed for memory
    before it began. On several hosts also what made us stop waiting (`lost`), and what was wrong with a host afterwards."""

    status: int | None
    wall_s: float
    first_gone: dict[int, int | None]
    oom_kills_before: int
    lost: str | None = None
    troubles: Mapping[str, str] = field(default_factory=dict)


def settle(launch: Launch, folder: Path, end: End) -> Record:
    """The record of an ended launch.

    Only a whole record says that the launch went well: the deepspeed launcher can exit 0 after a rank was killed.
    """
    path = record_path(folder)
    if path.exists():
        # Ranks on other hosts are not told the command, which has in it what they are told.
        return read_record(path).model_copy(update={"wall_s": end.wall_s, "command": launch.command})
    outcome, reason, evidence = diagnose(launch, folder, end)
    return launch.record(outcome=outcome, reason=reason, evidence=evidence, wall_s=end.wall_s)


def diagnose(launch: Started, folder: Path, end: End) -> tuple[Outcome, str, list[str]]:
    """Outcome, reason and evidence of a launch without a record, from what its ranks and its launcher left in its folder."""
    # Without ssh every host has a launcher of its own.
    logs = sorted(folder.glob("logs/launcher*.log"))
    launcher_lines = [line for log in logs for line in last_lines(log)]
    failures = read_failures(folder)
    # A peer that lost its connection fails too: memory first, then whoever failed for a reason of its own.
    for failure in sorted(failures, key=lambda f: (f.outcome != "oom", f.outcome == "unreachable", f.rank)):
        if failure.outcome == "crashed" and _lost_a_peer(failure.message):
            continue
        if end.status is None and any(text in failure.message.lower() for text in _WAITED):
            continue
        if failure.outcome == "unreachable" and end.troubles:
            break
        said = failure.message.splitlines()[0][:400]
        # The ranks that could not meet name themselves.
        reason = said if failure.outcome == "unreachable" else f"{_rank(launch, failure.rank)}: {said}"
        return failure.outcome, reason, last_lines(log_path(folder, failure.rank))
    if end.troubles:
        how = end.lost or (
            "still running after its time-out" if end.status is None else "the launch ended without a record"
        )
        away = "; ".join(end.troubles.values())
        return "unreachable", f"{how}, and then {away}", launcher_lines
    silent = [rank for rank in range(launch.ranks.world_size) if rank not in {failure.rank for failure in failures}]
    if end.status is None:
        lines = [f"{_rank(launch, rank)}: {line}" for rank in silent for line in last_lines(log_path(folder, rank), 3)]
        return "timeout", f"still running after {launch.timeout_s:g} s, ended", lines or launcher_lines
    if end.status < 0:
        return "crashed", f"the launcher was killed by signal {-end.status}", launcher_lines
    signals = [number for number in end.first_gone.values() if number]
    signals += [int(number) for number in re.findall(r"return code = -(\d+)", "\n".join(launcher_lines))]
    signals += [int(number) for number in re.findall(r"exitcode\s*:\s*-(\d+)", "\n".join(launcher_lines))]
    killed = f", killed by signal {signals[0]}" if signals else ""
    killed_on = _host_of_signal(launch, logs)
    gone = [rank for rank in end.first_gone if rank in silent] or _on(launch, killed_on, silent) or silent
    evidence = [line for rank in gone[:1] for line in last_lines(log_path(folder, rank))] + launcher_lines
    who = _name_ranks(launch, gone) if gone and len(gone) < launch.ranks.world_size else "the launch"
    who = f"a rank on {killed_on}" if killed_on is not None and len(gone) > 1 else who
    if (sign := sign_of_memory(evidence, end.oom_kills_before)) is not None:
        return "oom", f"{who} ended{killed}: {sign}", evidence
    if end.lost is not None and not killed:
        return "crashed", f"{end.lost}, and {who} without a record", evidence
    return "crashed", f"{who} ended without a record{killed} (launcher's exit status {end.status})", evidence


def _host_of_signal(launch: Started, logs: list[Path]) -> str | None:
    """The host whose launcher says first that a signal ended a rank there: pdsh and bench.launch.each put its name before a line,
    and without ssh each host has a log of its own."""
    hosts = list(launch.hosts)
    for log in logs:
        number = log.stem.rpartition("_")[2]
        own = hosts[int(number)] if number.isdigit() and int(number) < len(hosts) else None
        for line in last_lines(log, 200):
            if re.search(r"(return code = |exitcode\s*:\s*)-\d", line):
                host = line.partition(": ")[0]
                return host if host in hosts else own or (hosts[0] if hosts else None)
    return None


def _on(launch: Started, host: str | None, ranks: list[int]) -> list[int]:
    """Those of the ranks that are on a host; none on none."""
    hosts = list(launch.hosts)
    return [rank for rank in ranks if host is not None and hosts[rank * len(hosts) // launch.ranks.world_size] == host]


def _lost_a_peer(message: str) -> bool:
    """Whether a rank failed only because another one was gone."""
    lowered = message.lower()
    return any(text in lowered for text in _LOST)


def _rank(launch: Started, rank: int) -> str:
    """A rank by its number, and on several hosts by its host."""
    hosts = list(launch.hosts)
    return f"rank {rank} on {hosts[rank * len(hosts) // launch.ranks.world_size]}" if hosts else f"rank {rank}"


def _name_ranks(launch: Started, ranks: list[int]) -> str:
    return _rank(launch, ranks[0]) if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
