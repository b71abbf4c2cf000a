"""DDP whose gradients travel as matrices of low rank: torch's PowerSGD hook (Vogels et al. 2019)."""

# No postponed annotations: torch DDP looks at those of a hook.
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from bench.plan.cell import Cell
from bench.worker.strategies.ddp import DDP, Hook


class DDPPowerSGD(DDP):
    """Each gradient matrix n x m is sent as P (n x `rank`) and Q (m x `rank`), if it has more than `min_compression_rate` times
    their elements; all else as it is. `error_feedback` adds what was lost to the next step's gradient, `warm_start` begins
    each step with the last one's Q. The first `start_iter` steps are plain all-reduces: at least 2, in which torch DDP
    settles its buckets."""

    def hook(self, cell: Cell, device: torch.device) -> tuple[object, Hook] | None:
        options = cell.options
        self._state = PowerSGDState(
            process_group=dist.group.WORLD,
            matrix_approximation_rank=options["rank"],
            start_powerSGD_iter=options["start_iter"],
            min_compression_rate=options["min_compression_rate"],
            use_error_feedback=options["error_feedback"],
            warm_start=options["warm_start"],
            random_seed=cell.seed,
        )
        return self._state, powerSGD_hook if device.type == "cuda" else _one_bucket_after_the_other

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "powersgd": _Kept(self._state, self._parameters[0].device)}


class _Kept:
    """What the hook keeps from step to step, each dictionary by bucket: what was lost, P and Q; and what draws the next Q. Torch
    pickles it too, but not so that it can be read without running what is in the file."""

    def __init__(self, state: PowerSGDState, device: torch.device) -> None:
        self._state, self._device = state, device

    def state_dict(self) -> dict[str, Any]:
        state = self._state
        name, keys, *rest = state.rng.get_state(legacy=True)
        return {
            "iter": state.iter,
            "errors": state.error_dict,
            "ps": state.p_memory_dict,
            "qs": state.q_memory_dict,
            "generator": (name, np.asarray(keys).tolist(), *rest),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        state, device = self._state, self._device
        state.iter = saved["iter"]
        state.error_dict, state.p_memory_dict, state.q_memory_dict = (
            {bucket: value.to(device) for bucket, value in saved[name].items()} for name in ("errors", "ps", "qs")
        )
        name, keys, *rest = saved["generator"]
        state.rng.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def _one_bucket_after_the_other(
    state: PowerSGDState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """PowerSGD on gloo. The hook calls the second and third all-reduce of a bucket when the one before it completes: with NCCL
    at once, with gloo at some time in a thread of its own, where ranks would call those of several buckets in different
    orders. So a bucket is complete before the next one begins, and nothing overlaps the backward pass."""
    future = powerSGD_hook(state, bucket)
    future.wait()
    return future
