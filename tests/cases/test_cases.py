"""Case studies: what they say follows from their tables, and the page has it all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cases import internet, ten_nodes
from bench.cases.study import Study, write
from bench.cli import main
from bench.theory.internet import cases, crossing_gbit_per_s, needs, points, published
from bench.theory.replicas import GBIT, utilisation
from bench.theory.ten_nodes import fits, schemes
from bench.theory.ways import Options


@pytest.fixture(scope="module")
def studies() -> dict[str, Study]:
    return {"ten-nodes": ten_nodes.study(), "internet": internet.study()}


@pytest.mark.parametrize("name", ["ten-nodes", "internet"])
def test_the_page_stands_alone_and_says_what_is_assumed(name: str, studies: dict[str, Study], tmp_path: Path) -> None:
    study = studies[name]
    text = write(study, tmp_path / name).read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org", "") and "<script" not in text
    assert text.count("<img") == len(study.charts) and "What is assumed" in text and "not" in text
    content = json.loads((tmp_path / name / "case.json").read_text(encoding="utf-8"))
    assert content["answers"] == study.case.answers and content["assumed"]
    for table in study.tables:
        assert (tmp_path / name / f"{table}.csv").exists()
    for chart in study.charts:
        assert (tmp_path / name / f"{chart.name}.png").stat().st_size > 10_000
        assert (tmp_path / name / f"{chart.name}.svg").exists()


def test_ten_nodes_by_what_must_hold() -> None:
    rows = {(row.network, row.name.partition(",")[0], row.name): row for row in schemes()}
    for row in rows.values():
        assert row.speedup_lo <= row.speedup <= row.speedup_hi <= 10 and row.step_time_s > 0
    by = {(network, kind): row for (network, kind, _), row in rows.items() if "ZeRO-2" not in row.name}
    for kind in ("synchronous", "asynchronous", "delayed"):
        assert by["edr-4x", kind].speedup >= by["edr-1x", kind].speedup >= by["eth-10g", kind].speedup
    # Over 10 Gbit/s the gathers alone, 3 x 20.6 GB at 1.15 GB/s, take six times the step of one node.
    assert by["eth-10g", "synchronous"].exposed_comm_s == pytest.approx(3 * 20.6e9 * 79 / 80 / 1.15e9, rel=0.2)
    assert by["edr-4x", "delayed"].host_bytes == pytest.approx(8 * 10.28e9, rel=0.01)
    assert by["eth-10g", "synchronous"].speedup_lo < 2 < by["eth-10g", "delayed"].speedup_lo


def test_which_stage_fits_is_arithmetic() -> None:
    """10.3e9 parameters of 16 bytes are 165 GB: 20.6 GB a GPU on one node at stage 3, more than a card of 16 GB has."""
    found = {(one.machine, one.strategy, one.world_size): one.fits for one in fits()}
    assert not any(fit for (_, strategy, _), fit in found.items() if strategy in ("ddp", "zero1"))
    assert found["dgx1-v100-32gb", "zero3", 8] and not found["dgx1-v100-16gb", "zero3", 8]
    assert found["dgx1-v100-16gb", "zero3", 80] and found["dgx1-v100-16gb", "zero3_offload", 8]


def test_the_published_table_is_drawn_beside_ours() -> None:
    assert len(published()) == 25 and len([need for need in needs() if need.ratio is not None]) == 8
    assert all(1 / 1.5 <= need.ratio <= 1.5 for need in needs() if need.ratio is not None)


def test_utilisation_by_hand_and_where_ddp_catches_up() -> None:
    """Two places, 1 Gbit/s: 16 Gbit each way are 16 s on top of 100 steps of 0.1 s."""
    case = "one billion parameters, two places"
    training, places = cases()[case]
    busy = utilisation(training, "diloco", GBIT, places, Options(every_steps=100, outer_dtype="bf16"))
    assert busy == pytest.approx(10 / 26, rel=0.001)
    ways = {point.way for point in points()}
    for way in ways - {"DDP"}:
        crossing = crossing_gbit_per_s(case, way, 0.05)
        assert crossing is not None and 200 < crossing < 300
        assert utilisation(training, "ddp", 0.5 * crossing * GBIT, places) < 0.75


def test_a_case_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["scalebench", "case", "internet", "--output", str(tmp_path / "out"), "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code and json.loads(capsys.readouterr().out)["case"] == "internet"
    monkeypatch.setattr("sys.argv", ["scalebench", "case", "intranet"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "did you mean 'internet'?" in error and len(error.splitlines()) == 1
