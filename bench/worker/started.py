"""How this rank was started: its place in the launch, by whichever launcher; and the interface that leads to the other hosts."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil

_OTHER_NAMES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"),
    "MASTER_ADDR": ("SLURM_LAUNCH_NODE_IPADDR",),
}
"""What Open MPI, MPICH and srun call them. Sources: mpirun(1), the Hydra wiki, srun(1)."""
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


def name_ranks_as_torch_does() -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR where the launcher has other names for them; without one this is the
    only rank. The folder of this Python comes first on the PATH: DeepSpeed looks for ninja there, of which a remote shell does
    not know."""
    told = {
        name: next((os.environ[other] for other in others if other in os.environ), None)
        for name, others in _OTHER_NAMES.items()
    }
    # A shell inside an allocation has these too; a rank of ours is also told the port at which all meet.
    whole = "MASTER_PORT" in os.environ and all(told[name] is not None for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    for name, alone in _ALONE.items():
        os.environ.setdefault(name, (told[name] if whole else None) or alone)
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


def on_several_hosts() -> bool:
    """Whether the launch has ranks on other hosts too: its world is larger than what the launcher started here.

    LOCAL_SIZE is the deepspeed launcher's, LOCAL_WORLD_SIZE torchrun's.
    """
    world_size = int(os.environ["WORLD_SIZE"])
    slurm = os.environ.get("SLURM_NTASKS_PER_NODE") if os.environ.get("SLURM_PROCID") == os.environ["RANK"] else None
    names = ("LOCAL_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    here = [os.environ[name] for name in names if name in os.environ] + ([slurm] if slurm is not None else [])
    return any(number.isdigit() and int(number) < world_size for number in here)


def interface_towards(address: str) -> str | None:
    """The network interface whose route leads to an address; None where none does.

    A UDP socket that is connected sends nothing, but has the source address that the kernel would use.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            source = str(probe.getsockname()[0])
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == source for each in addresses):
            return name
    return None
