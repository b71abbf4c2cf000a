"""The end of a launch on one host: its processes are ended, and what it left is handed over.

    python -m bench.launch.ended LAUNCH_ID FOLDER PORT

prints one line of JSON, an `Ended`. Run on each host through ssh; a follower without ssh calls `end_here`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.launch.process import end_processes
from bench.results.launch_file import LAUNCH_NAME
from bench.results.store import RECORD_NAME, write_atomically

SHARED_MEMORY = Path("/dev/shm")
LOG_BYTES = 65_536
"""Of the end of a log that are handed over."""


class Ended(BaseModel):
    """What a host had left of a launch: its files by name (base64), none where the folder is the one that the launch was started
    from, on a shared file system; and the files in shared memory that were removed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared: bool
    files: dict[str, str] = {}
    removed: list[str] = []

    def keep(self, folder: Path) -> None:
        """Write the files into the launch's folder here, its record last: with it the launch is whole.

        Raises RecordError when the disk refuses, ValueError for what is not base64.
        """
        for name in sorted(self.files, key=lambda name: name == RECORD_NAME):
            path = folder / name
            if folder not in path.resolve().parents:
                continue  # a host may name what it likes
            if name == RECORD_NAME and path.exists():
                continue
            write_atomically(path, base64.b64decode(self.files[name]).decode("utf-8", "replace"))


def end_here(launch_id: str, folder: Path, port: int | None) -> Ended:
    """End every process of the launch on this host, remove what its ranks left in shared memory, and read its files.

    Raises LaunchError for a process that can't be ended.
    """
    end_processes(launch_id)
    removed = remove_shared_memory(port)
    if (folder / LAUNCH_NAME).exists():
        return Ended(shared=True, removed=removed)
    files = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("logs/*.log")]):
        content = path.read_bytes()
        content = content[-LOG_BYTES:] if path.suffix == ".log" else content
        files[str(path.relative_to(folder))] = base64.b64encode(content).decode("ascii")
    return Ended(shared=False, files=files, removed=removed)


def remove_shared_memory(port: int | None) -> list[str]:
    """Remove the buffers of DeepSpeed's shared-memory all-reduce that ranks of this port left. Returns their names.

    Name: deepspeed_allreduce_buffer_UID_ADDRESS_PORT (csrc/cpu/comm/shm.cpp); the port is one launch's alone while it runs.
    """
    if port is None:
        return []
    removed = []
    start = f"deepspeed_allreduce_buffer_{os.getuid()}_*_{port}"
    for path in [*SHARED_MEMORY.glob(start), *SHARED_MEMORY.glob(f"{start}_*")]:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed.append(path.name)
    return removed


def forget_here(folder: Path) -> None:
    """Remove a launch's folder that is only this host's, once its files are kept elsewhere."""
    if folder.is_dir() and not (folder / LAUNCH_NAME).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for parent in list(folder.parents)[:2]:
            with contextlib.suppress(OSError):
                parent.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.launch.ended", description=__doc__, allow_abbrev=False)
    parser.add_argument("launch_id")
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument(
        "--forget", type=Path, action="append", default=[], help="folder whose files are kept elsewhere"
    )
    parsed = parser.parse_args()
    ended = end_here(parsed.launch_id, parsed.folder, parsed.port)
    # Afterwards: what still ran could have written into them again.
    for folder in parsed.forget:
        forget_here(folder)
    sys.stdout.write(ended.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
