"""scalebench comm across two hosts: the rate of a shaped link comes back, and a host that is away is named at once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from bench.fitted_machine import fitted_machine
from bench.results.comm import read_comm
from bench.theory.collectives import Group
from tests.netlab import Lab

pytestmark = pytest.mark.hosts


def comm(lab: Lab, output: Path, *more: str) -> tuple[int, str, str]:
    asked = ("--hostfile", str(lab.hostfile(1)), "--device", "cpu", "--operations", "all_reduce", "--budget-s", "10")
    run = [sys.executable, "-m", "bench", "comm", *asked, "--output", str(output), "--json", *more]
    done = lab.run("node-1", run, timeout_s=170)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("mbit_per_s", "largest", "by"), [(400, "8MiB", ()), (100, "4MiB", ("--multinode-launcher", "ssh"))]
)
def test_the_rate_of_the_link_comes_back_within_8_percent(
    lab: Lab, tmp_path: Path, mbit_per_s: int, largest: str, by: tuple[str, ...]
) -> None:
    """tests/netlab.py: a flow's payload reaches 99.2 % of the rate that a link is shaped to."""
    for host in ("node-1", "node-2"):
        lab.shape(host, mbit_per_s)
    status, output, errors = comm(lab, tmp_path, "--max-bytes", largest, *by)
    assert status == 0, errors
    told = json.loads(output)
    assert (told["num_nodes"], told["world_size"], told["outcome"]) == (2, 2, "ok")
    [fit] = told["fits"]
    assert fit["busbw_bytes_per_s"] * 8 / 1e6 == pytest.approx(mbit_per_s, rel=0.08)
    # A machine file of it has the link between its nodes.
    record = read_comm(Path(told["record"]))
    assert [rank.hostname for rank in record.ranks] == ["node-1", "node-2"]
    machine = fitted_machine(record, None, None, "lab")
    assert Group(machine, 4).num_nodes == 4 and machine.rates_fitted(2)
    assert Group(machine, 4).bus_bytes_per_s * 8 / 1e6 == pytest.approx(mbit_per_s, rel=0.08)


def test_a_host_that_is_away_is_named_and_nothing_is_measured(lab: Lab, tmp_path: Path) -> None:
    lab.cut("node-2")
    begun = time.monotonic()
    status, output, errors = comm(lab, tmp_path, "--max-bytes", "1KiB")
    assert status == 1 and time.monotonic() - begun < 60, errors
    assert json.loads(output)["outcome"] == "unreachable" and "unreachable: node-2 can't be used by ssh" in errors
