"""Versions, programs and the package's own files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from bench.doctor.reading import DeepSpeed, Software, Torch
from bench.doctor.reads.asked import asked
from bench.results.checkout import ROOT, git_commit

PROGRAMS = ("g++", "ninja", "nvcc", "ssh", "pdsh", "git")
LIBRARIES = ("torch", "deepspeed", "transformers")
_IMPORT_TIMEOUT_S = 60.0
_OURS = ("bench", "models", "reports", "ds_configs")
_OURS_ENDINGS = (".py", ".yaml", ".json", ".csv", ".html")


def software() -> Software:
    """Python, the libraries and the programs of this host. The libraries are imported by a process of its own, and the rest is
    read meanwhile: two seconds where disks are warm."""
    unread: dict[str, str] = {}
    script = Path(__file__).with_name("libraries.py")
    libraries = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        beside = str(Path(sys.executable).parent)
        on_path = os.environ.get("PATH", os.defpath)
        programs = {name: shutil.which(name, path=os.pathsep.join([beside, on_path])) for name in PROGRAMS}
        headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
        known: dict[str, Any] = {
            "python": platform.python_version(),
            "executable": sys.executable,
            "system": asked(unread, "system", _system) or platform.system(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
            "packages": asked(unread, "packages", _packages) or {},
            "programs": programs,
            "on_path": [name for name in PROGRAMS if shutil.which(name) is not None],
            "python_headers": headers.is_file(),
            "commit": git_commit() if programs["git"] is not None else None,
            "source_sha256": asked(unread, "source_sha256", source_sha256) or "",
        }
        answers = _libraries(libraries, unread)
    finally:
        libraries.kill()
        libraries.communicate()
    torch = answers.get("torch")
    deepspeed = answers.get("deepspeed")
    transformers = answers.get("transformers", {}).get("version")
    return Software(
        **known,
        torch=Torch(**torch) if torch is not None else None,
        deepspeed=DeepSpeed(**deepspeed) if deepspeed is not None else None,
        transformers=transformers,
        unread=unread,
    )


def _libraries(process: subprocess.Popen[bytes], unread: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the libraries answered, by name; the others are in `unread`."""
    try:
        out, _ = process.communicate(timeout=_IMPORT_TIMEOUT_S)
        ended = f"the import ended by {_end(process.returncode)}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        ended = f"the import took longer than {_IMPORT_TIMEOUT_S:g} s"
    lines = [json.loads(line) for line in out.decode(errors="replace").splitlines() if line.startswith("{")]
    asked_for = [line["asked"] for line in lines if "asked" in line]
    answered = {line["library"]: line for line in lines if "library" in line}
    for name in LIBRARIES:
        if name in answered and "error" in answered[name]:
            unread[name] = str(answered[name]["error"])
        elif name not in answered:
            unread[name] = (
                ended if name == (asked_for or [LIBRARIES[0]])[-1] else "not reached: an import before it failed"
            )
    return {name: line["answer"] for name, line in answered.items() if "answer" in line}


def _end(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _system() -> str:
    """ "Ubuntu 22.04", as /etc/os-release has it."""
    release = platform.freedesktop_os_release()
    return f"{release.get('NAME', 'Linux')} {release.get('VERSION_ID', '')}".strip()


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            # The first one on the path is the one that is imported.
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def source_sha256(root: Path = ROOT) -> str:
    """Digest of the package's own files: equal where two hosts run the same code, committed or not."""
    digest = hashlib.sha256()
    files = [
        path
        for folder in _OURS
        for path in (root / folder).rglob("*")
        if path.suffix in _OURS_ENDINGS and "example" not in path.relative_to(root).parts
    ]
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
