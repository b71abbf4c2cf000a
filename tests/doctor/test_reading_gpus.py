"""What is asked of NVML, with a stand-in for it: nothing here has a GPU. What the answers mean is tested on readings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pynvml
import pytest

from bench.doctor.reads.gpus import gpus

BUSES = ("00000000:06:00.0", "00000000:07:00.0")


def refuse(code: int) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return call


class StandIn:
    """Two V100 that share one NVLink and have one each to a switch; whatever else is asked of them is the real module's."""

    answers: ClassVar[dict[str, Callable[..., Any]]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlSystemGetDriverVersion": lambda: b"535.129.03",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12020,
        "nvmlDeviceGetPciInfo": lambda gpu: SimpleNamespace(busId=BUSES[gpu].encode()),
        "nvmlDeviceGetName": lambda gpu: "Tesla V100-SXM2-16GB",
        "nvmlDeviceGetUUID": lambda gpu: f"GPU-{gpu}",
        "nvmlDeviceGetCudaComputeCapability": lambda gpu: (7, 0),
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=17179869184, used=3145728),
        "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [],
        "nvmlDeviceGetCurrPcieLinkGeneration": lambda gpu: 1,
        "nvmlDeviceGetCurrPcieLinkWidth": lambda gpu: 4 if gpu else 16,
        "nvmlDeviceGetMaxPcieLinkGeneration": lambda gpu: 3,
        "nvmlDeviceGetMaxPcieLinkWidth": lambda gpu: 16,
        "nvmlDeviceGetClockInfo": lambda gpu, kind: 135,
        "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: 1530,
        "nvmlDeviceGetCurrentClocksEventReasons": refuse(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: 0x1 | 0x40,
        "nvmlDeviceGetTemperature": lambda gpu, sensor: 34,
        "nvmlDeviceGetEccMode": lambda gpu: [1, 1],
        "nvmlDeviceGetTotalEccErrors": lambda gpu, kind, since: 0,
        "nvmlDeviceGetRetiredPagesPendingStatus": lambda gpu: 0,
    }

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)  # a name that NVML's own module lacks fails here
        return self.answers.get(name, real)

    @staticmethod
    def nvmlDeviceGetNvLinkState(gpu: int, link: int) -> int:
        if link > 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return int(pynvml.NVML_FEATURE_ENABLED) if link < 2 else 0

    @staticmethod
    def nvmlDeviceGetNvLinkRemotePciInfo(gpu: int, link: int) -> Any:
        # NVML pads the domain to four digits here, to eight there.
        return SimpleNamespace(busId=("0000:0" + "76"[gpu] + ":00.0" if link == 0 else "0000:c0:00.0").encode())


def test_two_gpus_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", StandIn())  # type: ignore[arg-type]
    found = gpus(tmp_path)
    assert (found.driver, found.cuda, found.no_nvml) == ("535.129.03", "12.2", None)
    first, second = found.devices
    assert (first.capability, first.memory_bytes, first.pcie_width, second.pcie_width) == ((7, 0), 2**34, 16, 4)
    assert first.slowdowns == ["HwThermalSlowdown"] and first.ecc is True and first.repair_pending is False
    assert (first.num_links, first.links, first.switch_links) == (3, [0, 1], 1)
    assert (second.links, first.unread) == ([1, 0], {})


def test_what_a_card_does_not_have_is_said_and_nothing_falls_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = {
        name: refuse(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for name in ("nvmlDeviceGetEccMode", "nvmlDeviceGetTemperature", "nvmlDeviceGetCurrPcieLinkWidth")
    }
    monkeypatch.setattr(StandIn, "answers", {**StandIn.answers, **refused})
    monkeypatch.setitem(sys.modules, "pynvml", StandIn())  # type: ignore[arg-type]
    first = gpus(tmp_path).devices[0]
    assert (first.ecc, first.temperature_c, first.pcie_width) == (None, None, None)
    assert set(first.unread) == {"ecc", "temperature_c", "pcie_width"} and "Not Supported" in first.unread["ecc"]


def test_a_driver_that_breaks_in_the_middle_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = {"nvmlDeviceGetMemoryInfo": refuse(pynvml.NVML_ERROR_GPU_IS_LOST)}
    monkeypatch.setattr(StandIn, "answers", {**StandIn.answers, **lost})
    monkeypatch.setitem(sys.modules, "pynvml", StandIn())  # type: ignore[arg-type]
    found = gpus(tmp_path)
    assert found.devices == [] and found.no_nvml is not None and "lost" in found.no_nvml.lower()


def test_gpus_on_the_bus_are_seen_without_a_driver(tmp_path: Path) -> None:
    for slot, (vendor, kind, number) in {
        "0000:06:00.0": ("0x10de", "0x030200", "0x1db1"),
        "0000:01:00.0": ("0x10de", "0x040300", "0x10f8"),  # the sound part of a card
        "0000:02:00.0": ("0x8086", "0x030000", "0x1234"),
    }.items():
        device = tmp_path / slot
        device.mkdir()
        for name, value in (("vendor", vendor), ("class", kind), ("device", number)):
            (device / name).write_text(value + "\n")
    assert gpus(tmp_path).on_bus == ["10de:1db1"]
