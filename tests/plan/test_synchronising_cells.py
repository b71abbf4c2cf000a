"""Cells that synchronise otherwise than at every step: who trains, what is measured, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import SuiteError
from bench.launch.machine import Machine
from bench.launch.sweep import Sweep
from bench.plan.cell import Cell
from bench.plan.suite import load_suite


def cell(strategy: str, options: dict[str, Any] | None = None, **fields: Any) -> Cell:
    given = {"model": "paced-nano", "world_size": 4, "steps": 32, "max_warmup_steps": 32, **fields}
    return Cell(**given, strategy=strategy, strategy_options=options or {})


def test_servers_train_nothing() -> None:
    served = cell("param_server", {"num_servers": 2}, world_size=6, micro_batch_size=3)
    assert (served.num_servers, served.num_workers, served.global_batch_size) == (2, 4, 12)
    assert served.tokens_per_step == 12 * 256
    assert cell("ddp").num_workers == 4


def test_a_server_has_no_part_of_the_batch_that_strong_scaling_shares_out(tmp_path: Any) -> None:
    suite = tmp_path / "strong.yaml"
    suite.write_text(
        "defaults: {model: paced-nano, scaling: strong, global_batch_size: 8}\n"
        "grids:\n"
        "  - {strategy: ddp, world_size: 2}\n"
        "  - {strategy: param_server, world_size: 3, strategy_options: [{mode: async}, {num_servers: 2}]}\n"
        "  - {strategy: param_server, world_size: 6, strategy_options: [{num_servers: 2}, {num_servers: 3}]}\n"
    )
    *planned, last = load_suite(str(suite)).cells
    assert [one.cell.micro_batch_size for one in planned] == [4, 4, 8, 2] and not any(
        one.skip_reason for one in planned
    )
    assert (
        last.skip_reason == "global_batch_size 8 can't be divided by world_size 6 less 3 servers x grad_accum_steps 1"
    )


@pytest.mark.parametrize(
    ("strategy", "options", "equal_work", "drifting", "own_pace", "every_steps"),
    [
        ("ddp", {}, True, False, False, 1),
        ("local_sgd", {"every_steps": 4}, False, True, False, 4),
        ("diloco", {}, False, True, False, 32),
        ("param_server", {}, True, False, False, 1),
        ("param_server", {"aggregate": "weights"}, False, True, False, 1),
        ("param_server", {"mode": "stale"}, False, True, True, 1),
    ],
)
def test_what_a_cell_says_of_itself(
    strategy: str, options: dict[str, Any], equal_work: bool, drifting: bool, own_pace: bool, every_steps: int
) -> None:
    found = cell(strategy, options)
    assert (found.equal_work, found.drifting, found.own_pace, found.every_steps) == (
        *(equal_work, drifting, own_pace, every_steps),
    )


@pytest.mark.parametrize(
    ("strategy", "options", "fields", "says"),
    [
        ("local_sgd", {"every_steps": 5}, {}, "steps: found 32, expected a multiple of every_steps, 5"),
        ("local_sgd", {"every_steps": 32}, {"max_warmup_steps": 9}, "max_warmup_steps: found 9"),
        ("local_sgd", {"every_steps": 0}, {}, "every_steps: found 0, expected at least 1"),
        ("diloco", {"outer_dtype": "fp8"}, {}, "outer_dtype: found 'fp8', expected fp32, fp16, int8"),
        ("hierarchical", {"ranks_per_node": 3}, {}, "ranks_per_node: found 3, expected a divisor of world_size, 4"),
        ("param_server", {}, {"world_size": 1}, "world_size: found 1, expected more than num_servers, 1"),
        (
            "param_server",
            {"mode": "asynch"},
            {},
            "mode: found 'asynch', expected sync, async, stale; did you mean 'async'",
        ),
        ("param_server", {}, {"precision": "fp16"}, "precision: param_server has no loss scaler"),
        ("param_server", {}, {"partition": "dynamic"}, "partition: dynamic deals by speeds"),
        ("param_server", {"mode": "async", "staleness": 2}, {}, "staleness: mode async has no use for it"),
        ("param_server", {"aggregate": "weights", "stale_scale": "inverse"}, {}, "stale_scale: weights are not scaled"),
        ("param_server", {"mode": "async"}, {"batching": "padded", "length_spread": 0.5}, "batching: workers of"),
    ],
)
def test_what_does_not_fit_is_refused(strategy: str, options: Any, fields: Any, says: str) -> None:
    with pytest.raises(SuiteError) as refused:
        cell(strategy, options, **fields)
    assert says.partition(";")[0] in str(refused.value)


def test_a_server_is_not_metered_and_the_suite_says_so(tmp_path: Any) -> None:
    suite = tmp_path / "one.yaml"
    suite.write_text(
        "grids:\n  - {model: paced-nano, strategy: [ddp, param_server], world_size: 3, attribution_launches: 1}\n"
    )
    sweep = Sweep(load_suite(str(suite)), Machine("cpu", 8), "torchrun", tmp_path / "results")
    kinds = [(task.cell.strategy, task.kind) for task in sweep.tasks if not task.twin]
    assert sorted(kinds) == [("ddp", "attribution"), ("ddp", "timing"), ("param_server", "timing")]
    [(refused, reason)] = sweep.unmetered
    assert refused.strategy == "param_server" and "not metered" in reason


@pytest.mark.parametrize("name", ["synchronise", "ten-nodes"])
def test_shipped_suites_fit_a_machine_without_gpus(name: str, tmp_path: Any) -> None:
    sweep = Sweep(load_suite(name), Machine("cpu", 8, num_paced_slots=16), "torchrun", tmp_path)
    assert not [reason for cell, reason in sweep.skipped if "slots" in reason]
    assert {planned.cell.num_workers for planned in sweep.runnable} >= {1, 4 if name == "synchronise" else 10}


def test_only_a_paced_model_may_have_more_ranks() -> None:
    machine = Machine("cpu", 8, num_paced_slots=16)
    assert machine.num_slots_for(cell("ddp")) == 16
    assert machine.num_slots_for(Cell(model="gpt-nano", strategy="ddp", world_size=2)) == 8
