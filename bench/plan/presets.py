"""The sizes of a preset, without building it."""

from __future__ import annotations

import models
from bench.errors import SuiteError, nearest


def preset_sizes(name: str) -> tuple[str, dict[str, int | float | str]]:
    """Which kind of model a preset is ("GPT", "PacedLM"), and its sizes. Raises SuiteError for a name that is none."""
    if name not in models.PRESETS:
        raise SuiteError(f"model: found {name!r}, expected a preset", hint=nearest(name, models.PRESETS))
    target, sizes = models.PRESETS[name]
    return target.partition(":")[2], dict(sizes)
