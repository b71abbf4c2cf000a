"""The variables that a launch needs on every host, and the file by which DeepSpeed's launcher takes them there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.errors import LaunchError

MARK = "SCALEBENCH_LAUNCH_ID"
"""Every process of a launch carries its id in this variable, so that all of them can be found and ended."""
ENV_FILE_VARIABLE = "DS_ENV_FILE"
ENV_FILE_NAME = "deepspeed_env"

_CARRIED = re.compile(
    r"^(NCCL_\w+|TORCH_NCCL_\w+|GLOO_\w+|UCX_\w+|OMP_NUM_THREADS|DS_ACCELERATOR|HF_HUB_OFFLINE|PYTHONPATH|PYTHONUNBUFFERED"
    rf"|{MARK})$"
)
_EXPORTED_ANYWAY = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
"""What the runner takes to other hosts by itself, by the beginning of its name. Source: deepspeed/launcher/runner.py."""
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_IN_QUOTES = re.compile(r'["`\\$\r\n\0]')
"""What a shell does not leave alone between double quotes, which the runner puts around a value."""
_WORD = re.compile(r"^[\w@%+=:,./-]+$")
_HINT = "take it out, or use --multinode-launcher ssh, which quotes"


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """Of a launch's environment, what every other host needs too: the accelerator, threads, networks, where the package is, and
    the mark by which all processes of the launch are found. Not the PATH, nor which GPUs: those are each host's own."""
    return {name: environment[name] for name in sorted(environment) if _CARRIED.match(name)}


def check_for_pdsh(environment: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Raise LaunchError where DeepSpeed's runner would have a remote shell execute what is only meant to be text.

    It puts values of variables in double quotes, and the working folder and the program (`words`) in none.
    """
    for name, value in environment.items():
        if (_CARRIED.match(name) or name.startswith(_EXPORTED_ANYWAY)) and _IN_QUOTES.search(value):
            raise LaunchError(
                f"variable {name}: found {value!r}, and the deepspeed launcher gives that to a remote shell", hint=_HINT
            )
    for name, text in words.items():
        if not _WORD.match(text):
            raise LaunchError(
                f"{name} {text!r}: the deepspeed launcher gives that to a remote shell, unquoted",
                hint="use one without blanks and special characters, or --multinode-launcher ssh, which quotes",
            )


def env_file_text(variables: Mapping[str, str]) -> str:
    """DeepSpeed's environment file for these variables, and for those of the user's own file, which stays as it is and wins.

    Never a blank line or a comment: the runner crashes on both. Raises LaunchError for a line that is neither them nor
    `NAME=value`, and for values that a remote shell would execute.
    """
    lines = dict(variables)
    for where, name, value in _of_the_user():
        if name != MARK:
            both = name == "PYTHONPATH" and name in variables
            lines[name] = os.pathsep.join([variables[name], value]) if both else value
        if re.search(r'["`\\\r\0]|\$\(', value):
            raise LaunchError(
                f"{where}: found {value!r}, and the deepspeed launcher gives that to a remote shell", hint=_HINT
            )
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _of_the_user() -> Iterator[tuple[str, str, str]]:
    """Where it stands, name and value of each variable in the file that DeepSpeed would read: at home, then here."""
    named = os.environ.get(ENV_FILE_VARIABLE, ".deepspeed_env")
    for path in dict.fromkeys(folder / named for folder in (Path.home(), Path.cwd())):
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise LaunchError(f"cannot read {path}: {error}", hint="DeepSpeed reads it too") from error
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, equals, value = line.partition("=")
            if not equals or not _NAME.match(name.strip()):
                raise LaunchError(f"{path}:{number}: found {line!r}, expected NAME=value")
            yield f"{path}:{number}", name.strip(), value.strip()
