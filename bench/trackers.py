"""Trackers of experiments that a training is logged with: TensorBoard and MLflow, if they are installed."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.errors import TrackerError, nearest
from bench.plan.cell import Cell


class Tracker(Protocol):
    """Who is told figures by their names, as of an optimizer step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder`/tensorboard, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, name: str, cell: Cell) -> None:
        self._writer = _needed("tensorboard.summary", "tensorboard").Writer(str(folder / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run of the experiment `name`, with the cell's fields as parameters: at $MLFLOW_TRACKING_URI, else in `folder`/mlruns."""

    def __init__(self, folder: Path, name: str, cell: Cell) -> None:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow 3.7 and later refuse folders unless they are told that this is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").resolve().as_uri()
        self._client = _needed("mlflow", "mlflow").MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=cell.id).info.run_id
        for key, value in cell.model_dump(mode="json", exclude_defaults=True).items():
            self._client.log_param(self._run, key, value)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


TRACKERS: dict[str, type[TensorBoard] | type[MLflow]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def check_trackers(names: Sequence[str]) -> None:
    """Raise TrackerError for a name that is none."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(f"--log: found {name!r}", hint=nearest(name, TRACKERS))


@contextlib.contextmanager
def tracked(names: Sequence[str], folder: Path, name: str, cell: Cell) -> Iterator[list[Tracker]]:
    """Trackers by their names, closed at the end. Raises TrackerError for a name that is none, or one that isn't installed."""
    check_trackers(names)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(TRACKERS[tracker](folder, name, cell)))
            for tracker in dict.fromkeys(names)
        ]


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackerError(
            f"--log {extra}: it is not installed ({error})", hint=f"pip install 'scalebench[{extra}]'"
        ) from error
