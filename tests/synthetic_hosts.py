"""Readings of hosts as bench.doctor would have made them: a DGX-1, and a small machine without GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.doctor.reading import DeepSpeed, Disk, Gpu, Gpus, Host, Interface, Network, Reading, Software, Torch
from bench.theory.machine import load_machine

GIB = 2**30
OLD_WHEEL = Torch(
    "2.10.0+cu128", "12.8", "2.27.5", ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"], True
)
NEW_WHEEL = Torch("2.13.0+cu130", "13.0", "2.28.9", ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "compute_120"], True)


def v100(index: int, **changes: Any) -> Gpu:
    """GPU `index` of a DGX-1, idle and well."""
    links = load_machine("dgx1-v100-16gb").node.fabric.links_per_pair
    assert links is not None
    healthy = Gpu(
        index=index,
        name="Tesla V100-SXM2-16GB",
        uuid=f"GPU-{index:08d}",
        capability=(7, 0),
        memory_bytes=16 * GIB,
        memory_used_bytes=3 * 2**20,
        num_processes=0,
        pcie_generation=1,
        pcie_width=16,
        max_pcie_generation=3,
        max_pcie_width=16,
        clock_mhz=135,
        max_clock_mhz=1530,
        slowdowns=[],
        temperature_c=34,
        ecc=True,
        ecc_errors=0,
        repair_pending=False,
        num_links=6,
        links=list(links[index]),
        switch_links=0,
    )
    return replace(healthy, **changes)


def dgx1(host: str = "worker-1", gpus: dict[int, dict[str, Any]] | None = None, **changes: Any) -> Reading:
    """A DGX-1 with a torch that has kernels for it. `gpus`: what is other than healthy, by index; `changes`: of the reading."""
    devices = [v100(index, **(gpus or {}).get(index, {})) for index in range(8)]
    software = Software(
        python="3.11.7",
        executable="/opt/venv/bin/python",
        system="Ubuntu 22.04",
        kernel="5.15.0-91-generic",
        libc="glibc 2.35",
        packages={"numpy": "2.4.6", "torch": "2.10.0"},
        programs={"g++": "/usr/bin/g++", "ninja": "/opt/venv/bin/ninja", "nvcc": "/usr/local/cuda/bin/nvcc"},
        on_path=["g++", "ninja", "nvcc"],
        python_headers=True,
        commit="0123456789abcdef0123456789abcdef01234567",
        source_sha256="a" * 64,
        torch=OLD_WHEEL,
        deepspeed=DeepSpeed("0.19.8", [], [], "/root/.cache/torch_extensions/py311_cu128"),
        transformers="5.23.0",
    )
    whole = Reading(
        host=host,
        started_at_s=1000.0,
        ended_at_s=1002.0,
        software=software,
        gpus=Gpus("570.86.15", "12.8", devices, ["10de:1db1"] * 8),
        machine=Host(
            num_cores=80,
            usable_cores=80,
            memory_bytes=512 * GIB,
            available_bytes=500 * GIB,
            limit_bytes=None,
            disk=Disk("/results", 7_000 * GIB, 5_000 * GIB, True, False),
            shm_total_bytes=256 * GIB,
            shm_free_bytes=256 * GIB,
            leftovers=[],
            open_files=1_048_576,
            locked_memory_bytes=None,
            processes=2_000_000,
            is_root=False,
        ),
        network=Network(
            hostname=host,
            addresses=["10.0.0.1"],
            usable=["10.0.0.1"],
            interfaces=[
                Interface("lo", ["127.0.0.1"], True),
                Interface("docker0", ["172.17.0.1"], True),
                Interface("enp1s0", ["10.0.0.1"], True, 10_000),
            ],
            infiniband=["mlx5_0"],
            resolved={},
        ),
        variables={},
    )
    return replace(whole, **changes)


def laptop(host: str = "laptop", **changes: Any) -> Reading:
    """Four cores, 16 GiB, no GPU; the op that DeepSpeed needs on CPU is compiled."""
    whole = dgx1(host)
    own = replace(
        whole,
        software=replace(
            whole.software,
            torch=Torch("2.13.0+cpu", None, None, [], False),
            deepspeed=DeepSpeed("0.19.8", [], ["deepspeed_shm_comm"], "/home/me/.cache/torch_extensions/py311_cpu"),
            programs={"g++": "/usr/bin/g++", "ninja": "/usr/bin/ninja", "nvcc": None},
        ),
        gpus=Gpus(None, None, [], [], no_nvml="NVML Shared Library Not Found"),
        machine=replace(
            whole.machine,
            num_cores=4,
            usable_cores=4,
            memory_bytes=16 * GIB,
            available_bytes=12 * GIB,
            disk=Disk("/home/me/results", 500 * GIB, 200 * GIB, True, False),
        ),
        network=replace(whole.network, infiniband=[], addresses=["127.0.1.1"], usable=["127.0.1.1"]),
    )
    return replace(own, **changes)
