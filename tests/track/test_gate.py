"""What the gate fails on and what it lets pass, without pytest: runs with one planted difference each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.analysis.comparison import Rule, compare
from bench.analysis.measured import Measured
from bench.analysis.regression import Finding, doubts, failures, other_place
from bench.examine import examine
from bench.results.record import Record
from tests import synthetic
from tests.track import planted
from tests.track.planted import CELLS, DDP

RULE = Rule()


@pytest.fixture
def measured(tmp_path: Path) -> Callable[[list[Record]], list[Measured]]:
    """The cells of a folder of these records."""
    number = 0

    def of(records: list[Record]) -> list[Measured]:
        nonlocal number
        number += 1
        return examine(synthetic.write_fast(tmp_path / str(number), records)).measured

    return of


@pytest.fixture
def base(measured: Callable[[list[Record]], list[Measured]]) -> list[Measured]:
    return measured(planted.records(0))


def judged(base: list[Measured], new: list[Measured]) -> list[Finding]:
    return failures(base, new, compare(base, new, RULE))


def test_noise_alone_passes(base: list[Measured], measured: Callable[[list[Record]], list[Measured]]) -> None:
    for seed in range(1, 6):
        new = measured(planted.records(seed))
        assert judged(base, new) == [] and other_place(base, new) is None


def test_a_slower_cell_fails_and_no_other(
    base: list[Measured], measured: Callable[[list[Record]], list[Measured]]
) -> None:
    [found] = judged(base, measured(planted.records(1, slower={DDP: 1.2})))
    assert (found.cell_id, found.kind) == (DDP, "slower")
    assert "1.20" in found.why or "1.19" in found.why


def test_a_faster_or_new_cell_passes(base: list[Measured], measured: Callable[[list[Record]], list[Measured]]) -> None:
    new_cell = CELLS[0].model_copy(update={"strategy": "zero3"})
    assert judged(base, measured(planted.records(1, [*CELLS, new_cell], slower={DDP: 0.8}))) == []


def test_a_missing_cell_fails(base: list[Measured], measured: Callable[[list[Record]], list[Measured]]) -> None:
    [found] = judged(base, measured(planted.records(1, [cell for cell in CELLS if cell.id != DDP])))
    assert (found.cell_id, found.kind, found.why) == (DDP, "missing", "the new run has no such cell")


def test_a_cell_without_an_ok_launch_is_missing_with_the_reason(
    base: list[Measured], measured: Callable[[list[Record]], list[Measured]]
) -> None:
    others = planted.records(1, [cell for cell in CELLS if cell.id != DDP])
    [found] = judged(base, measured([*others, synthetic.failure(CELLS[1], "oom", "no memory left")]))
    assert (found.cell_id, found.kind) == (DDP, "missing")
    assert "oom (no memory left)" in found.why


@pytest.mark.parametrize("change", [{"steps": 6}, {"learning_rate": 0.5}, {"micro_batch_size": 2}])
def test_a_renamed_cell_fails(
    base: list[Measured], measured: Callable[[list[Record]], list[Measured]], change: dict[str, object]
) -> None:
    cells = [cell.model_copy(update=change) if cell.id == DDP else cell for cell in CELLS]
    found = judged(base, measured(planted.records(1, cells)))
    assert (found[0].cell_id, found[0].kind) == (DDP, "missing")
    assert all(cells[1].id in str(finding) for finding in found[1:])


def test_other_losses_fail_however_little_they_differ(
    base: list[Measured], measured: Callable[[list[Record]], list[Measured]]
) -> None:
    for off_by in (1e-3, 1e-12):
        found = judged(base, measured(planted.records(1, losses_off_by=off_by)))
        assert [finding.cell_id for finding in found] == [cell.id for cell in CELLS]
        assert all(finding.kind == "counters" and "loss of step 0" in finding.why for finding in found)


def test_a_collective_more_fails(base: list[Measured]) -> None:
    calls = {"all_reduce": (2.0, 1000.0), "all_gather": (1.0, 500.0)}
    before, same, more, bytes_more, uncounted = (
        [base[0].model_copy(update={"calls": counted})]
        for counted in (
            calls,
            dict(calls),
            {**calls, "all_reduce": (3.0, 1000.0)},
            {**calls, "all_gather": (1.0, 504.0)},
            None,
        )
    )
    assert judged(before, same) == []
    for new in (more, bytes_more, uncounted):
        [found] = judged(before, new)
        assert (found.cell_id, found.kind) == (base[0].cell.id, "counters")


def test_one_launch_is_no_proof_but_a_doubt(measured: Callable[[list[Record]], list[Measured]]) -> None:
    one, slow = ([record] for record in (planted.records(0)[0], planted.records(1, slower={CELLS[0].id: 1.2})[0]))
    base, new = measured(one), measured(slow)
    assert judged(base, new) == []
    [found] = doubts(compare(base, new, RULE), RULE)
    assert found.kind == "not resolved" and "one launch has no interval" in found.why
    assert doubts(compare(base, base, RULE), RULE) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cpu", "Another CPU", "CPU Synthetic CPU @ 2.0 GHz -> Another CPU"),
        ("versions", {"torch": "2.8.0"}, "version of torch 2.7.1 -> 2.8.0"),
        ("interconnect", "NVLink", "interconnect unknown -> NVLink"),
        ("num_cores", 16, "cores 8 -> 16"),
    ],
)
def test_another_place_is_named(
    base: list[Measured],
    measured: Callable[[list[Record]], list[Measured]],
    name: str,
    value: object,
    words: str,
) -> None:
    assert other_place(base, measured(planted.records(1, change=planted.elsewhere(name, value)))) == words


def test_what_does_not_decide_speed_may_differ(
    base: list[Measured], measured: Callable[[list[Record]], list[Measured]]
) -> None:
    assert other_place(base, measured(planted.records(1, change=planted.elsewhere("git_commit", "fedcba")))) is None


def test_a_measured_cell_survives_its_file(base: list[Measured]) -> None:
    metered = base[0].model_copy(update={"calls": {"all_reduce": (2.0, 1000.0)}})
    for one in (*base, metered):
        assert Measured.model_validate(json.loads(json.dumps(one.model_dump(mode="json")))) == one
