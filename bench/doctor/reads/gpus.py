"""The GPUs of this host, by NVML, and NVIDIA's devices on its bus."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.doctor.reading import Gpu, Gpus
from bench.doctor.reads.asked import asked

_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
# PCI base class 03: VGA and 3D controllers.
_DISPLAY = "0x03"

# NVML API reference, nvmlClocksEventReasons (before 2023 nvmlClocksThrottleReasons; the bits are the same).
_REASONS = {
    0x2: "ApplicationsClocksSetting",
    0x4: "SwPowerCap",
    0x8: "HwSlowdown",
    0x10: "SyncBoost",
    0x20: "SwThermalSlowdown",
    0x40: "HwThermalSlowdown",
    0x80: "HwPowerBrakeSlowdown",
    0x100: "DisplayClockSetting",
}


def gpus(pci: Path = _PCI) -> Gpus:
    """Every GPU that the driver shows, whatever CUDA_VISIBLE_DEVICES leaves of them."""
    on_bus = _on_bus(pci)
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:  # no package, no library, no driver: each is a reason
        return Gpus(None, None, [], on_bus, no_nvml=str(error) or type(error).__name__)
    try:
        unread: dict[str, str] = {}
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        buses = [_bus(nvml.nvmlDeviceGetPciInfo(handle)) for handle in handles]
        cuda = asked(unread, "cuda", nvml.nvmlSystemGetCudaDriverVersion_v2)
        return Gpus(
            driver=asked(unread, "driver", lambda: _text(nvml.nvmlSystemGetDriverVersion())),
            # 12040 is CUDA 12.4.
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            devices=[_gpu(nvml, index, handle, buses) for index, handle in enumerate(handles)],
            on_bus=on_bus,
        )
    except Exception as error:  # a GPU that fell off its bus raises anywhere
        return Gpus(None, None, [], on_bus, no_nvml=str(error) or type(error).__name__)
    finally:
        # A GPU that is lost fails here too, and has said so before.
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, handle: Any, buses: list[str]) -> Gpu:
    unread: dict[str, str] = {}

    def ask(name: str, call: Callable[[], Any]) -> Any:
        return asked(unread, name, call)

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    reasons = ask("slowdowns", lambda: _reasons(nvml, handle))
    links = ask("links", lambda: _links(nvml, handle, buses))
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        capability=(int(major), int(minor)),
        memory_bytes=int(memory.total),
        memory_used_bytes=int(memory.used),
        num_processes=ask("num_processes", lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        pcie_generation=ask("pcie_generation", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
        pcie_width=ask("pcie_width", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        max_pcie_generation=ask("max_pcie_generation", lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
        max_pcie_width=ask("max_pcie_width", lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        clock_mhz=ask("clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        max_clock_mhz=ask("max_clock_mhz", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        slowdowns=None if reasons is None else [name for bit, name in _REASONS.items() if reasons & bit],
        temperature_c=ask("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        ecc=ask("ecc", lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
        ecc_errors=ask("ecc_errors", lambda: _ecc_errors(nvml, handle)),
        repair_pending=ask("repair_pending", lambda: _repair_pending(nvml, handle)),
        num_links=None if links is None else links[0],
        links=None if links is None else links[1],
        switch_links=None if links is None else links[2],
        unread=unread,
    )


def _links(nvml: Any, handle: Any, buses: list[str]) -> tuple[int, list[int], int]:
    """How many NVLinks the GPU has; of those that are up, how many lead to each GPU, and how many elsewhere, to a switch.

    NVML API reference, NvLink Methods: INVALID_ARGUMENT for a link that the GPU doesn't have, NOT_SUPPORTED for a GPU without.
    """
    number, peers, switch = 0, [0] * len(buses), 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            up = nvml.nvmlDeviceGetNvLinkState(handle, link) == nvml.NVML_FEATURE_ENABLED
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_INVALID_ARGUMENT, nvml.NVML_ERROR_NOT_SUPPORTED):
                continue
            raise
        number += 1
        if not up:
            continue
        remote = _bus(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))
        if remote in buses:
            peers[buses.index(remote)] += 1
        else:
            switch += 1
    return number, peers, switch


def _reasons(nvml: Any, handle: Any) -> int:
    """Bits of why the clock is not higher. An older pynvml has the old name alone, an older driver too."""
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        call = getattr(nvml, name, None)
        if call is None:
            continue
        try:
            return int(call(handle))
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
    raise LookupError("this driver does not say why clocks are held down")


def _ecc_errors(nvml: Any, handle: Any) -> int:
    return int(
        nvml.nvmlDeviceGetTotalEccErrors(handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    )


def _repair_pending(nvml: Any, handle: Any) -> bool:
    """Volta retires pages, Ampere and later remap rows: each knows one of the two."""
    try:
        return bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle) == nvml.NVML_FEATURE_ENABLED)
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:
            raise
    # Corrected, uncorrected, pending, failed.
    rows = nvml.nvmlDeviceGetRemappedRows(handle)
    return bool(rows[2] or rows[3])


def _on_bus(pci: Path) -> list[str]:
    """PCI ids of NVIDIA's display and 3D controllers, a driver or none."""
    found = []
    for device in sorted(pci.glob("*")):
        try:
            vendor, kind, number = ((device / name).read_text().strip() for name in ("vendor", "class", "device"))
        except OSError:
            continue  # a device that is being removed; NVML knows more than its files
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            found.append(f"{vendor.removeprefix('0x')}:{number.removeprefix('0x')}")
    return found


def _bus(info: Any) -> str:
    """A PCI address, of which NVML pads the domain to four or to eight digits."""
    domain, _, rest = _text(info.busId).lower().partition(":")
    return f"{int(domain, 16):x}:{rest}"


def _text(value: Any) -> str:
    return value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
