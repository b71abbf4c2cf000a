"""Which state of this code it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that this package is in: what other processes, here and on other hosts, find it by."""


def git_commit() -> str | None:
    """Commit of the checkout that this file is part of, with `-dirty` where it was changed; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no git commit: {error}", file=sys.stderr, flush=True)
        return None
