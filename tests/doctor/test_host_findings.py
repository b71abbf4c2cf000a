"""Readings of software, machine and network, and what the doctor makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from bench.doctor.finding import Finding
from bench.doctor.judges import machine, network, reference, software, variables
from bench.doctor.judges.network import nccl_interfaces
from bench.doctor.reading import Disk, Interface, Leftover, Reading
from bench.doctor.reads.machine import leftovers
from bench.doctor.reads.variables import read_environment_file
from bench.doctor.wanted import Wanted, wanted
from tests.synthetic_hosts import GIB, dgx1, laptop

NOTHING = Wanted(">=3.10", [], {})


def of(check: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def changed(reading: Reading, part: str, **changes: Any) -> Reading:
    return replace(reading, **{part: replace(getattr(reading, part), **changes)})


def packages(have: dict[str, str], **wants: Any) -> Finding:
    asked = Wanted(">=3.10", [Requirement("torch>=2.7"), Requirement("numpy")], wants)
    return of("packages", software.judge(changed(dgx1(), "software", packages=have), asked))


def test_packages_are_held_to_bounds_and_pins() -> None:
    pins = {"numpy": [Requirement('numpy==2.4.6 ; python_version >= "3.11"')], "torch": [Requirement("torch==2.13.0")]}
    assert packages({"torch": "2.10.0+cu128", "numpy": "2.4.6"}, **pins).status == "ok"
    other = packages({"torch": "2.10.0", "numpy": "2.3.0"}, **pins)
    assert other.status == "warning" and "numpy 2.3.0 (==2.4.6)" in other.found and "torch" not in other.found
    old = packages({"torch": "2.6.0", "numpy": "2.4.6"})
    assert old.status == "problem" and "torch 2.6.0 (expected >=2.7)" in old.found
    missing = packages({"torch": "2.10.0"})
    assert missing.status == "problem" and "numpy" in missing.found and "pip install numpy" in missing.remedy


def test_what_this_checkout_wants_is_read_from_it() -> None:
    own = wanted()
    assert {"torch", "deepspeed", "transformers"} <= {requirement.name for requirement in own.requirements}
    assert "ruff" not in {requirement.name for requirement in own.requirements} and "deepspeed" in own.pins


def test_libraries_that_cannot_be_imported_say_why() -> None:
    broken = changed(laptop(), "software", torch=None, deepspeed=None, unread={"torch": "the import ended by SIGILL"})
    found = of("torch", software.judge(broken, NOTHING))
    assert found.status == "problem" and "SIGILL" in found.found
    assert of("Python", software.judge(changed(laptop(), "software", python="3.9.1"), NOTHING)).status == "problem"


def test_an_op_that_cannot_be_compiled_is_a_problem_where_ranks_need_it() -> None:
    no_ninja = {"g++": "/usr/bin/g++", "ninja": None, "nvcc": None}
    compiled = changed(laptop(), "software", programs=no_ninja)
    assert of("op compiler", software.judge(compiled, NOTHING)).status == "warning"
    assert compiled.software.deepspeed is not None
    fresh = changed(compiled, "software", deepspeed=replace(compiled.software.deepspeed, built_ops=[]))
    found = of("op compiler", software.judge(fresh, NOTHING))
    assert found.status == "problem" and "ninja missing" in found.found
    assert (
        of("op compiler", software.judge(changed(dgx1(), "software", programs=no_ninja), NOTHING)).status == "warning"
    )


@pytest.mark.parametrize(
    ("check", "changes", "status", "words"),
    [
        ("disk", {"disk": Disk("/full", 100 * GIB, GIB // 2, True)}, "problem", "512 MiB of 100 GiB free at /full"),
        ("disk", {"disk": Disk("/ro", 100 * GIB, 90 * GIB, False)}, "problem", "can't be written"),
        ("disk", {"disk": None, "unread": {"disk": "OSError: stale"}}, "not checked", "stale"),
        ("/dev/shm", {"shm_free_bytes": 60 * 2**20, "shm_total_bytes": 64 * 2**20}, "warning", "60 MiB of 64 MiB"),
        ("leftovers", {"leftovers": [Leftover("deepspeed_x", 2**21, False)]}, "warning", "no process of yours uses"),
        ("leftovers", {"leftovers": [Leftover("deepspeed_x", 2**21, True)]}, "ok", "a launch is running"),
        ("limits", {"open_files": 256}, "warning", "256 open files"),
        ("limits", {"locked_memory_bytes": 8 * 2**20}, "warning", "8 MiB locked"),  # the DGX-1 has InfiniBand
        ("memory", {"available_bytes": 20 * GIB}, "warning", "20 GiB free"),
        ("memory", {"limit_bytes": 64 * GIB}, "ok", "64 GiB (limit of the container)"),
        ("memory", {"memory_bytes": None}, "not checked", "meminfo"),
    ],
)
def test_a_machine_that_lacks_something(check: str, changes: dict[str, Any], status: str, words: str) -> None:
    found = of(check, machine.judge(changed(dgx1(), "machine", **changes)))
    assert found.status == status and words in found.found, found
    assert of(check, machine.judge(dgx1())).status == "ok"


def test_leftovers_are_those_that_no_process_has_mapped(tmp_path: Path) -> None:
    shm, proc = tmp_path / "shm", tmp_path / "proc"
    shm.mkdir()
    for name in ("deepspeed_a", "deepspeed_b", "other"):
        (shm / name).write_bytes(b"x" * 10)
    (proc / "12").mkdir(parents=True)
    (proc / "12" / "maps").write_text(f"7f00-7f01 rw-s 0 00:19 3 {shm}/deepspeed_a\n")
    found = leftovers(shm, proc)
    assert [(one.name, one.size_bytes, one.in_use) for one in found] == [
        ("deepspeed_a", 10, True),
        ("deepspeed_b", 10, False),
    ]


def test_which_interface_gloo_takes() -> None:
    assert "enp1s0 (10.0.0.1)" in of("gloo", network.judge(dgx1(), True)).found
    alone = of("gloo", network.judge(laptop(), False))
    assert alone.status == "ok" and "does for one host" in alone.found
    several = of("gloo", network.judge(laptop(), True))
    assert (
        several.status == "warning" and "127.0.1.1" in several.found and "GLOO_SOCKET_IFNAME=docker0" in several.remedy
    )
    sent = of("gloo", network.judge(laptop(), True, {"GLOO_SOCKET_IFNAME": "enp1s0"}))
    assert sent.status == "ok" and "enp1s0 (10.0.0.1)" in sent.found
    wrong = of("gloo", network.judge(laptop(), True, {"GLOO_SOCKET_IFNAME": "ib9"}))
    assert wrong.status == "problem" and "enp1s0" in wrong.remedy
    unknown = changed(laptop(), "network", addresses=[], usable=[])
    assert "resolves to no address of its own" in of("gloo", network.judge(unknown, True)).found


INTERFACES = [
    Interface("lo", ["127.0.0.1"], True),
    Interface("docker0", ["172.17.0.1"], True),
    Interface("eth0", ["10.0.0.1"], True),
    Interface("eth10", ["10.1.0.1"], True),
    Interface("eth2", [], True),
]


@pytest.mark.parametrize(
    ("wanted_names", "taken"),
    [
        (None, ["eth0", "eth10"]),
        ("eth", ["eth0", "eth10"]),
        ("=eth0", ["eth0"]),
        ("eth1", ["eth10"]),
        ("^eth,docker", ["lo"]),
        ("^=eth0", ["lo", "docker0", "eth10"]),
        ("ib", []),
    ],
)
def test_which_interfaces_nccl_takes(wanted_names: str | None, taken: list[str]) -> None:
    assert nccl_interfaces(INTERFACES, wanted_names) == taken


def test_nccl_prefers_infiniband_and_falls_back_to_bridges_and_loopback() -> None:
    assert nccl_interfaces([*INTERFACES, Interface("ib0", ["10.2.0.1"], True)], None) == ["ib0"]
    assert nccl_interfaces(INTERFACES[:2], None) == ["docker0"] and nccl_interfaces(INTERFACES[:1], None) == ["lo"]
    assert "InfiniBand mlx5_0" in of("NCCL", network.judge(dgx1(), True)).found
    none = of("NCCL", network.judge(dgx1(variables={"NCCL_SOCKET_IFNAME": "wlan"}), True))
    assert none.status == "problem" and "docker0, enp1s0" in none.remedy


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ("0,1,2", "ok", "3 of 8 GPUs"),
        ("", "warning", "hides all 8 GPUs"),
        ("0,8", "problem", "no GPU 8"),
        ("1,1", "problem", "1 stands twice"),
        ("GPU-00000002", "ok", "1 of 8 GPUs"),
        ("GPU-77", "problem", "no GPU GPU-77"),
    ],
)
def test_the_choice_of_gpus(value: str, status: str, words: str) -> None:
    found = of("CUDA_VISIBLE_DEVICES", variables.judge(dgx1(variables={"CUDA_VISIBLE_DEVICES": value})))
    assert found.status == status and words in found.found


def test_variables_of_another_launch_are_named() -> None:
    found = of("variables", variables.judge(laptop(variables={"RANK": "3", "WORLD_SIZE": "8"})))
    assert found.status == "warning" and "unset RANK WORLD_SIZE" in found.remedy
    assert of("variables", variables.judge(laptop(variables={"OMP_NUM_THREADS": "two"}))).status == "problem"


def test_deepspeeds_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / ".deepspeed_env"
    path.write_text("GLOO_SOCKET_IFNAME=eth0\n\n# A=b\nTOKEN=secret\n")
    file = read_environment_file(path)
    assert file.bad_lines == [2, 3] and file.values == {"GLOO_SOCKET_IFNAME": "eth0"}
    assert file.names == ["GLOO_SOCKET_IFNAME", "TOKEN"] and "secret" not in repr(file)
    found = variables.judge_files([file], "", None, {}, True)
    assert found.status == "warning" and "lines 2, 3" in found.found and "crashes" in found.found
    path.write_text("A=1\nB=2")
    good = variables.judge_files([read_environment_file(path)], "", None, {"OMP_NUM_THREADS": "1"}, True)
    assert good.status == "ok" and "sets A, B" in good.found and "OMP_NUM_THREADS set here" in good.found
    assert variables.judge_files([file], "", "line 3: found x", {}, True).status == "problem"
    assert variables.judge_files(None, "PermissionError", None, {}, True).status == "not checked"


def test_the_reference_machine_is_held_against_and_smaller_is_no_problem() -> None:
    assert reference.judge(dgx1()).status == "ok"
    small = reference.judge(laptop())
    assert (
        small.status == "warning" and "no GPU (8 x V100)" in small.found and "16 GiB of memory (256 GB)" in small.found
    )
    assert "a disk of 500 GiB (1 TB)" in small.found and "Ubuntu" not in small.found
    for system, libc in (("Ubuntu 16.04", "glibc 2.23"), ("CentOS Linux 7", "glibc 2.17")):
        old = reference.judge(changed(dgx1(), "software", system=system, libc=libc))
        assert old.status == "warning" and system in old.found
    assert reference.judge(changed(dgx1(), "software", system="Debian GNU/Linux 12", libc="glibc 2.36")).status == "ok"
