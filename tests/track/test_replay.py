"""Plain pytest and pytest-benchmark's own commands on stored step times: what they show, and that nothing passes unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import ROOT, command_environment
from tests.track.planted import CELLS, DDP, Story

pytestmark = pytest.mark.slow


def pytest_here(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)]
    environment = {name: value for name, value in command_environment().items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_plain_pytest_replays_a_folder_beside_the_history(story: Story, tmp_path: Path) -> None:
    """Draws the histogram, too: a bar a cell, now and in the file of the history, which it is paired with by name."""
    options = ("--benchmark-only", "--benchmark-compare=0001", f"--benchmark-storage=file://{story.storage}")
    drawn = ("--benchmark-histogram", tmp_path / "histogram", "--benchmark-json", tmp_path / "now.json")
    done = pytest_here(
        "tests/perf/test_step_time.py", "--results", story.folders["unchanged"], *options, *drawn, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CELLS)} passed" in done.stdout
    for cell in CELLS:
        assert f"test_step_time[{cell.id}] (NOW)" in done.stdout and f"test_step_time[{cell.id}] (0001" in done.stdout
    assert {path.name for path in tmp_path.glob("*.svg")} == {"histogram-gpt-nano.svg", "histogram-paced-nano.svg"}
    # Nobody asked the gate, so it is never the next baseline by itself.
    assert json.loads((tmp_path / "now.json").read_text())["scalebench"]["accepted"] is None


def test_pytest_benchmarks_own_command_compares_the_files(story: Story, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", str(story.storage), "compare", "0001", "0003"]
    done = subprocess.run(
        [*command, "--histogram", str(tmp_path / "drawn")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for number in ("0001", "0003"):
        assert f"test_step_time[{DDP}] ({number}_planted)" in done.stdout
    assert (tmp_path / "drawn-gpt-nano.svg").exists()


def test_under_xdist_the_replay_fails(story: Story) -> None:
    done = pytest_here("tests/perf/test_step_time.py", "--results", story.folders["first"], "-n", "2", "-q")
    assert done.returncode == 1 and f"{len(CELLS)} failed" in done.stdout
    assert "\nbenchmarks are disabled (by xdist" in done.stdout and "Traceback" not in done.stdout


WRONG_CLOCK = """
import pytest
from bench.track.plugin import run_of
from bench.track.replay import ReplayClock, replay


class Late(ReplayClock):
    def read(self):
        now_s = super().read()
        return now_s and now_s + 1e-9


LATE, RIGHT = Late(), ReplayClock()


@pytest.mark.benchmark(timer=LATE.read)
def test_late(benchmark, request):
    replay(benchmark, LATE, next(iter(run_of(request.config).cells.values())))


@pytest.mark.benchmark(timer=RIGHT.read)
def test_right(benchmark, request):
    replay(benchmark, RIGHT, next(iter(run_of(request.config).cells.values())))


"""


def test_a_sample_that_is_off_by_a_nanosecond_is_found(story: Story, tmp_path: Path) -> None:
    module = tmp_path / "test_clocks.py"
    module.write_text(WRONG_CLOCK)
    done = pytest_here("-p", "bench.track.plugin", module, "--results", story.folders["first"], cwd=tmp_path)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "pytest-benchmark holds other samples" in done.stdout and "FAILED test_clocks.py::test_late" in done.stdout


def test_a_wrong_folder_is_one_line_of_pytest(tmp_path: Path) -> None:
    done = pytest_here("tests/perf/test_step_time.py", "--results", tmp_path)
    assert done.returncode == 4
    assert done.stderr.strip() == f"ERROR: {tmp_path} holds no record; measure first: scalebench run quick"
