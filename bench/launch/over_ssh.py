"""Launches on several hosts, started from this one through ssh."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bench.errors import LaunchError, ScalebenchError
from bench.launch.ended import Ended, end_here
from bench.launch.engine import HostLost
from bench.launch.launcher import launch_environment
from bench.launch.machine import Machine
from bench.launch.preflight import Preflight, Unusable, master_address, module_there
from bench.launch.remote import SSH_OPTIONS_VARIABLE, is_this_host, on_host, on_hosts, ssh_options
from bench.launch.several import HOSTS_NAME, Several, hosts_text, several_command
from bench.launch.variables import ENV_FILE_NAME, ENV_FILE_VARIABLE, carried, check_for_pdsh, env_file_text
from bench.results.launch_file import Launch
from bench.results.store import write_atomically

MODULE = "bench.launch.ended"
END_S = 40.0
LINGER_S = 20.0
"""How long the launcher may go on after it said that the command on a host has ended badly."""
_LOST = re.compile(
    r"(?:pdsh@[^:]+|each): (?P<host>[^:]+): (?:ssh exited with exit code|exit status) (?P<status>-?[1-9]\d*)"
)


@dataclass
class OverSsh:
    """Starts launches by pdsh, mpirun or ssh, and ends them by ssh."""

    how: Several
    machine: Machine
    warn: Callable[[str], None]
    _preflight: Preflight = field(init=False)
    _log: Path | None = field(init=False, default=None)
    _read: int = field(init=False, default=0)
    _bad: tuple[str, int, float] | None = field(init=False, default=None)
    # Of launches that could not be ended on a host that was away, and of folders there whose files are kept here.
    _owed: dict[str, list[Launch]] = field(init=False, default_factory=dict)
    _kept: dict[str, list[Path]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._preflight = Preflight(always_ssh=not self.how.one_a_host, warn=self.warn)

    def open(self) -> None:
        pass

    def unusable(self, launch: Launch) -> Unusable | None:
        self._check_programs()
        first = next(iter(launch.hosts))
        master = master_address(first, self.how.master_addr)
        if isinstance(master, Unusable):
            return master
        found = self._preflight.check(launch.hosts, master, launch.port or 1)
        if found is None:
            self._pay(launch)
        return found

    def _check_programs(self) -> None:
        needed = {"pdsh": "pdsh", "openmpi": "mpirun", "ssh": "ssh"}[self.how.multinode]
        needed = "ssh" if self.how.one_a_host else needed
        if shutil.which(needed) is None:
            raise LaunchError(
                f"there is no {needed} here, which starts the ranks on other hosts",
                hint="install it, or choose another --multinode-launcher (pdsh, ssh, openmpi), or --no-ssh",
            )

    def command(self, launch: Launch, folder: Path) -> list[str]:
        master = master_address(next(iter(launch.hosts)), self.how.master_addr)
        # A name that leads nowhere stands in a dry run as it is.
        address = next(iter(launch.hosts)) if isinstance(master, Unusable) else master
        exported = carried(launch_environment(self.machine, launch.cell, launch.launch_id))
        return several_command(self.how, launch, folder, address, exported, self.machine.device_type == "cuda")

    def environment(self, launch: Launch, folder: Path) -> dict[str, str]:
        """Also writes the files that the launcher reads. Raises LaunchError for what a remote shell would execute."""
        environment = launch_environment(self.machine, launch.cell, launch.launch_id)
        if self.how.one_a_host:
            return environment
        check_for_pdsh(environment, {"working folder": str(Path.cwd()), "program": sys.executable})
        variables = carried(environment)
        if self.how.multinode == "openmpi":
            master = master_address(next(iter(launch.hosts)), self.how.master_addr)
            variables |= {"MASTER_ADDR": str(master), "MASTER_PORT": str(launch.port)}
        write_atomically(folder / HOSTS_NAME, hosts_text(launch))
        write_atomically(folder / ENV_FILE_NAME, env_file_text(variables))
        environment[ENV_FILE_VARIABLE] = str(folder.resolve() / ENV_FILE_NAME)
        # pdsh splits at blanks and has no quoting: an option with a blank in it can't be given to it, by nobody.
        environment[SSH_OPTIONS_VARIABLE] = " ".join(map(_unquoted, ssh_options()))
        return environment

    def began(self, launch: Launch, folder: Path) -> None:
        self._log, self._read, self._bad = folder / "logs" / "launcher.log", 0, None

    def check(self) -> None:
        """Raises HostLost some time after a host's part ended badly, by the launcher's log: pdsh waits for the others."""
        if self._log is None:
            return
        if self._bad is None:
            text = self._news()
            if (match := _LOST.search(text)) is not None:
                self._bad = (match["host"].strip(), int(match["status"]), time.monotonic())
        elif time.monotonic() - self._bad[2] > (1.0 if self._bad[1] == 255 else LINGER_S):
            host, status, _ = self._bad
            raise HostLost(f"the command on {host} ended with exit status {status}")

    def _news(self) -> str:
        assert self._log is not None
        try:
            with self._log.open("rb") as file:
                file.seek(self._read)
                lines, whole, _ = file.read().rpartition(b"\n")
        except OSError:
            return ""
        self._read += len(lines) + len(whole)
        return lines.decode("utf-8", "replace")

    def patience_s(self, launch: Launch) -> float:
        return launch.timeout_s

    def ended(self, launch: Launch, folder: Path, ok: bool) -> dict[str, str]:
        self._log = None
        if not ok:
            self._preflight.forget()
        others = [host for host in launch.hosts if not is_this_host(host)]
        if any(is_this_host(host) for host in launch.hosts):
            end_here(launch.launch_id, folder, launch.port)
        words = [launch.launch_id, str(folder), str(launch.port)]
        command, environment = module_there(MODULE, *words)
        wrong: dict[str, str] = {}
        for host, result in on_hosts(others, command, END_S, environment=environment).items():
            if result.trouble is not None:
                wrong[host] = str(result.trouble)
                self._owed.setdefault(host, []).append(launch)
                # Whatever it has of it: the launch has its record here.
                self._kept.setdefault(host, []).append(folder)
                continue
            try:
                left = Ended.model_validate_json(result.stdout.strip().splitlines()[-1] if result.ok else "")
                left.keep(folder)
            except (ValidationError, IndexError, ValueError):
                said = (result.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
                wrong[host] = f"the launch could not be ended on {host}: {said}"
                continue
            if not left.shared:
                self._kept.setdefault(host, []).append(folder)
        return wrong

    def leftover(self, launch: Launch, folder: Path) -> dict[str, str]:
        others = [host for host in launch.hosts if not is_this_host(host)]
        words = [launch.launch_id, str(folder), str(launch.port), "--forget", str(folder)]
        command, environment = module_there(MODULE, *words)
        results = on_hosts(others, command, END_S, environment=environment)
        return {host: str(one.trouble or one.stderr.strip()[-200:]) for host, one in results.items() if not one.ok}

    def _pay(self, launch: Launch) -> None:
        """What could not be ended on hosts that are back, is ended now."""
        for host in set(launch.hosts) & self._owed.keys():
            for owed in self._owed.pop(host):
                command, environment = module_there(MODULE, owed.launch_id, "/nonexistent", str(owed.port))
                on_host(host, command, END_S, environment=environment)

    def close(self) -> None:
        """Hosts without the results folder need not keep what is kept here; those that were away may be back."""
        hosts = sorted({*self._kept, *self._owed})
        if hosts:
            with ThreadPoolExecutor(len(hosts)) as pool:
                list(pool.map(self._leave, hosts))
        self._kept.clear()
        self._owed.clear()

    def _leave(self, host: str) -> None:
        forget = [word for folder in self._kept.get(host, []) for word in ("--forget", str(folder))]
        owed = self._owed.get(host, [])
        for launch_id, port in [(launch.launch_id, launch.port) for launch in owed] or [("none", 0)]:
            command, environment = module_there(MODULE, launch_id, "/nonexistent", str(port), *forget)
            result = on_host(host, command, END_S, environment=environment)
            if not result.ok and owed:
                self.warn(
                    f"warning: {host} may still run ranks of launch {launch_id}: {result.trouble or result.stderr[-200:]}"
                )


def _unquoted(option: str) -> str:
    if shlex.quote(option) != option and any(c.isspace() for c in option):
        raise ScalebenchError(
            f"PDSH_SSH_ARGS_APPEND: pdsh can't take {option!r}, which has a blank in it",
            hint="put it in ~/.ssh/config, or use --multinode-launcher ssh",
        )
    return option
