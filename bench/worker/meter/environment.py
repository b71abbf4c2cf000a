"""Where this launch ran: versions, machine, devices and the variables that change speed."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from bench.results.checkout import git_commit
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
        git_commit=git_commit(),
        variables={key: os.environ[key] for key in sorted(os.environ) if key.startswith(_PREFIXES)},
        backend=_backend(),
        num_nodes=num_nodes,
        interconnect=_interconnect(str(properties.uuid)) if properties is not None else None,
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


def _interconnect(uuid: str) -> str | None:
    """What joins the GPU of this UUID (as torch writes it) to the others of its host, by NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        return interconnect_text(
            active_nvlinks(functools.partial(pynvml.nvmlDeviceGetNvLinkState, handle)),
            pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
            pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        )
    except pynvml.NVMLError as error:
        print(f"no interconnect: {error}", flush=True)
        return None


def active_nvlinks(state: Callable[[int], int]) -> int:
    """How many NVLinks of a GPU are up. `state`, of a link by its number, is as nvmlDeviceGetNvLinkState: it raises NVMLError
    for a link that the GPU doesn't have.

    Source: NVML API reference, NvLink Methods: INVALID_ARGUMENT for no such link, NOT_SUPPORTED for no NVLink at all. Raises
    NVMLError for any other reason: the links are then not known.
    """
    import pynvml

    num_active = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            num_active += state(link) == pynvml.NVML_FEATURE_ENABLED
        except pynvml.NVMLError as error:
            if error.value not in (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED):
                raise
    return num_active


def interconnect_text(num_nvlinks: int, pcie_generation: int, pcie_width: int) -> str:
    """NVLink where any is up, else the fastest PCIe that GPU and slot agree on."""
    return f"NVLink x {num_nvlinks}" if num_nvlinks else f"PCIe gen {pcie_generation} x {pcie_width}"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
