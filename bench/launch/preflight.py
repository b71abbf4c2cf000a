"""Whether the hosts of a launch can be used, asked of all at once before it starts: never a smaller run, never a long wait."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from bench.launch.presence import Presence, presence
from bench.launch.remote import RemoteResult, is_this_host, on_hosts
from bench.results.checkout import ROOT
from bench.results.record import Outcome

MODULE = "bench.launch.presence"
ANSWER_S = 40.0
"""In which a host must have said what it is. Starting Python and importing pydantic there takes a second."""


@dataclass(frozen=True)
class Unusable:
    """Why a launch that needs a host is not started, as the outcome that its record gets."""

    outcome: Outcome
    reason: str


def module_there(module: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Command and variables that run a module of this package on another host, by the same Python at the same path."""
    return [sys.executable, "-m", module, *words], {"PYTHONPATH": str(ROOT)}


def master_address(first: str, given: str | None) -> str | Unusable:
    """The address at which all ranks meet: the one given, else that of the first host as it is known here."""
    if given is not None:
        return given
    hint = "give its address on the network: --master-addr ADDRESS"
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(first, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        return Unusable("unreachable", f"{first}: its name can't be resolved here ({error}); {hint}")
    outside = [address for address in found if not _is_loopback(address)]
    if not outside:
        return Unusable(
            "unreachable",
            f"{first} resolves to {found[0]} here, which on every host is that host itself; {hint}, or correct /etc/hosts",
        )
    return min(outside, key=lambda address: ":" in address)  # IPv4 first, as launchers expect


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def loops_back(host: str) -> str | None:
    """The loopback address to which a host's name resolves here, so that ssh to it would end up on this host; None if it does
    not, or is not known (ssh may know it by other means)."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return None
    return found[0] if found and all(map(_is_loopback, found)) else None


@dataclass
class Preflight:
    """Asks hosts once, and again after `forget`. `always_ssh`: this host too, as pdsh does. `warn` is told what may matter."""

    always_ssh: bool
    warn: Callable[[str], None]
    _usable: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """A launch failed: ask again before the next."""
        self._usable.clear()

    def check(self, hosts: Iterable[str], master: str, port: int) -> Unusable | None:
        """Why a launch on these hosts can't be started; None if it can. Takes a second, or as long as the slowest host may."""
        asked = [host for host in hosts if host not in self._usable]
        if not asked:
            return None
        for host in asked:
            if (address := loops_back(host)) is not None and len(list(hosts)) > 1 and not is_this_host(host):
                return Unusable(
                    "unreachable",
                    f"{host} resolves to {address} here, which is this host itself; correct /etc/hosts, or write its address in "
                    "the hostfile",
                )
        command, environment = module_there(MODULE, master, str(port))
        answers = on_hosts(asked, command, ANSWER_S, environment=environment, always_ssh=self.always_ssh)
        here = presence(master, port)
        found: list[Unusable] = []
        for host, answer in answers.items():
            unusable = self._judge(host, answer, here, master)
            if unusable is None:
                self._usable.add(host)
            else:
                found.append(unusable)
        if not found:
            return None
        worst = next((one for one in found if one.outcome == "unreachable"), found[0])
        return Unusable(worst.outcome, "; ".join(dict.fromkeys(one.reason for one in found)))

    def _judge(self, host: str, answer: RemoteResult, here: Presence, master: str) -> Unusable | None:
        if answer.trouble is not None:
            return Unusable("unreachable", str(answer.trouble))
        try:
            there = Presence.model_validate_json(answer.stdout.strip().splitlines()[-1] if answer.ok else "")
        except (ValidationError, IndexError):
            said = ([line.strip() for line in answer.stderr.splitlines() if line.strip()] or ["it said nothing"])[-1][
                :200
            ]
            return Unusable(
                "crashed",
                f"{host} has no scalebench at {ROOT} for {sys.executable} ({said}); install it there, at the same path",
            )
        if there.missing:
            return Unusable(
                "crashed", f"{host} lacks {', '.join(there.missing)}; install scalebench there as here (make setup)"
            )
        if there.version != here.version:
            return Unusable(
                "crashed",
                f"{host} has scalebench {there.version}, here it is {here.version}; install the same on all hosts",
            )
        if there.no_way is not None:
            return Unusable(
                "unreachable",
                f"{host} can't reach {master}, where the ranks meet: {there.no_way}; open the way, or give another --master-addr",
            )
        if there.commit != here.commit:
            self.warn(
                f"warning: {host} has another state of the code: {there.commit or 'unknown'}, here {here.commit or 'unknown'}"
            )
        if there.python != here.python:
            self.warn(f"warning: {host} has Python {there.python}, here it is {here.python}")
        return None
