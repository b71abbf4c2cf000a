"""The hostfile itself, before any of its hosts is asked."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path

from bench.doctor.finding import Finding, On
from bench.doctor.judges.network import is_loopback
from bench.doctor.words import counted, listed
from bench.errors import LaunchError
from bench.launch.hostfile import Hostfile, read_hostfile
from bench.launch.remote import is_this_host

DEEPSPEEDS_OWN = Path("/job/hostfile")
"""Where DeepSpeed's launcher looks when it is given no hostfile (deepspeed/launcher/runner.py, DLTS_HOSTFILE)."""
_RESOLVER_S = 5.0


def read(path: Path) -> tuple[Hostfile | None, list[Finding]]:
    """The hostfile, if it is one, and what is wrong with it."""
    on = On("hostfile", None)
    try:
        hostfile = read_hostfile(path)
    except LaunchError as error:
        remedy = error.hint or "write lines like `worker-1 slots=8`"
        if not path.exists():
            remedy += " (DeepSpeed's own launcher only warns here, and runs on this machine alone)"
        return None, [on.problem(error.found, remedy)]
    return hostfile, judge(hostfile, addresses_of(list(hostfile.slots)))


def without(default: Path = DEEPSPEEDS_OWN) -> list[Finding]:
    """What there is to say where no hostfile was given."""
    if default.is_file():
        return [
            On("hostfile", None).warning(
                f"none given, but there is {default}: `deepspeed` without --hostfile starts on its hosts",
                f"give it here to check them: --hostfile {default}; scalebench itself doesn't read it",
            )
        ]
    return []


def judge(hostfile: Hostfile, resolved: dict[str, list[str]]) -> list[Finding]:
    """What a readable hostfile says, and where its names lead from here."""
    on, slots = On("hostfile", None), {host: len(numbers) for host, numbers in hostfile.slots.items()}
    found = []
    loops = [host for host in slots if resolved.get(host) and all(is_loopback(address) for address in resolved[host])]
    # This machine's own name may lead to itself, unless it is the first: there the others look for rank 0.
    astray = [host for host in loops if host == hostfile.hosts[0] or not is_this_host(host)]
    if len(slots) > 1 and astray:
        found.append(
            on.problem(
                f"{listed(astray)} resolves to {resolved[astray[0]][0]} here, which on every host is that host itself",
                "give it its own address in /etc/hosts, or write that into the hostfile",
            )
        )
    by_address: dict[str, list[str]] = {}
    for host in slots:
        for address in resolved.get(host, [])[:1]:
            by_address.setdefault(address, []).append(host)
    twice = [names for names in by_address.values() if len(names) > 1 and not set(names) <= set(loops)]
    for names in twice:
        found.append(on.problem(f"{' and '.join(names)} are the same host", "name it once, with all its slots"))
    if len(set(slots.values())) > 1:
        found.append(
            on.warning(
                f"unequal slots: {counted(f'slots={number}' for number in slots.values())}",
                "DeepSpeed mixes up local ranks then; scalebench puts equally many on each host, so that slots stay idle",
            )
        )
    if not found:
        found.append(
            on.ok(f"{counted(f'host with slots={number}' for number in slots.values())}: {hostfile.num_slots} ranks")
        )
    return found


def addresses_of(hosts: list[str]) -> dict[str, list[str]]:
    """What the names resolve to here; empty where they are not known, or nobody answers in time."""

    def ask(host: str) -> list[str]:
        try:
            return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError):
            return []

    pool = ThreadPoolExecutor(min(64, len(hosts)))
    asking = {host: pool.submit(ask, host) for host in hosts}
    found: dict[str, list[str]] = {}
    for host, one in asking.items():
        try:
            found[host] = one.result(_RESOLVER_S)
        except TooLate:
            found[host] = []
    pool.shutdown(wait=False, cancel_futures=True)
    return found
