"""The launches of a suite: in which order, which are still missing, and what became of each."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.errors import RecordError
from bench.launch.attempt import attempt
from bench.launch.engine import Engine, ThisHost
from bench.launch.hostfile import Hostfile
from bench.launch.interrupt import stop_on_signal
from bench.launch.launcher import LauncherName, free_port
from bench.launch.machine import Machine
from bench.launch.order import Task, cell_of_the_pair, in_rounds
from bench.launch.placement import Placement
from bench.launch.process import end_processes
from bench.launch.remote import is_this_host
from bench.launch.slurm import Slurm
from bench.plan.cell import Cell
from bench.plan.suite import PlannedCell, Suite
from bench.results.launch_file import LAUNCH_NAME, Launch, read_launch, record_path
from bench.results.record import SCHEMA_VERSION, LaunchKind, Record
from bench.results.store import (
    MANIFEST_NAME,
    check_manifest,
    misplaced,
    read_launch_record,
    read_record,
    record_paths,
    write_atomically,
    write_record,
)


class Progress(Protocol):
    """Who is told how a sweep goes."""

    def started(self, task: Task, index: int, total: int, eta_s: float | None) -> None: ...

    def tick(self) -> None: ...

    def plain_training(self, number: int) -> None: ...

    def ended(self, record: Record, index: int, total: int) -> None: ...


@dataclass
class Sweep:
    """What a suite comes to on a machine: the cells that can be launched here and those that can't, and the launches to make, in
    order. `engine` starts those that the hostfile puts on other hosts; without one, all of it is this host's."""

    suite: Suite
    machine: Machine
    launcher: LauncherName
    folder: Path
    hostfile: Hostfile | None = None
    engine: Engine[Launch] | None = None
    runnable: list[PlannedCell] = field(init=False)
    tasks: list[Task] = field(init=False)
    skipped: list[tuple[Cell, str]] = field(init=False)
    unmetered: list[tuple[Cell, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.skipped = []
        self.runnable = []
        for planned in self.suite.cells:
            reason = planned.skip_reason or self.machine.refusal(planned.cell) or self._too_large(planned.cell)
            if reason is None:
                self.runnable.append(planned)
            else:
                self.skipped.append((planned.cell, reason))
        self.unmetered = [
            (planned.cell, planned.cell.unmetered_because)
            for planned in self.runnable
            if planned.settings.attribution_launches and planned.cell.unmetered_because is not None
        ]
        twin = cell_of_the_pair(self.runnable, self.machine) if self.suite.aa_pair else None
        self.tasks = in_rounds(self.runnable, twin, self.suite.seed)

    @property
    def by_need(self) -> list[PlannedCell]:
        """The cells to which launches are added by need, after the planned ones (`launches: auto`)."""
        return [planned for planned in self.runnable if planned.settings.auto]

    def _too_large(self, cell: Cell) -> str | None:
        slots = self.machine.num_slots_for(cell)
        if cell.world_size > slots:
            return f"needs {cell.world_size} slots, there are {slots} ({self.machine.description})"
        if self.hostfile is not None and self.hostfile.place(cell.world_size, cell.placement) is None:
            return f"{self.hostfile.path} has no even placement for {cell.world_size} ranks (equally many on each host)"
        return None

    def placement(self, cell: Cell) -> Placement | None:
        """The hosts of a cell's launches; None where they are on this host alone and nobody has to be asked."""
        found = self.hostfile.place(cell.world_size, cell.placement) if self.hostfile is not None else None
        if found is None or self.engine is None:
            return None
        alone = found.num_nodes == 1 and is_this_host(found.first) and self.launcher != "slurm"
        return None if alone else found

    def _engine(self, launch: Launch) -> Engine[Launch]:
        return self.engine if launch.hosts and self.engine is not None else ThisHost(self.launcher, self.machine)

    def prepare_folder(self) -> None:
        """Check that the folder is this suite's and this kind of machine's, or make it so. Raises RecordError."""
        manifest = check_manifest(self.folder)
        if manifest is not None:
            for key, mine in (("suite", self.suite.name), ("device_type", self.machine.device_type)):
                if manifest.get(key) != mine:
                    raise RecordError(
                        f"{self.folder} holds results of {key} {manifest.get(key)!r}, this run is {mine!r}",
                        hint="give another --output folder",
                    )
        elif record_paths(self.folder):
            raise RecordError(
                f"{self.folder} holds records but no {MANIFEST_NAME}", hint="give another --output folder"
            )
        content = {
            "schema_version": SCHEMA_VERSION,
            "suite": self.suite.name,
            "description": self.suite.description,
            "device_type": self.machine.device_type,
            "seed": self.suite.seed,
        }
        if manifest != content:
            write_atomically(self.folder / MANIFEST_NAME, json.dumps(content, indent=1) + "\n")

    def missing(self) -> list[Task]:
        """The tasks that no whole record covers yet. Raises RecordError, naming the file, for a record that is broken.

        Any outcome but `skipped` covers a task: out of memory is a result. `forget_failed` makes them missing again.
        """
        done: Counter[tuple[str, LaunchKind, bool]] = Counter()
        for path in record_paths(self.folder):
            record = read_record(path)
            if record.outcome != "skipped" and misplaced(path, record) is None:
                done[record.cell.id, record.kind, record.twin] += 1
        missing = []
        for task in self.tasks:
            if done[task.cell.id, task.kind, task.twin] > 0:
                done[task.cell.id, task.kind, task.twin] -= 1
            else:
                missing.append(task)
        return missing

    def forget_failed(self) -> None:
        """Take the records of launches that did not end well out of the folder, logs too, to measure them again."""
        for path in record_paths(self.folder):
            if read_launch_record(path).outcome not in ("ok", "skipped"):
                shutil.rmtree(path.parent)

    def clear_leftovers(self) -> list[str]:
        """Remove launch folders without a record: a run was killed in the middle of them, and nothing reads them.

        Its ranks may still be at it, on every host, because nobody was left to end them. Returns where they could not be ended.
        """
        troubles: list[str] = []
        for path in self.folder.glob(f"*/*/{LAUNCH_NAME}"):
            if record_path(path.parent).exists():
                # A host that was away then may still run ranks of it.
                if read_record(record_path(path.parent)).outcome == "unreachable":
                    troubles += self._end_elsewhere(path)
                continue
            end_processes(path.parent.name)
            troubles += self._end_elsewhere(path)
            if not record_path(path.parent).exists():
                shutil.rmtree(path.parent)
        return troubles

    def _end_elsewhere(self, launch_file: Path) -> list[str]:
        if self.engine is None:
            return []
        try:
            launch = read_launch(launch_file)
        except RecordError:
            return []  # another version's: its ranks end at their time-out
        return list(self.engine.leftover(launch, launch_file.parent).values()) if launch.hosts else []

    def run(self, progress: Progress) -> list[Record]:
        """Make what is missing, skipped cells included, one launch after the other. Returns the new records.

        Raises Interrupted when the user stops it: what is whole stays, and the same command goes on from there.
        """
        skipped = [self._note_skipped(cell, reason) for cell, reason in self.skipped]
        skipped += [self._note_skipped(cell, reason, "attribution") for cell, reason in self.unmetered]
        return skipped + self.launch(self.missing(), progress)

    def launch(self, tasks: list[Task], progress: Progress) -> list[Record]:
        """Make these launches, one after the other, whatever the folder holds. Returns their records; raises as `run`."""
        records: list[Record] = []
        with stop_on_signal():
            if self.engine is not None:
                self.engine.open()
            spent_s: list[float] = []
            for index, task in enumerate(tasks):
                eta_s = sum(spent_s) / len(spent_s) * (len(tasks) - index) if spent_s else None
                progress.started(task, index, len(tasks), eta_s)
                started = time.monotonic()
                record = self._launch(task, progress.tick)
                spent_s.append(time.monotonic() - started)
                progress.ended(record, index, len(tasks))
                records.append(record)
        return records

    def close(self) -> None:
        """Leave the other hosts: nothing of ours runs on them, and they keep nothing that is kept here."""
        if self.engine is not None:
            self.engine.close()

    def command(self, task: Task) -> list[str]:
        """The launch command of a task, as --dry-run prints it: the launch's own id and port come at its start."""
        launch = self._launch_of(task, "LAUNCH_ID", 0)
        return self._engine(launch).command(launch, self.folder / task.cell.id / "LAUNCH_ID")

    def script(self, task: Task) -> str | None:
        """The job script of a task; None where it is no Slurm job."""
        launch = self._launch_of(task, "LAUNCH_ID", 0)
        folder = self.folder / task.cell.id / "LAUNCH_ID"
        return self.engine.script(launch, folder) if isinstance(self.engine, Slurm) else None

    def _note_skipped(self, cell: Cell, reason: str, kind: LaunchKind = "timing") -> Record:
        launch_id = "skipped" if kind == "timing" else f"skipped-{kind}"
        record = Record(
            launch_id=launch_id,
            kind=kind,
            suite=self.suite.name,
            cell=cell,
            started_at=_now(),
            launcher=self.launcher,
            outcome="skipped",
            reason=reason,
        )
        write_record(record_path(self.folder / cell.id / launch_id), record)
        return record

    def _launch_of(self, task: Task, launch_id: str, port: int) -> Launch:
        placement = self.placement(task.cell)
        return Launch(
            launch_id=launch_id,
            kind=task.kind,
            cell=task.cell,
            suite=self.suite.name,
            sequence=task.sequence,
            twin=task.twin,
            started_at=_now(),
            started_monotonic_s=time.monotonic(),
            launcher=self.launcher,
            hostname=socket.gethostname(),
            affinity=sorted(os.sched_getaffinity(0)),
            timeout_s=task.settings.timeout_s,
            seed=self.suite.seed + task.sequence,
            injections=list(task.injections),
            hosts={} if placement is None else {host: list(slots) for host, slots in placement.slots.items()},
            port=port,
            keeping=task.keeping,
        )

    def _launch(self, task: Task, tick: Callable[[], None]) -> Record:
        launch_id = uuid.uuid4().hex[:12]
        # Absolute: a launcher may start its ranks in another folder.
        folder = self.folder.resolve() / task.cell.id / launch_id
        # A cell skipped on an earlier run (fewer slots then) is measured now.
        shutil.rmtree(folder.parent / "skipped", ignore_errors=True)
        launch = self._launch_of(task, launch_id, free_port())
        engine = self._engine(launch)
        if (unusable := engine.unusable(launch)) is not None:
            record = launch.record(outcome=unusable.outcome, reason=unusable.reason)
            write_record(record_path(folder), record)
            return record
        record = attempt(launch, folder, engine, tick)
        write_record(record_path(folder), record)
        return record


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
