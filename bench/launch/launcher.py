"""The command line and the environment with which one cell's ranks are started."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Literal

from bench.errors import LaunchError
from bench.launch.machine import Machine
from bench.launch.variables import MARK
from bench.results.checkout import ROOT
from bench.results.launch_file import Launch, Ranks

LauncherName = Literal["deepspeed", "torchrun", "slurm"]


def free_port() -> int:
    """A TCP port that nothing listens on. Someone may take it before the launch does; that launch then says so."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def program(name: str, module: str) -> list[str]:
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


def local_command(
    launcher: LauncherName, ranks: Ranks, launch_file: Path, port: int, module: str = Launch.module
) -> list[str]:
    """The command that starts `module` once a rank on this host. Raises LaunchError for a launcher that can't."""
    # Not --launch: the runner takes that for an abbreviation of its own --launcher.
    rank_arguments = ["--from-launch", str(launch_file)]
    if launcher == "deepspeed":
        # An absent hostfile keeps the runner from reading /job/hostfile, which some images carry.
        return [
            *program("deepspeed", "deepspeed.launcher.runner"),
            *("--hostfile", os.devnull, *_local_slots(ranks.world_size)),
            *("--master_addr", "127.0.0.1", "--master_port", str(port), "--module", module),
            *rank_arguments,
        ]
    if launcher == "torchrun":
        return [
            *program("torchrun", "torch.distributed.run"),
            *("--nproc_per_node", str(ranks.world_size), "--master_addr", "127.0.0.1", "--master_port", str(port)),
            *("--module", module),
            *rank_arguments,
        ]
    raise LaunchError(f"{launcher} starts no ranks on this host alone", hint="use --launcher deepspeed or torchrun")


def launch_environment(machine: Machine, ranks: Ranks, launch_id: str) -> dict[str, str]:
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
        environment["OMP_NUM_THREADS"] = str(ranks.threads_per_rank or 1)
    return environment
