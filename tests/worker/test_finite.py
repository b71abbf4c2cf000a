"""Training that comes to nothing is ended at its first step, on all ranks, with the rank and the step that it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.plan.cell import Cell
from bench.results.launch_file import read_failures
from tests import forked
from tests.worker.curves import cell

BROKEN_STEP = 2


def guarded(cells: list[Cell], what: str, largest_norm: float) -> list[str]:
    """What ends each cell's training on this rank; "" where nothing does."""
    import torch.distributed as dist

    from bench.worker.finite import Guard, NotFinite
    from bench.worker.trainer import Trainer

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    control = dist.new_group(backend="gloo")
    ends = []
    for one in cells:
        trainer = Trainer(one, torch.device("cpu"), control)
        guard = Guard(one, control, largest_norm)
        if dist.get_rank() == 1 and what == "gradient":
            spoil_gradient(trainer)
        if dist.get_rank() == 1 and what == "loss":
            trainer.model.register_forward_hook(
                lambda _, __, loss, trainer=trainer: loss * (float("nan") if len(trainer.results) == BROKEN_STEP else 1)
            )
        end = ""
        with guard.watching():
            for step in range(4):
                trainer.step()
                try:
                    norm = guard.check(step, trainer.results[-1])
                    assert norm is not None and 0 < norm < 10
                except NotFinite as error:
                    assert error.step == step
                    end = str(error)
                    break
        ends.append(end)
    dist.barrier(control)
    dist.destroy_process_group()
    return ends


def spoil_gradient(trainer: object) -> None:
    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (float("inf") if len(trainer.results) == BROKEN_STEP else 1)  # type: ignore[attr-defined]

    next(trainer.model.parameters()).register_hook(spoiled)  # type: ignore[attr-defined]


CELLS = [cell(strategy=name, world_size=2, micro_batch_size=2) for name in ("ddp", "zero1", "zero2", "zero3")]


@pytest.mark.slow
def test_a_loss_or_gradient_that_is_no_number_ends_training_on_all_ranks(tmp_path: Path) -> None:
    for rank in forked.run(2, guarded, CELLS, "loss", float("inf"), folder=tmp_path / "loss"):
        assert rank == ["loss is nan in step 2 of rank 1"] * len(CELLS)
    # Gradients are summed up before anyone can look: the first rank that sees it says so.
    for rank in forked.run(2, guarded, CELLS, "gradient", float("inf"), folder=tmp_path / "gradient"):
        assert rank == ["gradient is not finite in step 2 of rank 0"] * len(CELLS)


def test_sound_training_goes_on_and_a_limit_ends_it(tmp_path: Path) -> None:
    sound = forked.run(2, guarded, CELLS[:1], "nothing", float("inf"), folder=tmp_path / "sound")
    assert sound == [[""], [""]]
    for [end] in forked.run(2, guarded, CELLS[:1], "nothing", 0.1, folder=tmp_path / "limit"):
        assert end.startswith("gradient norm is ") and end.endswith("above 0.1 in step 0 of rank 0")


def test_its_outcome_is_invalid(tmp_path: Path) -> None:
    from bench.worker.finite import NotFinite
    from bench.worker.rank_process import leave_failure

    leave_failure(tmp_path, 1, NotFinite(7, 1, "loss is nan"))
    [failure] = read_failures(tmp_path)
    assert (failure.outcome, failure.rank) == ("invalid", 1)
    assert "loss is nan in step 7 of rank 1" in failure.message
