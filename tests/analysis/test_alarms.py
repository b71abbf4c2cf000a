"""Alarms: what is faster than its machine can be, with planted figures, and nothing where nothing is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.analysis.alarms import BUS, COLUMNS, STEP, alarms
from bench.errors import MachineError
from bench.examine import examine
from bench.plan.cell import Cell
from bench.publish import publish
from bench.results.metered import LedgerLine, Span
from bench.results.record import Record
from bench.theory.floor import bus_bytes_per_s, floors
from bench.theory.machine import load_machine
from tests import synthetic
from tests.attributed import attributed

DGX_1 = load_machine("dgx1-v100-32gb")
SMALL = Cell(
    model="gpt2-small", strategy="ddp", world_size=8, micro_batch_size=8, seq_len=1024, precision="fp16", steps=3
)
PARAMS = 124_000_000
LOOPBACK = """
name: laptop
description: one whose loop-back was measured
device: {name: null, memory_bytes: {value: 8.0e+9, source: manual}, memory_bytes_per_s: {value: 1.0e+10, source: "assumed: x"},
  layer_latency_s: {value: 0.0, source: none}, sustained_frac: {}}
node: {num_devices: 8, backend: gloo, fabric: {kind: host, host_path_bytes_per_s: {value: 1.0e+9, source: iperf3}}}
behaviour: {device_variation_frac: {value: 0.0, source: none}, lateness_s: {value: 0.0, source: none},
  contention_frac: {value: 0.0, source: none}, reserved_bytes: {value: 0.0, source: none}}
"""


def on_v100s(step_time_s: float, cell: Cell = SMALL) -> Record:
    place = synthetic.eight_v100s(cell)
    return synthetic.launch(cell, step_time_s=step_time_s, num_params=PARAMS, flops_per_token=7.5e8, place=place)


def test_floors_by_hand() -> None:
    """8 x 1024 tokens of 750 MFLOP at 125 TFLOP/s; 28 bytes a parameter at the memory's bandwidth, an eighth under ZeRO-1."""
    sent = 2 * 7 / 8 * 2 * PARAMS
    found = [floor.seconds for floor in floors(SMALL, PARAMS, 7.5e8, sent, DGX_1)]
    memory = DGX_1.device.memory_bytes_per_s.value
    # Six rings of the mesh, a link of 25 GB/s each at most.
    assert found[:2] == pytest.approx([8192 * 7.5e8 / 125e12, 28 * PARAMS / memory])
    assert sent / (6 * 25e9) <= found[2] < sent / 25e9
    divided = SMALL.model_copy(update={"strategy": "zero1"})
    assert floors(divided, PARAMS, 7.5e8, None, DGX_1)[1].seconds == pytest.approx(28 * PARAMS / 8 / memory)


def test_a_step_below_the_floor_is_an_alarm_and_one_above_is_none() -> None:
    found = alarms([on_v100s(0.030), on_v100s(0.060)], "dgx1-v100-32gb")
    assert found.columns.tolist() == COLUMNS and len(found) == 1
    [row] = found.to_dict("records")
    assert row["kind"] == STEP and row["measured"] == pytest.approx(0.030)
    assert row["limit"] == pytest.approx(8192 * 7.5e8 / 125e12) and "arithmetic" in row["because"]


def test_a_hair_below_is_within_the_tolerance() -> None:
    assert alarms([on_v100s(0.98 * 8192 * 7.5e8 / 125e12)], "dgx1-v100-32gb").empty


def test_what_metered_launches_sent_cannot_be_sent_faster() -> None:
    cell = SMALL.model_copy(update={"world_size": 2})
    sent = [LedgerLine(operation="all_reduce", group_size=2, payload_bytes=2 * 10**9, count=3, steps=[0, 1, 2])]
    place = synthetic.eight_v100s(cell)
    fields = {"num_params": PARAMS, "flops_per_token": 7.5e8, "place": place}
    fast = attributed(cell, [0.05, 0.05], 0.052, 0.060, ledger=sent, **fields)
    slow = attributed(cell, [0.05, 0.05], 0.052, 0.400, ledger=sent, **fields)
    [row] = alarms([fast, slow], "dgx1-v100-32gb").to_dict("records")
    assert row["launch_id"] == fast.launch_id and "bytes sent" in row["because"]
    # 6 GB by a ring of two over one NVLink.
    assert row["limit"] == pytest.approx(6e9 / 25e9, rel=0.3)


def timed(seconds: float, late_s: float = 0.0) -> Record:
    """Two ranks on a CPU, an all-reduce of 100 MB; rank 1 comes late, and both end together."""
    cell = Cell(model="gpt-nano", strategy="ddp", world_size=2, seq_len=64, steps=3)
    spans = [
        [Span(name="all_reduce", kind="collective", start_s=late_s * rank, end_s=late_s + seconds, payload_bytes=10**8)]
        for rank in range(2)
    ]
    return attributed(cell, [0.1, 0.1], 0.11, 0.3, timelines=spans)


def test_a_collective_faster_than_the_link_is_an_alarm(tmp_path: Path) -> None:
    """100 MB among two ranks in 50 ms is 2 GB/s where the file says 1; waiting for the late rank is no transfer."""
    file = tmp_path / "laptop.yaml"
    file.write_text(LOOPBACK)
    assert bus_bytes_per_s("all_reduce", 10**8, 2, 0.05) == pytest.approx(2e9)
    [row] = alarms([timed(0.05, late_s=0.2), timed(0.2)], str(file)).to_dict("records")
    assert row["kind"] == BUS and row["measured"] == pytest.approx(2e9) and row["limit"] == pytest.approx(1e9)


def test_an_assumed_link_raises_no_alarm() -> None:
    assert alarms([timed(1e-4)], "cpu-gloo").empty


def test_without_a_machine_or_on_another_backend_there_is_none() -> None:
    assert alarms([on_v100s(1e-6)], None).empty and alarms([timed(1e-4)], "dgx1-v100-32gb").empty
    with pytest.raises(MachineError, match="--machine: found 'dgx9'"):
        alarms([], "dgx9")


def test_the_page_shows_alarms_and_ranks_the_launch_none_the_less(tmp_path: Path) -> None:
    """Adam alone would take 43 ms for this model; its arithmetic is little, so that no gate of utilisation sees it."""
    cell = SMALL.model_copy(update={"micro_batch_size": 1})
    place = synthetic.eight_v100s(cell)
    record = synthetic.launch(cell, step_time_s=0.03, num_params=1_240_000_000, flops_per_token=7.5e8, place=place)
    findings = examine(synthetic.write(tmp_path, [record]), "p3dn.24xlarge")
    page = publish(findings).read_text(encoding="utf-8")
    assert 'id="alarms"' in page and "30.0 ms" in page and "Adam&#39;s bytes" in page
    assert len(pd.read_csv(tmp_path / "report/tables/alarms.csv")) == 1
    assert findings.launches["outcome"].tolist() == ["ok"]
