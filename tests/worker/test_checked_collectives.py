"""The collectives of a sweep on three real ranks: their values are what they must be, and whatever is not is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bench.results.comm import CommLaunch, CommPlan, CommRecord, read_comm
from bench.results.launch_file import record_path
from bench.worker import collectives, comm_sweep
from tests import forked

pytestmark = pytest.mark.slow

RANKS = 3
SIZE = 48 * 1000


def _faults() -> dict[str, str | None]:
    """What `fault` says of each variant: run well, not run at all, one element off, and two ranks' parts exchanged."""
    dist.init_process_group("gloo")
    found: dict[str, str | None] = {}
    for operation, in_place in collectives.VARIANTS:
        for repetition in (0, 20):
            one = collectives.Collective(operation, in_place, SIZE, torch.device("cpu"))
            name = f"{operation} {in_place} {repetition}"
            one.fill(repetition)
            one.run()
            found[f"{name} well"] = one.fault(repetition)
            # The next repetition's result can't be this one's.
            found[f"{name} stale"] = one.fault(repetition + 1)
            output = one._output
            output[-1] += 0.5
            found[f"{name} off"] = one.fault(repetition)
            output[-1] -= 0.5
            output.copy_(output.roll(4))
            found[f"{name} moved"] = one.fault(repetition)
            one.fill(repetition)
            found[f"{name} never"] = (
                None if operation == "broadcast" and dist.get_rank() == 0 else one.fault(repetition)
            )
    dist.destroy_process_group()
    return found


def test_right_values_pass_and_wrong_ones_are_named(tmp_path: Path) -> None:
    for rank, found in enumerate(forked.run(RANKS, _faults, folder=tmp_path)):
        assert len(found) == 7 * 2 * 5
        for name, fault in found.items():
            if name.endswith("well") or (name.startswith("broadcast") and name.endswith("never") and rank == 0):
                assert fault is None, (rank, name, fault)
            else:
                assert fault is not None and " elements are wrong: element " in fault, (rank, name)


def _sweep(folder: Path, refuses: str | None, **plan: object) -> None:
    if refuses is not None:

        def refused(*_: object) -> None:
            raise RuntimeError(f"Backend gloo does not support {refuses}")

        collectives._RUNS[refuses] = refused  # type: ignore[index]
    launch = CommLaunch(
        launch_id="0123456789ab",
        plan=CommPlan.model_validate({"world_size": RANKS, **plan}),
        started_at="now",
        launcher="forked",
        hostname="here",
        timeout_s=60,
    )
    os.environ["DS_ACCELERATOR"] = "cpu"
    comm_sweep.sweep(launch, folder)


def swept(folder: Path, refuses: str | None = None, **plan: object) -> CommRecord:
    forked.run(RANKS, _SweepOf(folder, refuses, plan), folder=folder / "forked")
    return read_comm(record_path(folder))


class _SweepOf:
    """A sweep as a function that can be sent to another process."""

    def __init__(self, folder: Path, refuses: str | None, plan: dict[str, object]) -> None:
        self.arguments = (folder, refuses, plan)

    def __call__(self) -> None:
        folder, refuses, plan = self.arguments
        _sweep(folder, refuses, **plan)


def test_what_the_backend_refuses_is_left_out_with_its_reason(tmp_path: Path) -> None:
    operations = ("broadcast", "all_to_all")
    record = swept(tmp_path, "all_to_all", operations=operations, max_bytes=2048, budget_s=1)
    assert record.outcome == "ok" and record.limit == "as asked"
    [left] = record.left_out
    assert (left.operation, left.reason) == ("all_to_all", "RuntimeError: Backend gloo does not support all_to_all")
    assert [(point.operation, point.size_bytes) for point in record.points] == [
        ("broadcast", 1024),
        ("broadcast", 2048),
    ]


def test_a_sweep_without_a_largest_size_ends_by_time(tmp_path: Path) -> None:
    record = swept(tmp_path, operations=("all_gather",), budget_s=1.5)
    assert record.limit == "time: the next size would pass 1.5 s in all"
    assert len(record.points) >= 2
    for point in record.points:
        # Parts of a whole multiple of 16 bytes for each of three ranks.
        assert point.size_bytes % (RANKS * 16) == 0 and len(point.times_s) == RANKS
        assert point.num_elements == point.size_bytes // 4 // RANKS
        assert point.num_checked == RANKS * (point.num_warmups + len(point.times_s[0]))
