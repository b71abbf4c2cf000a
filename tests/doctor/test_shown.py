"""The findings on terminals of several widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.doctor.diagnosis import Diagnosis
from bench.doctor.finding import Finding
from bench.doctor.shown import shown

HOSTS = ["worker-1", "worker-2", "worker-3"]
FINDINGS = [
    Finding("hostfile", None, "ok", "3 x host with slots=8: 24 ranks"),
    *(Finding("torch", host, "ok", "2.10.0+cu128, CUDA 12.8, NCCL 2.27.5") for host in HOSTS),
    *(Finding("ECC", host, "not checked", "Not Supported") for host in HOSTS),
    Finding("PCIe", "worker-1", "ok", "8 x x16 gen 3"),
    Finding("PCIe", "worker-2", "warning", "GPU 3: [x4] of x16", "reseat the card"),
    Finding("ssh", "worker-3", "problem", "worker-3 can't be used by ssh: nothing answers there", "is worker-3 up?"),
]


def text(diagnosis: Diagnosis, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown(diagnosis, width))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert max(len(line) for line in said.splitlines()) <= width
    return said


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_several_hosts_side_by_side(width: int) -> None:
    said = text(Diagnosis(HOSTS, FINDINGS), width)
    flat = " ".join(said.split())
    assert "3 hosts: 5 ok, 1 warning, 1 problem, 3 not checked" in flat
    assert "not checked anywhere: ECC: Not Supported" in flat
    # The worst first; a name in square brackets is text, not markup.
    assert (
        flat.index("→ is worker-3 up?") < flat.index("→ reseat the card")
        and "worker-2, PCIe: GPU 3: [x4] of x16" in flat
    )
    # What was found stands in the cells where there is room, and once where it is the same everywhere.
    assert flat.count("2.10.0+cu128") == (1 if width >= 80 else 0)


def test_more_hosts_than_columns() -> None:
    hosts = [f"worker-{number}" for number in range(40)]
    findings = [Finding("torch", host, "ok", "2.10.0") for host in hosts]
    findings += [Finding("PCIe", host, "ok" if index % 20 else "warning", "x", "y") for index, host in enumerate(hosts)]
    flat = " ".join(text(Diagnosis(hosts, findings), 80).split())
    assert "torch ok 40" in flat and "PCIe ok 38 warning 2: worker-0, worker-20" in flat


def test_one_host_has_its_remedies_beside_what_was_found() -> None:
    findings = [
        Finding("torch", "here", "ok", "2.13.0+cpu, without CUDA"),
        Finding("GPUs", "here", "not checked", "no GPU here", "runs use the CPU with gloo"),
        Finding("PCIe", "here", "not checked", "no GPU here"),
        Finding("disk", "here", "problem", "1 MiB free", "make room"),
    ]
    said = " ".join(text(Diagnosis(["here"], findings), 70).split())
    assert "no GPU here; so neither PCIe → runs use the CPU with gloo" in said
    assert (
        "disk problem 1 MiB free → make room" in said and "1 host: 1 ok, 0 warnings, 1 problem, 2 not checked" in said
    )
