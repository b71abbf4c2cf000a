"""How a program of the worker's answers the command line: JSON in, JSON out, and a user's error as one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from bench.errors import ScalebenchError
from bench.worker.device import uses_gpu


def answer(program: Callable[[dict[str, Any], torch.device], dict[str, Any]]) -> None:
    """Read what is asked from standard input, and print what `program(asked, device)` finds, or {"error", "hint"}."""
    try:
        found = program(json.load(sys.stdin), torch.device("cuda" if uses_gpu() else "cpu"))
    except ScalebenchError as error:
        found = {"error": error.found, "hint": error.hint}
    print(json.dumps(found))
