"""Plain training of a suite's global batches in one process: no DDP, no DeepSpeed, no process group.

    python -m bench.worker.reference results/quick

Trains what FOLDER/reference/cells.json lists, and writes the losses of the first steps beside it: what the gates hold every
strategy's losses to.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import Tensor

from bench.plan.cell import Cell
from bench.results.reference import CELLS_NAME, FOLDER_NAME, Reference, reference_path, write_reference
from bench.worker.data.micro_batch import MicroBatch, mean_loss
from bench.worker.data.of_cell import batches_of_cell
from bench.worker.device import uses_gpu
from bench.worker.masks import draw_masks_of
from bench.worker.meter.memory import ran_out_of_memory
from bench.worker.meter.witness import optimizer_settings
from bench.worker.strategies.base import build_cells_model
from bench.worker.strategies.optimizer import MasterOptimizer

NUM_STEPS = 5
MIN_STEPS = 2
"""The loss of the first step says nothing of gradients and updates."""
BUDGET_S = 60.0
"""For one global batch: fewer steps are taken where NUM_STEPS would take longer."""


class TooSlow(Exception):
    """MIN_STEPS would take longer than the budget."""


def train(cell: Cell, device: torch.device, num_steps: int = NUM_STEPS, budget_s: float = BUDGET_S) -> Reference:
    """Train one model on the cell's global batches, a micro-batch of the cell at a time, in its precision.

    Raises TooSlow, after the first rank's share at the earliest, if MIN_STEPS steps would take longer than `budget_s`.
    """
    started_s = time.monotonic()
    # Losses don't depend on how long a layer sleeps.
    awake = {"forward_s": 0.0, "backward_s": 0.0} if cell.paced else {}
    model = build_cells_model(cell.model_copy(update={"model_options": {**cell.model_options, **awake}}), device)
    optimizer = MasterOptimizer(cell, list(model.parameters()), device)
    batches, corpus = batches_of_cell(cell, model)
    # In half precision each rank's share is summed up as on its rank, where fp16 may overflow, then averaged in float32.
    share = 1 / cell.num_workers
    num_summed = 1 if optimizer.masters else cell.num_workers
    losses: list[float] = []
    num_tokens: list[int] = []
    skipped: list[int] = []
    first_step_s = time.monotonic()
    while len(losses) < num_steps:
        parts: list[Tensor] = []
        trained: list[MicroBatch] = []
        num_tokens.append(0)
        for rank in range(cell.num_workers):
            batch = batches.of_rank(len(losses), rank)
            num_tokens[-1] += batch.num_tokens
            draw_masks_of(cell, len(losses), rank)
            for tokens, targets, divisor in batch.micro_batches:
                loss = model(tokens.to(device), targets.to(device))
                optimizer.backward(loss / (divisor * num_summed))
                parts.append(loss.detach())
            trained += batch.micro_batches
            optimizer.take(share)
            if rank == 0 and not losses:
                parts[-1].item()
                _check_pace(MIN_STEPS * cell.num_workers * (time.monotonic() - first_step_s), budget_s)
        if optimizer.step():
            skipped.append(len(losses))
        losses.append(float(mean_loss(parts, trained)))
        spent_s = time.monotonic() - first_step_s
        if len(losses) >= MIN_STEPS and spent_s * (1 + 1 / len(losses)) > budget_s:
            break
    return Reference(
        cell=cell,
        outcome="ok",
        losses=losses,
        skipped=skipped,
        tokens=num_tokens,
        corpus_sha256=corpus.sha256,
        optimizer=optimizer_settings(optimizer.optimizer, optimizer.optimizer.param_groups[0]),
        device=str(device),
        torch=torch.__version__,
        wall_s=time.monotonic() - started_s,
    )


def _check_pace(expected_s: float, budget_s: float) -> None:
    if expected_s > budget_s:
        raise TooSlow(f"{MIN_STEPS} steps would take about {expected_s:.0f} s, at most {budget_s:g} s are spent on it")


def reference_of(cell: Cell, device: torch.device) -> Reference:
    """What `train` came to, or how it failed."""
    try:
        return train(cell, device)
    except TooSlow as error:
        return Reference(cell=cell, outcome="timeout", reason=str(error))
    except Exception as error:
        traceback.print_exc()
        return Reference(
            cell=cell,
            outcome="oom" if ran_out_of_memory(error) else "crashed",
            reason=f"{type(error).__name__}: {error}"[:2000],
        )


def main() -> None:
    """Make every reference that is listed and not there yet, smallest first."""
    folder = Path(sys.argv[1])
    cuda = uses_gpu()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    for fields in json.loads((folder / FOLDER_NAME / CELLS_NAME).read_text(encoding="utf-8")):
        cell = Cell(**fields)
        if not reference_path(folder, cell).exists():
            if not cuda:
                torch.set_num_threads(cell.threads_per_rank or 1)
            write_reference(folder, reference_of(cell, device))
            if cuda:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
