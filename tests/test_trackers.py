"""Trackers of experiments get every figure; one that is not installed is an error that says how to install it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import TrackerError
from bench.live import LiveTraining
from bench.plan.cell import Cell
from bench.results.progress_log import ProgressLog
from bench.trackers import tracked

CELL = Cell(model="gpt-nano", strategy="ddp", world_size=2, max_steps=10)
_START = {"entropy_floor_nats": 1.25, "tokens_per_byte": None, "resumable": False, "target_loss": None}
LINES = [
    {"kind": "start", "step": 0, "max_steps": 10, **_START},
    {"kind": "evaluation", "step": 0, "tokens": 0, "wall_s": 0.0, "train_loss": None, "loss": 8.0, "accuracy": 0.0},
    {"kind": "train", "step": 5, "tokens": 5000, "wall_s": 1.0, "loss": 6.5},
    {
        "kind": "evaluation",
        "step": 10,
        "tokens": 10000,
        "wall_s": 65.0,
        "train_loss": 6.0,
        "loss": 2.5,
        "accuracy": 0.25,
    },
]


def written(folder: Path) -> ProgressLog:
    path = folder / "progress.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return ProgressLog(path)


def test_a_training_is_told_line_by_line(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    with LiveTraining(console, written(tmp_path)) as live:
        live.tick()
    unresumable, first, last = console.export_text().splitlines()
    assert "can't be resumed" in unresumable
    assert "validation 8.0000, 540.0 % above the floor of 1.2500" in first
    assert last.startswith("step     10 of 10    1:05  10.0 k tokens  loss 6.0000, validation 2.5000, 100.0 % above")
    assert last.endswith("accuracy 25.0 %")


def told(folder: Path, name: str) -> None:
    with (
        tracked([name], folder, "mine", CELL) as trackers,
        LiveTraining(Console(quiet=True), written(folder), trackers) as live,
    ):
        live.tick()


def test_tensorboard_has_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    told(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {
        (tag, event.step): float(tensor_util.make_ndarray(event.tensor_proto))
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
    }
    assert found["loss/validation", 10] == pytest.approx(2.5) and found["loss/train", 5] == pytest.approx(6.5)
    assert found["tokens", 5] == 5000


def test_mlflow_has_every_figure_and_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told(tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("mine")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["strategy"] == "ddp"
    assert run.data.metrics["loss/validation"] == 2.5
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss/validation")] == [8.0, 2.5]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_what_is_not_installed_is_named_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorboard", "tensorboard.summary", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        TrackerError, match=rf"--log {name}: it is not installed .*; pip install 'scalebench\[{name}\]'"
    ):
        told(tmp_path, name)
    with pytest.raises(TrackerError, match="--log: found 'mlflo'; did you mean 'mlflow'"):
        told(tmp_path, "mlflo")
