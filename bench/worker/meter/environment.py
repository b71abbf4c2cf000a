"""Where this launch ran: versions, machine, devices and the variables that change speed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from bench.results.record import Environment
from bench.worker.meter.process_group import MeteringGroup

_PREFIXES = ("NCCL_", "GLOO_", "OMP_", "MKL_", "KMP_", "CUDA_", "TORCH_", "PYTORCH_", "DS_", "DEEPSPEED_")
_PACKAGES = ("deepspeed", "transformers", "numpy", "scalebench")


def environment(device: torch.device, num_nodes: int) -> Environment:
    """The environment of the calling rank, with the devices of its node."""
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return Environment(
        device_type="cuda" if cuda else "cpu",
        device_names=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        device_memory_bytes=properties.total_memory if properties is not None else None,
        driver=_driver() if cuda else None,
        cpu=_cpu_name(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        platform=platform.platform(),
        versions=_versions(),
        git_commit=_git_commit(),
        variables={key: os.environ[key] for key in sorted(os.environ) if key.startswith(_PREFIXES)},
        backend=_backend(),
        num_nodes=num_nodes,
    )


def _backend() -> str:
    """The backend that really communicates, metered or not."""
    group = dist.group.WORLD
    return str(dist.get_backend()) if not isinstance(group, MeteringGroup) else group.inner.name()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    # With the build's tag, which tells CUDA 12.6 from 12.8; the package's own metadata leaves it out.
    versions["torch"] = torch.__version__
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
        versions["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return versions


def _driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        print(f"no driver version: {error}", flush=True)
        return None
    return version if isinstance(version, str) else version.decode("ascii")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the checkout that this file is part of, with `-dirty` where it was changed; None outside one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no git commit: {error}", flush=True)
        return None
