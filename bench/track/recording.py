"""Stores a run in the history of its suite: pytest writes the file, and nothing is kept that does not hold every step."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.errors import TrackError
from bench.results.checkout import ROOT
from bench.results.store import write_atomically
from bench.track.cells import Run
from bench.track.history import Stored, next_number, read_stored


def record(run: Run, folder: Path, storage: Path, accepted: bool) -> Path:
    """Replay the results in `folder` with pytest-benchmark, and put the file it saved into `storage`; its path there.

    The file comes from a folder of its own and moves when it is whole, so that no half of one is ever a baseline. Raises
    TrackError where pytest did not store every cell with all its steps: disabled benchmarks, xdist, deselected cells.
    """
    with tempfile.TemporaryDirectory(prefix="scalebench-track-") as scratch:
        command = _command(run, folder.resolve(), Path(scratch), accepted)
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise _not_stored(f"exit {done.returncode}: {_reason(done.stdout, done.stderr)}", command)
        written = list(Path(scratch).rglob("*.json"))
        if len(written) != 1:
            raise _not_stored(f"it wrote {len(written)} files, expected 1", command)
        wrong = _incomplete(read_stored(written[0]), run, accepted)
        if wrong is not None:
            raise _not_stored(wrong, command)
        # pytest-benchmark's folder for this system and Python stays, so that its own commands find the file.
        name = f"{next_number(storage):04}_{run.suite}.json"
        path = storage / written[0].parent.relative_to(scratch) / name
        write_atomically(path, written[0].read_text(encoding="utf-8"))
    return path


def _command(run: Run, folder: Path, storage: Path, accepted: bool) -> list[str]:
    # Of a user's own pytest only PYTEST_ADDOPTS counts: neither configuration nor conftest around the package.
    where = ["--rootdir", str(ROOT), "-c", os.devnull, "--noconftest", "-p", "no:cacheprovider"]
    saved = ["--benchmark-save", run.suite, "--benchmark-save-data", "--benchmark-storage", f"file://{storage}"]
    told = ["-p", "bench.track.plugin", "--results", str(folder), "--accepted", "yes" if accepted else "no"]
    module = Path(__file__).with_name("step_time.py")
    return [sys.executable, "-m", "pytest", str(module), "--benchmark-only", *saved, *told, *where]


def _environment() -> dict[str, str]:
    """This process's, with our package and not a namesake in the working folder; it is no test of a pytest around it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "PYTHONSAFEPATH": "1"}


def _incomplete(stored: Stored, run: Run, accepted: bool) -> str | None:
    """What the file lacks of the run; None where nothing."""
    if (stored.suite, stored.accepted) != (run.suite, accepted):
        return f"its file is of {stored.suite}, accepted {stored.accepted}"
    measured = {one.cell.id: one for one in stored.measured}
    for cell_id, cell in run.cells.items():
        if cell_id not in measured:
            return f"its file has no {cell_id}"
        if stored.steps_s[cell_id] != cell.steps_s or measured[cell_id] != cell.measured:
            return f"its file has other figures of {cell_id} than {cell.launches} launches measured"
    return None


def _not_stored(why: str, command: list[str]) -> TrackError:
    options = os.environ.get("PYTEST_ADDOPTS")
    hint = f"unset PYTEST_ADDOPTS, which is {options!r}" if options else f"see all of it: {shlex.join(command)}"
    return TrackError(f"pytest did not store the step times ({why})", hint=hint)


def _reason(stdout: str, stderr: str) -> str:
    """The line of pytest's output that says why it failed."""
    lines = [*stderr.splitlines(), *reversed(stdout.splitlines())]
    return next(_telling(lines), "it printed nothing")


def _telling(lines: list[str]) -> Iterator[str]:
    for marks in (("ERROR", "FAILED", "E  "), ("",)):
        yield from (line.strip() for line in lines if line.strip() and line.startswith(marks))
