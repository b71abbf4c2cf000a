"""What can go wrong for a user: each error says what was found, what was expected, and what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScalebenchError(Exception):
    """Base of every error that a user can mend. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, found: str, *, hint: str | None = None) -> None:
        text = found if hint is None else f"{found}; {hint}"
        # One line, whatever stands in a name that a user gave.
        super().__init__("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text))
        self.found = found
        self.hint = hint


class SuiteError(ScalebenchError):
    """A suite file, or a cell that it describes, cannot be run as written."""


class ConfigError(ScalebenchError):
    """A DeepSpeed JSON file is not valid, or contradicts the cell that names it."""


class RecordError(ScalebenchError):
    """A stored record, or the folder that holds records, cannot be read as one."""


class CheckpointError(ScalebenchError):
    """There is no such checkpoint, or it can't be used for what is asked."""


class TrackerError(ScalebenchError):
    """A tracker of experiments that training is to be logged with is not there."""


class MachineError(ScalebenchError):
    """A described machine or network is not known, or its file can't be used as one."""


class ProjectionError(ScalebenchError):
    """What is asked of the theory is incomplete, contradicts itself, or is not covered by it."""


class ComparisonError(ScalebenchError):
    """Two runs cannot be compared, or not as asked."""


class LaunchError(ScalebenchError):
    """Nothing can be started here: no such launcher, no such device, a locked folder."""


class UnreachableError(LaunchError):
    """A host that a launch needs can't be reached, or the ranks on it can't reach each other."""


class TrackError(ScalebenchError):
    """A history of step times, or a baseline out of it, cannot be used, or not be added to."""


class OtherSchemaError(TrackError):
    """A whole file of a history that another version wrote."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Hint for a wrong name: the nearest allowed one if any is close, else all of them."""
    choices = sorted(allowed)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(choices)}"
