"""DDP whose gradients travel in half precision: torch's fp16 and bf16 hooks."""

# No postponed annotations: torch DDP looks at those of a hook.
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook

from bench.plan.cell import Cell
from bench.worker.strategies.ddp import DDP, Hook


class DDPFloat16(DDP):
    """Each bucket is divided by the number of ranks in fp16, summed in fp16, and cast back: 5 exponent bits, so a gradient below
    6e-8 becomes zero and one above 65,504 infinite."""

    def hook(self, cell: Cell, device: torch.device) -> tuple[object, Hook] | None:
        return None, fp16_compress_hook


class DDPBFloat16(DDP):
    """Each bucket travels in bf16: float32's range, 8 bits of precision."""

    def hook(self, cell: Cell, device: torch.device) -> tuple[object, Hook] | None:
        return None, _in_bfloat16


def _in_bfloat16(
    group: dist.ProcessGroup | None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Torch's hook, which DDP takes by its own name for NCCL alone; gloo adds bfloat16 as well."""
    return bf16_compress_hook(group, bucket)  # type: ignore[arg-type]
