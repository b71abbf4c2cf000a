"""What the GPU check finds wrong, from records as launches write them; the launches themselves need a GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bench.gpu_check import TOO_LARGE, cells, judge, planned, table
from bench.launch.machine import Machine
from bench.plan.cell import Cell
from bench.results.metered import LedgerLine
from bench.results.record import Record
from tests import synthetic
from tests.attributed import attributed
from tests.command_line import ROOT, command_environment

H200 = Machine("cuda", 1, ("NVIDIA H200",), (9, 0))
V100 = Machine("cuda", 8, ("Tesla V100-SXM2-32GB",) * 8, (7, 0))


def test_cells_cover_strategies_precisions_and_checkpointing() -> None:
    assert len(cells(H200)) == 8 * 2 * 2 + 1
    volta = cells(V100)
    assert len(volta) == 8 * 2 + 1
    assert {cell.precision for cell in volta} == {"fp16"} and {cell.world_size for cell in volta} == {8}


def good(cell: Cell) -> Record:
    """A launch as it should be: 40 % MFU, both clocks agree, half the memory when checkpointed."""
    if cell.micro_batch_size == TOO_LARGE:
        return synthetic.failure(cell, "oom", "rank 0: OutOfMemoryError", [])
    record = synthetic.launch(cell)
    assert record.environment is not None and record.work is not None
    step_s = record.work.flops_per_token * cell.tokens_per_step / cell.world_size / (0.4 * 989.4e12)
    rank = record.ranks[0].model_copy(
        update={
            "step_times_s": [step_s] * cell.steps,
            "peak_memory_bytes": 2**30 if cell.activation_checkpointing else 2**31,
            "phases": record.ranks[0].phases.model_copy(update={"window_s": step_s * cell.steps * 1.01}),
        }
    )
    environment = record.environment.model_copy(update={"device_type": "cuda", "device_names": ["NVIDIA H200"]})
    return record.model_copy(update={"ranks": [rank], "environment": environment})


def wrong_with(change: Any) -> dict[str, list[str]]:
    records = [good(cell) for cell in cells(H200)]
    records = [change(record) if record.cell == cells(H200)[1] else record for record in records]
    return {f"{i}": row.wrong for i, row in enumerate(judge(records)) if row.wrong}


def change_rank(record: Record, **values: Any) -> Record:
    return record.model_copy(update={"ranks": [record.ranks[0].model_copy(update=values)]})


def test_good_launches_pass() -> None:
    assert wrong_with(lambda record: record) == {}
    rows = judge([good(cell) for cell in cells(H200)])
    assert rows[0].mfu == pytest.approx(0.4)
    assert table(rows).row_count == 33


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: synthetic.failure(r.cell, "crashed", "why", []), "outcome crashed: why"),
        (lambda r: change_rank(r, losses=[float("nan")] * len(r.ranks[0].losses)), "not finite"),
        (lambda r: change_rank(r, losses=[2 * loss for loss in r.ranks[0].losses]), "leave DDP's"),
        (lambda r: change_rank(r, step_times_s=[2 * t for t in r.ranks[0].step_times_s]), "of the host's clock"),
        (lambda r: change_rank(r, step_times_s=[t / 9 for t in r.ranks[0].step_times_s]), "can't be"),
        (
            lambda r: r.model_copy(update={"work": r.work.model_copy(update={"num_skipped_steps": 2})}),
            "2 optimizer steps",
        ),
    ],
)
def test_each_thing_that_is_wrong_is_said(change: Any, words: str) -> None:
    [wrong] = wrong_with(change).values()
    assert any(words in reason for reason in wrong), wrong


def test_checkpointing_that_saves_nothing_and_a_model_that_fits_are_wrong() -> None:
    records = [good(cell) for cell in cells(H200)]
    fat = [
        change_rank(r, peak_memory_bytes=2**31) if r.cell.activation_checkpointing and r.ranks else r for r in records
    ]
    assert sum("checkpointing saves no memory" in row.wrong for row in judge(fat)) == 16
    fits = [synthetic.launch(r.cell) if r.cell.micro_batch_size == TOO_LARGE else r for r in records]
    assert "expected oom" in judge(fits)[-1].wrong[0]


def test_metered_launches_are_held_to_their_arms_and_ledger() -> None:
    metered = [plan.cell for plan in planned(H200) if plan.settings.attribution_launches]
    names = ["ddp", "zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp"]
    assert [cell.strategy for cell in metered] == names
    cell = metered[0]
    step_s = good(cell).ranks[0].step_times_s[0]
    line = LedgerLine(operation="all_reduce", group_size=2, payload_bytes=8, count=1, steps=[0])

    def with_arms(useful_s: float, **rank: Any) -> list[str]:
        launch = attributed(cell, [useful_s], step_s, step_s, ledger=[line])
        record = good(cell)
        own = launch.ranks[0].attribution
        assert own is not None
        changed = change_rank(record, attribution=own.model_copy(update=rank))
        metered = changed.model_copy(update={"kind": "attribution", "attribution": launch.attribution})
        return judge([record, metered])[1].wrong

    assert with_arms(0.9 * step_s) == []
    assert any("without communication takes" in reason for reason in with_arms(2 * step_s))
    assert any("not finite" in reason for reason in with_arms(0.9 * step_s, finite=False))


def test_without_a_gpu_it_says_so_and_exits_0() -> None:
    environment = {**command_environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["make", "gpu-check", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={key: value for key, value in environment.items() if key not in ("MAKEFLAGS", "MAKELEVEL")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing checked" in done.stdout and "no GPU" in done.stdout
