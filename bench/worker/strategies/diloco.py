"""DiLoCo: H inner steps apart, then one outer step of Nesterov's momentum on the mean of what each rank moved."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.plan.cell import Cell
from bench.worker.strategies.local_sgd import LocalSGD


class OuterSGD(torch.optim.SGD):
    """The outer optimizer, by a name of its own, so that it is not taken for the cell's."""


class DiLoCo(LocalSGD):
    """Local SGD, with an outer optimizer in place of the plain average: Douillard et al. 2023 (arXiv:2311.08105), algorithm 1.

    The last common weights minus the mean of the ranks' (weighted by tokens) is the outer gradient, on which SGD with Nesterov's
    momentum steps: rate `outer_learning_rate`, momentum `outer_momentum`; rate 1 without momentum is the plain average. What
    travels is each rank's difference, in `outer_dtype`: one all-reduce in fp32 or fp16 (divided by the ranks first, so
    that no sum overflows); in int8, which can't be added up on the way, an all-gather, each tensor with a float32 scale of
    its own.
    """

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        model = super().prepare(cell, device)
        self._dtype = str(cell.options["outer_dtype"])
        momentum = float(cell.options["outer_momentum"])
        self._common = [weight.detach().clone().requires_grad_() for weight in self._weights]
        self._outer = OuterSGD(
            self._common, lr=float(cell.options["outer_learning_rate"]), momentum=momentum, nesterov=momentum > 0
        )
        return model

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "outer": self}

    def state_dict(self) -> dict[str, Any]:
        """The last common weights, and the outer optimizer's momentum."""
        return {"common": [common.detach() for common in self._common], "optimizer": self._outer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another one's, of the same cell."""
        with torch.no_grad():
            for common, saved in zip(self._common, state["common"], strict=True):
                common.copy_(saved)
        self._outer.load_state_dict(state["optimizer"])

    def _synchronise(self, keep: bool) -> None:
        weight = self._average.weight()
        own = [weight_.data for weight_ in self._weights]
        flat = torch.cat([(common.detach() - mine).reshape(-1) for common, mine in zip(self._common, own, strict=True)])
        mean = self._mean(flat * weight if weight != 1.0 else flat)
        parts = torch.split(mean, [common.numel() for common in self._common])
        for common, part in zip(self._common, parts, strict=True):
            common.grad = part.view_as(common)
        self._outer.step()
        self._outer.zero_grad(set_to_none=True)
        self._average.before = own if keep else []
        for weight_, common in zip(self._weights, self._common, strict=True):
            weight_.data = common.detach().clone()
        self._optimizer.put_back()

    def _mean(self, flat: Tensor) -> Tensor:
        """Over ranks, in float32, of what travels in another precision."""
        if self._dtype == "int8":
            return self._mean_of_int8(flat)
        flat = flat / dist.get_world_size()
        if self._dtype == "fp16":
            flat = flat.half()
        dist.all_reduce(flat)
        return flat.float()

    def _mean_of_int8(self, flat: Tensor) -> Tensor:
        sizes = [common.numel() for common in self._common]
        scales = torch.stack([part.abs().max() for part in torch.split(flat, sizes)]).clamp_min(1e-30) / 127
        each = scales.repeat_interleave(torch.tensor(sizes, device=flat.device))
        rounded = (flat / each).round().to(torch.int8)
        ranks = dist.get_world_size()
        whole = torch.empty(ranks * rounded.numel(), dtype=torch.int8, device=flat.device)
        all_scales = torch.empty(ranks * scales.numel(), device=flat.device)
        dist.all_gather_into_tensor(whole, rounded)
        dist.all_gather_into_tensor(all_scales, scales)
        total = torch.zeros_like(flat)
        counts = torch.tensor(sizes, device=flat.device)
        for part, scale in zip(whole.chunk(ranks), all_scales.chunk(ranks), strict=True):
            total += part.float() * scale.repeat_interleave(counts)
        return total / ranks
