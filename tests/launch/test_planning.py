"""Hosts, devices, order and commands, before anything is started."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.errors import LaunchError, RecordError
from bench.launch.hostfile import read_hostfile
from bench.launch.launcher import launch_command, launch_environment
from bench.launch.machine import Machine
from bench.launch.order import cell_of_the_pair
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.plan.suite import LaunchSettings, PlannedCell, Suite
from bench.results.store import record_paths
from tests import synthetic

CPU = Machine("cpu", 8)
V100 = Machine("cuda", 8, ("Tesla V100-SXM2-32GB",) * 8, (7, 0))
CELL = Cell(model="gpt-nano", strategy="ddp", world_size=4)


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_a_hostfile_is_read_in_order(tmp_path: Path) -> None:
    hosts = read_hostfile(hostfile(tmp_path, "# four boxes\nb slots=8\n\na slots=8  # second\n"))
    assert list(hosts.slots) == ["b", "a"] and hosts.num_slots == 16
    assert hosts.placement(8) == (1, 8)
    assert hosts.placement(16) == (2, 8)
    assert hosts.placement(12) == (2, 6)
    assert hosts.placement(17) is None


def test_unequal_slots_are_never_filled_unequally(tmp_path: Path) -> None:
    hosts = read_hostfile(hostfile(tmp_path, "a slots=4\nb slots=2\n"))
    assert hosts.placement(4) == (1, 4)
    assert hosts.placement(6) is None


@pytest.mark.parametrize(
    "text", ["a slots=x", "a slots=0", "a", "a slots=2\na slots=2", "", "# none", "a;rm slots=1", "$(id) slots=1"]
)
def test_a_wrong_hostfile_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(LaunchError, match="hosts"):
        read_hostfile(hostfile(tmp_path, text))


def test_the_shipped_hostfile_is_the_reference_machine() -> None:
    hosts = read_hostfile(Path(__file__).parents[2] / "hostfile")
    assert hosts.slots == {"localhost": 8} and hosts.is_this_host


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    file = Path("results/launch.json")
    local = launch_command("deepspeed", CELL, file, 1234, None)
    assert local[1:] == [
        *("--hostfile", "/dev/null", "--num_gpus", "4", "--master_addr", "127.0.0.1", "--master_port", "1234"),
        *("--module", "bench.worker.train", "--from-launch", "results/launch.json"),
    ]
    torchrun = launch_command("torchrun", CELL, file, 1234, None)
    assert torchrun[1:3] == ["--nproc_per_node", "4"]
    two = read_hostfile(hostfile(tmp_path, "a slots=2\nb slots=2"))
    many = launch_command("deepspeed", CELL, file, 1234, two)
    assert "--num_nodes 2 --num_gpus 2 --master_addr a" in " ".join(many)
    with pytest.raises(LaunchError, match="one host only"):
        launch_command("torchrun", CELL, file, 1234, two)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1,0")
    assert "--include localhost:7,5,3,1 " in " ".join(launch_command("deepspeed", CELL, file, 1234, None))


def test_threads_and_accelerator_reach_the_ranks() -> None:
    environment = launch_environment(CPU, CELL, "id")
    assert environment["OMP_NUM_THREADS"] == "1" and environment["DS_ACCELERATOR"] == "cpu"
    assert environment["SCALEBENCH_LAUNCH_ID"] == "id"
    two = launch_environment(CPU, CELL.model_copy(update={"threads_per_rank": 2}), "id")
    assert two["OMP_NUM_THREADS"] == "2"


def test_precisions_that_a_device_lacks_are_refused() -> None:
    def reason(machine: Machine, precision: str) -> str | None:
        return machine.refusal(Cell.model_validate({**CELL.model_dump(), "precision": precision}))

    assert "fp16 is refused on CPU" in str(reason(CPU, "fp16"))
    assert reason(CPU, "bf16") is None and reason(CPU, "fp32") is None
    assert "capability 7.0" in str(reason(V100, "bf16"))
    assert reason(V100, "fp16") is None
    assert reason(Machine("cuda", 1, ("NVIDIA H200",), (9, 0)), "bf16") is None


def test_strategies_are_refused_where_devices_or_deepspeed_lack_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(machine: Machine, strategy: str) -> str | None:
        return machine.refusal(Cell(model="gpt-nano", strategy=strategy, world_size=2, steps=32, max_warmup_steps=64))

    monkeypatch.setattr(importlib.metadata, "version", {"deepspeed": "0.19.8"}.__getitem__)
    for strategy, spec in STRATEGIES.items():
        if spec.needs_cuda:
            assert str(reason(CPU, strategy)).startswith(f"{strategy} needs GPUs: ")
        else:
            assert (reason(CPU, strategy) is None) == (not spec.removed_in)
    assert reason(V100, "zeropp") is None
    assert "mics is gone from DeepSpeed since 0.19.7" in str(reason(V100, "mics"))
    assert "0.19.8 is installed" in str(reason(V100, "onebit_adam"))
    monkeypatch.setattr(importlib.metadata, "version", {"deepspeed": "0.19.6+cu126"}.__getitem__)
    assert reason(V100, "mics") is None and reason(V100, "onebit_adam") is None and reason(CPU, "mics") is None


def sweep_of(folder: Path, launches: int, seed: int = 0, machine: Machine = CPU, aa_pair: bool = False) -> Sweep:
    cells = [Cell(model="gpt-nano", strategy=s, world_size=w) for s in ("ddp", "zero2") for w in (1, 2, 16)]
    planned = tuple(PlannedCell(cell, LaunchSettings(launches=launches)) for cell in cells)
    return Sweep(Suite("mine", "", seed, planned, aa_pair), machine, "deepspeed", folder)


def test_rounds_hold_every_cell_once_in_an_order_of_their_own(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, launches=5)
    assert len(sweep.tasks) == 20 and [cell.world_size for cell, _ in sweep.skipped] == [16, 16]
    rounds = [[task.cell.id for task in sweep.tasks[i : i + 4]] for i in range(0, 20, 4)]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert [task.sequence for task in sweep.tasks] == list(range(20))
    assert sweep_of(tmp_path, launches=5).tasks == sweep.tasks
    assert sweep_of(tmp_path, launches=5, seed=1).tasks != sweep.tasks


def test_attribution_launches_are_interleaved_with_the_others(tmp_path: Path) -> None:
    settings = LaunchSettings(launches=2, attribution_launches=3)
    planned = tuple(PlannedCell(Cell(model="gpt-nano", strategy=s, world_size=2), settings) for s in ("ddp", "zero2"))
    tasks = Sweep(Suite("mine", "", 0, planned, aa_pair=False), CPU, "deepspeed", tmp_path).tasks
    kinds = [task.kind for task in tasks]
    assert [sorted(kinds[i : i + 4]) for i in (0, 4)] == [["attribution"] * 2 + ["timing"] * 2] * 2
    assert kinds[8:] == ["attribution"] * 2
    assert kinds[:2] != kinds[2:4] or kinds[:4] != kinds[4:8]


def test_a_record_of_another_run_covers_no_task(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, launches=1)
    cells = [task.cell for task in sweep.tasks]
    synthetic.write(tmp_path, [synthetic.launch(cells[0]), synthetic.launch(cells[1])])
    assert [task.cell for task in sweep.missing()] == cells[2:]
    [launch] = tmp_path.glob(f"{cells[1].id}/*")
    launch.rename(launch.with_name("another"))
    assert [task.cell for task in sweep.missing()] == cells[1:]
    # It is measured again with the failed ones.
    sweep.forget_failed()
    assert [path.parent.parent.name for path in record_paths(tmp_path)] == [cells[0].id]


def test_the_twin_is_launched_as_often_as_its_cell_and_shuffled_with_the_others(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, launches=5, aa_pair=True)
    assert len(sweep.tasks) == 25 and [task.sequence for task in sweep.tasks] == list(range(25))
    rounds = [sweep.tasks[i : i + 5] for i in range(0, 25, 5)]
    assert [sum(task.twin for task in one) for one in rounds] == [1] * 5
    [cell_id] = {task.cell.id for task in sweep.tasks if task.twin}
    assert all(sum(task.cell.id == cell_id for task in one) == 2 for one in rounds)
    assert len({[task.twin for task in one].index(True) for one in rounds}) > 1
    assert sweep_of(tmp_path, launches=5, aa_pair=True).tasks == sweep.tasks
    assert not any(task.twin for task in sweep_of(tmp_path, launches=5).tasks)


def planned_cell(launches: int = 1, **changes: Any) -> PlannedCell:
    cell = Cell(**{"model": "gpt-nano", "strategy": "ddp", "world_size": 1, **changes})
    return PlannedCell(cell, LaunchSettings(launches=launches, attribution_launches=1))


def test_which_cell_has_a_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    one, four, eight = (planned_cell(world_size=size) for size in (1, 4, 8))
    paced, threads = planned_cell(model="paced-nano", world_size=8), planned_cell(world_size=4, threads_per_rank=2)
    assert cell_of_the_pair([paced, one], CPU) is one  # computes
    assert cell_of_the_pair([eight, threads, one], CPU) is one  # a core for each thread
    assert cell_of_the_pair([one, four, eight], CPU) is four  # the most ranks
    assert cell_of_the_pair([one, threads, eight], V100) is eight  # GPUs have no such limit
    assert cell_of_the_pair([paced, threads, eight], CPU) is eight  # no choice: still one that computes
    other = planned_cell(world_size=4, strategy="zero1")
    assert cell_of_the_pair([other, four], CPU) is other and cell_of_the_pair([four, other], CPU) is four  # the first
    assert cell_of_the_pair([paced, planned_cell(model="paced-nano")], CPU) is paced
    # Nothing is compared.
    assert cell_of_the_pair([], CPU) is None and cell_of_the_pair([four], CPU) is None
    assert cell_of_the_pair([four, planned_cell(launches=0, world_size=2)], CPU) is None


def test_cells_that_are_skipped_here_have_no_twin(tmp_path: Path) -> None:
    planned = tuple(planned_cell(world_size=size) for size in (2, 16))
    sweep = Sweep(Suite("mine", "", 0, planned), CPU, "deepspeed", tmp_path)
    assert not any(task.twin for task in sweep.tasks) and len(sweep.skipped) == 1


def test_the_launches_of_a_cell_and_of_its_twin_cover_each_their_own(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, launches=2, aa_pair=True)
    cell = next(task.cell for task in sweep.tasks if task.twin)
    synthetic.write(tmp_path, [synthetic.launch(cell, twin=True), synthetic.failure(cell, "crashed", "why")])
    left = Counter((task.cell.id, task.twin) for task in sweep.missing())
    assert left.total() == 8 and left[cell.id, True] == left[cell.id, False] == 1
    synthetic.write(tmp_path, [synthetic.launch(cell), synthetic.launch(cell)])
    left = Counter((task.cell.id, task.twin) for task in sweep.missing())
    assert left.total() == 7 and left[cell.id, True] == 1 and left[cell.id, False] == 0
    sweep.forget_failed()
    assert Counter((task.cell.id, task.twin) for task in sweep.missing()) == left


def test_a_folder_of_another_suite_or_device_is_refused(tmp_path: Path) -> None:
    sweep_of(tmp_path, launches=1).prepare_folder()
    sweep_of(tmp_path, launches=1).prepare_folder()
    with pytest.raises(RecordError, match="device_type 'cpu', this run is 'cuda'"):
        sweep_of(tmp_path, launches=1, machine=V100).prepare_folder()
