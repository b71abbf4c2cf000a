"""Training that goes on from a checkpoint is the training that was never stopped, to the last bit; no kill leaves half of one."""

from __future__ import annotations

import datetime
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.plan.cell import Cell
from bench.results.checkpoint import FOLDER_NAME, checkpoint_path, checkpoints, read_checkpoint
from bench.results.launch_file import Launch, write_launch
from bench.results.progress_log import LOG_NAME, ProgressLog
from bench.results.record import Record
from bench.results.training import Keeping
from bench.worker.checkpoint import load_model
from bench.worker.data.batches import GlobalBatches
from bench.worker.data.held_out import held_out
from bench.worker.evaluation import score
from bench.worker.strategies.base import build_cells_model
from bench.worker.strategies.optimizer import MasterOptimizer
from tests import forked

CPU = torch.device("cpu")
NUM_STEPS, KEPT_AT = 9, 5

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
UNEQUAL = {"batching": "padded", "length_spread": 0.6}


def cell(strategy: str, **changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "model": "gpt-nano",
        "model_options": SIZES,
        "seq_len": 16,
        "strategy": strategy,
        "world_size": 2,
        "micro_batch_size": 4,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "schedule_steps": NUM_STEPS,
        "max_steps": NUM_STEPS,
        "evaluate_every": 4,
        "evaluation_sequences": 10,
    }
    return Cell(**{**fields, **changes})


def keeping(folder: Path, **changes: Any) -> Keeping:
    return Keeping(folder=str(folder), **{"checkpoint_every": KEPT_AT, **changes})


def losses(record: Record) -> list[list[float]]:
    return [rank.losses for rank in record.ranks]


def evaluations(record: Record) -> list[dict[str, Any]]:
    assert record.training is not None
    return [one.model_dump(exclude={"wall_s"}) for one in record.training.evaluations]


def plainly_trained(of: Cell) -> torch.nn.Module:
    """One process on the whole global batch: no DDP, no DeepSpeed."""
    torch.set_num_threads(1)
    model = build_cells_model(of, CPU)
    optimizer = MasterOptimizer(of, list(model.parameters()), CPU)
    whole = of.model_copy(update={"micro_batch_size": of.global_batch_size, "grad_accum_steps": 1, "world_size": 1})
    batches = GlobalBatches.of_cell(whole, model.vocab_size)
    for step in range(NUM_STEPS):
        [(tokens, targets)] = batches.micro_batches(step, 0)
        optimizer.backward(model(tokens, targets))
        optimizer.take()
        optimizer.step()
    return model


# The checkpoint is inside a period of three steps, and the end is at the end of one. Three ranks and more add up gradients in an
# order that depends on DDP's buckets.
RESUMED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ddp", {}, {}),
    ("ddp", {}, {"world_size": 3, "max_grad_norm": 0.5, "model_options": {**SIZES, "dropout": 0.1}}),
    ("zero0", {}, {}),
    ("zero1", {}, {}),
    ("zero2", {}, {}),
    ("zero3", {}, {}),
    ("zero2_offload", {}, {}),
    ("zero3_offload", {}, {}),
    ("fsdp", {}, {"world_size": 3, "max_grad_norm": 0.5}),
    (
        "fsdp",
        {"reshard_after_forward": False},
        {"precision": "bf16", "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.3},
    ),
    ("ddp_fp16", {}, {"world_size": 3}),
    ("ddp_bf16", {}, {}),
    ("ddp_powersgd", {"rank": 2}, {"world_size": 3}),
    ("ddp_powersgd", {"warm_start": False}, {}),
    ("local_sgd", {"every_steps": 3}, UNEQUAL),
    ("local_sgd", {"every_steps": 2, "start_step": 7}, {"world_size": 3}),
    ("diloco", {"every_steps": 3}, {"world_size": 3}),
    ("diloco", {"every_steps": 3, "outer_dtype": "int8"}, {**UNEQUAL, "precision": "bf16"}),
    ("hierarchical", {"every_steps": 3, "ranks_per_node": 2}, {"world_size": 4}),
]


@pytest.mark.parametrize(
    ("strategy", "options", "fields"),
    [
        pytest.param(*case, id=f"{case[0]}-{place}", marks=[pytest.mark.slow] * (place > 0))
        for place, case in enumerate(RESUMED)
    ],
)
def test_resumed_training_is_the_same_to_the_last_bit(
    strategy: str, options: dict[str, Any], fields: dict[str, Any], tmp_path: Path
) -> None:
    asked = cell(strategy, strategy_options=options, grad_accum_steps=2, micro_batch_size=2, **fields)
    whole = forked.train(asked, folder=tmp_path / "whole", keeping=keeping(tmp_path / "whole"))
    kept = checkpoints(tmp_path / "whole" / FOLDER_NAME)
    assert [path.name for path in kept] == ["step_00000005", "step_00000009"]
    assert whole.outcome == "ok" and whole.training is not None and whole.training.stopped == "max_steps"
    assert [one["step"] for one in evaluations(whole)] == [0, 4, 8, 9]

    resumed = forked.train(
        asked, folder=tmp_path / "resumed", keeping=keeping(tmp_path / "resumed", resume_from=str(kept[0]))
    )
    assert resumed.training is not None and resumed.training.first_step == KEPT_AT
    assert losses(resumed) == [own[KEPT_AT:] for own in losses(whole)]
    assert evaluations(resumed) == evaluations(whole)
    assert whole.ranks[0].losses[0] - whole.ranks[0].losses[-1] > 0.03

    # What was kept is the model that was evaluated, whoever trained it; one process's where the work is equal.
    model, config, _ = load_model(kept[-1], CPU)
    found = score(model, model, held_out(asked, model.vocab_size, "validation", 10).micro_batches, CPU)
    assert found.loss == pytest.approx(config.evaluations[-1].loss, abs=1e-6 if asked.precision == "fp32" else 1e-3)
    if asked.equal_work and asked.precision == "fp32" and not asked.dropout:
        tokens = torch.arange(asked.seq_len)[None] * 3 % 64
        expected = plainly_trained(asked).logits(tokens)
        torch.testing.assert_close(model.logits(tokens), expected, atol=2e-4, rtol=0)


def test_training_ends_at_its_target_or_when_it_gets_no_better(tmp_path: Path) -> None:
    asked = cell("ddp", max_steps=60, schedule="constant", schedule_steps=None, evaluate_every=5, target_loss=3.0)
    reached = forked.train(asked, folder=tmp_path / "target")
    assert reached.training is not None and reached.training.stopped == "target"
    *before, last = evaluations(reached)
    assert last["loss"] <= 3.0 < before[-1]["loss"] and last["tokens"] == last["step"] * asked.tokens_per_step
    assert {len(rank.step_times_s) for rank in reached.ranks} == {last["step"]}
    # The slowest rank's seconds, and none of the evaluations'.
    wall_s = reached.training.evaluations[-1].wall_s
    slowest = max(sum(rank.step_times_s) for rank in reached.ranks)
    assert slowest * (1 - 1e-9) <= wall_s <= sum(reached.slowest_step_times_s()) * (1 + 1e-9)

    stuck = forked.train(
        asked.model_copy(update={"learning_rate": 1e-12, "patience": 2, "target_loss": None}), folder=tmp_path / "stuck"
    )
    assert stuck.training is not None and stuck.training.stopped == "patience"
    assert evaluations(stuck)[-1]["step"] <= 20


def killed_at(moment: str, launch_file: Path) -> None:
    """The rank program, whose rank 0 is killed in the middle of its second checkpoint."""
    from bench.worker import checkpoint

    real, calls = getattr(checkpoint, moment), []

    def kill(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == 2 and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(checkpoint, moment, kill)
    forked._rank_program(launch_file)


@pytest.mark.parametrize(
    "moment", ["_sync", *(pytest.param(name, marks=pytest.mark.slow) for name in ("save_file", "_remove"))]
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before_it(moment: str, tmp_path: Path) -> None:
    asked, output = cell("ddp", max_steps=6), tmp_path / "output"
    launch = Launch(
        launch_id="killed",
        cell=asked,
        started_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        launcher="forked",
        keeping=keeping(output, checkpoint_every=2),
    )
    output.mkdir()
    path = write_launch(tmp_path / "launch", launch)
    with pytest.raises(forked.RankFailed, match="status -9"):
        forked.run(2, killed_at, moment, path, folder=tmp_path / "launch", timeout_s=60)
    [kept] = checkpoints(output / FOLDER_NAME)
    assert kept == checkpoint_path(output / FOLDER_NAME, 2) and read_checkpoint(kept).step == 2
    load_model(kept, CPU)
    # In the middle of it something was there that is no checkpoint; going on takes it away.
    assert any(entry.name.startswith(".step_") for entry in (output / FOLDER_NAME).iterdir())
    going_on = keeping(output, checkpoint_every=4, resume_from=str(kept))
    resumed = forked.train(asked, folder=tmp_path / "again", keeping=going_on)
    assert resumed.training is not None and resumed.training.first_step == 2
    assert [entry.name for entry in sorted((output / FOLDER_NAME).iterdir())] == ["step_00000004", "step_00000006"]
    steps = [line["step"] for line in ProgressLog(output / LOG_NAME).new() if line["kind"] == "checkpoint"]
    assert steps == [2, 4, 6]
