"""Variables that set devices and communication: of this process, and of the files that DeepSpeed sends to other hosts."""

from __future__ import annotations

import os
from pathlib import Path

from bench.doctor.reading import EnvironmentFile

# What ranks go by. Other variables may be secrets, so their values are not read.
_PREFIXES = ("NCCL_", "GLOO_", "TORCH_NCCL_", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "OMP_NUM_THREADS")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCH_EXTENSIONS_DIR")


def variables() -> dict[str, str]:
    """Those of this process's environment, by name."""
    return {name: value for name, value in sorted(os.environ.items()) if _of_interest(name)}


def environment_files() -> list[EnvironmentFile]:
    """The files that DeepSpeed's launcher would read, in its order: of the home folder, then of this one.

    Source: deepspeed/launcher/runner.py, DEEPSPEED_ENVIRONMENT_PATHS; DS_ENV_FILE names another file in both places.
    """
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    paths = dict.fromkeys((Path.home() / name, Path.cwd() / name))
    return [read_environment_file(path) for path in paths if path.is_file()]


def read_environment_file(path: Path) -> EnvironmentFile:
    """What DeepSpeed would make of the file: it splits every line at its first `=`, blank lines and comments too."""
    bad, names, values = [], [], {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if "=" not in line or line.lstrip().startswith("#"):
            bad.append(number)
            continue
        key, value = line.split("=", 1)
        names.append(key)
        if _of_interest(key):
            values[key] = value.strip()
    if bad and number == bad[-1] and line == "":
        bad.pop()  # what follows the last line's end is no line
    return EnvironmentFile(str(path), bad, names, values)


def _of_interest(name: str) -> bool:
    return name in _RENDEZVOUS or name.startswith(_PREFIXES)
