"""The user's wish to stop, as an exception in the main thread."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from bench.errors import LaunchError


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C or SIGTERM); the launch in flight was ended and left no record."""


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """Raise Interrupted on Ctrl-C and on SIGTERM while the block runs."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(signum).name)

    try:
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError as error:
        raise LaunchError("a sweep runs in the main thread only: signals end its launches") from error
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
