"""The command line and the environment with which one cell's ranks are started."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Literal, Protocol

from bench.errors import LaunchError
from bench.launch.hostfile import Hostfile
from bench.launch.machine import Machine

LauncherName = Literal["deepspeed", "torchrun"]


class Ranks(Protocol):
    """What is launched, as far as a launcher is concerned: a cell, or a sweep of collectives."""

    @property
    def world_size(self) -> int: ...

    @property
    def threads_per_rank(self) -> int | None: ...


MODULE = "bench.worker.train"
ROOT = Path(__file__).resolve().parents[2]
MARK = "SCALEBENCH_LAUNCH_ID"
"""Every process of a launch carries its id in this variable, so that all of them can be found and ended."""


def free_port() -> int:
    """A TCP port that nothing listens on. Someone may take it before the launch does; that launch then says so."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def _program(name: str, module: str) -> list[str]:
    """The launcher's own script beside this Python if it is there, else the module that the script would call."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


def _local_slots(num_ranks: int) -> list[str]:
    """Which of this host's devices to use. The runner drops CUDA_VISIBLE_DEVICES when it is given --num_gpus, so the
    user's choice of GPUs goes through --include."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if len(visible) >= num_ranks and all(part.isdigit() for part in visible):
        return ["--include", f"localhost:{','.join(visible[:num_ranks])}"]
    return ["--num_gpus", str(num_ranks)]


def launch_command(
    launcher: LauncherName,
    cell: Ranks,
    launch_file: Path,
    port: int,
    hostfile: Hostfile | None,
    module: str = MODULE,
) -> list[str]:
    """The exact command that starts the cell's ranks, each running `module`. Raises LaunchError if the hosts
    can't hold them evenly."""
    # Not --launch: the runner takes that for an abbreviation of its own --launcher.
    rank_arguments = ["--from-launch", str(launch_file)]
    if hostfile is not None and not hostfile.is_this_host:
        placement = hostfile.placement(cell.world_size)
        if placement is None:
            raise LaunchError(f"{hostfile.path} has no even placement for {cell.world_size} ranks")
        num_nodes, num_ranks = placement
        if launcher != "deepspeed":
            raise LaunchError(f"{launcher} starts the ranks of one host only", hint="use --launcher deepspeed")
        first = next(iter(hostfile.slots))
        where = ["--hostfile", str(hostfile.path), "--num_nodes", str(num_nodes), "--num_gpus", str(num_ranks)]
        where += ["--master_addr", first, "--force_multi"]
        return [
            *_program("deepspeed", "deepspeed.launcher.runner"),
            *where,
            *("--master_port", str(port), "--module", module),
            *rank_arguments,
        ]
    if launcher == "deepspeed":
        # An absent hostfile keeps the runner from reading /job/hostfile, which some images carry.
        return [
            *_program("deepspeed", "deepspeed.launcher.runner"),
            *("--hostfile", os.devnull, *_local_slots(cell.world_size)),
            *("--master_addr", "127.0.0.1", "--master_port", str(port), "--module", module),
            *rank_arguments,
        ]
    return [
        *_program("torchrun", "torch.distributed.run"),
        *("--nproc_per_node", str(cell.world_size), "--master_addr", "127.0.0.1", "--master_port", str(port)),
        *("--module", module),
        *rank_arguments,
    ]


def launch_environment(machine: Machine, cell: Ranks, launch_id: str) -> dict[str, str]:
    """The environment of a launch: this process's, and what the ranks need to find the package, its compilers and
    their devices."""
    environment = dict(os.environ)
    bin_folder = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([bin_folder, environment.get("PATH", os.defpath)])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    environment["PYTHONUNBUFFERED"] = "1"
    environment[MARK] = launch_id
    # Nothing here may be fetched: a model by configuration needs no hub.
    environment["HF_HUB_OFFLINE"] = "1"
    if machine.device_type == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        # More threads than cores cost tenfold, and torch's default is one thread a core in every rank.
        environment["OMP_NUM_THREADS"] = str(cell.threads_per_rank or 1)
    return environment
