"""How long the command takes to start, beside `import torch`: benchmarks, run with `pytest tests/perf --benchmark-only`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.command_line import ROOT, command, command_environment

CASES = {
    "import torch": [sys.executable, "-c", "import torch"],
    "scalebench --help": command("--help"),
    "scalebench run quick --dry-run": command("run", "quick", "--dry-run", "--device", "cpu"),
}


@pytest.mark.parametrize("name", CASES)
def test_start_up(benchmark, name: str) -> None:  # type: ignore[no-untyped-def]
    def start() -> None:
        subprocess.run(CASES[name], cwd=ROOT, env=command_environment(), check=True, stdout=subprocess.DEVNULL)

    benchmark.pedantic(start, rounds=5, warmup_rounds=1)
