"""Readings of GPUs, and what the doctor makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.doctor.finding import Finding
from bench.doctor.judges import gpus, kernels
from bench.doctor.judges.kernels import covers
from bench.doctor.reading import Gpus, Torch
from tests.synthetic_hosts import GIB, NEW_WHEEL, OLD_WHEEL, dgx1, laptop, v100


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings}
    assert len(found) == len(findings)
    return found


def test_a_well_dgx1_has_nothing_but_its_emulated_bf16() -> None:
    found = by_check([*gpus.judge(dgx1(), 8), *kernels.judge(dgx1())])
    assert {check for check, finding in found.items() if finding.status != "ok"} == {"bf16"}
    assert found["bf16"].status == "warning" and "fp16" in found["bf16"].remedy
    assert found["GPUs"].found == "8 x Tesla V100-SXM2-16GB"
    assert "dgx1-v100-16gb" in found["NVLink"].found and "12 of 28 pairs have none" in found["NVLink"].found
    assert "8 x x16 gen 3" in found["PCIe"].found and "rest at a lower generation" in found["PCIe"].found


def with_torch(torch: Torch | None, driver_cuda: str = "13.0") -> dict[str, Finding]:
    reading = dgx1()
    return by_check(
        kernels.judge(
            replace(
                reading,
                software=replace(reading.software, torch=torch),
                gpus=replace(reading.gpus, cuda=driver_cuda),
            )
        )
    )


def test_a_v100_with_a_wheel_without_its_kernels_says_which_wheel_to_install() -> None:
    found = with_torch(NEW_WHEEL)["kernels"]
    assert found.status == "problem" and "V100" in found.found and "sm_75" in found.found
    assert "2.7.1 to 2.10.0" in found.remedy and "cu126" in found.remedy and 'TORCH="torch==2.10.0"' in found.remedy


def test_an_old_driver_for_a_new_cuda_is_a_problem_and_a_minor_version_is_none() -> None:
    old = with_torch(NEW_WHEEL, "12.4")["driver"]
    assert old.status == "problem" and "CUDA 13.0" in old.found and "cu126" in old.remedy
    assert with_torch(OLD_WHEEL, "12.2")["driver"].status == "ok"


def test_a_wheel_without_cuda_on_a_machine_with_gpus() -> None:
    found = with_torch(Torch("2.13.0+cpu", None, None, [], False))["kernels"]
    assert found.status == "problem" and "no CUDA" in found.found and "torch==2.10.0" in found.remedy
    assert with_torch(None)["kernels"].status == "not checked"


def test_kernels_that_fit_but_gpus_that_torch_does_not_see() -> None:
    hidden = dgx1(variables={"CUDA_VISIBLE_DEVICES": ""})
    blind = replace(OLD_WHEEL, sees_gpus=False)
    found = by_check(kernels.judge(replace(hidden, software=replace(hidden.software, torch=blind))))["kernels"]
    assert found.status == "warning" and "CUDA_VISIBLE_DEVICES" in found.found
    assert with_torch(blind)["kernels"].status == "problem"


@pytest.mark.parametrize(
    ("arch_list", "capability", "fits"),
    [
        (["sm_70"], (7, 0), True),
        (["sm_75"], (7, 0), False),
        (["sm_70"], (7, 5), True),  # machine code runs on a later minor version
        (["sm_70"], (8, 0), False),
        (["compute_70"], (9, 0), True),  # PTX is compiled for whatever is there
        (["compute_80"], (7, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100", "sm_120"], (12, 0), True),
        ([], (7, 0), False),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_which_kernels_run_on_which_gpu(arch_list: list[str], capability: tuple[int, int], fits: bool) -> None:
    assert covers(arch_list, capability) is fits


@pytest.mark.parametrize(
    ("check", "changes", "status", "words"),
    [
        ("PCIe", {"pcie_width": 4}, "warning", "GPU 3: x4 of x16, so copies take 4 times"),
        ("PCIe", {"pcie_width": None, "unread": {"pcie_width": "Not Supported"}}, "not checked", "Not Supported"),
        ("clocks", {"slowdowns": ["HwThermalSlowdown"], "temperature_c": 91}, "problem", "HwThermalSlowdown, 91 °C"),
        ("clocks", {"slowdowns": ["SwPowerCap"]}, "warning", "GPU 3: held down by SwPowerCap"),
        ("clocks", {"slowdowns": ["ApplicationsClocksSetting"]}, "ok", "GPU 3: clocks are set by the user"),
        ("clocks", {"slowdowns": None}, "not checked", "GPU 3"),
        ("ECC", {"ecc_errors": 2}, "problem", "GPU 3 2 uncorrected errors"),
        ("ECC", {"repair_pending": True}, "problem", "GPU 3 has memory to repair"),
        ("ECC", {"ecc": False}, "warning", "GPU 3: off"),
        ("GPU memory", {"memory_used_bytes": 9 * GIB, "num_processes": 1}, "warning", "GPU 3: others compute there"),
        ("NVLink", {"links": [2, 1, 2, 0, 0, 0, 0, 0]}, "warning", "GPU 3 5 of 6"),
        ("NVLink", {"links": None, "unread": {"links": "Unknown Error"}}, "not checked", "Unknown Error"),
        ("GPUs", {"memory_bytes": 32 * GIB}, "warning", "unlike GPUs"),
    ],
)
def test_one_gpu_that_is_not_well_is_named(check: str, changes: dict[str, Any], status: str, words: str) -> None:
    found = by_check(gpus.judge(dgx1(gpus={3: changes})))[check]
    assert found.status == status and words in found.found, found
    assert found.remedy or status in ("ok", "not checked")


def test_switch_and_no_links() -> None:
    behind = {index: {"links": [0] * 8, "switch_links": 6} for index in range(8)}
    assert "into a switch" in by_check(gpus.judge(dgx1(gpus=behind)))["NVLink"].found
    without = {index: {"links": [0] * 8, "num_links": 0} for index in range(8)}
    assert by_check(gpus.judge(dgx1(gpus=without)))["NVLink"].found.startswith("none")


def test_a_card_without_ecc_is_not_checked_with_the_reason() -> None:
    plain = {index: {"ecc": None, "unread": {"ecc": "Not Supported"}} for index in range(8)}
    found = by_check(gpus.judge(dgx1(gpus=plain)))["ECC"]
    assert (found.status, found.found) == ("not checked", "GPUs 0, 1, 2, 3, 4, 5, 6, 7: Not Supported")


def test_more_slots_than_gpus_and_a_gpu_that_fell_off() -> None:
    assert by_check(gpus.judge(dgx1(), 10))["GPUs"].status == "problem"
    seven = replace(dgx1(), gpus=replace(dgx1().gpus, devices=[v100(index) for index in range(7)]))
    assert "8 NVIDIA devices are on the bus" in by_check(gpus.judge(seven))["GPUs"].found


def test_a_v100_without_a_driver_says_which_branch() -> None:
    reading = dgx1(gpus=None)
    bare = replace(reading, gpus=Gpus(None, None, [], ["10de:1db1"], no_nvml="Driver Not Loaded"))
    found = by_check(gpus.judge(bare))["GPUs"]
    assert found.status == "problem" and "Driver Not Loaded" in found.found and "R580" in found.remedy


def test_without_gpus_nothing_is_called_good() -> None:
    found = [*gpus.judge(laptop(), 8), *kernels.judge(laptop())]
    assert {finding.status for finding in found} == {"not checked"} and len(found) == 9
    assert all("NVML Shared Library Not Found" in finding.found for finding in found)
