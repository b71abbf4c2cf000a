"""The four verbs of a strategy, and what they hand back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from bench.plan.cell import Cell
from bench.results.record import Replicas
from bench.results.synchronisation import Lost
from bench.worker.data.micro_batch import MicroBatch, mean_loss
from models.build import LanguageModel, build_model

__all__ = [
    "DTYPES",
    "MicroBatch",
    "StepLoss",
    "Strategy",
    "build_cells_model",
    "distance_to_rank_0",
    "mean_loss",
    "own_part",
    "whole_state",
    "with_own_part",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepLoss:
    """What one optimizer step came to: this rank's mean loss as a detached scalar on its device (reading it would
    synchronise, so that waits until after the window), and whether the fp16 loss scaler skipped the update."""

    loss: Tensor
    skipped: bool


class Strategy(ABC):
    """One way of training data-parallel. The loop calls `prepare` once, `step` once an optimizer step, `finish` at the
    end of the measured window, inside it, and `replica_distance` after it.

    Training to a goal also calls `consolidated` and `save`, between steps, and `load` after `prepare` when it goes on. Their
    defaults serve a strategy that keeps the whole model on every rank, and all its state in what `stateful` names.
    """

    deepspeed_config: dict[str, Any] | None = None
    """The resolved DeepSpeed file, for the record; None for a strategy without DeepSpeed."""

    @abstractmethod
    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        """Build the cell's model on `device`, wrap it, make its optimizer. Returns the bare model."""

    @abstractmethod
    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        """One optimizer step over this rank's micro-batches, `grad_accum_steps` of them. The gradient is the mean over ranks
        of the gradients of their sums of loss / divisor, whatever the number of tokens of each."""

    def begin(self, num_steps: int) -> None:
        """All ranks are about to take `num_steps` steps, measured together, between a barrier and `finish`."""
        self._num_steps = num_steps

    def goes_on(self, num_done: int) -> bool:
        """Whether this rank has another step to take, after `num_done` since `begin`."""
        return num_done < self._num_steps

    @abstractmethod
    def finish(self) -> None:
        """Wait for whatever the strategy still has in flight."""

    def catch_up(self) -> None:  # noqa: B027  # most have nothing to do
        """Make this rank's model what is evaluated, between windows; a collective. Here it is the rank's own replica already."""

    @abstractmethod
    def replica_distance(self) -> Replicas | None:
        """How far the replicas' parameters are apart; None where nothing is replicated."""

    def stateful(self) -> dict[str, Any]:
        """By name, the objects that hold this rank's state between two steps, each with `state_dict` and `load_state_dict`. None
        of them: training with this strategy can't be resumed."""
        return {}

    @property
    def resumable(self) -> bool:
        """Whether `save` and `load` bring training back to exactly where it was."""
        return bool(self.stateful())

    def save(self, folder: Path) -> None:
        """Write what is needed to go on exactly. A collective: every rank calls it with the same folder, which is there."""
        state = {name: holder.state_dict() for name, holder in self.stateful().items()}
        torch.save(state, folder / f"rank_{dist.get_rank()}.pt")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, on as many ranks. A collective, called once after `prepare`."""
        state = torch.load(folder / f"rank_{dist.get_rank()}.pt", map_location="cpu", weights_only=True)
        for name, holder in self.stateful().items():
            holder.load_state_dict(state[name])

    def consolidated(self, model: torch.nn.Module) -> dict[str, Tensor] | None:
        """The whole model's parameters and buffers on the host, on rank 0, None on the others; what is shared is there once.
        A collective: every rank calls it with the model that `prepare` returned. Here rank 0's replica, or the shards of a
        model whose parameters are DTensors."""
        return whole_state(model, kept=dist.get_rank() == 0)

    def drift(self) -> Replicas | None:
        """How far apart the replicas were before they were last made equal, where they drift; else how far they are now. A
        collective, called between measured windows."""
        return self.replica_distance()

    def synchronised(self) -> dict[str, Any]:
        """What else the strategy knows of how its replicas were kept together since `begin`: fields of Synchronisation."""
        return {}

    @property
    def lost(self) -> list[Lost]:
        """The ranks that are gone without ending the launch."""
        return []

    def regroup(self, control: dist.ProcessGroup) -> None:
        """Ranks are lost: go on with those of `control`."""
        raise NotImplementedError(f"{type(self).__name__} does not go on without a rank")


def whole_state(model: torch.nn.Module, kept: bool) -> dict[str, Tensor] | None:
    """A model's parameters and those of its buffers that are saved, by name, copied to the host; what is shared is there once.
    One DTensor at a time is made whole, a collective; a rank without `kept` takes part and keeps nothing."""
    saved = model.state_dict()
    named = dict(model.named_parameters()) | {name: buffer for name, buffer in model.named_buffers() if name in saved}
    found: dict[str, Tensor] = {}
    for name, value in named.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if kept:
            found[name] = whole.detach().to("cpu", copy=True).contiguous()
    return found if kept else None


def build_cells_model(cell: Cell, device: torch.device) -> LanguageModel:
    """The model that the cell names, in its precision, with its seed's weights, on `device`."""
    return build_model(
        cell.model,
        cell.model_options,
        seq_len=cell.seq_len,
        seed=cell.seed,
        device=device,
        dtype=DTYPES[cell.precision],
        activation_checkpointing=cell.activation_checkpointing,
    )


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor this rank holds, without its gradient: all of it, but of a DTensor (FSDP2's) this rank's part."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def with_own_part(tensor: Tensor, part: Tensor) -> Tensor:
    """The tensor of which this rank holds `part`, divided over the ranks as `tensor` is: the inverse of `own_part`."""
    if not isinstance(tensor, DTensor):
        return part
    return DTensor.from_local(
        part.to(tensor.device), tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride()
    )


def distance_to_rank_0(parameters: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> Replicas | None:
    """Relative L2 distance of every rank's copy of `parameters` from the first rank's; None if there are none to compare.

    A collective: every rank of the group calls it with the same parameters. One parameter at a time travels, so that the
    check needs no second copy of the model.
    """
    if not parameters:
        return None
    first = 0 if group is None else dist.get_global_rank(group, 0)
    device = parameters[0].device
    difference = torch.zeros((), dtype=torch.float64, device=device)
    norm = torch.zeros((), dtype=torch.float64, device=device)
    for parameter in parameters:
        reference = parameter.detach().clone()
        dist.broadcast(reference, src=first, group=group)
        # A float64 copy of an embedding is large, so the sums alone are in float64.
        difference += (parameter.detach().float() - reference.float()).pow_(2).sum(dtype=torch.float64)
        norm += reference.float().pow_(2).sum(dtype=torch.float64)
    distance = (difference / norm.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    distances = [torch.zeros_like(distance) for _ in range(dist.get_world_size(group))]
    dist.all_gather(distances, distance, group=group)
    values = [float(value) for value in distances]
    others = values[1:] or values
    return Replicas(
        largest=max(others),
        mean=sum(others) / len(others),
        num_params=sum(parameter.numel() for parameter in parameters),
    )
