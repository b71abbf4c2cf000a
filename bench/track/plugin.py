"""The pytest plugin of tracking: which results are replayed, and what their file says of where they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import ScalebenchError
from bench.examine import examine
from bench.track import history
from bench.track.cells import MEASURED, Run, tracked

EXAMPLE = Path(__file__).resolve().parents[2] / "reports" / "example" / "quick"
"""What is replayed in a checkout unless --results names something else, so that the replay is always tried."""

_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("scalebench")
    group.addoption(
        "--results",
        metavar="DIR",
        type=Path,
        help="The results folder whose step times are replayed as benchmarks. [default: the committed example]",
    )
    group.addoption(
        "--accepted",
        choices=("yes", "no"),
        help="What the gate decided on these results: `scalebench track` says it. [default: nobody asked the gate]",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Here and not when tests are collected, so that a wrong folder is one line.
    if config.getoption("results") is not None:
        run_of(config)


def run_of(config: pytest.Config) -> Run:
    """What this session replays. Raises UsageError, one line, where that can't be read."""
    if _RUN not in config.stash:
        folder = config.getoption("results") or EXAMPLE
        if folder == EXAMPLE and not EXAMPLE.is_dir():
            raise pytest.UsageError("there is no example to replay; name a results folder: --results DIR")
        try:
            config.stash[_RUN] = tracked(examine(folder))
        except ScalebenchError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_RUN]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Where the steps were measured, which need not be where they are replayed."""
    if _RUN in config.stash:
        machine_info["measured_on"] = config.stash[_RUN].measured_on
        machine_info["about"] = (
            "measured_on is the machine on which the step times were measured; the other fields are of the machine on which "
            "pytest stored them"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    ours = [found for found in output_json["benchmarks"] if MEASURED in found["extra_info"]]
    if ours:
        for found in ours:
            # The same from the checkout and from an installation, so that --benchmark-compare pairs them.
            found["fullname"] = f"tests/perf/test_step_time.py::{found['name']}"
        accepted = {"yes": True, "no": False, None: None}[config.getoption("accepted")]
        output_json[history.ENTRY] = history.entry(run_of(config), accepted)
