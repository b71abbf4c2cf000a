"""The verdict claims no more than was measured."""

from __future__ import annotations

from typing import Any

from bench.analysis.scaling import scaling_table
from bench.analysis.validity import judge
from bench.analysis.verdict import ranking
from bench.plan.cell import Cell
from bench.results.frame import to_frame
from bench.results.record import Record
from reports import verdict
from tests import synthetic


def cell(world_size: int = 1, strategy: str = "ddp", **changes: Any) -> Cell:
    return Cell(model="gpt-nano", seq_len=64, steps=5, strategy=strategy, world_size=world_size, **changes)


def told(*records: Record) -> str:
    table = scaling_table(judge(to_frame(list(records))))
    paragraphs = verdict.paragraphs(table, ranking(table, synthetic.measured_of(list(records))))
    return " ".join([*verdict.lead(table), *(line for one in paragraphs for line in [one.summary, *one.sentences])])


def test_one_launch_a_cell_resolves_nothing_small() -> None:
    text = told(
        *(synthetic.launch(cell(2, s), step_time_s=t) for s, t in (("ddp", 0.1), ("zero0", 0.104), ("zero3", 0.2)))
    )
    assert "no interval is known" in text
    assert "A/A noise" in text
    assert "ddp (not resolved from one launch: zero0) at 2 ranks [100 ms a step]" in text
    assert "% faster" not in text


def test_efficiency_names_its_baseline() -> None:
    text = told(synthetic.launch(cell(1), step_time_s=0.1), synthetic.launch(cell(2), step_time_s=0.125))
    assert "at 2 ranks against 1 rank of the same strategy, ddp 80.0 %" in text


def test_unknown_efficiency_says_why() -> None:
    assert "no strategy has figures at more than one world size" in told(synthetic.launch(cell(2)))
    two_cores = synthetic.environment(cell(), num_cores=2)
    assert "are oversubscribed" in told(*(synthetic.launch(cell(n), place=two_cores) for n in (3, 4)))


def test_what_did_not_run_and_why() -> None:
    text = told(
        synthetic.launch(cell(1)),
        *(synthetic.failure(cell(n, s), "oom", "CUDA out of memory") for n in (1, 2) for s in ("zero0", "zero1")),
    )
    assert "No figure, oom (CUDA out of memory): zero0, zero1 at 1, 2 ranks with accumulation 1." in text
    assert "5 cells in 5 timing launches: 4 oom, 1 ok." in text


def test_several_launches_give_their_spread() -> None:
    text = told(*(synthetic.launch(cell(2), step_time_s=t) for t in (0.1, 0.11)))
    assert "up to 10.0 % within a cell" in text
    assert "no interval is known" not in text


def test_all_failed_and_nothing_at_all() -> None:
    assert "No cell gave a figure" in told(synthetic.failure(cell(), "crashed", "x"))
    assert told() == "No timing launch was found: there is nothing to compare."
