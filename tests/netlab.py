"""Several hosts on one machine: namespaces joined by a switch, with a sshd, a name and a link each.

    with hosts(2) as lab:
        lab.shape("node-1", 400)
        lab.run("node-1", ["ssh", "node-2", "hostname"])

A host has its own network, host name, processes (its first process is its sshd), /dev/shm, /etc/hosts and ssh settings; files are
shared by all, as on a cluster's shared file system, but for the folders named in `private`. Nothing is named on the machine
itself: the namespaces live as long as their first processes, and these end with the process that made the lab, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NETWORK = "10.77.0"
MTU = 9000
"""Bytes. `tc tbf` counts Ethernet headers: with 1500 a TCP flow's payload reaches 95.6 % of the rate, with 9000 99.2 %."""
BURST_BYTES = 128 * 1024
"""What may pass at once after a pause: 2.6 ms at 400 Mbit/s. A segment of 64 KiB, as TCP hands it on, has to fit into it."""
QUEUE_S = 0.1
"""How long a packet may wait in the queue of a shaped link before later ones are dropped."""
PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "pdsh": "pdsh",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
READY_S = 20.0


class Unavailable(Exception):
    """There can be no hosts here; says why."""


def why_not() -> str | None:
    """What this machine lacks for a lab of hosts; None if nothing."""
    if os.geteuid() != 0:
        return "hosts on one machine need root"
    missing = sorted({package for program, package in PROGRAMS.items() if _which(program) is None})
    if missing:
        return f"hosts on one machine need {', '.join(missing)}; on Debian: apt-get install {' '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        return f"hosts on one machine need namespaces: {tried.stderr.strip()}"
    return None


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def hosts(number: int, private: Sequence[Path] = ()) -> Iterator[Lab]:
    """Hosts `node-1` to `node-NUMBER`, up and reachable by ssh from each other. Raises Unavailable, saying why.

    `private` are folders, made if they are not there, of which every host sees its own, empty at first.
    """
    if (reason := why_not()) is not None:
        raise Unavailable(reason)
    folder = Path(tempfile.mkdtemp(prefix="netlab-"))
    lab = Lab(folder, [f"node-{index}" for index in range(1, number + 1)])
    try:
        lab.start_up(private)
        yield lab
    finally:
        lab.shut_down()
        shutil.rmtree(folder)


@dataclass
class Lab:
    """The running hosts. Rates are in Mbit/s (10^6 bit), per direction."""

    folder: Path
    names: list[str]
    addresses: dict[str, str] = field(init=False)
    _holders: dict[str, subprocess.Popen[bytes]] = field(init=False, default_factory=dict)
    _first: dict[str, int] = field(init=False, default_factory=dict)
    _hidden: list[tuple[str, Path]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.addresses = {name: f"{NETWORK}.{index}" for index, name in enumerate(self.names, start=1)}

    def run(
        self,
        host: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """The command on that host, as `subprocess.run` with its output captured. Ends it with its children after a time-out."""
        process = self.start(host, command, environment=environment, cwd=cwd)
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            end_with_children(process.pid)
            process.communicate(timeout=10)
            raise
        return subprocess.CompletedProcess(list(map(str, command)), process.returncode, output, errors)

    def start(
        self,
        host: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        """The command on that host, not waited for. Signals go to `within(process)`: what is returned only stands for it."""
        # The folder is entered inside, where something may lie over it.
        told = ["env", "--chdir", str(cwd or Path.cwd()), *map(str, command)]
        return subprocess.Popen(
            [*self._enter(host), *told],
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """`base` (else this process's environment) and what pdsh and ssh need to reach the hosts without a question."""
        environment = dict(os.environ if base is None else base)
        environment["PDSH_RCMD_TYPE"] = "ssh"
        environment["PDSH_SSH_ARGS_APPEND"] = f"-F {self.folder / 'ssh_config'}"
        environment.pop("SSH_AUTH_SOCK", None)
        return environment

    def hostfile(self, slots: int | Sequence[int] = 1) -> Path:
        """A new hostfile of all hosts, with as many slots each, or as many as listed."""
        listed = [slots] * len(self.names) if isinstance(slots, int) else slots
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "hostfile"
        path.write_text("".join(f"{name} slots={n}\n" for name, n in zip(self.names, listed, strict=True)))
        return path

    def shape(self, host: str, mbit_per_s: float | None) -> None:
        """Give the host's link a rate in each direction; None takes it away."""
        for place, device in ((host, "eth0"), ("switch", host)):
            if mbit_per_s is None:
                self._net(place, "tc", "qdisc", "del", "dev", device, "root", check=False)
            else:
                rate = ("rate", f"{round(mbit_per_s * 1000)}kbit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_S}s")
                self._net(place, "tc", "qdisc", "replace", "dev", device, "root", "tbf", *rate)

    def cut(self, host: str) -> None:
        """Pull the host's cable at the switch. Nobody is told: packets to it vanish."""
        self._net("switch", "ip", "link", "set", host, "down")

    def restore(self, host: str) -> None:
        self._net("switch", "ip", "link", "set", host, "up")

    def lock_out(self, host: str) -> None:
        """The host no longer takes the key of the others."""
        (self.folder / host / "authorized_keys").write_text("")

    def let_in(self, host: str) -> None:
        (self.folder / host / "authorized_keys").write_text((self.folder / "key.pub").read_text())

    def resolve(self, host: str, name: str, address: str | None) -> None:
        """On that host, `name` is at another address; None: at its own again."""
        known = {**self.addresses, **({} if address is None else {name: address})}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in known.items())]
        # In place: the host has this very file mounted.
        (self.folder / host / "hosts").write_text("\n".join(lines) + "\n")

    def hide(self, host: str, folder: Path, size_bytes: int | None = None) -> None:
        """On that host, the folder is empty, a file system of its own that is full at that size."""
        options = ["-o", f"size={size_bytes}"] if size_bytes is not None else []
        self._inside(host, "mount", "-t", "tmpfs", *options, "tmpfs", str(folder))
        self._hidden.append((host, folder))

    def seen_by(self, host: str, path: Path) -> Path:
        """What the host sees at that path, from outside."""
        return Path(f"/proc/{self._first[host]}/root{path}")

    def network_of(self, host: str) -> Path:
        """The host's network namespace, which a process may enter."""
        return Path(f"/proc/{self._first[host]}/ns/net")

    def mend(self) -> None:
        """Undo all that was done to links, keys, names and folders."""
        for name in self.names:
            self.restore(name)
            self.shape(name, None)
            self.let_in(name)
            self.resolve(name, name, None)
        while self._hidden:
            host, folder = self._hidden.pop()
            self._inside(host, "umount", "--lazy", str(folder))

    def processes(self, host: str) -> list[psutil.Process]:
        """Every process of that host but its sshd, as seen from outside."""
        here = os.stat(f"/proc/{self._first[host]}/ns/pid").st_ino
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                on_host = os.stat(f"/proc/{process.pid}/ns/pid").st_ino == here and process.pid != self._first[host]
                if on_host and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def start_up(self, private: Sequence[Path]) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "netlab", "-f", str(self.folder / "key")], check=True
        )
        public = " ".join((self.folder / "key.pub").read_text().split()[:2])
        (self.folder / "known_hosts").write_text(
            "".join(f"{name},{address} {public}\n" for name, address in self.addresses.items())
        )
        (self.folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {self.folder}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder}/known_hosts\n"
            "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
        )
        # sshd's own, which the package makes on a machine that starts its services. Nothing is ever in it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for path in private:
            path.mkdir(parents=True, exist_ok=True)
        self._hold("switch", ["--net"], ["sleep", "infinity"])
        self._net("switch", "ip", "link", "add", "switch", "mtu", str(MTU), "type", "bridge")
        self._net("switch", "ip", "link", "set", "switch", "up")
        for name in self.names:
            self._start_host(name, private)
        self._await_sshd()

    def _start_host(self, name: str, private: Sequence[Path]) -> None:
        own = self.folder / name
        own.mkdir()
        self.let_in(name)
        self.resolve(name, name, None)
        # Without PAM, sshd refuses a user whose password is locked ("!"), key or not.
        locked = any(line.startswith(f"{_user()}:!") for line in Path("/etc/shadow").read_text().splitlines())
        (own / "sshd_config").write_text(
            f"Port 22\nHostKey {self.folder}/key\nAuthorizedKeysFile {own}/authorized_keys\nStrictModes no\nPidFile none\n"
            f"PermitRootLogin yes\nPasswordAuthentication no\nUsePAM {'yes' if locked else 'no'}\nUseDNS no\nPrintMotd no\n"
            "MaxStartups 100\nMaxSessions 100\n"
        )
        mounts = [f"mount -t tmpfs tmpfs {shlex.quote(str(path))}" for path in (Path("/dev/shm"), *private)]
        mounts.append(f"mount --bind {own}/hosts /etc/hosts")
        if Path("/etc/ssh/ssh_config").exists():
            mounts.append(f"mount --bind {self.folder}/ssh_config /etc/ssh/ssh_config")
        if (Path.home() / ".ssh").is_dir():
            mounts.append(f"mount -t tmpfs tmpfs {shlex.quote(str(Path.home() / '.ssh'))}")
        sshd = _which("sshd")
        script = [
            f"hostname {name}",
            "ip link set lo up",
            *mounts,
            f"exec {sshd} -D -E {own}/sshd.log -f {own}/sshd_config",
        ]
        kinds = ["--net", "--uts", "--mount", "--pid", "--mount-proc"]
        self._hold(name, kinds, ["sh", "-ec", "\n".join(script)])
        ends = ("type", "veth", "peer", "name", "eth0", "mtu", str(MTU), "netns", str(self._first[name]))
        self._net("switch", "ip", "link", "add", name, "mtu", str(MTU), *ends)
        self._net("switch", "ip", "link", "set", name, "master", "switch", "up")
        self._net(name, "ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        self._net(name, "ip", "link", "set", "eth0", "up")

    def _hold(self, name: str, kinds: Sequence[str], command: Sequence[str]) -> None:
        """A process in namespaces of its own that ends when this process does, and with it all others in them."""
        holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "--fork", "--kill-child", "--", *command],
            env={**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._holders[name] = holder
        deadline = time.monotonic() + READY_S
        while not (children := psutil.Process(holder.pid).children()):
            if holder.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{name} did not start: {self._last_words(name)}")
            time.sleep(0.01)
        self._first[name] = children[0].pid

    def _await_sshd(self) -> None:
        deadline = time.monotonic() + READY_S
        for name in self.names:
            log = self.folder / name / "sshd.log"
            while not (log.exists() and "Server listening" in log.read_text()):
                if self._holders[name].poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"the sshd of {name} did not start: {self._last_words(name)}")
                time.sleep(0.02)

    def _last_words(self, name: str) -> str:
        holder, log = self._holders[name], self.folder / name / "sshd.log"
        holder.kill()
        _, errors = holder.communicate(timeout=10)
        return (errors.decode("utf-8", "replace") + (log.read_text() if log.exists() else "")).strip()

    def shut_down(self) -> None:
        """End every process of every host; the namespaces, links and mounts go with them."""
        for name, first in self._first.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                # The first process of a process namespace takes all others with it.
                psutil.Process(first).kill()
            self._holders[name].wait(timeout=10)
        for holder in self._holders.values():
            if holder.poll() is None:
                holder.kill()
            holder.communicate(timeout=10)

    def _enter(self, host: str) -> list[str]:
        which = ["--net", "--uts", "--mount", "--pid"] if host != "switch" else ["--net"]
        # With the one that stands for it, the command ends too.
        return ["nsenter", "--target", str(self._first[host]), *which, "--", "setpriv", "--pdeathsig", "KILL"]

    def _net(self, host: str, program: str, *arguments: str, check: bool = True) -> None:
        # Of the network alone: the host's first process may still be about its mounts.
        done = subprocess.run(
            ["nsenter", "--target", str(self._first[host]), "--net", "--", str(_which(program)), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")

    def _inside(self, host: str, *command: str) -> None:
        done = subprocess.run([*self._enter(host), *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} on {host}: {done.stderr.strip()}")


def within(process: subprocess.Popen[str]) -> psutil.Process:
    """The process on the host for which one of `Lab.start` stands."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            return child
        time.sleep(0.01)
    raise AssertionError("it did not start on its host")


def end_with_children(pid: int) -> None:
    """Kill a process and all below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
