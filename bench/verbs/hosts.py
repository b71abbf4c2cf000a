"""The options of `scalebench run` for several hosts, and the engine that they ask for."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bench.errors import LaunchError, nearest

if TYPE_CHECKING:
    from bench.launch.engine import Engine
    from bench.launch.hostfile import Hostfile
    from bench.launch.launcher import LauncherName
    from bench.launch.machine import Machine
    from bench.launch.several import MultinodeLauncher, Several
    from bench.results.launch_file import Launch, Started

MULTINODE_LAUNCHERS = ("pdsh", "ssh", "openmpi")
CONTROL_PORT = 29411
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")

AnyLauncherOption = Annotated[str, typer.Option(help="Who starts the ranks: deepspeed, torchrun or slurm.")]
HostfileOption = Annotated[Path | None, typer.Option(help="DeepSpeed hostfile: `name slots=N` lines.")]
IncludeOption = Annotated[str | None, typer.Option(help="Only these hosts and slots of it: `a@b:0,2`.")]
ExcludeOption = Annotated[str | None, typer.Option(help="All but these hosts and slots of it.")]
PlacementOption = Annotated[
    str | None,
    typer.Option(help="pack (few hosts) or spread (many). [default: the suite's, else pack]"),
]
MultinodeOption = Annotated[
    str,
    typer.Option(help="How ranks on other hosts are started: pdsh, ssh or openmpi."),
]
LauncherArgsOption = Annotated[str, typer.Option(help="Arguments for pdsh, mpirun or sbatch, in one text.")]
MasterOption = Annotated[str | None, typer.Option(help="Where ranks meet. [default: the first host's address]")]
NoSshOption = Annotated[bool, typer.Option("--no-ssh", help="The same command is given on every host.")]
NodeRankOption = Annotated[int | None, typer.Option(min=0, help="With --no-ssh: which host of the hostfile this is.")]

ControlPortOption = Annotated[
    int, typer.Option(min=1, max=65535, help="With --no-ssh: where the first host listens for the others.")
]


@dataclass(frozen=True)
class Asked:
    """What the flags say about how ranks on other hosts are started."""

    launcher: LauncherName
    multinode: str
    launcher_args: str
    master_addr: str | None
    no_ssh: bool
    node_rank: int | None
    control_port: int


def chosen_hosts(path: Path | None, include: str | None, exclude: str | None, asked: Asked) -> Hostfile | None:
    """The hosts to use; None without a hostfile. Raises LaunchError, naming the flag, for flags that don't fit each other."""
    from bench.launch.hostfile import read_hostfile

    if asked.multinode not in MULTINODE_LAUNCHERS:
        raise LaunchError(
            f"--multinode-launcher: found {asked.multinode!r}", hint=nearest(asked.multinode, MULTINODE_LAUNCHERS)
        )
    if path is None:
        needing = {
            "--include": include,
            "--exclude": exclude,
            "--no-ssh": asked.no_ssh or None,
            "--node-rank": asked.node_rank,
            "--master-addr": asked.master_addr,
            "--launcher-args": asked.launcher_args or None,
            "--launcher slurm": asked.launcher == "slurm" or None,
        }
        for flag, value in needing.items():
            if value is not None:
                raise LaunchError(f"{flag}: found no --hostfile, which it needs", hint="add --hostfile FILE")
        return None
    if asked.master_addr is not None and not _ADDRESS.fullmatch(asked.master_addr):
        raise LaunchError(f"--master-addr: found {asked.master_addr!r}, expected a host's name or address")
    hosts = read_hostfile(path).filtered(include, exclude)
    if asked.no_ssh and asked.launcher == "slurm":
        raise LaunchError(
            "--no-ssh: found --launcher slurm, which starts the ranks on every host", hint="leave one out"
        )
    if asked.no_ssh != (asked.node_rank is not None):
        raise LaunchError(
            "--no-ssh and --node-rank: found one without the other",
            hint="give each host the same command, with its own --node-rank from 0 on",
        )
    if asked.node_rank is not None and asked.node_rank >= len(hosts.hosts):
        raise LaunchError(
            f"--node-rank: found {asked.node_rank}, expected 0 to {len(hosts.hosts) - 1}, the hosts of {path}"
        )
    return hosts


def engine_for(asked: Asked, hosts: Hostfile | None, machine: Machine, suite: str) -> Engine[Launch] | None:
    """What starts the launches that take more than this host; None where there is no other."""
    if hosts is None or (hosts.is_this_host and asked.launcher != "slurm"):
        return None
    if asked.node_rank is not None and asked.launcher != "slurm":
        from bench.launch.head import Head

        return Head(_how(asked), machine, hosts.numbered, suite, asked.control_port, _warn)
    return from_one_host(asked, machine)


def from_one_host(asked: Asked, machine: Machine) -> Engine[Started]:
    """What starts the ranks of several hosts from this one, whatever they do: ssh, or a job."""
    if asked.launcher == "slurm":
        from bench.launch.slurm import Slurm

        return Slurm(machine, asked.launcher_args)
    from bench.launch.over_ssh import OverSsh

    return OverSsh(_how(asked), machine, _warn)


def follow(asked: Asked, hosts: Hostfile, machine: Machine, suite: str, folder: Path) -> None:
    """Do this host's part of what the first host's run decides on."""
    from bench.launch.follower import Follower

    assert asked.node_rank is not None
    port, node_rank = asked.control_port, asked.node_rank
    say = functools.partial(print, flush=True)
    Follower(_how(asked), machine, hosts.numbered, suite, folder, node_rank, port, say).follow()


def _how(asked: Asked) -> Several:
    from bench.launch.several import Several

    return Several(asked.launcher, cast("MultinodeLauncher", asked.multinode), asked.launcher_args, asked.master_addr)


def _warn(text: str) -> None:
    print(text, file=sys.stderr)
