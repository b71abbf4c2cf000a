"""The verdict claims no more than was measured."""

from __future__ import annotations

import re
from typing import Any

from bench.analysis.comparison import aa_spread_frac
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
    measured = synthetic.measured_of(list(records))
    paragraphs = verdict.paragraphs(table, ranking(table, measured))
    return " ".join(
        [
            *verdict.lead(table, aa_spread_frac(measured)),
            *(line for one in paragraphs for line in [one.summary, *one.sentences]),
        ]
    )


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


def test_offload_on_cpu_says_that_it_measures_code() -> None:
    text = told(*(synthetic.launch(cell(2, s), step_time_s=0.1) for s in ("ddp", "zero2", "zero3_offload")))
    assert "Offload on CPU: zero3_offload copied from memory to the same memory." in text
    assert "Offload on CPU" not in told(synthetic.launch(cell(2, "zero2"), step_time_s=0.1))


def test_several_launches_give_their_spread() -> None:
    text = told(*(synthetic.launch(cell(2), step_time_s=t) for t in (0.1, 0.11)))
    assert "means over 2 launches with 95 % intervals; launches differed by up to 10.0 % within a cell" in text
    assert "no A/A pair gave a figure" in text
    assert "no interval is known" not in text and "median" not in text


def several(**times: tuple[float, ...]) -> list[Record]:
    return [synthetic.launch(cell(2, name), step_time_s=time) for name, own in times.items() for time in own]


def test_a_lead_that_is_sure_has_its_interval() -> None:
    text = told(*several(ddp=(0.1, 0.1001, 0.0999), zero1=(0.104, 0.1041, 0.1039), zero3=(0.2, 0.2001, 0.1999)))
    assert re.search(r"ddp at 2 ranks \[100 ms a step, 4\.0 % faster than zero1 \(3\.\d+ to 4\.\d+ %\)\]", text)


def test_a_lead_that_is_not_sure_is_none() -> None:
    noisy = told(*several(ddp=(0.1, 0.12, 0.11), zero1=(0.104, 0.12, 0.115)))
    assert "ddp (not resolved: zero1)" in noisy
    # Sure by its interval, but inside what sets equal cells apart.
    twins = [synthetic.launch(cell(2, "ddp"), step_time_s=time, twin=True) for time in (0.106, 0.1061, 0.1059)]
    paired = told(*several(ddp=(0.1, 0.1001, 0.0999), zero1=(0.104, 0.1041, 0.1039)), *twins)
    assert "ddp (not resolved: zero1)" in paired and "beyond the spread of the A/A pair, 6.0 %" in paired
    one = told(*several(ddp=(0.1,), zero1=(0.2,)))
    assert "ddp at 2 ranks [100 ms a step]" in one
    for text in (noisy, paired, one):
        assert "faster than" not in text


def test_one_launch_is_held_to_the_pair_where_that_is_wider() -> None:
    records = several(ddp=(0.1,), zero1=(0.108,))
    for twin_s, words in (
        (0.112, "what comes within 12.0 % of the fastest"),
        (0.101, "the A/A pair, 1.0 % apart, shows"),
    ):
        text = told(*records, synthetic.launch(cell(2, "ddp"), step_time_s=twin_s, twin=True))
        assert words in text
        assert ("not resolved from one launch: zero1" in text) == (twin_s == 0.112)


def test_efficiency_and_gain_have_their_intervals() -> None:
    records = [
        synthetic.launch(cell(size, grad_accum_steps=steps), step_time_s=time * factor)
        for size, steps, time in ((1, 1, 0.1), (2, 1, 0.125), (2, 4, 0.4))
        for factor in (1.0, 1.002, 0.998)
    ]
    text = told(*records)
    assert re.search(r"ddp 80\.0 % \(79\.\d+ to 80\.\d+ %\)", text)
    assert re.search(r"tokens/s at 2 ranks: ddp 1\.25x \(1\.2\d+ to 1\.2\d+x\)\.", text)


def test_all_failed_and_nothing_at_all() -> None:
    assert "No cell gave a figure" in told(synthetic.failure(cell(), "crashed", "x"))
    assert told() == "No timing launch was found: there is nothing to compare."
