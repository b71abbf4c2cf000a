"""The update in the arithmetic that all strategies share: float32 weights, and a scaled loss in fp16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bench.plan.cell import Cell
from bench.worker.strategies.base import DTYPES, own_part, with_own_part


class MasterOptimizer:
    """The cell's optimizer as DeepSpeed applies it: in half precision on float32 copies of the weights (`masters`), in fp16 with
    a dynamically scaled loss. `optimizer` is torch's inside; `num_steps` counts the steps that were taken, skipped ones
    included, and settles the learning rate of the next.

    `parameters` may be one rank's part of what the ranks of `shards` optimize together: gradients are then clipped by the
    norm over all of them.
    """

    def __init__(
        self,
        cell: Cell,
        parameters: Sequence[Tensor],
        device: torch.device,
        shards: dist.ProcessGroup | None = None,
    ) -> None:
        self._cell = cell
        self._parameters = parameters
        self._shards = shards
        self.num_steps = 0
        half = DTYPES[cell.precision] != torch.float32
        self.masters = [p.detach().clone().float().requires_grad_() for p in parameters] if half else []
        self._optimized = self.masters or list(parameters)
        fused = cell.profile == "tuned" and device.type == "cuda" and cell.optimizer in ("adam", "adamw")
        self.optimizer: torch.optim.Optimizer = getattr(torch.optim, cell.optimizer_class)(
            self._optimized,
            lr=cell.learning_rate,
            weight_decay=cell.weight_decay,
            **cell.optimizer_settings,
            **({"fused": True} if fused else {}),
        )
        shrink_by_l1(cell, self.optimizer)
        # DeepSpeed's dynamic scaling: starts at 2^16, halves on overflow, doubles after 1000 good steps.
        self._scaler = torch.amp.GradScaler(
            device.type, init_scale=2.0**16, growth_interval=1000, enabled=cell.precision == "fp16"
        )

    def backward(self, loss: Tensor) -> None:
        """The backward pass of this part of the step's loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def take(self, share: float = 1.0) -> None:
        """Add this share of the parameters' gradients to the masters', and zero them. In fp32, where the parameters are what
        is optimized, there is nothing to take."""
        for master, parameter in zip(self.masters, self._parameters, strict=False):
            assert parameter.grad is not None, "every parameter takes part in the loss"
            gradient = parameter.grad.float()
            if share != 1.0:
                gradient *= share
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        if self.masters:
            self.zero()

    def step(self) -> bool:
        """Clip the gradients, update the parameters and zero the gradients; True if the scaler skipped the update."""
        set_learning_rate(self.optimizer, self._cell, self.num_steps)
        self.num_steps += 1
        if self._cell.max_grad_norm or self._cell.l1:
            self._scaler.unscale_(self.optimizer)
        if self._cell.max_grad_norm:
            self._clip()
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        skipped = self._scaler.get_scale() < scale
        if self.masters:
            torch._foreach_copy_([own_part(p) for p in self._parameters], [own_part(m) for m in self.masters])
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self.zero()
        return skipped

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides the parameters: of what is divided over ranks, this rank's part."""
        found = self.optimizer.state_dict()
        parts = {
            place: {name: own_part(value) if isinstance(value, Tensor) else value for name, value in held.items()}
            for place, held in found["state"].items()
        }
        return {
            "optimizer": {**found, "state": parts},
            "scaler": self._scaler.state_dict(),
            "masters": [own_part(master) for master in self.masters],
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from another one's state, of the same cell and the same part of the parameters."""
        # A step count, which has no dimension, is every rank's own; all else is divided as its parameter is.
        whole = {
            place: {
                name: with_own_part(self._optimized[place], value)
                if isinstance(value, Tensor) and value.ndim
                else value
                for name, value in held.items()
            }
            for place, held in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**state["optimizer"], "state": whole})
        self._scaler.load_state_dict(state["scaler"])
        self.num_steps = state["num_steps"]
        with torch.no_grad():
            for mine, saved in zip(self.masters, state["masters"], strict=True):
                own_part(mine).copy_(saved)

    def put_back(self) -> None:
        """The masters were changed by another hand than `step`: the parameters become what they are."""
        if self.masters:
            torch._foreach_copy_([own_part(p) for p in self._parameters], [own_part(m) for m in self.masters])

    def take_over(self) -> None:
        """The parameters were changed by another hand than `step`: the masters become what they are."""
        if self.masters:
            torch._foreach_copy_([own_part(m) for m in self.masters], [own_part(p) for p in self._parameters])

    def _clip(self) -> None:
        gradients = [p.grad for p in self._optimized if p.grad is not None]
        norm = get_total_norm(gradients)
        if self._shards is not None:
            squared = norm.square()
            dist.all_reduce(squared, group=self._shards)
            norm = squared.sqrt()
        clip_grads_with_norm_(self._optimized, self._cell.max_grad_norm, norm)

    def zero(self) -> None:
        """The parameters' gradients are zero."""
        # Zeroed, not freed: the gradients may be views of DDP's buckets.
        torch._foreach_zero_([own_part(p.grad) for p in self._parameters if p.grad is not None])


def set_learning_rate(optimizer: Any, cell: Cell, step: int) -> None:
    """Give a torch optimizer, or DeepSpeed's around one, the learning rate of that step (from 0)."""
    if cell.changes_learning_rate:
        for group in optimizer.param_groups:
            # By the name that torch's own schedulers give it.
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = cell.learning_rate_at(step)


def shrink_by_l1(cell: Cell, optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer add `cell.l1` times each weight's sign to its gradient before each update, where weight decay is added
    too: so it works on whatever part of the weights the optimizer holds."""
    if not cell.l1:
        return

    def add_signs(optimizer: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=cell.l1)

    optimizer.register_step_pre_hook(add_signs)
