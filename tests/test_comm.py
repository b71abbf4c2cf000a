"""scalebench comm as a user types it: two real ranks by the deepspeed launcher, a rank that is really broken, and a machine file
of what was measured."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.fitted_machine import write_fitted
from bench.plan.cell import Cell
from bench.results.comm import read_comm
from bench.results.comm_sizes import fitting_bytes
from bench.theory.bus_bandwidth import bus_factor
from bench.theory.collectives import Group, collective_s
from bench.theory.machine import load_machine
from bench.theory.project import efficiency_error, project
from bench.theory.workload import from_preset
from tests import forked
from tests.command_line import ROOT, Scalebench, command, command_environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SABOTAGE = ROOT / "tests" / "worker" / "sabotage"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, scalebench: Scalebench) -> tuple[Path, dict[str, Any]]:
    """One sweep, its folder and what was printed."""
    folder = tmp_path_factory.mktemp("comm") / "out"
    asked = ("--world-size", "2", "--min-bytes", "4KiB", "--max-bytes", "4MiB", "--budget-s", "10", "--device", "cpu")
    done = scalebench("comm", *asked, "--output", folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout)


def test_every_operation_is_measured_at_every_size(swept: tuple[Path, dict[str, Any]]) -> None:
    _, told = swept
    assert (told["outcome"], told["backend"], told["world_size"], told["num_nodes"]) == ("ok", "gloo", 2, 1)
    assert told["limit"] == "as asked"
    rows = told["rows"]
    series = {(row["operation"], row["in_place"]) for row in rows}
    assert len(series) == 7 and len(rows) == 7 * 11
    for row in rows:
        assert row["size_bytes"] == fitting_bytes(row["operation"], row["size_bytes"], 2)
        assert row["checked"] is True and row["num_repetitions"] >= 7
        assert 0 < row["time_lo_s"] <= row["time_s"] <= row["time_hi_s"] < 10
        assert row["algbw_bytes_per_s"] == pytest.approx(row["size_bytes"] / row["time_s"])
        assert row["busbw_bytes_per_s"] == pytest.approx(row["algbw_bytes_per_s"] * bus_factor(row["operation"], 2))
    assert {row["note"] for row in rows if row["operation"] == "reduce_scatter"} == {"gloo: all_reduce underneath"}


def test_tables_chart_page_and_record_are_written(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, told = swept
    with (folder / "tables" / "comm.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(told["rows"]) and rows[0]["operation"] == "all_reduce"
    with (folder / "tables" / "comm_fits.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7
    assert (folder / "charts" / "comm.png").read_bytes().startswith(b"\x89PNG")
    assert "all_to_all" in (folder / "charts" / "comm.svg").read_text()
    page = (folder / "index.html").read_text()
    assert (
        "2 ranks, 1 host, gloo, float32; largest size 4.00 MiB (as asked)" in page
        and "http" not in page.split("<main>")[1]
    )
    record = read_comm(Path(told["record"]))
    assert record.environment is not None and [rank.rank for rank in record.ranks] == [0, 1]
    assert record.launcher == "deepspeed" and record.wall_s is not None
    assert not list(Path("/dev/shm").glob(f"*{record.launch_id}*"))


def test_a_record_can_be_read_again(swept: tuple[Path, dict[str, Any]], tmp_path: Path, scalebench: Scalebench) -> None:
    folder, told = swept
    done = scalebench("comm", "--record", told["record"], "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "tables" / "comm.csv").read_text() == (folder / "tables" / "comm.csv").read_text()
    assert "all_gather" in done.stdout and "gloo: all_reduce" in done.stdout and "busbw" in done.stdout


def test_project_takes_the_machine_that_was_measured(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, scalebench: Scalebench
) -> None:
    """The fabric of the sweep and the compute of a real launch on one rank: both come back out of a projection."""
    _, told = swept
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=1, seq_len=64, micro_batch_size=4, steps=4)
    trained = forked.train(cell, folder=tmp_path / "results")
    path = write_fitted(tmp_path / "mine.yaml", read_comm(Path(told["record"])), None, tmp_path / "results")
    machine = load_machine(str(path))
    assert machine.name == "mine" and trained.launch_id in machine.device.sustained_flops_per_s["fp32"].source
    fabric = machine.node.fabric
    assert fabric.hop_s is not None and told["launch_id"] in fabric.hop_s.source and machine.rates_fitted(2)
    # The theory's all_reduce is near the measured one; of a machine that is not this one it may be off by any factor.
    [reduced] = [row for row in told["rows"] if (row["operation"], row["size_bytes"]) == ("all_reduce", 2**22)]
    foreseen_s = float(collective_s("all_reduce", 2**22, Group(machine, 2)))
    assert 0.2 < foreseen_s / reduced["time_s"] < 5

    asked = (
        "--model",
        "gpt-nano",
        "--precision",
        "fp32",
        "--micro-batch-size",
        "4",
        "--seq-len",
        "64",
        "--world-sizes",
        "1,2",
    )
    done = scalebench("project", "--machine", path, *asked, "--json")
    assert done.returncode == 0, done.stderr
    alone, both = json.loads(done.stdout)
    assert alone["step_time_s"] == pytest.approx(statistics.median(trained.slowest_step_times_s()))
    work = from_preset(machine, model="gpt-nano", micro_batch_size=4, precision="fp32", strategy="ddp", seq_len=64)
    # On links ten times as slow its step is longer: it is the fitted constants that count.
    slow = fabric.host_path_bytes_per_s.model_copy(update={"value": fabric.host_path_bytes_per_s.value / 10})
    node = machine.node.model_copy(update={"fabric": fabric.model_copy(update={"host_path_bytes_per_s": slow})})
    other = project(work, "ddp", machine.model_copy(update={"node": node}), 2)
    assert 0 < both["exposed_comm_s"] < other.exposed_comm_s
    # Rates that were measured have half the interval of assumed ones.
    assert (
        efficiency_error("ddp", machine, 2, machine.rates_fitted(2))
        == efficiency_error("ddp", load_machine("cpu-gloo"), 2) / 2
    )


def test_one_wrong_value_is_an_error_that_names_operation_size_and_rank(tmp_path: Path) -> None:
    environment = command_environment()
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(SABOTAGE)])
    environment["SCALEBENCH_SABOTAGE"] = json.dumps({"comm": "one_wrong_value_on_rank_1"})
    asked = ("--world-size", "2", "--max-bytes", "8KiB", "--budget-s", "5", "--device", "cpu", "--launcher", "torchrun")
    run = command("comm", *asked, "--operations", "all_reduce,reduce_scatter", "--output", tmp_path / "out", "--json")
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    words = "invalid: reduce_scatter (out of place) of 4096 B is corrupted on rank 1: 1 of 512 elements are wrong: element 100 is"
    assert words in done.stderr and "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"] == "invalid" and {row["size_bytes"] for row in told["rows"]} == {1024, 2048, 4096}
    assert "is corrupted on rank 1" in (tmp_path / "out" / "index.html").read_text()
    record = read_comm(Path(told["record"]))
    assert record.outcome == "invalid" and record.points[-1].operation == "all_reduce"
