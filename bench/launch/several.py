"""The command lines that start ranks on several hosts."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.launch.each import each_command
from bench.launch.launcher import LauncherName, program
from bench.launch.placement import Placement
from bench.results.launch_file import Started

MultinodeLauncher = Literal["pdsh", "ssh", "openmpi"]
HOSTS_NAME = "hosts"
"""The hostfile of one launch, beside its launch file."""


@dataclass(frozen=True)
class Several:
    """How the ranks of several hosts are started: DeepSpeed's launcher by `multinode` (pdsh or openmpi), with arguments of its
    own, or one command a host (ssh), which is torchrun's only way. `master_addr` is the user's choice of where they meet."""

    launcher: LauncherName
    multinode: MultinodeLauncher = "pdsh"
    launcher_args: str = ""
    master_addr: str | None = None

    @property
    def one_a_host(self) -> bool:
        return self.launcher == "torchrun" or self.multinode == "ssh"


def hosts_text(launch: Started) -> str:
    """A hostfile of nothing but the launch's hosts, with as many slots as they have numbers of."""
    return "".join(f"{host} slots={max(slots) + 1}\n" for host, slots in launch.hosts.items())


def several_command(
    how: Several, launch: Started, folder: Path, master: str, exported: Iterable[str], cuda: bool
) -> list[str]:
    """The command that starts the ranks of several hosts from this one."""
    include = Placement({host: tuple(slots) for host, slots in launch.hosts.items()}).include
    if how.one_a_host:
        return each_command(
            include, sorted(exported), cuda and how.launcher == "torchrun", node_command(how, launch, folder, master)
        )
    where = ["--hostfile", str(folder / HOSTS_NAME)]
    # Open MPI takes a whole hostfile only, and no master: the ranks get that by the environment file.
    where += ["--include", include] if how.multinode == "pdsh" else []
    where += ["--launcher", how.multinode, *(["--launcher_args", how.launcher_args] if how.launcher_args else [])]
    return [
        *program("deepspeed", "deepspeed.launcher.runner"),
        *(*where, "--force_multi", "--no_ssh_check", "--master_addr", master, "--master_port", str(launch.port)),
        *("--module", launch.module, "--launch-text", launch.told(folder)),
    ]


def node_command(how: Several, launch: Started, folder: Path, master: str, node: str = "%n") -> list[str]:
    """The command that starts the ranks of one host, whose number takes the place of `%n`."""
    num_ranks = len(next(iter(launch.hosts.values())))
    rank_arguments = ["--module", launch.module, "--launch-text", launch.told(folder)]
    if how.launcher == "torchrun":
        return [
            *program("torchrun", "torch.distributed.run"),
            *("--nnodes", str(len(launch.hosts)), "--node_rank", node, "--nproc_per_node", str(num_ranks)),
            *("--master_addr", master, "--master_port", str(launch.port), *rank_arguments),
        ]
    world_info = base64.urlsafe_b64encode(json.dumps(launch.hosts).encode("utf-8")).decode("ascii")
    return [
        # What the runner starts on each host: the runner itself would want a hostfile there.
        *(sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world_info}", f"--node_rank={node}"),
        *(f"--master_addr={master}", f"--master_port={launch.port}", *rank_arguments),
    ]


def no_ssh_command(how: Several, launch: Started, folder: Path, master: str, node: int) -> list[str]:
    """The command with which each host starts its own part."""
    if how.launcher == "torchrun":
        return node_command(how, launch, folder, master, str(node))
    include = Placement({host: tuple(slots) for host, slots in launch.hosts.items()}).include
    return [
        *program("deepspeed", "deepspeed.launcher.runner"),
        *("--hostfile", str(folder / HOSTS_NAME), "--include", include, "--no_ssh", "--node_rank", str(node)),
        *("--master_addr", master, "--master_port", str(launch.port)),
        *("--module", launch.module, "--launch-text", launch.told(folder)),
    ]
