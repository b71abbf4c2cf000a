"""A worker that is killed under a real launcher, which would end all ranks with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.launch.process import _members
from bench.results.store import read_records
from tests.command_line import command, command_environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# 24 s of sleep for each worker.
SUITE = """
aa_pair: false
grids:
  - model: paced-nano
    model_options: {num_layers: 1, forward_s: 0.05, backward_s: 0.10}
    strategy: param_server
    strategy_options: {mode: async}
    world_size: 3
    steps: 160
    max_warmup_steps: 3
    timeout_s: 300
"""


def test_a_worker_that_is_killed_under_the_launcher_is_dropped_and_recorded(tmp_path: Path) -> None:
    suite, results = tmp_path / "one.yaml", tmp_path / "results"
    suite.write_text(SUITE)
    asked = command("run", suite, "--output", results, "--device", "cpu", "--no-report")
    process = subprocess.Popen(
        asked, env=command_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 200
        while not (found := [*results.glob("*/*/logs/rank_1.log")]) or "go on without" not in found[0].read_text():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        # Past the warm-up of half a second, and what comes before the window.
        time.sleep(6)
        folder = found[0].parents[1]
        os.kill(int((folder / "rank_1.pid").read_text().split()[1]), signal.SIGKILL)
        said, _ = process.communicate(timeout=280)
    finally:
        process.kill()
        process.wait()
    [record] = read_records(results)
    assert record.outcome == "ok", (record.reason, said)
    assert record.synchronisation is not None
    [lost] = record.synchronisation.lost
    assert lost.rank == 1 and lost.num_updates >= 3
    assert [rank.rank for rank in record.ranks] == [0, 2]
    assert "the launch goes on without it" in (folder / "logs" / "launcher.log").read_text()
    assert not list(_members((record.launch_id,)))
