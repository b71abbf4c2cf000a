"""A rank whose loss the others survive: launchers end all ranks when one fails, so its failure is kept from them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1

_told: int | None = None


def guard() -> None:
    """Go on in a child process; this one waits for it and ends as it ends, but well if the child may be missed.

    To be called before there are threads. The child ends with its guard; what ends the guard by SIGTERM ends the child.
    Linux only: elsewhere a lost rank ends the launch.
    """
    global _told  # noqa: PLW0603  # of this process
    if sys.platform != "linux":
        return
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        # Or a guard that is killed would leave its rank behind.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _told = writing
        return
    os.close(writing)

    def end(*_: Any) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if os.read(reading, 1) and code:
        print(f"this rank was lost (exit status {code}); the launch goes on without it", file=sys.stderr, flush=True)
        code = 0
    # What was buffered before the fork is the child's to write.
    os._exit(code if code >= 0 else 128 - code)


def may_be_missed() -> None:
    """From here on the others go on without this rank: inside a measured window; between two they still wait for it."""
    global _told  # noqa: PLW0603
    if _told is not None:
        print("from here on the others go on without this rank", flush=True)
        os.write(_told, b"1")
        os.close(_told)
        _told = None
