"""Which device a rank works on."""

from __future__ import annotations

import os

import torch


def uses_gpu() -> bool:
    """Whether there is a GPU and the CPU is not asked for."""
    return os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()


def device_of_rank() -> torch.device:
    """This rank's GPU, made the current one, unless the CPU is asked for or there is none; torch and DeepSpeed then agree."""
    if uses_gpu():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device
    os.environ["DS_ACCELERATOR"] = "cpu"
    return torch.device("cpu")
