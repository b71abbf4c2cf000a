"""Plain training: the same for every split of a global batch, whatever the layers sleep; and typed where it can't be had.

tests/worker/test_equal_losses.py holds it to a training loop of its own.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bench.launch.reference import one_of_each
from bench.plan.cell import Cell
from bench.results.reference import Reference, read_references, reference_path, write_reference
from bench.worker.data.batches import GlobalBatches
from bench.worker.reference import reference_of, train
from bench.worker.strategies.base import build_cells_model
from tests import synthetic
from tests.command_line import command, command_environment

CPU = torch.device("cpu")
TINY = {"hidden_size": 64, "num_layers": 2, "vocab_size": 512}


def cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "model": "gpt-nano",
        "model_options": TINY,
        "strategy": "ddp",
        "world_size": 1,
        "seq_len": 32,
    }
    return Cell(**{**fields, "learning_rate": 1e-3, **changes})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 2e-3), ("fp16", 2e-3)])
def test_any_split_of_a_global_batch_gives_the_same_losses(precision: str, tolerance: float) -> None:
    whole = train(cell(micro_batch_size=8, precision=precision), CPU)
    assert whole.outcome == "ok" and len(whole.losses) == 5 and whole.skipped == []
    assert whole.losses[0] - whole.losses[-1] > 0.01
    for split in ({"world_size": 4, "micro_batch_size": 2}, {"grad_accum_steps": 4, "world_size": 2}):
        other = train(cell(precision=precision, **split), CPU)
        assert other.losses == pytest.approx(whole.losses, rel=tolerance)


def test_losses_do_not_depend_on_how_long_layers_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    paced = cell(model="paced-nano", model_options={"forward_s": 0.02, "backward_s": 0.02}, seq_len=256)
    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", slept.append)
        first = train(paced, CPU).losses[0]
    # Five steps of six layers, on their way forward and back.
    assert slept == [0.0] * 60
    model = build_cells_model(paced, CPU)
    [(tokens, targets)] = GlobalBatches(model.vocab_size, 256, 1, 1, 1, 0).micro_batches(0, 0)
    assert float(model(tokens, targets).detach()) == first


def test_what_takes_too_long_is_given_up_at_once_or_cut_short() -> None:
    found = train(cell(micro_batch_size=2), CPU, num_steps=500, budget_s=0.5)
    assert found.outcome == "ok" and 2 <= len(found.losses) < 500
    assert found.wall_s is not None and found.wall_s < 5
    long = cell(model_options={}, seq_len=256, micro_batch_size=4, world_size=4096)
    given_up = reference_of(long, CPU)
    assert given_up.outcome == "timeout" and "2 steps would take about" in str(given_up.reason)


def test_what_cannot_be_built_is_typed() -> None:
    crashed = reference_of(cell(model="hf:gpt5-of-my-dreams", model_options={}), CPU)
    assert crashed.outcome == "crashed" and "ValueError" in str(crashed.reason) and crashed.losses == []


def test_one_cell_stands_for_all_of_equal_work(tmp_path: Path) -> None:
    equal = [
        cell(micro_batch_size=8),
        cell(strategy="zero1", world_size=2, micro_batch_size=4),
        cell(grad_accum_steps=8),
    ]
    other = [cell(micro_batch_size=4), cell(micro_batch_size=8, seed=1), cell(micro_batch_size=8, precision="bf16")]
    chosen = one_of_each([*equal, *other])
    # That with the smallest micro-batch needs least memory.
    assert len(chosen) == 4 and equal[2] in chosen
    assert len({reference_path(tmp_path, found) for found in [*equal, *other]}) == 4
    write_reference(tmp_path, Reference(cell=equal[0], outcome="ok", losses=[1.0, float("nan")]))
    [read] = read_references(tmp_path)
    assert read.cell == equal[0] and read.losses[0] == 1.0 and read.losses[1] != read.losses[1]


@pytest.mark.slow
def test_a_killed_process_costs_one_reference_and_no_more(tmp_path: Path) -> None:
    """The first of two references takes long to build and is killed at it; the other one is made all the same."""
    heavy = cell(model="gpt2-small", model_options={"num_layers": 40}, seq_len=8)
    light = cell(micro_batch_size=2)
    suite, results = tmp_path / "mine.yaml", tmp_path / "results"
    suite.write_text(
        "name: mine\naa_pair: false\ndefaults: {strategy: ddp, world_size: 1, learning_rate: 0.001}\ngrids:\n"
        "  - {model: gpt2-small, model_options: {num_layers: 40}, seq_len: 8}\n"
        f"  - {{model: gpt-nano, model_options: {TINY}, seq_len: 32, micro_batch_size: 2}}\n"
    )
    synthetic.write(results, [synthetic.launch(heavy), synthetic.launch(light)])
    (results / "suite.json").write_text('{"schema_version": 1, "suite": "mine", "device_type": "cpu"}')
    run = command("run", suite, "--output", results, "--device", "cpu", "--no-report")
    with subprocess.Popen(run, env=command_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 60
        while (worker := _reference_worker(process.pid)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert worker is not None
        worker.send_signal(signal.SIGKILL)
        process.communicate(timeout=100)
    found = {reference.cell.model: reference for reference in read_references(results)}
    assert found["gpt2-small"].outcome == "crashed" and "exit status -9" in str(found["gpt2-small"].reason)
    assert found["gpt-nano"].outcome == "ok" and len(found["gpt-nano"].losses) == 5
    # The made-up losses of that cell's launch are nothing that plain training gives.
    assert process.returncode == 1


def _reference_worker(parent: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(parent).children(recursive=True):
            if "bench.worker.reference" in child.cmdline():
                return child
    return None
