"""Asks for one thing that may not be there, and keeps the reason instead of falling over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def asked(unread: dict[str, str], name: str, ask: Callable[[], Answer]) -> Answer | None:
    """The answer; or None, and the reason in `unread` under that name. Nothing that a broken machine raises gets out."""
    try:
        return ask()
    except Exception as error:  # the doctor says what it could not check, whatever the reason
        unread[name] = (f"{type(error).__name__}: {error}".splitlines() or ["?"])[0]
        return None
