"""The metering group does what torch's own group does, counts it, and leaves out what its arm says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.launch.launcher import free_port
from bench.results.metered import ARMS
from tests.command_line import command_environment
from tests.worker.meter.meter_rank import CASES

RANK_PROGRAM = Path(__file__).with_name("meter_rank.py")

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What two real ranks saw."""
    folder = tmp_path_factory.mktemp("meter")
    port = str(free_port())
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = (folder / f"{rank}.log").open("w")
        processes.append(
            subprocess.Popen(
                [sys.executable, str(RANK_PROGRAM), str(folder / f"{rank}.json")],
                env={**os.environ, **command_environment(), **place},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
    statuses = [process.wait(120) for process in processes]
    assert statuses == [0, 0], "".join((folder / f"{rank}.log").read_text() for rank in range(2))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_each_collective_gives_what_torch_gives_and_is_counted(seen: Seen, name: str) -> None:
    for rank in seen:
        entry = rank["operations"][name]
        if entry["error"] is not None and name == "all_to_all":
            # Gloo learnt it after torch 2.10; the meter must not hide that.
            assert entry["full"]["error"] == entry["error"]
            continue
        assert entry["error"] is None, "torch's own group can't do it here"
        assert entry["full"]["error"] is None
        assert entry["full"]["equal"]
        assert entry["full"]["ledger"] == CASES[name][1]


@pytest.mark.parametrize("arm", ["sync", "local"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_left_out_is_counted_and_its_output_plausible(seen: Seen, name: str, arm: str) -> None:
    for rank in seen:
        entry = rank["operations"][name]
        assert entry[arm]["error"] is None
        assert entry[arm]["finite"]
        # No larger than what goes in: 300, and three times that in all-to-all.
        assert entry[arm]["magnitude"] <= 1000
        assert entry[arm]["ledger"] == CASES[name][1]
    # The payload did not travel: somewhere a rank lacks what only another rank had.
    if name != "barrier":
        assert not all(rank["operations"][name][arm]["equal"] for rank in seen)


def test_full_and_sync_wait_for_the_late_rank_and_local_does_not(seen: Seen) -> None:
    waited = seen[0]["waits"]
    assert waited["full"] >= 0.28 and waited["sync"] >= 0.28
    assert waited["local"] < 0.1


def test_a_line_delays_each_collective_and_what_overlaps_goes_on(seen: Seen) -> None:
    for rank in seen:
        assert 0.3 <= rank["delayed"]["serial"] < 0.4
        # Three of 0.1 s beside 0.25 s of other work, not after them.
        assert 0.3 <= rank["delayed"]["overlapped"] < 0.4
        assert rank["delayed"]["future"] == 4.0


def test_groups_made_later_and_objects_pass_the_meter(seen: Seen) -> None:
    for rank in seen:
        assert rank["sub-group"] == "MeteringGroup"
        assert rank["objects"] == [{"rank": 0}, {"rank": 1}]
        assert rank["one way"] == 100.0


@pytest.mark.parametrize("strategy", ["fsdp", "ddp", "ddp_fp16", "ddp_powersgd"])
def test_whatever_torch_trains_with_trains_in_every_arm(seen: Seen, strategy: str) -> None:
    for rank in seen:
        trained = rank["trains"][strategy]
        assert all(map(math.isfinite, trained["losses"]))
        assert trained["losses"][-1] < trained["losses"][0]
        assert len(trained["in every arm"]) == len(ARMS)
        # An arm changes how collectives are carried, never which are called.
        assert trained["in every arm"] == [trained["operations"]] * len(ARMS)


def test_an_unknown_operation_is_refused_by_name(seen: Seen) -> None:
    for rank in seen:
        assert "ProcessGroup.split_group" in rank["refused"]
