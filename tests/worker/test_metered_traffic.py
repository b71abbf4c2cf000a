"""Real metered launches: theory is equal to the ledger to the byte and to the count, on every rank, in every step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.traffic import disagreement, traffic_table
from bench.launch.launcher import free_port
from bench.plan.cell import Cell
from bench.plan.suite import load_suite
from bench.results.metered import LedgerLine, Outline
from bench.results.record import Record
from bench.theory.traffic import traffic
from tests import forked
from tests.command_line import ROOT, command_environment

pytestmark = pytest.mark.slow

STRATEGIES = ["ddp", "zero0", "zero1", "zero2", "zero3"]

# Every strategy with accumulation 1 and 4 on 2 and 4 ranks; each model has half of them, two accumulations and both world
# sizes. The rules never ask which model it is. Sizes are odd, so that everything is padded.
SUITE = """
defaults:
  launches: 0
  attribution_launches: 1
  strategy: [ddp, zero0, zero1, zero2, zero3]
  seq_len: 16
  steps: 2
  max_warmup_steps: 2
  timeout_s: 240
grids:
  - &gpt
    model: gpt-nano
    model_options: {hidden_size: 60, num_layers: 1, vocab_size: 509, max_seq_len: 16}
    grad_accum_steps: 1
    world_size: 2
  - {<<: *gpt, grad_accum_steps: 4, world_size: 4}
  - &paced
    model: paced-nano
    model_options: {num_layers: 2, forward_s: 0.001, backward_s: 0.001}
    grad_accum_steps: 4
    world_size: 2
  - {<<: *paced, grad_accum_steps: 1, world_size: 4}
"""


def by_call(lines: Any) -> Counter[tuple[str, int, int]]:
    return Counter({(line.operation, line.group_size, line.payload_bytes): line.count for line in lines})


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("traffic")
    suite = folder / "traffic.yaml"
    suite.write_text(SUITE)
    cells = [planned.cell for planned in load_suite(str(suite)).cells]
    return [forked.train(cell, folder=folder, kind="attribution") for cell in cells]


def test_theory_is_the_ledger_of_every_rank_and_step(launches: list[Record]) -> None:
    assert len(launches) == 20
    for record in launches:
        assert record.outline is not None
        expected = by_call(traffic(record.cell, record.outline, record.deepspeed_config))
        assert len(record.ranks) == record.cell.world_size
        for rank in record.ranks:
            assert rank.attribution is not None
            for step in range(record.cell.steps):
                observed = by_call(line for line in rank.attribution.ledger if step in line.steps)
                assert observed == expected, (record.cell.id, rank.rank, step)
        assert disagreement(record) is None


def test_every_strategy_accumulation_and_world_size_is_covered(launches: list[Record]) -> None:
    covered = {(r.cell.strategy, r.cell.grad_accum_steps, r.cell.world_size) for r in launches}
    assert covered == {(name, accumulation, size) for name in STRATEGIES for accumulation in (1, 4) for size in (2, 4)}
    for model in ("gpt-nano", "paced-nano"):
        assert {r.cell.strategy for r in launches if r.cell.model == model and r.cell.world_size == 2} == {*STRATEGIES}


def test_the_table_shows_the_known_factors(launches: list[Record]) -> None:
    table = traffic_table(launches)
    assert set(table["agrees"]) == {True}
    for _, row in table.iterrows():
        g = row["grad_accum_steps"]
        known = {"ddp": 2, "zero0": 2, "zero1": 3, "zero2": 2 * g + 1}
        if row["strategy"] in known:
            assert row["observed_factor"] == pytest.approx(known[row["strategy"]], rel=1e-3)
        else:
            assert 2 * g < row["observed_factor"] < 4 * g


def test_a_message_that_was_not_sent_is_missed(launches: list[Record]) -> None:
    record = next(r for r in launches if r.cell.strategy == "zero3")
    last = record.ranks[-1]
    assert last.attribution is not None
    poorer = last.attribution.model_copy(update={"ledger": last.attribution.ledger[1:]})
    ranks = [*record.ranks[:-1], last.model_copy(update={"attribution": poorer})]
    assert f"rank {last.rank} called" in (disagreement(record.model_copy(update={"ranks": ranks})) or "")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """By rank, then by case: the cell, its file, its outline, its ledger. Three ranks, by which nothing can be divided."""
    out = tmp_path_factory.mktemp("settings") / "out.json"
    program = Path(__file__).with_name("traffic_rank.py")
    environment = {**command_environment(), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=3"),
            *("--master_addr=127.0.0.1", f"--master_port={free_port()}", str(program), str(out)),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[list[dict[str, Any]]] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_theory_follows_every_setting(settings: list[list[dict[str, Any]]]) -> None:
    """Bucket sizes, thresholds, rooted reductions, precisions, overlap: each alone would hide behind the defaults."""
    assert len(settings) == 3
    for rank, results in enumerate(settings):
        assert {result["cell"]["strategy"] for result in results} == {*STRATEGIES}
        for result in results:
            expected = by_call(traffic(Cell(**result["cell"]), Outline(**result["outline"]), result["config"]))
            ledger = [LedgerLine(**line) for line in result["ledger"]]
            for step in (0, 1):
                observed = by_call(line for line in ledger if step in line.steps)
                assert observed == expected, (rank, result["cell"], result["config"])
