"""FSDP2, torch's `fully_shard`: parameters, gradients and optimizer in parts, gathered a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bench.plan.cell import Cell
from bench.results.record import Replicas
from bench.worker.strategies.base import MicroBatch, StepLoss, Strategy, build_cells_model, mean_loss, own_part
from bench.worker.strategies.optimizer import MasterOptimizer


class FSDP(Strategy):
    """Each block of the model is sharded by itself, what is left (embeddings, head) with the root, as torch's own tutorials do.

    Options: `reshard_after_forward` frees a block's parameters after its forward pass and gathers them again in the backward
    pass (like ZeRO-3); without it they stay (like ZeRO-2 with one gather). The root's always stay. `sync_every_micro_batch`
    reduces gradients after each micro-batch, which keeps them sharded; else whole gradients add up on each rank, and are
    reduced once a step. In half precision parameters, gradients and their reduction are half, and the optimizer has float32
    masters of this rank's part: the same arithmetic as DDP's.
    """

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        options = cell.options
        self._sync_every_micro_batch = bool(options["sync_every_micro_batch"])
        reshard = bool(options["reshard_after_forward"])
        # Every rank draws the whole model once, and keeps its part.
        self._model = build_cells_model(cell, device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in blocks(self._model):
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        # None: torch leaves the root's parameters where the backward pass needs them at once.
        self._sharded = fully_shard(self._model, mesh=mesh, reshard_after_forward=None if reshard else False)
        # Gloo has no averaging reduction; sums are divided after it. NCCL averages by itself.
        self._sharded.set_force_sum_reduction_for_comms(device.type == "cpu")
        self._optimizer = MasterOptimizer(cell, list(self._model.parameters()), device)
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        losses: list[Tensor] = []
        last = len(micro_batches) - 1
        for index, (tokens, targets, divisor) in enumerate(micro_batches):
            self._sharded.set_requires_gradient_sync(self._sync_every_micro_batch or index == last)
            loss = self._model(tokens, targets)
            self._optimizer.backward(loss / divisor)
            losses.append(loss.detach())
        self._optimizer.take()
        skipped = self._optimizer.step()
        return StepLoss(mean_loss(losses, micro_batches), skipped)

    def finish(self) -> None:
        """Nothing is in flight: backward waits for its reductions, and gathers begin with the next forward pass."""

    def replica_distance(self) -> Replicas | None:
        return None

    def stateful(self) -> dict[str, Any]:
        return {"model": OwnParts(self._model), "optimizer": self._optimizer}


class OwnParts:
    """This rank's parts of a sharded model, as its state."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        """By name, as in the whole model's, what this rank holds."""
        return {name: own_part(value) for name, value in self._model.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from another one's, sharded alike."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules in the outermost lists of the model: its layers, of our own models and transformers' alike."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found
