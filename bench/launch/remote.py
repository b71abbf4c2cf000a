"""A command on a host of a hostfile: by ssh, without a password, and typed where it could not be started there."""

from __future__ import annotations

import functools
import ipaddress
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import psutil

CONNECT_TIMEOUT_S = 5
SSH_OPTIONS_VARIABLE = "PDSH_SSH_ARGS_APPEND"
"""Where a user's own ssh options stand (port, key, user): the variable of pdsh, so that all ways to a host share them."""
MAX_AT_ONCE = 64

Kind = Literal["unresolved", "unreachable", "refused", "no-ssh", "slow"]


@dataclass(frozen=True)
class Trouble:
    """Why a command was not run to its end on a host: its name is not known (`unresolved`), nothing answers (`unreachable`), what
    answers does not let us in (`refused`), there is no ssh here (`no-ssh`), or it took longer than it may (`slow`)."""

    host: str
    kind: Kind
    found: str
    hint: str

    def __str__(self) -> str:
        return f"{self.found}; {self.hint}"


@dataclass(frozen=True)
class RemoteResult:
    """What a command came to on one host: its exit status, and what it printed. `trouble` is set, and `status` None, where it did
    not get so far."""

    host: str
    status: int | None
    stdout: str
    stderr: str
    trouble: Trouble | None = None

    @property
    def ok(self) -> bool:
        return self.status == 0


@functools.lru_cache(maxsize=1024)
def is_this_host(host: str) -> bool:
    """Whether the name or address is this machine's own, so that nothing has to go through ssh."""
    if host in ("localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    mine = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    # A name that resolves to a loopback address may be any host's: only ssh to it would end up here.
    return any(address in mine and not ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def ssh_command(host: str, command: Sequence[str], environment: dict[str, str] | None = None) -> list[str]:
    """The ssh command line that runs `command` on a host in this working folder, with these variables.

    The remote shell gets one line in which every word is quoted, so that none of it is executed. Raises ValueError for a host
    that ssh would take for an option.
    """
    if not host or host.startswith("-"):
        raise ValueError(f"{host!r} is no name of a host")
    words = [f"{name}={value}" for name, value in (environment or {}).items()]
    # A folder that is not there is no reason to fail: a command that needs it says so itself.
    line = (
        f"cd {shlex.quote(os.getcwd())} 2>/dev/null; exec {shlex.join([*(['env', *words] if words else []), *command])}"
    )
    return ["ssh", *ssh_options(), host, line]


def ssh_options() -> list[str]:
    """Options of every ssh of ours: never ask, give up soon, notice a dead link; the user's own come first, and so win."""
    own = shlex.split(os.environ.get(SSH_OPTIONS_VARIABLE, ""))
    wanted = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_TIMEOUT_S,
        "ServerAliveInterval": 5,
        "ServerAliveCountMax": 3,
    }
    return [*own, "-x", *(f"-o{name}={value}" for name, value in wanted.items())]


def on_host(
    host: str,
    command: Sequence[str],
    timeout_s: float,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    always_ssh: bool = False,
) -> RemoteResult:
    """Run a command on a host and wait for it, at most `timeout_s`: through ssh, or directly where the host is this one (through
    ssh there too with `always_ssh`, as pdsh does). `environment` is added to what the host has. Raises nothing for a host that
    can't be used: the result's `trouble` says why.
    """
    direct = not always_ssh and is_this_host(host)
    if not direct and shutil.which("ssh") is None:
        trouble = Trouble(host, "no-ssh", "there is no ssh program here", "install openssh-client, or use --no-ssh")
        return RemoteResult(host, None, "", "", trouble)
    try:
        done = subprocess.run(
            list(command) if direct else ssh_command(host, command, environment),
            env={**os.environ, **(environment or {})} if direct else None,
            input=stdin if stdin is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        trouble = Trouble(
            host, "slow", f"{host} gave no answer within {timeout_s:g} s", "is it overloaded, or its disk away?"
        )
        return RemoteResult(host, None, "", "", trouble)
    except (OSError, ValueError) as error:
        # Directly only: the program itself is not there. A shell would say 127.
        return RemoteResult(host, 127, "", str(error))
    trouble_found = None if direct else _trouble(host, done.returncode, done.stderr)
    return RemoteResult(host, None if trouble_found else done.returncode, done.stdout, done.stderr, trouble_found)


def on_hosts(
    hosts: Iterable[str],
    command: Sequence[str],
    timeout_s: float,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    always_ssh: bool = False,
) -> dict[str, RemoteResult]:
    """`on_host` on all of them at the same time; the results by host, in the order given."""
    names = list(dict.fromkeys(hosts))
    if not names:
        return {}
    with ThreadPoolExecutor(min(len(names), MAX_AT_ONCE)) as pool:
        results = pool.map(lambda host: on_host(host, command, timeout_s, stdin, environment, always_ssh), names)
        return dict(zip(names, results, strict=True))


_SIGNS: tuple[tuple[Kind, tuple[str, ...], str, str], ...] = (
    (
        "unresolved",
        ("could not resolve hostname",),
        "its name can't be resolved",
        "correct the hostfile, or add the name to /etc/hosts",
    ),
    (
        "refused",
        ("host key verification failed", "remote host identification has changed"),
        "its host key is not known here, or another one",
        "log in once by `ssh {host}` and check the key",
    ),
    (
        "refused",
        ("permission denied", "too many authentication failures", "no supported authentication"),
        "it does not accept our ssh key",
        "put your public key in its ~/.ssh/authorized_keys (ssh-copy-id {host})",
    ),
    (
        "unreachable",
        ("connection refused",),
        "no ssh server listens there",
        "start sshd on {host}, or give its port: PDSH_SSH_ARGS_APPEND='-p PORT'",
    ),
    (
        "unreachable",
        ("timed out", "no route to host", "network is unreachable", "host is down", "not responding"),
        "nothing answers there",
        "is {host} up, and does the hostfile have its right name?",
    ),
    (
        "unreachable",
        ("connection closed", "connection reset", "kex_exchange_identification", "broken pipe"),
        "the ssh connection was cut",
        "try `ssh {host} true`",
    ),
)


def _trouble(host: str, status: int, stderr: str) -> Trouble | None:
    """What kept ssh from running the command: it exits 255 then, and says why in its last lines."""
    if status != 255:
        return None
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lowered = stderr.lower()
    said = f" (ssh: {lines[-1][:200]})" if lines else ""
    for kind, signs, found, hint in _SIGNS:
        if any(sign in lowered for sign in signs):
            return Trouble(host, kind, f"{host} can't be used by ssh: {found}{said}", hint.format(host=host))
    return Trouble(
        host, "unreachable", f"{host} can't be used by ssh{said or ': exit status 255'}", f"try `ssh {host} true`"
    )
