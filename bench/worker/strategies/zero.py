"""DeepSpeed's engine at ZeRO stage 0 to 3, accumulation through its own boundaries."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from bench.plan.cell import Cell
from bench.plan.deepspeed_config import resolve_deepspeed_config
from bench.plan.strategies import STRATEGIES
from bench.results.record import Replicas
from bench.worker.strategies.base import (
    MicroBatch,
    StepLoss,
    Strategy,
    build_cells_model,
    distance_to_rank_0,
    mean_loss,
)
from bench.worker.strategies.optimizer import set_learning_rate, shrink_by_l1
from models.build import model_class

_TAG = "engine"
_RESUMABLE = frozenset({"zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"})


class Zero(Strategy):
    """The DeepSpeed engine, told by the cell's JSON file. At stage 3 our own models are built under `zero.Init`, so that no
    rank ever holds the whole model; transformers' are not, because they start from wrong weights there. `num_steps` counts the
    steps that were taken, skipped ones included, and settles the learning rate of the next."""

    def prepare(self, cell: Cell, device: torch.device) -> torch.nn.Module:
        # On CPU this would compile an op for half a minute and leave files in /dev/shm; inference alone uses it.
        # (By importlib: the attribute `deepspeed.comm.torch` is torch itself.)
        importlib.import_module("deepspeed.comm.torch").__dict__["build_shm_op"] = lambda: None
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        # zero.Init needs the file, whose buckets scale with the model: then its size is taken from an outline on `meta`.
        partitioned = STRATEGIES[cell.strategy].zero_stage == 3 and model_class(cell.model).supports_zero_init
        self._cell = cell
        self.num_steps = 0
        model = build_cells_model(cell, torch.device("meta") if partitioned else device)
        self.deepspeed_config = resolve_deepspeed_config(cell, model.num_params(), on_gpu=device.type == "cuda")
        if partitioned:
            # No dtype: where the device has no fp16, zero.Init takes bfloat16 for any that it is given, and rounds the
            # weights.
            init = deepspeed.zero.MiCS_Init if cell.strategy == "mics" else deepspeed.zero.Init
            with init(config_dict_or_path=self.deepspeed_config):
                model = build_cells_model(cell, device)
        self._engine, _, _, _ = deepspeed.initialize(
            model=model, model_parameters=list(model.parameters()), config=self.deepspeed_config
        )
        shrink_by_l1(cell, self._inner_optimizer())
        return model

    def step(self, micro_batches: Sequence[MicroBatch]) -> StepLoss:
        losses: list[Tensor] = []
        set_learning_rate(self._engine.optimizer, self._cell, self.num_steps)
        self.num_steps += 1
        skipped_before = self._engine.skipped_steps
        for tokens, targets, divisor in micro_batches:
            loss = self._engine(tokens, targets)
            # The engine itself divides by the number of micro-batches.
            share = self._cell.grad_accum_steps / divisor
            self._engine.backward(loss if share == 1 else loss * share)
            self._engine.step()
            losses.append(loss.detach())
        return StepLoss(mean_loss(losses, micro_batches), self._engine.skipped_steps > skipped_before)

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        """torch's, inside DeepSpeed's."""
        optimizer = self._engine.optimizer
        return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer

    def finish(self) -> None:
        """Nothing is in flight: the engine's step ends with the parameters gathered (stage 3 gathers at use)."""

    def replica_distance(self) -> Replicas | None:
        whole = []
        for parameter in self._engine.module.parameters():
            status = getattr(parameter, "ds_status", None)
            if status is None or getattr(parameter, "ds_persist", False):
                whole.append(parameter.data)
        return distance_to_rank_0(whole)

    @property
    def resumable(self) -> bool:
        """By DeepSpeed's own sharded checkpoint, where training from it was seen to be the same to the last bit."""
        return self._cell.strategy in _RESUMABLE and not self._cell.options.get("nvme_path")

    def save(self, folder: Path) -> None:
        state = {"num_steps": self.num_steps}
        self._engine.save_checkpoint(str(folder), tag=_TAG, client_state=state, save_latest=False)

    def load(self, folder: Path) -> None:
        loaded, state = self._engine.load_checkpoint(str(folder), tag=_TAG)
        assert loaded is not None, f"DeepSpeed found no checkpoint in {folder}"
        self.num_steps = state["num_steps"]

    def consolidated(self, model: torch.nn.Module) -> dict[str, Tensor] | None:
        """At stage 3 the parameters are gathered one at a time: only rank 0's host ever holds the whole model."""
        if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return super().consolidated(model)
        found: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if dist.get_rank() == 0:
                    found[name] = parameter.detach().to("cpu", copy=True).contiguous()
        if dist.get_rank() != 0:
            return None
        kept = model.state_dict()
        found |= {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in kept}
        return found
