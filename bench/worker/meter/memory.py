"""How much memory this rank used at its peak, and whether an error says that there was too little."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch


class MemoryPeak:
    """Peak memory of this process from its construction on: the CUDA allocator's, or the resident set on CPU.

    `base_bytes` is what was in use at the start. On CPU that holds Python and torch themselves (some 300 MiB), which
    is why it is kept beside the peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.base_bytes = torch.cuda.memory_allocated(device)
        else:
            # Writing 5 resets VmHWM (proc(5)); without it the peak could be one of the imports'.
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError as error:
                print(f"the resident set's peak holds the imports too: cannot reset it ({error.strerror})", flush=True)
            self.base_bytes = psutil.Process().memory_info().rss

    def peak_bytes(self) -> int:
        """Bytes at the peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("/proc/self/status has no VmHWM")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out: CUDA's, Python's, or torch's CPU allocator's (which has no type)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "CUDA out of memory", "Cannot allocate memory")
    )
