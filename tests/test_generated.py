"""Two thousand generated suites, hostfiles and records: no traceback reaches a user, the exit status is the one promised, and no
word of them is ever read by a shell."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench.cli
from bench.plan.cell import Cell
from bench.results.record import SCHEMA_VERSION
from bench.results.store import RECORD_NAME
from tests import generated, synthetic

pytestmark = pytest.mark.slow

FINE = """
name: fine
defaults: {model: gpt-nano, seq_len: 32}
grids:
  - {strategy: [ddp, zero3], world_size: [1, 2, 4]}
"""
quietly = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of all that runs here. Whatever a shell was made to touch would lie in it."""
    folder = tmp_path_factory.mktemp("generated")
    before, app = Path.cwd(), bench.cli.app
    os.chdir(folder)
    # Typer reads the signatures of all verbs anew at each call, which takes longer than all the rest.
    bench.cli.app = typer.main.get_command(app)  # type: ignore[assignment]
    yield folder
    bench.cli.app = app
    os.chdir(before)
    assert not list(folder.rglob(f"*{generated.TOUCHED}"))


def scalebench(*arguments: str | Path) -> tuple[int, str, str]:
    """The command in this process: exit status, output, errors. What is no exit but an exception fails the test."""
    output, errors = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["scalebench", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            bench.cli.main()
        status: Any = 0
    except SystemExit as left:
        status = left.code
    finally:
        sys.argv = argv
    assert status in (0, 1, 2) or status is None, status
    return status or 0, output.getvalue(), errors.getvalue()


def promised(status: int, errors: str) -> None:
    """What every verb promises: 0, or 2 and one line that says what to do (or click's own on the use of flags)."""
    assert status in (0, 2), (status, errors)
    assert "Traceback" not in errors
    if status == 2:
        lines = errors.strip().splitlines()
        assert lines[0].startswith("Usage: ") or (len(lines) == 1 and lines[0].startswith("scalebench: ")), errors


def untouched(*more: Path) -> None:
    for place in (Path(), *more):
        assert not (place / generated.TOUCHED).exists()


def said_to_a_shell(plan: str) -> None:
    """The commands of a dry run, as a user would paste them: a shell reads each word as the text that it is."""
    for command in {entry["command"] for entry in json.loads(plan) if entry["command"]}:
        told = subprocess.run(["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
        assert told.stdout.decode().split("\0")[:-1] == shlex.split(command)


PASTED = [0]


def dry_run(*arguments: str | Path) -> None:
    status, output, errors = scalebench("run", *arguments, "--dry-run", "--json", "--device", "cpu")
    promised(status, errors)
    if status == 0 and PASTED[0] < 150:
        PASTED[0] += 1
        said_to_a_shell(output)
    untouched()


@settings(max_examples=800, **quietly)
@given(content=generated.suites(), name=generated.texts, output=generated.texts)
def test_a_generated_suite(content: dict[str, Any], name: str, output: str) -> None:
    # Names of files and folders are text from outside too.
    path = Path("".join(c for c in name if c.isprintable() and c not in "/\0")[:50].strip(".") + ".yaml")
    path.write_text(yaml.safe_dump(content))
    try:
        dry_run(f"./{path}", f"--output={output or 'results'}")
    finally:
        path.unlink()


@settings(max_examples=300, **quietly)
@given(content=generated.mangled(FINE))
def test_a_mangled_suite(content: bytes) -> None:
    Path("mangled.yaml").write_bytes(content)
    dry_run("mangled.yaml")


@pytest.fixture(scope="module")
def fine(folder: Path) -> Path:
    (folder / "fine.yaml").write_text(FINE)
    return folder / "fine.yaml"


HOST_FLAGS = (
    *(
        "--include",
        "--exclude",
        "--placement",
        "--multinode-launcher",
        "--launcher-args",
        "--master-addr",
        "--launcher",
    ),
    *("--node-rank", "--control-port"),
)


@settings(max_examples=450, **quietly)
@given(content=generated.hostfiles, flags=st.lists(st.tuples(st.sampled_from(HOST_FLAGS), generated.texts), max_size=2))
def test_a_generated_hostfile(fine: Path, content: str, flags: list[tuple[str, str]]) -> None:
    Path("hostfile").write_text(content, encoding="utf-8", newline="")
    dry_run(fine, "--hostfile", "hostfile", *(f"{flag}={value}" for flag, value in flags))


FLAGS = (
    "--launches",
    "--target-interval",
    "--budget-minutes",
    "--slots",
    "--launcher",
    "--device",
    "--hostfile",
    "--output",
)


@settings(max_examples=100, **quietly)
@given(flags=st.lists(st.tuples(st.sampled_from([*FLAGS, *HOST_FLAGS]), generated.texts), min_size=1, max_size=3))
def test_generated_flags(fine: Path, flags: list[tuple[str, str]]) -> None:
    dry_run(fine, *(f"{flag}={value}" for flag, value in flags))


@pytest.fixture(scope="module")
def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A results folder with two launches, and what is in their records."""
    cells = [Cell(model="gpt-nano", strategy=strategy, world_size=2, steps=5) for strategy in ("ddp", "zero1")]
    synthetic.write_fast(folder / "results", [synthetic.launch(cell) for cell in cells])
    paths = sorted((folder / "results").glob(f"*/*/{RECORD_NAME}"))
    return [(path, json.loads(path.read_text())["record"]) for path in paths]


def sealed(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f'{{"schema_version": {SCHEMA_VERSION}, "sha256": "{digest}", "record": {canonical}}}'


def compared(folder: Path) -> None:
    """Read by a verb that reads all of a record."""
    status, _, errors = scalebench("compare", folder, folder, "--output", "compared")
    promised(status, errors)
    untouched()


@settings(max_examples=200, **quietly)
@given(data=st.data())
def test_a_mangled_record(records: list[tuple[Path, dict[str, Any]]], data: st.DataObject) -> None:
    path, content = records[0]
    whole = sealed(content)
    mangled = data.draw(generated.mangled(whole).filter(lambda mangled: mangled != whole.encode()))
    path.write_bytes(mangled)
    try:
        status, _, errors = scalebench("report", path.parents[2])
    finally:
        path.write_text(whole)
    promised(status, errors)
    # Other blanks, or the same key twice: it still says the same.
    assert (status == 2 and str(path) in errors) or (status == 0 and says(mangled) == says(whole.encode()))
    untouched()


def says(text: bytes) -> Any:
    """What a record file says; its own bytes where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@settings(max_examples=150, **quietly)
@given(data=st.data())
def test_a_record_that_says_something_else(records: list[tuple[Path, dict[str, Any]]], data: st.DataObject) -> None:
    """With a digest that is right: another version could have written it, or somebody who means ill."""
    path, content = records[0]
    path.write_text(sealed(data.draw(generated.changed(content))))
    try:
        compared(path.parents[2])
    finally:
        path.write_text(sealed(content))
