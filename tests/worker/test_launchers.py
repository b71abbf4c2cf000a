"""The same rank program under torchrun, by hand under deepspeed, and alone; with transformers' models and in bfloat16."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.launch.launcher import free_port
from bench.results.record import Record
from bench.results.store import read_records
from tests.command_line import ROOT, Scalebench, command_environment

pytestmark = pytest.mark.slow

TORCHRUN = """
aa_pair: false
defaults: {world_size: 2, micro_batch_size: 2, seq_len: 32, steps: 3, max_warmup_steps: 3, timeout_s: 200}
grids:
  - model: hf:gpt2
    model_options: {n_layer: 2, n_embd: 64, n_head: 2, vocab_size: 512, n_positions: 64}
    strategy: [ddp, zero3]
  - model: gpt-nano
    precision: bf16
    strategy: [ddp, zero1, zero2]
"""


def test_torchrun_launches_do_equal_work(tmp_path: Path, scalebench: Scalebench) -> None:
    suite, results = tmp_path / "torchrun.yaml", tmp_path / "results"
    suite.write_text(TORCHRUN)
    done = scalebench("run", suite, "--output", results, "--device", "cpu", "--launcher", "torchrun", "--no-report")
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(results)
    assert len(records) == 5
    for record in records:
        assert record.launcher == "torchrun" and "torchrun" in record.command[0]
        ddp = next(r for r in records if r.cell.model == record.cell.model and r.cell.strategy == "ddp")
        tolerance = 1e-4 if record.cell.precision == "fp32" else 2e-2
        assert record.mean_losses() == pytest.approx(ddp.mean_losses(), rel=tolerance), record.cell.id


def started_by_hand(folder: Path, launcher: list[str], *flags: str) -> Record:
    environment = {**command_environment(), "DS_ACCELERATOR": "cpu"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        [*launcher, "bench.worker.train", "--steps", "2", "--max_warmup_steps", "3", "--output", str(folder), *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = read_records(folder)
    assert record.launcher == "by-hand" and record.outcome == "ok"
    assert str(folder) in done.stdout and "tokens/s" in done.stdout
    return record


def test_by_hand_as_deepspeed_users_do(tmp_path: Path) -> None:
    launcher = ["deepspeed", "--num_gpus", "2", "--master_port", str(free_port()), "--module"]
    flags = (
        "--model",
        "gpt-nano",
        "--deepspeed_config",
        "ds_configs/zero2.json",
        "--seq-len",
        "32",
        "--micro_batch_size",
        "3",
    )
    record = started_by_hand(tmp_path, launcher, *flags)
    assert record.cell.strategy == "zero2" and record.cell.world_size == 2
    assert record.cell.micro_batch_size == 3 and record.cell.seq_len == 32
    assert record.deepspeed_config is not None and record.deepspeed_config["train_batch_size"] == 6


def test_alone_without_a_launcher(tmp_path: Path) -> None:
    flags = ("--model", "paced-nano", "--model-options", "forward_s=0.01,backward_s=0.02,num_layers=5")
    record = started_by_hand(tmp_path, [sys.executable, "-m"], *flags)
    assert record.cell.world_size == 1 and record.cell.strategy == "ddp"
    # Five layers of 30 ms: the sleeps are the floor of a step.
    assert min(record.ranks[0].step_times_s) >= 0.150


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--model: missing"),
        (["--model", "hf:gpt2"], "--seq_len: missing"),
        (["--model", "gpt-nani"], "did you mean 'gpt-nano'"),
        (["--model", "gpt-nano", "--steps", "-1"], "--steps: found -1"),
        (["--model", "gpt-nano", "--deepspeed_config", "absent.json"], "cannot read absent.json"),
        (
            ["--model", "gpt-nano", "--strategy", "zero1", "--deepspeed_config", "ds_configs/zero2.json"],
            "write strategy zero2",
        ),
    ],
)
def test_a_wrong_flag_by_hand_is_one_line(flags: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.worker.train", *flags],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
