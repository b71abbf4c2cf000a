"""Rank programs of which something goes wrong on purpose, for test_param_server.py and
test_served_training.py."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests import forked

RANK_PROGRAM = forked._rank_program
LATE_S, WINDOW_STEPS, EVALUATED_S, LAST_STEPS = 1.5, 8, 1.5, 5


def worker_1_is_killed(launch_file: Path) -> None:
    """In the middle of its tenth message."""
    _at_message(10, lambda: os.kill(os.getpid(), signal.SIGKILL), rank=1)
    RANK_PROGRAM(launch_file)


def worker_1_raises(launch_file: Path) -> None:
    _at_message(10, _out_of_ideas, rank=1)
    RANK_PROGRAM(launch_file)


def the_server_is_killed(launch_file: Path) -> None:
    from bench.worker.served.shard import Shard

    apply = Shard.apply

    def killed(self: Any, *arguments: Any) -> None:
        if self.version == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        apply(self, *arguments)

    Shard.apply = killed  # type: ignore[method-assign]
    RANK_PROGRAM(launch_file)


def evaluations_are_slow(launch_file: Path) -> None:
    """Each takes EVALUATED_S longer. Servers print every window that begins. In that of LAST_STEPS steps worker 1's first message
    is LATE_S under way: by then the other has done all the rest."""
    from bench.worker import goal
    from bench.worker.served.server import Server
    from bench.worker.strategies.param_server import ParamServer

    score, begin, push, enter = goal.score, Server.begin, ParamServer._push, ParamServer.begin
    waits = False

    def slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(EVALUATED_S)
        return score(*arguments, **named)

    def begun(self: Any, num_steps: int) -> None:
        begin(self, num_steps)
        print(f"version {self._shard.version} at a window of {num_steps}", flush=True)

    def entered(self: Any, num_steps: int) -> None:
        nonlocal waits
        waits = num_steps == LAST_STEPS and int(os.environ["RANK"]) == 1
        enter(self, num_steps)

    def late(self: Any, flat: Any) -> None:
        nonlocal waits
        time.sleep(LATE_S if waits else 0.0)
        waits = False
        push(self, flat)

    goal.score, Server.begin = slowly, begun  # type: ignore[method-assign]
    ParamServer.begin, ParamServer._push = entered, late  # type: ignore[method-assign]
    RANK_PROGRAM(launch_file)


def the_last_message_is_late(launch_file: Path) -> None:
    """In the window of eight steps worker 1's third message is LATE_S under way: by then the other has done all the rest."""
    if int(os.environ["RANK"]) == 1:
        from bench.worker.strategies.param_server import ParamServer

        begin, push = ParamServer.begin, ParamServer._push
        num_left = 0

        def begun(self: Any, num_steps: int) -> None:
            nonlocal num_left
            num_left = 3 if num_steps == WINDOW_STEPS else 0
            begin(self, num_steps)

        def late(self: Any, flat: Any) -> None:
            nonlocal num_left
            num_left -= 1
            if num_left == 0:
                time.sleep(LATE_S)
            push(self, flat)

        ParamServer.begin, ParamServer._push = begun, late  # type: ignore[method-assign]
    RANK_PROGRAM(launch_file)


def _out_of_ideas() -> None:
    raise RuntimeError("out of ideas")


def _at_message(number: int, happens: Any, rank: int) -> None:
    """When that rank has sent the header of its message with that number, and nothing of what it announced."""
    if int(os.environ["RANK"]) != rank:
        return
    from bench.worker.served.messages import PUSH, Wire

    announce = Wire.announce
    num_pushed = 0

    def announced(self: Any, kind: int, *others: Any) -> None:
        nonlocal num_pushed
        announce(self, kind, *others)
        num_pushed += kind == PUSH
        if num_pushed == number:
            happens()

    Wire.announce = announced  # type: ignore[method-assign]
