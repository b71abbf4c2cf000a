"""Launches are added where they are needed, and not for longer than allowed: records of known noise in place of launches, and
once real ones."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.analysis.statistics import mean
from bench.launch.machine import Machine
from bench.launch.order import Task
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.suite import AUTO_LEAST, LaunchSettings, PlannedCell, Suite
from bench.replicate import AUTO_MOST, Addition, Reached, interval_frac, replicate
from bench.results.record import Record
from bench.results.store import read_records, record_paths
from reports.units import significant
from tests import synthetic
from tests.command_line import Scalebench

WALL_S = 10.0
QUIET, NOISY = "ddp", "zero2"


class Bench:
    """A folder into which launches of planted noise are written: a step of 100 ms, and by strategy the relative standard
    deviation between launches."""

    def __init__(self, folder: Path, noise: dict[str, float], wall_s: float = WALL_S, **suite: Any) -> None:
        self.noise, self.wall_s, self.folder = noise, wall_s, folder
        self.draw = random.Random(1)
        cells = [Cell(model="gpt-nano", strategy=strategy, world_size=1, steps=3) for strategy in noise]
        settings = LaunchSettings(launches=AUTO_LEAST, auto=True)
        self.suite = Suite("mine", "", 0, tuple(PlannedCell(cell, settings) for cell in cells), **suite)
        self.added: list[Addition] = []
        self.changed: Callable[[Task, Record], Record] = lambda task, record: record

    def sweep(self) -> Sweep:
        """As the command makes it anew in each run."""
        return Sweep(self.suite, Machine("cpu", 8), "deepspeed", self.folder)

    def launch(self, task: Task) -> None:
        step_time_s = 0.1 * self.draw.gauss(1, self.noise[task.cell.strategy])
        told = {"sequence": task.sequence, "twin": task.twin, "wall_s": self.wall_s}
        synthetic.write(self.folder, [self.changed(task, synthetic.launch(task.cell, step_time_s=step_time_s, **told))])

    def add(self, addition: Addition) -> None:
        self.added.append(addition)
        self.launch(addition.task)

    def run(self, add: Callable[[Addition], object] | None = None) -> Reached:
        """What `scalebench run` does: what is missing, then what is needed."""
        sweep = self.sweep()
        for task in sweep.missing():
            self.launch(task)
        reached = replicate(sweep, add or self.add)
        assert reached is not None
        return reached

    def launches_of(self, strategy: str) -> int:
        return sum(r.cell.strategy == strategy and not r.twin for r in read_records(self.folder))


def test_the_noisier_cell_gets_the_launches_until_all_are_within_the_target(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {QUIET: 0.001, NOISY: 0.06}, target_interval_frac=0.05)
    reached = bench.run()
    assert bench.launches_of(QUIET) == AUTO_LEAST < bench.launches_of(NOISY) < AUTO_MOST
    assert all(cell.interval_frac < 0.05 for cell in reached.cells)
    for standing in reached.cells:
        times_s = [
            float(np.median(r.slowest_step_times_s()))
            for r in read_records(tmp_path)
            if r.cell == standing.planned.cell and not r.twin
        ]
        low, high = mean(times_s).interval() or (0, 0)
        assert standing.interval_frac == pytest.approx((high - low) / np.mean(times_s))
    # Not one launch too many.
    assert bench.added[-1].interval_frac >= 0.05
    assert str(reached) == f"auto: 2 of 2 cells within 5 %; {len(bench.added)} launches added"
    assert bench.run().num_added == 0


def test_the_worst_cell_comes_first_and_numbers_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"ddp": 0.02, "zero1": 0.03, "zero2": 0.05}, target_interval_frac=0.1)
    bench.run()
    num_planned = len(bench.sweep().tasks)
    assert num_planned == 3 * AUTO_LEAST + AUTO_LEAST  # the twin's too
    assert [a.task.sequence for a in bench.added] == list(range(num_planned, num_planned + len(bench.added)))
    assert [a.number for a in bench.added] == list(range(1, len(bench.added) + 1))
    assert not any(a.task.twin or a.task.kind != "timing" for a in bench.added)
    sequences = Counter(record.sequence for record in read_records(tmp_path))
    assert set(sequences.values()) == {1} and len(sequences) == num_planned + len(bench.added)
    # Each time, no other cell's interval was wider: what was known then, known again.
    known = {c.id: [] for c in (p.cell for p in bench.suite.cells)}
    for record in sorted(read_records(tmp_path), key=lambda record: record.sequence or 0):
        if record.sequence is not None and record.sequence >= num_planned:
            widths = {cell_id: interval_frac(times_s) for cell_id, times_s in known.items()}
            assert widths[record.cell.id] == max(widths.values())
        if not record.twin:
            known[record.cell.id].append(float(np.median(record.slowest_step_times_s())))


def test_the_budget_ends_it_and_the_same_command_adds_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {QUIET: 0.001, NOISY: 0.2}, budget_minutes=0.9)
    reached = bench.run()
    # Five launches of ten seconds fit in 54 s.
    assert len(bench.added) == reached.num_added == 5
    assert [a.left_s for a in bench.added] == pytest.approx([54, 44, 34, 24, 14])
    [wide] = [cell for cell in reached.cells if cell.planned.cell.strategy == NOISY]
    assert str(reached) == (
        f"auto: 1 of 2 cells within 2 %; 5 launches added; budget of 0.9 min spent, "
        f"widest {significant(100 * wide.interval_frac, 2)} % ({wide.planned.cell.id})"
    )
    before = record_paths(tmp_path)
    again = bench.run()
    assert again.num_added == 0 and record_paths(tmp_path) == before
    assert str(again) == str(reached).replace(" 5 launches added;", "")
    bench.suite = replace(bench.suite, budget_minutes=1.1)
    assert bench.run().num_added == 1


def test_a_run_that_is_stopped_while_adding_goes_on_with_what_is_left_of_the_budget(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {QUIET: 0.001, NOISY: 0.2}, budget_minutes=0.9)

    def stopped_in_the_third(addition: Addition) -> None:
        if addition.number == 3:
            raise KeyboardInterrupt
        bench.add(addition)

    with pytest.raises(KeyboardInterrupt):
        bench.run(stopped_in_the_third)
    assert bench.sweep().missing() == [] and len(bench.added) == 2
    reached = bench.run()
    assert reached.num_added == 3 and len(bench.added) == 5
    assert len({a.task.sequence for a in bench.added}) == 5


def test_a_launch_that_does_not_fit_gives_way_to_one_that_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {NOISY: 0.2, "zero1": 0.1}, budget_minutes=0.5)
    seconds = {NOISY: 20.0, "zero1": 5.0}
    bench.changed = lambda task, record: record.model_copy(update={"wall_s": seconds[task.cell.strategy]})
    bench.run()
    assert [a.task.cell.strategy for a in bench.added] == [NOISY, "zero1", "zero1"]


@pytest.mark.parametrize("twin", [False, True])
def test_nothing_is_added_to_a_cell_with_a_launch_that_failed(tmp_path: Path, twin: bool) -> None:
    bench = Bench(tmp_path, {"zero1": 0.2, NOISY: 0.2}, budget_minutes=0.5, target_interval_frac=0.001)
    first = next(task for task in bench.sweep().tasks if task.cell.strategy == "zero1" and task.twin == twin)

    def crashed_first(task: Task, record: Record) -> Record:
        told = {"sequence": task.sequence, "twin": task.twin}
        return record if task != first else synthetic.failure(task.cell, "crashed", "why").model_copy(update=told)

    bench.changed = crashed_first
    reached = bench.run()
    assert {a.task.cell.strategy for a in bench.added} == {NOISY} and len(bench.added) == 3
    assert "; none added to 1 cell with a launch that failed or is invalid; budget of 0.5 min spent, widest" in str(
        reached
    )
    # Once it is forgotten, what is missing is made, and the cell has its turn.
    bench.changed = lambda task, record: record
    bench.sweep().forget_failed()
    bench.suite = replace(bench.suite, budget_minutes=5)
    bench.run()
    assert {a.task.cell.strategy for a in bench.added} == {"zero1", NOISY}


def test_an_invalid_launch_is_no_launch_to_build_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {QUIET: 0.1})
    bench.changed = lambda task, record: record.model_copy(update={"ranks": []})
    reached = bench.run()
    assert str(reached) == "auto: 0 of 1 cells within 2 %; none added to 1 cell with a launch that failed or is invalid"


def test_no_cell_gets_more_than_the_most(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {NOISY: 0.15}, wall_s=0.001)
    for number in range(AUTO_MOST - 2):
        bench.launch(Task(bench.suite.cells[0].cell, bench.suite.cells[0].settings, number))
    reached = bench.run()
    assert reached.num_added == 2 and bench.launches_of(NOISY) == AUTO_MOST
    assert f"; 1 cell with {AUTO_MOST} launches, the most, widest" in str(reached)


def test_a_suite_without_such_cells_has_nothing_added(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {QUIET: 0.5})
    [planned] = bench.suite.cells
    bench.suite = replace(bench.suite, cells=(replace(planned, settings=LaunchSettings(launches=3)),))
    assert replicate(bench.sweep(), bench.add) is None


def test_how_often_an_interval_at_which_adding_stopped_covers_the_truth() -> None:
    """Where launches differ by as much as the target, by half of it, and by a tenth of it."""
    target, num_experiments = 0.02, 2000
    draw = np.random.default_rng(4)
    covered = {}
    for noise in (0.02, 0.01, 0.002):
        hits = 0
        for _ in range(num_experiments):
            values = list(draw.normal(1, noise, AUTO_LEAST))
            while interval_frac(values) >= target and len(values) < AUTO_MOST:
                values.append(float(draw.normal(1, noise)))
            low, high = mean(values).interval() or (0, 0)
            hits += low <= 1 <= high
        covered[noise] = hits / num_experiments
    assert 0.91 < covered[0.02] < 0.95 and 0.92 < covered[0.01] < 0.96 and 0.93 < covered[0.002] < 0.97, covered


@pytest.mark.slow
@pytest.mark.alone
def test_real_launches_are_added_until_the_budget_is_spent(tmp_path: Path, scalebench: Scalebench) -> None:
    """Two paced cells with an A/A pair: at least five launches of the one by need, one of the other, and the pair's."""
    suite, results = tmp_path / "mine.yaml", tmp_path / "results"
    suite.write_text(
        """
defaults:
  model: paced-nano
  model_options: {num_layers: 1, forward_s: 0.02, backward_s: 0.04}
  strategy: ddp
  world_size: 1
  max_warmup_steps: 4
  timeout_s: 60
target_interval_frac: 1.0e-6
budget_minutes: 0.2
grids:
  - {steps: 4}
  - {steps: 3, launches: auto}
"""
    )
    run = ("run", suite, "--output", results, "--device", "cpu", "--json", "--no-report", "--no-reference")
    done = scalebench(*run)
    assert done.returncode == 0, done.stdout + done.stderr
    launches = json.loads(done.stdout)["launches"]
    records = read_records(results)
    assert len(launches) == len(records) and Counter(r.outcome for r in records) == {"ok": len(records)}
    by_steps = Counter((record.cell.steps, record.twin) for record in records)
    assert by_steps[4, True] == by_steps[4, False] == 1 and by_steps[3, False] >= AUTO_LEAST
    assert sum(launch["twin"] for launch in launches) == 1
    sequences = sorted(record.sequence for record in records if record.sequence is not None)
    assert sequences == list(range(len(records)))
    added = [r for r in records if r.sequence is not None and r.sequence >= AUTO_LEAST + 2]
    assert added and sum(record.wall_s or 0 for record in added) < 2 * 12
    assert ", A/A twin" in done.stderr and "[added 1, interval " in done.stderr
    assert f"auto: 0 of 1 cells within 0.0001 %; {len(added)} launch" in done.stderr
    assert "budget of 0.2 min spent, widest" in done.stderr
    again = scalebench(*run)
    assert again.returncode == 0 and len(read_records(results)) == len(records)
