"""A host beside the reference machine of the field's tutorials: smaller is no problem, but worth knowing."""

from __future__ import annotations

import re

from bench.doctor.finding import Finding, On
from bench.doctor.reading import Reading
from bench.doctor.words import counted, gib

_GPUS, _CAPABILITY = 8, (7, 0)
_MEMORY_BYTES, _DISK_BYTES = 256e9, 1e12
# Firmware and kernels keep a part of the memory, file systems of the disk.
_NOMINAL = 0.95
_PYTHON, _TORCH, _UBUNTU = (3, 8), (1, 8), (18, 4)
# That of Ubuntu 18.04, by which another distribution's age is told.
_GLIBC = (2, 27)


def judge(reading: Reading) -> Finding:
    """8 x V100, 256 GB of memory, an SSD of 1 TB, Python 3.8, PyTorch 1.8 and Ubuntu 18.04 or newer."""
    on = On("reference machine", reading.host)
    less = [*_gpus(reading), *_sizes(reading), *_versions(reading)]
    if not less:
        return on.ok("at least 8 x V100, 256 GB, 1 TB, Python 3.8, PyTorch 1.8, Ubuntu 18.04")
    return on.warning(
        f"less than the tutorials' machine: {'; '.join(less)}",
        "fine for learning and for tests; scalebench project --machine dgx1-v100-16gb foresees that machine",
    )


def _gpus(reading: Reading) -> list[str]:
    gpus = reading.gpus.devices
    if not gpus:
        return ["no GPU (8 x V100)"]
    if len(gpus) < _GPUS or min(gpu.capability for gpu in gpus) < _CAPABILITY:
        return [f"{counted(gpu.name for gpu in gpus)} (8 x V100)"]
    return []


def _sizes(reading: Reading) -> list[str]:
    less, machine = [], reading.machine
    if machine.memory_bytes is not None and machine.memory_bytes < _NOMINAL * _MEMORY_BYTES:
        less.append(f"{gib(machine.memory_bytes)} of memory (256 GB)")
    disk = machine.disk
    if disk is not None and disk.total_bytes < _NOMINAL * _DISK_BYTES:
        less.append(f"a disk of {gib(disk.total_bytes)} (1 TB)")
    if disk is not None and disk.rotational:
        less.append("a disk that turns, says the kernel, as it does of some virtual ones (SSD)")
    return less


def _versions(reading: Reading) -> list[str]:
    less, software = [], reading.software
    if _numbers(software.python) < _PYTHON:
        less.append(f"Python {software.python} (3.8)")
    if software.torch is not None and _numbers(software.torch.version) < _TORCH:
        less.append(f"PyTorch {software.torch.version} (1.8)")
    name, _, version = software.system.rpartition(" ")
    old = _numbers(version) < _UBUNTU if name == "Ubuntu" else _numbers(software.libc or "") < _GLIBC
    if old:
        less.append(f"{software.system}, {software.libc or 'no glibc'} (Ubuntu 18.04, glibc 2.27)")
    return less


def _numbers(text: str) -> tuple[int, int]:
    """The first two numbers of a version; "glibc 2.36" too."""
    match = re.search(r"(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)
