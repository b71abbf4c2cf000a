"""What hosts must have in common: clocks, versions, code, hardware, and names that lead to the same place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.doctor.finding import Finding, On
from bench.doctor.judges.network import is_loopback
from bench.doctor.reading import Reading
from bench.doctor.words import counted, gib, listed

_CLOCK_TOLERANCE_S = 1.0
# Ranks of other versions of these don't start together, or don't compute alike.
_MUST_BE_EQUAL = ("Python", "torch", "CUDA", "NCCL", "DeepSpeed")


@dataclass(frozen=True)
class Heard:
    """A reading that came from a host, and between which bounds its clock is ahead of this machine's, in seconds."""

    reading: Reading
    clock_ahead_s: tuple[float, float]


def judge(heard: Sequence[Heard]) -> list[Finding]:
    """All of this topic; nothing for one host alone."""
    if len(heard) < 2:
        return []
    readings = [one.reading for one in heard]
    return [
        *(_clock(one) for one in heard),
        *_software(readings),
        *_code(readings),
        *_hardware(readings),
        *(_names(reading, [other.host for other in readings]) for reading in readings),
    ]


def _clock(one: Heard) -> Finding:
    on = On("clock", one.reading.host)
    low, high = one.clock_ahead_s
    middle, half = (low + high) / 2, abs(high - low) / 2
    certain = max(0.0, low, -high)
    if certain >= _CLOCK_TOLERANCE_S:
        word = "ahead of" if middle > 0 else "behind"
        return on.warning(
            f"{abs(middle):.1f} s {word} this machine's (within {half:.1f} s)",
            "start chrony or systemd-timesyncd there: measured durations don't depend on it, dates of records and logs do",
        )
    return on.ok(f"as this machine's, within {max(abs(low), abs(high)):.1f} s")


def _software(readings: Sequence[Reading]) -> list[Finding]:
    versions = {reading.host: _versions(reading) for reading in readings}
    usual = {name: _most(mine[name] for mine in versions.values()) for name in versions[readings[0].host]}
    found = []
    for reading in readings:
        on, mine = On("same software", reading.host), versions[reading.host]
        other = [name for name, value in usual.items() if mine[name] != value]
        if not other:
            found.append(on.ok("as the others"))
            continue
        words = listed([f"{name} {mine[name] or 'missing'} (elsewhere {usual[name] or 'missing'})" for name in other])
        remedy = "install the same on all hosts: make setup, with the same TORCH"
        bad = any(name in _MUST_BE_EQUAL for name in other)
        found.append(on.problem(words, remedy) if bad else on.warning(words, remedy))
    return found


def _versions(reading: Reading) -> dict[str, str | None]:
    software = reading.software
    return {
        # Patch releases of Python mix well.
        "Python": ".".join(software.python.split(".")[:2]),
        "torch": software.torch.version if software.torch else None,
        "CUDA": software.torch.cuda if software.torch else None,
        "NCCL": software.torch.nccl if software.torch else None,
        "DeepSpeed": software.deepspeed.version if software.deepspeed else None,
        "transformers": software.transformers,
        "numpy": software.packages.get("numpy"),
        "driver": reading.gpus.driver,
    }


def _most(values: Iterable[str | None]) -> str | None:
    """The most frequent value, the first one where several are."""
    return Counter(values).most_common(1)[0][0]


def _code(readings: Sequence[Reading]) -> list[Finding]:
    usual = _most(reading.software.source_sha256 for reading in readings)
    commit = _most(reading.software.commit for reading in readings if reading.software.source_sha256 == usual)
    found = []
    for reading in readings:
        on, software = On("same code", reading.host), reading.software
        if not software.source_sha256:
            found.append(on.unchecked(software.unread.get("source_sha256", "its files can't be read")))
        elif software.source_sha256 == usual:
            found.append(
                on.ok(f"commit {_short(software.commit)}" if software.commit else "equal files (no git there)")
            )
        else:
            mine = f"commit {_short(software.commit)}" if software.commit else "other files"
            elsewhere = f"commit {_short(commit)}" if commit and commit != software.commit else "other files"
            found.append(
                on.problem(f"{mine}, elsewhere {elsewhere}", "copy the same checkout to all hosts (git pull, or rsync)")
            )
    return found


def _short(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    name, _, dirty = commit.partition("-")
    return name[:10] + (" with changes" if dirty else "")


def _hardware(readings: Sequence[Reading]) -> list[Finding]:
    usual = _most(_machine(reading) for reading in readings)
    found = []
    for reading in readings:
        on = On("same hardware", reading.host)
        if _machine(reading) == usual:
            found.append(on.ok("as the others"))
        else:
            found.append(
                on.warning(
                    f"{_machine(reading)}, elsewhere {usual}",
                    "the slowest host sets every step: leave it out (--exclude)",
                )
            )
    return found


def _machine(reading: Reading) -> str:
    gpus = counted(f"{gpu.name} of {gib(gpu.memory_bytes)}" for gpu in reading.gpus.devices) or "no GPU"
    return f"{gpus}, {reading.machine.usable_cores} cores"


def _names(reading: Reading, hosts: list[str]) -> Finding:
    """What the hosts' names lead to on this host. scalebench gives its ranks an address; launches by hand give them a name, that
    of the first host."""
    on, resolved, first = On("names", reading.host), reading.network.resolved, hosts[0]
    astray = [
        name
        for name in hosts
        if name != reading.host and resolved.get(name) and all(is_loopback(address) for address in resolved[name])
    ]
    if astray:
        return on.warning(
            f"{listed(astray)} resolves to {resolved[astray[0]][0]} there, which is the host itself",
            "give each host its own address in /etc/hosts there",
        )
    if not resolved.get(first):
        return on.warning(
            f"{first}, where all ranks meet, is not known there by that name; scalebench gives ranks its address",
            f"for launches by hand: add {first} to /etc/hosts there, or --master_addr ADDRESS",
        )
    unknown = [name for name in hosts if not resolved.get(name)]
    return on.ok(
        "all are known there" if not unknown else f"known there, but for {listed(unknown)} (ssh's own aliases)"
    )
