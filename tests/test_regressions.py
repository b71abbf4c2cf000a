"""A commit that makes one layer slower is found, an unchanged one is not blamed: real launches, verbs as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import ROOT, Scalebench, command, command_environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SABOTAGE = ROOT / "tests" / "worker" / "sabotage"
STEPS = 7

# Two layers that sleep 180 ms each, and one: a fifth more in the second layer makes 36 ms of 360.
SUITE = f"""
name: steady
defaults: {{model: paced-nano, world_size: 2, launches: 3, steps: {STEPS}, max_warmup_steps: 6, timeout_s: 120}}
grids:
  - {{strategy: ddp, model_options: {{num_layers: 2, forward_s: 0.06, backward_s: 0.12}}}}
  - {{strategy: zero2, model_options: {{num_layers: 1, forward_s: 0.06, backward_s: 0.12}}}}
"""


def measure(suite: Path, output: Path, sabotage: str | None = None) -> Path:
    environment = command_environment()
    if sabotage is not None:
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(SABOTAGE)])
        environment["SCALEBENCH_SABOTAGE"] = json.dumps({str(STEPS): sabotage})
    # torchrun, because it starts ranks four seconds sooner than deepspeed, and they run the same program.
    quick = ("--device", "cpu", "--no-reference", "--no-report", "--launcher", "torchrun")
    run = command("run", suite, "--output", output, *quick)
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The suite measured twice with an A/A pair, and once without it with a slower layer."""
    folder = tmp_path_factory.mktemp("steady")
    suite, alone = folder / "steady.yaml", folder / "alone.yaml"
    suite.write_text(SUITE)
    alone.write_text(SUITE + "aa_pair: false\n")
    return {
        "base": measure(suite, folder / "base"),
        "again": measure(alone, folder / "again"),
        "slower": measure(alone, folder / "slower", "the_second_layer_sleeps_longer"),
    }


def compared(scalebench: Scalebench, base: Path, new: Path, *more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status of `scalebench compare`, and its rows by strategy."""
    done = scalebench("compare", base, new, "--json", *more)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {row["strategy"]: row for row in json.loads(done.stdout)["cells"]}


def test_the_same_suite_twice_is_the_same_or_not_resolved(runs: dict[str, Path], scalebench: Scalebench) -> None:
    status, rows = compared(scalebench, runs["base"], runs["again"], "--fail-on", "slower,missing")
    assert status == 0
    assert {row["verdict"] for row in rows.values()} <= {"same", "not resolved"}
    assert {row["counters"] for row in rows.values()} == {"equal"}
    assert all(row["aa_spread_frac"] is not None for row in rows.values())


def test_a_slower_layer_is_found_in_its_cells_alone(runs: dict[str, Path], scalebench: Scalebench) -> None:
    status, rows = compared(scalebench, runs["base"], runs["slower"], "--fail-on", "slower,missing")
    assert status == 1
    assert rows["ddp"]["verdict"] == "slower", rows["ddp"]
    # 36 ms more of 360 ms asleep and some 15 ms of work.
    assert rows["ddp"]["ratio"] == pytest.approx(1.096, abs=0.03)
    assert rows["zero2"]["verdict"] in ("same", "not resolved"), rows["zero2"]


def test_track_stops_it_and_keeps_its_baseline(runs: dict[str, Path], scalebench: Scalebench, tmp_path: Path) -> None:
    def track(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return scalebench("track", folder, "--storage", tmp_path / "history", *more, cwd=tmp_path)

    first = track(runs["base"])
    assert first.returncode == 0, first.stderr
    again = track(runs["again"])
    assert again.returncode == 0, again.stdout + again.stderr
    slower = track(runs["slower"])
    assert slower.returncode == 1 and "slower" in slower.stdout + slower.stderr
    assert "ddp" in slower.stderr and "zero2" not in slower.stderr
    # It is still held to the one before, not to itself.
    assert track(runs["slower"]).returncode == 1
    deleted = shutil.copytree(runs["again"], tmp_path / "deleted")
    [gone] = deleted.glob("*zero2*")
    shutil.rmtree(gone)
    missing = track(deleted)
    assert missing.returncode == 1 and "missing" in missing.stderr and "zero2" in missing.stderr
