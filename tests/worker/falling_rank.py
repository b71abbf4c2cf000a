"""Rank programs of which one falls, or is late, in the middle of a step, when part of its gradients is under way.

For test_falling_ranks.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import forked

RANK_PROGRAM = forked._rank_program
FALLS, AT_STEP = 1, 2
"""Which rank falls, in which of its steps (from 0)."""
WINDOW_STEPS, LATE_S = 6, 0.7


def raises(launch_file: Path) -> None:
    _falls(_out_of_ideas)
    RANK_PROGRAM(launch_file)


def is_killed(launch_file: Path) -> None:
    _falls(lambda: os.kill(os.getpid(), signal.SIGKILL))
    RANK_PROGRAM(launch_file)


def hangs(launch_file: Path) -> None:
    _falls(lambda: time.sleep(600))
    RANK_PROGRAM(launch_file)


def is_late_in_the_last_step(launch_file: Path) -> None:
    """By LATE_S, in a window of WINDOW_STEPS; blocks of warm-up are shorter."""
    from bench.worker.trainer import Trainer

    timed, last = Trainer.timed_steps, [-1]

    def noted(self: Any, num_steps: int, drain: bool = True) -> list[float]:
        last[0] = len(self.results) + num_steps - 1 if num_steps == WINDOW_STEPS else -1
        return timed(self, num_steps, drain)

    Trainer.timed_steps = noted  # type: ignore[method-assign]
    _falls(lambda: time.sleep(LATE_S), lambda: last[0])
    RANK_PROGRAM(launch_file)


def _out_of_ideas() -> None:
    raise RuntimeError("out of ideas")


def _falls(happens: Callable[[], None], at_step: Callable[[], int] = lambda: AT_STEP) -> None:
    """In the backward pass, in the middle of the model."""
    if int(os.environ["RANK"]) != FALLS:
        return
    from bench.worker.trainer import Trainer

    prepare = Trainer.__init__

    def prepared(self: Any, *arguments: Any) -> None:
        prepare(self, *arguments)

        def at_gradient(*_: Any) -> None:
            if len(self.results) == at_step():
                print("falls", flush=True)
                happens()

        layers = [layer for layer in self.model.modules() if list(layer.parameters(recurse=False))]
        layers[len(layers) // 2].register_full_backward_hook(at_gradient)

    Trainer.__init__ = prepared  # type: ignore[method-assign]
