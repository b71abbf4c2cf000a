"""Losses of many cells on the same real ranks, one after the other, and of plain PyTorch on the same global batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from bench.plan.cell import Cell
from bench.worker.data.micro_batch import IGNORED
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.strategies.base import build_cells_model

TINY = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}


@dataclass(frozen=True)
class Curve:
    """`losses` of this rank and the learning rate that each step was taken with, and how far replicas are apart at the end."""

    losses: list[float]
    learning_rates: list[float | None]
    replica_distance: float | None


def cell(**fields: Any) -> Cell:
    """A tiny GPT, four sequences to a global batch."""
    tiny: dict[str, Any] = {"model": "gpt-nano", "model_options": TINY, "seq_len": 16, "learning_rate": 3e-3}
    return Cell(**{"strategy": "ddp", "world_size": 1, "micro_batch_size": 4, **tiny, **fields})


def curves(cells: list[Cell], num_steps: int) -> list[Curve]:
    """What each cell comes to on this rank, through the loop that is measured. To be forked (tests/forked.py)."""
    import torch.distributed as dist

    from bench.worker.meter.witness import Witness
    from bench.worker.trainer import Trainer

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    control = dist.new_group(backend="gloo")
    found = []
    for one in cells:
        trainer = Trainer(one, torch.device("cpu"), control)
        witness = Witness(trainer.model, trainer.results)
        with witness.watching():
            for _ in range(num_steps):
                trainer.step()
        trainer.strategy.finish()
        replicas = trainer.strategy.replica_distance()
        losses = [float(result.loss) for result in trainer.results]
        found.append(Curve(losses, witness.witnessed().learning_rates, None if replicas is None else replicas.largest))
    dist.barrier(control)
    dist.destroy_process_group()
    return found


def mean_losses(by_rank: list[list[Curve]], index: int) -> list[float]:
    """The mean over ranks of the losses of the cell at that place, where all ranks have equally many tokens."""
    steps = zip(*(ranks[index].losses for ranks in by_rank), strict=True)
    return [sum(losses) / len(losses) for losses in steps]


def plain_losses(cell: Cell, num_steps: int) -> list[float]:
    """Plain PyTorch on the whole global batch at once, with torch's optimizer, clipping and schedulers."""
    torch.set_num_threads(1)
    one = cell.model_copy(update={"world_size": 1, "grad_accum_steps": 1, "micro_batch_size": cell.global_batch_size})
    model = build_cells_model(one, torch.device("cpu"))
    batches, _ = batches_of_cell(one, model)
    rate, decay = cell.learning_rate, cell.weight_decay
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer = {
        "adamw": lambda: torch.optim.AdamW(parameters, lr=rate, weight_decay=decay),
        "adam": lambda: torch.optim.Adam(parameters, lr=rate, weight_decay=decay),
        "adagrad": lambda: torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay),
        "sgd": lambda: torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=cell.momentum),
    }[cell.optimizer]()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of(cell, step))
    losses = []
    for step in range(num_steps):
        [(tokens, targets, _)] = batches.of_rank(step, 0).micro_batches
        assert not bool((targets == IGNORED).any())
        loss = model(tokens, targets)
        loss.backward()
        if cell.max_grad_norm:
            clip_grad_norm_(parameters, cell.max_grad_norm)
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad += cell.l1 * torch.sign(parameter)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def share_of(cell: Cell, step: int) -> float:
    """The part of the learning rate that a step is taken with, written out once more."""
    if step < cell.schedule_warmup_steps:
        return (step + 1) / (cell.schedule_warmup_steps + 1)
    if cell.schedule == "constant" or cell.schedule_steps is None:
        return 1.0
    if step >= cell.schedule_steps:
        return 0.0
    left = (cell.schedule_steps - step) / (cell.schedule_steps - cell.schedule_warmup_steps)
    return left if cell.schedule == "linear" else math.sin(math.pi / 2 * left) ** 2
