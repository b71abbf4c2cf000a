"""What is written for people and programs: the files of a report or a comparison, and tables as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RecordError
from bench.results.store import write_atomically

if TYPE_CHECKING:
    import pandas as pd


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or none. A log may hold what is no text; it must not keep a report from being written."""
    write_atomically(path, text.encode("utf-8", "replace").decode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a picture into a folder that is there. Raises RecordError when the disk refuses."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for `json.dumps`: what is missing is None, where JSON has no NaN."""
    shown = frame.astype(object)
    return [
        {str(name): value for name, value in row.items()} for row in shown.where(shown.notna(), None).to_dict("records")
    ]
