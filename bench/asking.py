"""Asks a program of the worker's, which needs torch, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from bench.errors import CheckpointError
from bench.results.checkout import ROOT


def ask(module: str, device: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What `python -m module` answers. Raises CheckpointError with what it says is the user's error, or with the last line of one
    that ended otherwise."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CheckpointError(f"{module} failed: {last}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "error" in found:
        raise CheckpointError(found["error"], hint=found["hint"])
    return found
