"""What a training tells while it runs: a log to which rank 0 adds a line at a time, read by whoever started it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOG_NAME = "progress.jsonl"


class ProgressLog:
    """The lines of a log that were added since it was last asked. Each is a JSON object with a `kind`: start, train, evaluation,
    checkpoint, end; the other keys are those of `bench.results.training`."""

    def __init__(self, path: Path, from_end: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines alone: half of one is left for the next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
