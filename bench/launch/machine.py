"""What this machine can run: devices, slots, and the reasons why a cell can't run here."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from bench.errors import LaunchError
from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES

DeviceType = Literal["cpu", "cuda"]

MIN_CPU_SLOTS = 8
"""Ranks that a machine without GPUs takes at least, whatever its cores: paced models need none, and the report marks
the others as oversubscribed."""
MIN_PACED_SLOTS = 16
"""Ranks of a paced model, which sleep most of the time, that it takes at least."""


@dataclass(frozen=True)
class Machine:
    """The devices that ranks can be put on. `capability` is the lowest CUDA compute capability among them; `num_paced_slots` is
    how many ranks of a paced model there may be, where that is more than others."""

    device_type: DeviceType
    num_slots: int
    names: tuple[str, ...] = ()
    capability: tuple[int, int] | None = None
    num_paced_slots: int = 0

    def num_slots_for(self, cell: Cell) -> int:
        """Ranks of this cell that there may be."""
        return max(self.num_slots, self.num_paced_slots) if cell.paced else self.num_slots

    @property
    def description(self) -> str:
        if self.device_type == "cuda":
            return f"{len(self.names)} x {self.names[0]}"
        return f"CPU, {len(os.sched_getaffinity(0))} cores, gloo"

    def refusal(self, cell: Cell) -> str | None:
        """Why the cell can't run on these devices, or under this DeepSpeed, whatever the number of ranks; None if it can."""
        spec = STRATEGIES[cell.strategy]
        if spec.needs_cuda and self.device_type == "cpu":
            return f"{cell.strategy} needs GPUs: {spec.needs_cuda}"
        installed = _deepspeed_version()
        if spec.removed_in and _release(installed) >= _release(spec.removed_in):
            return (
                f"{cell.strategy} is gone from DeepSpeed since {spec.removed_in} (issue 8489), and {installed} is installed; "
                f"an older one has it"
            )
        if cell.precision == "fp16" and self.device_type == "cpu":
            return "fp16 is refused on CPU: DeepSpeed has no loss scaling there; choose fp32 or bf16"
        if cell.precision == "bf16" and self.capability is not None and self.capability < (8, 0):
            return (
                f"bf16 is refused on {self.names[0]}: compute capability {self.capability[0]}.{self.capability[1]} only "
                "emulates it (8.0 and up have it); choose fp16"
            )
        return None


def _deepspeed_version() -> str:
    """The release that is installed here, without importing it."""
    return importlib.metadata.version("deepspeed")


def _release(version: str) -> tuple[int, ...]:
    """0.19.7+cu126 as (0, 19, 7)."""
    return tuple(int(part) for part in version.partition("+")[0].split(".")[:3] if part.isdigit())


def detect(device: str, num_slots: int | None) -> Machine:
    """The machine that a run was asked to use: `auto` takes GPUs where torch can, else the CPU.

    Raises LaunchError if GPUs were asked for and there are none, or torch can't use them.
    """
    gpus = _visible_gpus() if device in ("auto", "cuda") else []
    if device == "cuda" and not gpus:
        raise LaunchError("--device cuda: no GPU found by NVML", hint="check nvidia-smi, or use --device cpu")
    if gpus and _torch_sees_gpus():
        names = tuple(name for name, _ in gpus)
        return Machine("cuda", num_slots or len(gpus), names, min(capability for _, capability in gpus))
    if gpus and device == "cuda":
        raise LaunchError(
            f"--device cuda: torch can't use {gpus[0][0]}",
            hint="install a torch wheel with CUDA for it (README, V100), or use --device cpu",
        )
    if num_slots:
        return Machine("cpu", num_slots)
    num_cores = len(os.sched_getaffinity(0))
    return Machine("cpu", max(MIN_CPU_SLOTS, num_cores), num_paced_slots=max(MIN_PACED_SLOTS, num_cores))


def _visible_gpus() -> list[tuple[str, tuple[int, int]]]:
    """Name and compute capability of every GPU that CUDA_VISIBLE_DEVICES leaves, by NVML, so without torch."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no driver: a machine without GPUs
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = [part.strip() for part in visible.split(",") if part.strip()]
        handles = [handles[int(part)] if part.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(part) for part in chosen]
    gpus = []
    for handle in handles:
        name = pynvml.nvmlDeviceGetName(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        gpus.append((name if isinstance(name, str) else name.decode("ascii"), (int(major), int(minor))))
    return gpus


def _torch_sees_gpus() -> bool:
    """Asked in a process of its own: this one never imports torch."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
