"""What this checkout asks of an installation: the bounds of pyproject.toml and the versions of constraints.txt."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bench.results.checkout import ROOT


@dataclass(frozen=True)
class Wanted:
    """`python`: the versions that do, as a specifier. `requirements`: what the package can't do without. `pins`: name -> the
    requirements of constraints.txt, with their markers; empty where that file isn't shipped."""

    python: str
    requirements: list[Requirement]
    pins: dict[str, list[Requirement]]


def wanted(root: Path = ROOT) -> Wanted:
    """Of the checkout that this file is part of; of the installed package where there is no checkout, or Python has no reader of
    TOML. Raises LookupError where there is neither."""
    python, lines = _bounds(root)
    requirements = [Requirement(line) for line in lines]
    own = [requirement for requirement in requirements if "extra" not in str(requirement.marker or "")]
    return Wanted(python, own, _pins(root / "constraints.txt"))


def _bounds(root: Path) -> tuple[str, list[str]]:
    file = root / "pyproject.toml"
    if sys.version_info >= (3, 11) and file.is_file():
        import tomllib

        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], project["dependencies"]
    try:
        installed = importlib.metadata.distribution("scalebench")
    except importlib.metadata.PackageNotFoundError as error:
        raise LookupError("scalebench is not installed as a package, so what it needs is not known") from error
    return installed.metadata["Requires-Python"], list(installed.requires or [])


def _pins(path: Path) -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    if not path.is_file():
        return pins
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            pin = Requirement(text)
        except InvalidRequirement:
            continue  # someone's own constraints: an address, an option of pip
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins
